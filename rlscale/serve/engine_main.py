"""The program of an engine's own process: an SGLang server whose arguments arrive as JSON on standard input.

Not on the command line, so that the API key is in no process list; not in the environment either, which other
processes of the user can read. The object is {"options": {ServerArgs name: value}, "api_key": str}.
"""

from __future__ import annotations

import json
import sys

from rlscale.platform import sglang_routing
from rlscale.serve.secret import Secret


def main() -> None:
    """Run the server until it is ended."""
    order = json.loads(sys.stdin.buffer.read())
    if order["options"]["device"] == "cpu":
        from rlscale.platform import sglang_cpu

        sglang_cpu.install()
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs

    load_plugins()
    if order["options"].get("enable_return_routed_experts"):
        from sglang.srt.entrypoints import request_headers

        sglang_routing.heed_header(request_headers)
    run_server(ServerArgs(**order["options"], api_key=Secret(order["api_key"])))


if __name__ == "__main__":
    main()
