"""What only a GPU can show: flash attention on packed sequences, and memory that is really given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenarios
from training_data import divide, make_batch, make_spec

from rlscale.config.schema.cluster import Device
from rlscale.config.schema.model import DType
from rlscale.platform.ports import free_port

pytestmark = pytest.mark.gpu


def open_on_gpu(model: Path, **options: Any) -> Any:
    spec = make_spec(model, device=Device.cuda, **options)
    return scenarios.open_trainer(0, 1, "127.0.0.1", free_port("127.0.0.1"), spec)


def test_log_probs_of_flash_attention_are_close_to_transformers(models: dict[str, Path]) -> None:
    from test_trainer import hf_logprobs

    batch = make_batch(make_spec(models["dense"]).algo)
    trainer = open_on_gpu(models["dense"], dtype=DType.bfloat16)
    try:
        got = trainer.logprobs(divide(batch, 1)[0])
    finally:
        trainer.close()
    mask = batch.column("loss_mask")
    difference = np.abs(got - hf_logprobs(models["dense"], batch, 0.8))[mask]
    assert difference.mean() < 0.1


@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16])
def test_sleep_gives_memory_up_and_wake_brings_everything_back(models: dict[str, Path], dtype: DType) -> None:
    import torch

    (part,) = divide(make_batch(make_spec(models["dense"]).algo), 1)
    trainer = open_on_gpu(models["dense"], dtype=dtype)
    try:
        trainer.train(part, 0)
        before, awake = trainer.logprobs(part), torch.cuda.memory_allocated()
        trainer.sleep()
        asleep = torch.cuda.memory_allocated()
        trainer.wake()
        np.testing.assert_array_equal(trainer.logprobs(part), before)
        assert asleep < awake / 2
        assert trainer.train(part, 1)["skipped_steps"] == 0
    finally:
        trainer.close()
