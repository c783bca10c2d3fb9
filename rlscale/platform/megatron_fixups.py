"""What is mended in Megatron-core 0.16.1: one small function per defect, run right after the module's import.

Some defects come of Transformer Engine not being installed and are mended on every device, others are what rewriting
cannot mend on the CPU. On CUDA `install` has the former mended, on the CPU `megatron_cpu` both. Each function says what
goes wrong without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

from rlscale.platform.adapting import AdaptingFinder


def random_state_of_the_cpu(module: ModuleType) -> None:
    """Megatron's random-state tracker reads and writes CUDA generators; here there is only the CPU's."""

    def get(device: Any = None, clone: bool = False, graph_safe: bool = False) -> torch.Tensor:
        return torch.get_rng_state()

    def put(state: torch.Tensor, device: Any = None, graph_safe: bool = False) -> None:
        torch.set_rng_state(state)

    module._get_cuda_rng_state = get  # type: ignore[attr-defined]  # names that only exist in Megatron
    module._set_cuda_rng_state = put  # type: ignore[attr-defined]  # (as above)


def no_jit_fuser(module: ModuleType) -> None:
    """torch.compile of small element-wise functions needs a C++ compiler at run time and gains nothing here."""
    module.disable_jit_fuser()


def router_without_transformer_engine(module: ModuleType) -> None:
    """The router's product asks whether `te_general_gemm` is None, a name that is only set where it is not."""
    if not hasattr(module, "te_general_gemm"):
        module.te_general_gemm = None  # type: ignore[attr-defined]  # a name that only exists in Megatron


def latent_attention_without_transformer_engine(module: ModuleType) -> None:
    """Latent attention asks whether a layer is a `TELinear`: without Transformer Engine that is not a class."""
    module.HAVE_TE = isinstance(module.TELinear, type)  # type: ignore[attr-defined]  # (as above)


def gated_delta_net_without_fla(module: ModuleType) -> None:
    """A gated delta net refuses to be built without the package fla, whose kernels our own forward does not call."""
    module.HAVE_FLA = True  # type: ignore[attr-defined]  # (as above)


def token_counts_on_the_cpu(module: ModuleType) -> None:
    """Token counts stay tensors without a GPU, where Megatron wants arrays."""

    def to_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    module.maybe_move_tensor_to_cpu = to_cpu  # type: ignore[attr-defined]  # (as above)


def uneven_gathering(module: ModuleType) -> None:
    """gloo gathers and scatters parts of one size only; expert tensor parallelism has another number on every rank."""
    gather, scatter = module._gather_along_first_dim, module._reduce_scatter_along_first_dim

    def uneven_gather(x: Any, group: Any, sizes: Any = None, use_global_buffer: bool = False) -> Any:
        if sizes is None or group.size() == 1:
            return gather(x, group, None, use_global_buffer)
        output, copies = x.new_empty(sum(sizes), *x.shape[1:]), torch.cat([x] * group.size())
        dist.all_to_all_single(output, copies, list(sizes), [len(x)] * group.size(), group=group)
        return output

    def uneven_scatter(x: Any, group: Any, sizes: Any = None, use_global_buffer: bool = False) -> Any:
        if sizes is None or group.size() == 1:
            return scatter(x, group, None, use_global_buffer)
        own = sizes[group.rank()]
        shares = x.new_empty(group.size() * own, *x.shape[1:])
        dist.all_to_all_single(shares, x.contiguous(), [own] * group.size(), list(sizes), group=group)
        return shares.view(group.size(), own, *x.shape[1:]).sum(0)

    module._gather_along_first_dim = uneven_gather  # type: ignore[attr-defined]  # names that only exist in Megatron
    module._reduce_scatter_along_first_dim = uneven_scatter  # type: ignore[attr-defined]  # (as above)


def resume_of_distributed_optimizer(module: ModuleType) -> None:
    """Resuming with torch's AdamW, which Megatron takes where neither Transformer Engine nor apex is: three defects.

    Its state does not exist before the first step, so there is nothing to load into; the checkpoint holds one `step`
    for all parameters, which raises KeyError; and that one tensor would be shared by all of them, so that every step
    counts as many times as there are parameters (weights wrong by 1e-3, silently). The other two optimizers keep no
    `step` per parameter and are left alone.
    """
    if module.HAVE_APEX_OR_TE:
        return
    optimizer = module.DistributedOptimizer
    sharded_state_dict, set_states = optimizer.sharded_state_dict, optimizer._set_main_param_and_optimizer_states

    def with_state(self: Any, model: Any, is_loading: bool = False, *args: Any, **kwargs: Any) -> Any:
        if is_loading and self.optimizer is not None:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    state = self.optimizer.state[parameter]
                    if not state:
                        state["step"] = torch.zeros(())
                        state["exp_avg"] = torch.zeros_like(parameter)
                        state["exp_avg_sq"] = torch.zeros_like(parameter)
        return sharded_state_dict(self, model, is_loading, *args, **kwargs)

    def with_own_step(self: Any, parameter: Any, tensors: dict[str, Any]) -> Any:
        if "step" not in tensors:
            group, order = self.model_param_group_index_map[parameter]
            state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()
                tensors = {**tensors, "step": state["step"]}
        return set_states(self, parameter, tensors)

    optimizer.sharded_state_dict = with_state
    optimizer._set_main_param_and_optimizer_states = with_own_step


ON_EVERY_DEVICE: dict[str, Callable[[ModuleType], None]] = {
    "megatron.core.transformer.moe.moe_utils": router_without_transformer_engine,
    "megatron.core.transformer.multi_latent_attention": latent_attention_without_transformer_engine,
    "megatron.core.ssm.gated_delta_net": gated_delta_net_without_fla,
    "megatron.core.optimizer.distrib_optimizer": resume_of_distributed_optimizer,
}
"""Module -> what is mended in it everywhere; with Transformer Engine there is nothing to mend."""

ON_THE_CPU: dict[str, Callable[[ModuleType], None]] = {
    "megatron.core.tensor_parallel.random": random_state_of_the_cpu,
    "megatron.core.tensor_parallel.mappings": uneven_gathering,
    "megatron.core.jit": no_jit_fuser,
    "megatron.core.transformer.moe.moe_utils": token_counts_on_the_cpu,
}
"""Module -> what is mended in it besides where there is no GPU."""


def install() -> None:
    """Have Megatron mended as it is imported on CUDA, where nothing else of it is changed. A second call does nothing.

    Raises RuntimeError when a module that needs it was imported already.
    """
    finder = AdaptingFinder(ON_EVERY_DEVICE)
    if finder in sys.meta_path:
        return
    early = [name for name in ON_EVERY_DEVICE if name in sys.modules]
    if early:
        raise RuntimeError(f"megatron_fixups.install() came too late: {early[0]} is imported already")
    sys.meta_path.insert(0, finder)
