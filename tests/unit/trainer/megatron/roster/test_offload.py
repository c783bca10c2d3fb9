"""Memory that a sleeping model gives up, and what it computes with when it is awake again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.trainer.megatron.model.kept_base import KeptWeight
from rlscale.trainer.megatron.roster.offload import Offload
from rlscale.weights.encode import encoding_of


@pytest.mark.parametrize("form", [WeightForm.int4, WeightForm.mxfp8])
def test_codes_and_scales_of_a_kept_base_sleep_with_its_numbers(form: WeightForm) -> None:
    weight = torch.nn.Parameter(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), requires_grad=False)
    norm = torch.nn.Parameter(torch.ones(64), requires_grad=False)
    kept = KeptWeight(weight, encoding_of(ServedForm(form)))
    before = kept.value()
    layer = torch.nn.Module()
    layer._fp8_workspaces = workspaces = {"weight": torch.ones(1)}  # as Transformer Engine's keep them
    model: Any = SimpleNamespace(
        bare=[layer],
        parameters=lambda: [norm, weight],
        adapters=SimpleNamespace(kept={"weight": kept}),
        parallel_chunks=[],
        finish_gathering=lambda: None,
    )
    offload = Offload(model)
    offload.sleep()
    held = [norm, weight, *kept.parts.values()]
    assert workspaces == {}
    assert sum(tensor.untyped_storage().nbytes() for tensor in held) == 0
    offload.wake()
    assert torch.equal(kept.value(), before)
    assert torch.equal(norm, torch.ones(64))
    assert weight.isnan().all()
