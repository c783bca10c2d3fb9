"""The program of an engine: an SGLang server whose arguments arrive as JSON on standard input.

Not on the command line, so that the API key is in no process list; not in the environment either, which other
processes of the user can read. The object is {"options": {ServerArgs name: value}, "api_key": str, "threads": int or
null, "quantised_activations": bool, "bitwise": whether it computes as the trainer does}. A fork server calls `prepare`
once and `serve` in each process that it forks; by itself the program does both.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from rlscale.platform import rendezvous, sglang_headers, sglang_paused_flush
from rlscale.platform.adapting import AdaptingFinder
from rlscale.platform.stacks import tell_stacks
from rlscale.serve import delta_endpoint, progress_endpoint
from rlscale.serve.secret import Secret

IMPORTED_LATE = (
    "sglang.launch_server",
    "sglang.srt.arg_groups.hicache_hook",
    "sglang.srt.constrained.xgrammar_backend",
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.entrypoints.openai.serving_responses",
    "sglang.srt.layers.attention.torch_native_backend",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.tp_worker",
    "sglang.srt.model_executor.cpu_graph_runner",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.models.registry",
)
"""What a server imports only once it has its arguments, most of its import time."""


def prepare() -> None:
    """Adapt SGLang to the CPU and import it with all that a server will need. Starts no thread."""
    _load(cpu=True)
    for module in IMPORTED_LATE:
        importlib.import_module(module)


def serve(order: Mapping[str, Any]) -> None:
    """Run the server of an order in this process until it is ended."""
    tell_stacks()
    options = order["options"]
    _load(cpu=options["device"] == "cpu")
    if order["quantised_activations"]:
        from rlscale.platform import sglang_quantised

        sglang_quantised.quantise_activations()
    from sglang.launch_server import run_server
    from sglang.srt.server_args import ServerArgs

    if order["threads"] is not None:
        import torch

        torch.set_num_threads(order["threads"])
    if order["bitwise"]:
        from rlscale.platform import sglang_bitwise

        sglang_bitwise.adapt(options["model_path"])
    from sglang.srt.entrypoints import request_headers

    sglang_headers.heed_headers(request_headers)
    from sglang.srt.entrypoints import http_server

    delta_endpoint.add_to(http_server, options["model_path"])
    progress_endpoint.add_to(http_server)
    sglang_headers.tell_address(http_server.app)
    run_server(ServerArgs(**options, api_key=Secret(order["api_key"])))


def _load(*, cpu: bool) -> None:
    if cpu:
        from rlscale.platform import sglang_cpu

        sglang_cpu.install()
    else:
        sys.meta_path.insert(0, AdaptingFinder(sglang_paused_flush.ADAPTATIONS))
    rendezvous.bind_to_named_host()
    from sglang.srt.plugins import load_plugins

    load_plugins()


if __name__ == "__main__":
    serve(json.loads(sys.stdin.buffer.read()))
