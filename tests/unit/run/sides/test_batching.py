"""The plan of a batch follows the layout: interleaved stages, padding, experts that wait, the FLOPs of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.data.batches.batch import Batch
from rlscale.run.sides import batching


def _batch(rows: int, length: int = 10) -> Batch:
    batch = Batch(np.arange(rows + 1, dtype=np.int64) * length)
    return batch.with_column("step", np.zeros(rows, np.int64))


def _seen_by_plan(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, Any]:
    """The options with which a batch is planned in that layout."""
    seen: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(batching, "plan", lambda *args, **options: seen.update(options))
        patch.setattr(batching, "split", lambda batch, division: [])
        batching.divide(_batch(4), compose(None, overrides))
    return seen


def test_interleaved_stages_get_a_multiple_of_their_number_of_microbatches() -> None:
    layout = ["parallel.pipeline=2", "parallel.virtual_pipeline=2", "trainer.max_tokens_per_microbatch=20"]
    for overrides, microbatches in ((layout, 4), (layout[2:], 3)):
        _, plan = batching.divide(_batch(6), compose(None, overrides))
        assert plan.microbatches == [microbatches]


def test_work_is_counted_for_the_policy_s_own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "model.create.architecture.hidden_size": 8,
        "model.create.architecture.num_hidden_layers": 3,
        "model.create.architecture.num_attention_heads": 2,
        "model.create.architecture.num_key_value_heads": 1,
        "model.create.architecture.head_dim": 4,
        "model.create.architecture.intermediate_size": 16,
    }
    overrides = [f"{key}={value}" for key, value in sizes.items()]
    seen = _seen_by_plan(monkeypatch, *overrides)
    vocabulary = len(compose(None, overrides).model.create.characters) + 4
    matrices = 3 * (2 * 8 * 4 * (2 + 1) + 3 * 8 * 16) + vocabulary * 8
    assert (seen["cost"].linear, seen["cost"].quadratic) == (6.0 * matrices, 6.0 * 3 * 2 * 4)


@pytest.mark.parametrize(
    ("layout", "waits"),
    [
        ({"data": 2}, False),
        ({"data": 2, "expert": 2}, True),
        ({"data": 2, "expert_tensor": 2}, True),
        ({"data": 3, "context": 2, "expert": 3}, True),
        ({"data": 2, "tensor": 2, "expert": 2, "expert_tensor": 2}, True),
        ({"data": 2, "tensor": 2, "expert": 2}, False),  # the ranks of one copy, which compute the same micro-batch
        ({"data": 2, "tensor": 2, "context": 2, "expert": 2, "expert_tensor": 2}, False),
    ],
)
def test_ranks_wait_in_every_layer_where_the_experts_lie_on_more_than_one_copy(
    layout: dict[str, int], waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _seen_by_plan(monkeypatch, *(f"parallel.{key}={size}" for key, size in layout.items()))
    assert seen["lockstep"] is waits


@pytest.mark.parametrize(
    ("layout", "cap", "rows"),
    [
        (["parallel.tensor=8", "parallel.sequence=true"], 88, 8),  # 16 tokens each would be five
        (["parallel.tensor=8"], 87, 7),  # nothing is padded without sequence parallelism
        (["parallel.tensor=8", "parallel.sequence=true"], 87, 7),  # 77 become 80
        (["parallel.tensor=8", "parallel.sequence=true"], 79, 6),  # 77 would become 80
        (["parallel.context=2"], 36, 3),  # 12 each
        (["parallel.context=2", "parallel.tensor=4", "parallel.sequence=true"], 36, 2),  # three are 36, and become 40
    ],
)
def test_rows_take_what_they_are_padded_to_and_the_whole_is_padded_within_the_cap(
    layout: list[str], cap: int, rows: int
) -> None:
    config = compose(None, [*layout, f"trainer.max_tokens_per_microbatch={cap}"])
    _, plan = batching.divide(_batch(5 * rows, length=11), config)
    assert [len(microbatch) for microbatch in plan.parts[0][0]] == [rows] * 5


def test_a_row_that_fits_when_padded_is_not_oversized() -> None:
    layout = ["parallel.tensor=8", "parallel.sequence=true", "trainer.max_tokens_per_microbatch=16"]
    for length, oversized in ((11, 0), (16, 0), (17, 2)):
        _, plan = batching.divide(_batch(2, length), compose(None, layout))
        assert plan.oversized == oversized
