"""The plan of a batch follows the layout: interleaved stages, experts that are waited for, the FLOPs of the model."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.config.compose import compose
from rlscale.data.batch import Batch
from rlscale.run import batching


def _batch(rows: int) -> Batch:
    batch = Batch(np.arange(rows + 1, dtype=np.int64) * 10)
    return batch.with_column("step", np.zeros(rows, np.int64))


def test_interleaved_stages_get_a_multiple_of_their_number_of_microbatches() -> None:
    layout = ["parallel.pipeline=2", "parallel.virtual_pipeline=2", "trainer.max_tokens_per_microbatch=20"]
    for overrides, microbatches in ((layout, 4), (layout[2:], 3)):
        _, plan = batching.divide(_batch(6), compose(None, overrides))
        assert plan.microbatches == [microbatches]


def test_work_is_counted_for_the_policy_s_own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(batching, "plan", lambda *args, **options: seen.update(options))
    monkeypatch.setattr(batching, "split", lambda batch, division: [])
    sizes = {
        "model.create.architecture.hidden_size": 8,
        "model.create.architecture.num_hidden_layers": 3,
        "model.create.architecture.num_attention_heads": 2,
        "model.create.architecture.num_key_value_heads": 1,
        "model.create.architecture.head_dim": 4,
        "model.create.architecture.intermediate_size": 16,
    }
    config = compose(None, [f"{key}={value}" for key, value in sizes.items()] + ["parallel.expert=2"])
    batching.divide(_batch(4), config)
    vocabulary = len(config.model.create.characters) + 4
    matrices = 3 * (2 * 8 * 4 * (2 + 1) + 3 * 8 * 16) + vocabulary * 8
    assert (seen["cost"].linear, seen["cost"].quadratic) == (6.0 * matrices, 6.0 * 3 * 2 * 4)
    assert seen["lockstep"] is True
