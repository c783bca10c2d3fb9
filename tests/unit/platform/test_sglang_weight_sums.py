"""Which tensors an engine tells of, on modules that are built as SGLang's are; engines of every family in tests/e2e."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rlscale.platform.sglang_weight_sums import ACTION, adapt_checker
from rlscale.platform.tensor_sum import TensorSum


class Linear(nn.Module):
    """A layer of several, one above the other."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.output_partition_sizes = list(sizes)
        self.weight = nn.Parameter(torch.randn(sum(sizes), 4))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w13_weight = nn.Parameter(torch.randn(2, 8, 4))  # gate and up of 2 experts, 3 rows padded to 4
        self.w2_weight = nn.Parameter(torch.randn(2, 4, 4))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.Module()
        self.self_attn.qkv_proj = Linear(4, 2, 2)
        self.self_attn.q_lora_rank = 3
        self.self_attn.fused_qkv_a_proj_with_mqa = Linear(5)
        self.mlp = nn.Module()
        self.mlp.experts = Experts()


class Checker:
    """SGLang's, as far as it is adapted."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def handle(self, action: str, allow_quant_error: bool = False) -> Any:
        return f"SGLang's own {action}"

    def _get_model(self) -> nn.Module:
        return self._model

    def _parallelism_info(self) -> Any:
        return SimpleNamespace(model_dump=lambda: {"tp_rank": 0})


def told(folder: Path) -> tuple[Layer, dict[str, TensorSum]]:
    layer = Layer()
    layer.config = SimpleNamespace(name_or_path=str(folder))
    adapt_checker(SimpleNamespace(WeightChecker=Checker))
    answer = Checker(layer).handle(ACTION)
    assert answer["parallelism_info"] == {"tp_rank": 0}
    return layer, {name: TensorSum.read(text) for name, text in answer["checksums"].items()}


def test_layers_that_are_kept_as_one_are_told_as_one_and_in_their_parts(tmp_path: Path) -> None:
    layer, sums = told(tmp_path / "gone")
    qkv, latent = layer.self_attn.qkv_proj.weight, layer.self_attn.fused_qkv_a_proj_with_mqa.weight
    expected = {
        "self_attn.qkv_proj.weight": qkv,
        "self_attn.q_proj.weight": qkv[:4],
        "self_attn.k_proj.weight": qkv[4:6],
        "self_attn.v_proj.weight": qkv[6:],
        "self_attn.fused_qkv_a_proj_with_mqa.weight": latent,
        "self_attn.q_a_proj.weight": latent[:3],
        "self_attn.kv_a_proj_with_mqa.weight": latent[3:],
        "mlp.experts.w13_weight": layer.mlp.experts.w13_weight,
        "mlp.experts.w2_weight": layer.mlp.experts.w2_weight,
    }
    for number in range(2):
        gate, up = layer.mlp.experts.w13_weight[number].chunk(2)
        expected |= {
            f"mlp.experts.{number}.gate_proj.weight": gate,
            f"mlp.experts.{number}.up_proj.weight": up,
            f"mlp.experts.{number}.down_proj.weight": layer.mlp.experts.w2_weight[number],
        }
    assert sums == {name: TensorSum.of(tensor) for name, tensor in expected.items()}
    assert Checker(layer).handle("checksum") == "SGLang's own checksum"


def test_rows_and_columns_that_the_folder_does_not_have_are_left_out(tmp_path: Path) -> None:
    shapes = {"mlp.experts.1.up_proj.weight": (3, 4), "mlp.experts.1.down_proj.weight": (4, 3)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    layer, sums = told(tmp_path)
    assert sums["mlp.experts.1.up_proj.weight"] == TensorSum.of(layer.mlp.experts.w13_weight[1, 4:7])
    assert sums["mlp.experts.1.down_proj.weight"] == TensorSum.of(layer.mlp.experts.w2_weight[1, :, :3])
    assert sums["mlp.experts.0.up_proj.weight"].shape == (4, 4)
