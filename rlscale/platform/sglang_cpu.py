"""SGLang on a machine without a GPU: what is put in place in the server's own process before SGLang is imported.

`install()` is called by the server's program (`rlscale.serve.engine_main`) and nowhere else. The processes that
the server starts (scheduler, detokenizer) inherit all of it, because on the CPU they are forked: SGLang asks for
"spawn", which a CUDA context needs and a CPU does not, and which would import torch and SGLang anew in each of them
(start-up 24 s instead of 11 s, 1.6 GB instead of 0.9 GB).

Each adaptation changes one module right after its import and is listed in `ADAPTATIONS`. All of it was written for one
version; `tests/unit/platform/test_sglang_cpu.py` fails when the installed one differs.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from rlscale.platform import (
    sglang_attention,
    sglang_delta_net,
    sglang_pageable,
    sglang_paused_flush,
    sglang_quantised,
    sglang_reward_heads,
    sglang_seeded,
    sglang_stubs,
)
from rlscale.platform.adapting import AdaptingFinder

VERSION = "0.5.19"
"""The version of SGLang that the adaptations here were written for."""


def _fork_children(module: Any) -> None:
    """sglang.srt.entrypoints.engine: fork the server's processes (before the fork the process has one thread)."""
    original = module._set_envs_and_config

    def set_envs_and_config(server_args: Any) -> None:
        original(server_args)
        multiprocessing.set_start_method("fork", force=True)

    module._set_envs_and_config = set_envs_and_config


def _keep_snapshots_in_tmpdir(module: Any) -> None:
    """sglang.srt.managers.load_snapshot: its memory-mapped file goes where the server's other temporary files are,
    not to /dev/shm, where a killed server leaves it for ever."""
    original = module.shm_path_for
    module.shm_path_for = lambda ipc_name: os.path.join(tempfile.gettempdir(), os.path.basename(original(ipc_name)))


def _allocate_pageable(module: Any) -> None:
    """sglang.srt.state_capturer.base: the host copy of captured expert choices in ordinary memory; pinned memory
    needs a CUDA driver."""

    class PageableHostCache(module.BaseHostCache):
        def __init__(self, num_tokens: int, num_layers: int, topk_size: int, name: str) -> None:
            import torch

            shape = (num_tokens, num_layers, topk_size)
            self.buffer = torch.zeros(shape, dtype=torch.int32)
            self.num_tokens, self.num_layers, self.topk_size, self.name = num_tokens, num_layers, topk_size, name
            self._log_allocation()

    module.BaseHostCache = PageableHostCache


ADAPTATIONS: dict[str, Callable[[Any], None]] = {
    **sglang_paused_flush.ADAPTATIONS,
    **sglang_quantised.ADAPTATIONS,
    **sglang_reward_heads.ADAPTATIONS,
    **sglang_pageable.ADAPTATIONS,
    "sglang.kernels.ops.sampling.murmur_hash": sglang_seeded.adapt_hash,
    "sglang.srt.sampling.sampling_batch_info": sglang_seeded.adapt_batch,
    "sglang.srt.sampling.sampling_params": sglang_seeded.adapt_params,
    "sglang.srt.configs.model_config": sglang_attention.dense_attention,
    "sglang.srt.entrypoints.engine": _fork_children,
    "sglang.srt.managers.load_snapshot": _keep_snapshots_in_tmpdir,
    "sglang.srt.state_capturer.base": _allocate_pageable,
    "sglang.kernels.ops.attention.fla.fused_norm_gate": sglang_delta_net.gated_norm,
    "sglang.kernels.ops.elementwise.elementwise": sglang_delta_net.gated_expert,
    "sglang.srt.layers.attention.torch_native_backend": sglang_attention.batch_attention,
    "sglang.srt.layers.rotary_embedding.factory": sglang_attention.rotary_positions,
    "sglang.srt.models.deepseek_common.attention_backend_handler": sglang_attention.latent_attention,
}
"""Module -> what is changed in it right after its import."""


def install() -> None:
    """Adapt SGLang in this process and those forked from it; a second call does nothing.

    Raises RuntimeError when SGLang was imported already: it must come before that.
    """
    if AdaptingFinder(ADAPTATIONS) in sys.meta_path:
        return
    if "sglang" in sys.modules:
        raise RuntimeError("SGLang was imported before its adaptation to the CPU was installed")
    sglang_stubs.install()
    sys.meta_path.insert(0, AdaptingFinder(ADAPTATIONS))
