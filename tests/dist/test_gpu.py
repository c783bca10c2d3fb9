"""What only a GPU can show: flash attention on packed sequences, and memory that is really given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenarios
from training_data import divide, make_batch, make_spec

from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import EightBits, TrainerConfig
from rlscale.platform.ports import free_port

pytestmark = pytest.mark.gpu


def open_on_gpu(model: Path, **options: Any) -> Any:
    spec = make_spec(model, device=Device.cuda, **options)
    return scenarios.open_trainer(0, 1, "127.0.0.1", free_port("127.0.0.1"), spec)


@pytest.mark.parametrize("model", ["dense", "moe"])
def test_log_probs_of_flash_attention_are_those_of_attention_in_float32(model: str, models: dict[str, Path]) -> None:
    (part,) = divide(make_batch(make_spec(models[model]).algo), 1)
    columns = []
    for dtype in (DType.float32, DType.bfloat16):
        trainer = open_on_gpu(models[model], dtype=dtype)
        try:
            columns.append(trainer.logprobs(part))
        finally:
            trainer.close()
    difference = np.abs(columns[0] - columns[1])[part.batch.column("loss_mask")]
    # On the CPU the two types differ by 0.014, and borders of segments that are one token off make 4.4.
    assert difference.max() < 0.05


@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16])
def test_sleep_gives_memory_up_and_wake_brings_everything_back(models: dict[str, Path], dtype: DType) -> None:
    import torch

    (part,) = divide(make_batch(make_spec(models["dense"]).algo), 1)
    trainer = open_on_gpu(models["dense"], dtype=dtype)
    try:
        trainer.train_shard(part, 0)
        before, awake = trainer.logprobs(part), torch.cuda.memory_allocated()
        trainer.sleep()
        asleep = torch.cuda.memory_allocated()
        trainer.wake()
        np.testing.assert_array_equal(trainer.logprobs(part), before)
        assert asleep < awake / 2
        assert trainer.train_shard(part, 1)["skipped_steps"] == 0
    finally:
        trainer.close()


@pytest.mark.parametrize("recipe", [EightBits.tensorwise, EightBits.blockwise])
@pytest.mark.parametrize("model", ["dense", "moe"])
def test_training_in_fp8_is_close_to_training_in_16_bits(
    model: str, recipe: EightBits, models: dict[str, Path]
) -> None:
    pytest.importorskip("transformer_engine")
    (part,) = divide(make_batch(make_spec(models[model]).algo), 1)
    columns, norms = [], []
    for fp8 in (EightBits.none, recipe):
        trainer = open_on_gpu(models[model], dtype=DType.bfloat16, trainer=TrainerConfig(fp8=fp8))
        try:
            columns.append(trainer.logprobs(part))
            norms.append(trainer.train_shard(part, 0)["grad_norm"])
            after = trainer.logprobs(part)  # with the weights after the step, not with copies of those before
            assert np.abs(after - columns[-1]).max() > 0
        finally:
            trainer.close()
    mask = part.batch.column("loss_mask")
    assert 0 < np.abs(columns[0] - columns[1])[mask].max() < 0.5
    assert abs(norms[1] / norms[0] - 1) < 0.2
