"""The adaptation of Megatron-core to the CPU: written for the installed versions, and doing what it says."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path

import pytest
import torch

from rlscale.platform import megatron_cpu
from rlscale.platform.megatron_fixups import ON_EVERY_DEVICE, ON_THE_CPU
from tests.unit.forked import printed_without

PLACES = {
    "megatron/core/tensor_parallel/random.py": ["def _get_cuda_rng_state(", "def _set_cuda_rng_state("],
    "megatron/core/tensor_parallel/mappings.py": [
        "def _gather_along_first_dim(input_, group, output_split_sizes=None, use_global_buffer=False):",
        "def _reduce_scatter_along_first_dim(input_, group, input_split_sizes=None, use_global_buffer=False):",
    ],
    "megatron/core/jit.py": ["def disable_jit_fuser("],
    "megatron/core/transformer/moe/moe_utils.py": [
        "if te_general_gemm is not None and router_dtype != torch.float64:",
        "def maybe_move_tensor_to_cpu(",
        "tensor: torch.Tensor, as_numpy: bool = False, record_stream: bool = False",
    ],
    "megatron/core/transformer/multi_latent_attention.py": [
        "            HAVE_TE\n            and isinstance(self.linear_proj, TELinear)",
        "    TEColumnParallelLinear, TELinear, Linear, set_save_original_input = None, None, None, None\n"
        "    HAVE_TE = False",
    ],
    "megatron/core/ssm/gated_delta_net.py": ["HAVE_FLA = False", "if not HAVE_FLA:"],
    "megatron/core/optimizer/distrib_optimizer.py": [
        "HAVE_APEX_OR_TE = False",
        "def _set_main_param_and_optimizer_states(self, model_param, tensors):",
        "self.model_param_group_index_map",
    ],
}
"""What the fix-ups hold on to, by file."""


@pytest.mark.parametrize("package", megatron_cpu.TESTED)
def test_installed_version_is_the_one_the_adaptation_was_written_for(package: str) -> None:
    installed, tested = importlib.metadata.version(package), megatron_cpu.TESTED[package]
    assert installed == tested, (
        f"{package} {installed} is installed, rlscale.platform.megatron_cpu was written for {tested}: check the "
        "fix-ups in megatron_fixups.py against its source, run tests/dist, then change megatron_cpu.TESTED"
    )


@pytest.mark.parametrize("file", PLACES)
def test_what_the_fixups_change_is_still_there(file: str) -> None:
    source = Path(str(importlib.metadata.distribution("megatron-core").locate_file(file))).read_text()
    for place in PLACES[file]:
        assert place in source, f"{file} no longer has {place!r}: its fix-up in megatron_fixups.py needs a look"


def test_every_fixup_belongs_to_a_checked_file() -> None:
    assert {name.replace(".", "/") + ".py" for name in ON_EVERY_DEVICE | ON_THE_CPU} == set(PLACES)


def run_rewritten(source: str) -> dict[str, object]:
    """The globals of a module of Megatron with this source."""
    names: dict[str, object] = {"torch": torch, megatron_cpu._STAND_IN: megatron_cpu._Cuda("cuda")}
    exec(megatron_cpu.retarget(source.encode(), "module.py"), names)
    return names


def test_rewritten_source_puts_tensors_on_the_cpu() -> None:
    names = run_rewritten(
        "a = torch.zeros(2, device='cuda')\n"
        "b = torch.zeros(2, device=torch.cuda.current_device(), pin_memory=True)\n"
        "c = torch.zeros(2).cuda(non_blocking=True)\n"
        "kind = 'torch.cuda.FloatTensor'\n"
        "torch.cuda.synchronize()\n"
        "with torch.cuda.stream(torch.cuda.Stream()): d = torch.ones(1)\n"
        "available = torch.cuda.is_available()\n"
    )
    assert all(str(names[name].device) == "cpu" for name in "abc")  # type: ignore[attr-defined]  # tensors
    assert names["a"].type() == names["kind"]  # type: ignore[attr-defined]  # a tensor
    assert names["available"] is torch.cuda.is_available()


def test_rewritten_source_does_not_import_what_is_not_wanted() -> None:
    names = run_rewritten("try:\n    import wandb\n    have = True\nexcept ImportError:\n    have = False\n")
    assert names["have"] is False


def test_torch_itself_is_not_patched() -> None:
    # With rlscale anew, what would replace a function of torch is another object than it may be already.
    script = (
        "import torch\nbefore = {k: v for k, v in vars(torch.cuda).items() if not k.startswith('_')}\n"
        "from rlscale.platform import megatron_cpu\nmegatron_cpu.install()\nimport megatron.core\n"
        "import sys\nassert 'wandb' not in sys.modules and 'transformers' not in sys.modules\n"
        "same = all(vars(torch.cuda)[k] is v for k, v in before.items())\nprint('same' if same else 'patched')"
    )
    assert printed_without(("megatron", "rlscale", "transformers", "wandb"), script) == "same"


def test_refuses_where_a_gpu_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(megatron_cpu, "installed", lambda: False)
    with pytest.raises(RuntimeError, match="without a GPU"):
        megatron_cpu.install()


def test_refuses_when_megatron_was_imported_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megatron_cpu, "installed", lambda: False)
    monkeypatch.setitem(sys.modules, "megatron.core", types.ModuleType("megatron.core"))
    with pytest.raises(RuntimeError, match=r"too late: megatron\.core"):
        megatron_cpu.install()


def test_rewritten_bytecode_is_cached_and_renewed_when_the_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "module.py"
    loader = megatron_cpu._Loader("module", str(file))
    file.write_text("value = 'cuda'")
    assert loader.get_code("module").co_consts[0] == "cpu"
    (cached,) = (tmp_path / "__pycache__").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(megatron_cpu, "retarget", lambda *_: pytest.fail("the cached code was not used"))
        assert loader.get_code("module").co_consts[0] == "cpu"
    file.write_text("value = 'nccl'  # longer")
    assert loader.get_code("module").co_consts[0] == "gloo"
    assert list((tmp_path / "__pycache__").iterdir()) == [cached]
