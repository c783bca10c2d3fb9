"""Which of the weights that there are a token's log-prob is by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from rlscale.trainer.megatron.roster.kept_versions import KeptVersions, nearest


@pytest.mark.parametrize(
    ("available", "taken"),
    [
        ([3, 4, 5], [3, 3, 4, 5, 5, 5]),  # 2 is older than all that there are, 6 newer
        ([3, 5], [3, 3, 5, 5, 5, 5]),  # 4 was forgotten: what came of it is nearer than what it came of
        ([5], [5, 5, 5, 5, 5, 5]),
    ],
)
def test_a_token_takes_its_own_version_or_the_next_newer_one(available: list[int], taken: list[int]) -> None:
    versions = torch.tensor([2, 3, 4, 5, 6, -1], dtype=torch.int32)
    assert nearest(versions, torch.tensor(available)).tolist() == taken


def test_a_rank_without_micro_batches_counts_on_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDeviceError(Exception):
        pass

    def reduce(counts: torch.Tensor, group: Any) -> None:
        raise OnDeviceError(counts.device.type)

    monkeypatch.setattr(dist, "all_reduce", reduce)
    model: Any = SimpleNamespace(parameters=lambda: [torch.zeros(1, device="meta")])
    ranks: Any = SimpleNamespace(data_context_group=None)
    with pytest.raises(OnDeviceError, match="meta"):
        KeptVersions(model, 1).sampling_weights([], 3, ranks)
