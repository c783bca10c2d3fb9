"""Trainer and engine agree bit for bit, and a rollout repeats, whatever it is computed beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.schema.model_config import CreateModelConfig, DType, ModelConfig
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.data.stored.rollout_file import read_groups
from tests.e2e.run.command import SHORT, metrics, run

pytestmark = pytest.mark.timeout(300)

REWARD = "def varied(response, label, info):\n    return sum(map(ord, response)) % 8 / 8\n"
"""A reward that tells the samples of a model apart that cannot calculate yet."""

ASKED = ("run.bitwise=true", "checkpoint.every=0", "eval.enabled=false", "rollout.store=all", "reward=custom")

FAMILIES = Path(__file__).parents[2] / "fixtures" / "families"

UNDER_LOAD = {
    "one engine": (),
    "two, three requests at a time": ("rollout.engines=2", "rollout.max_concurrent=3"),
}


def rollouts(folder: Path) -> list[tuple[list[int], list[float]]]:
    """Tokens and the engine's log-probs of what was sampled in both iterations."""
    files = [folder / "rollouts" / f"iteration_00000{number}.parquet" for number in (1, 2)]
    groups = [group for file in files for group in read_groups(file)]
    return [(sample.tokens.tolist(), sample.rollout_logprobs.tolist()) for group in groups for sample in group.samples]


def latent_model(folder: Path) -> tuple[str, ...]:
    """What makes a run train a tiny model with latent attention, of odd sizes, and experts beside a shared one."""
    config = json.loads((FAMILIES / "glm4_moe_lite.json").read_text())
    given = {key: value for key, value in config.items() if key not in ("architectures", "vocab_size")}
    wide = {**given, "n_routed_experts": 32, "moe_intermediate_size": 32, "initializer_range": 0.2}
    made = ModelConfig(name="latent", create=CreateModelConfig(wide, "0123456789+-*=? ", 0), dtype=DType.bfloat16)
    return ("model.create=null", f"model.path={ensure_model_folder(made, folder)}", "model.dtype=bfloat16")


@pytest.mark.parametrize(
    "given",
    [
        ("latent",),
        ("model=tiny_qwen3_moe", "model.dtype=bfloat16", "rollout.top_p=0.9", "parallel.data=2"),
        (
            *("rollout.weights=int4", "trainer.fake_quant=true", "parallel.pipeline=2"),
            *("trainer.max_tokens_per_microbatch=64", "rollout.top_k=6"),
        ),
    ],
    ids=["latent attention", "mixture in 16 bits, top-p, two ranks", "quantised, two stages, small batches, top-k"],
)
def test_log_probs_are_equal_bit_for_bit_in_every_form(
    given: tuple[str, ...], ready: list[str], tmp_path: Path
) -> None:
    (tmp_path / "varied.py").write_text(REWARD)
    form = latent_model(tmp_path / "models") if given == ("latent",) else given
    asked = (*ASKED, "reward.function._target_=varied.varied", "run.output=run", *form)
    ended = run(tmp_path, *SHORT, *asked, *ready)
    assert ended.code == 0, ended.text
    for line in metrics(tmp_path / "run"):
        assert line["logprob_diff_tokens"] > 0
        assert line["mismatch_abs_max"] == line["logprob_diff_max"] == 0.0
        assert line["ratio_max_first_step"] == 1.0


def test_a_run_repeats_in_tokens_log_probs_and_weights_under_any_load(ready: list[str], tmp_path: Path) -> None:
    (tmp_path / "varied.py").write_text(REWARD)
    seen, weights = [], []
    for number, load in enumerate(UNDER_LOAD.values()):
        given = (*ASKED, "reward.function._target_=varied.varied", f"run.output=run{number}", *load)
        ended = run(tmp_path, *SHORT, *given, *ready)
        assert ended.code == 0, ended.text
        folder = tmp_path / f"run{number}"
        for line in metrics(folder):
            assert line["logprob_diff_tokens"] > 0
            assert line["mismatch_abs_max"] == line["logprob_diff_max"] == line["logprob_diff_mean"] == 0.0
            assert line["ratio_max_first_step"] == 1.0
            assert line["grad_norm"] > 0
        seen.append(rollouts(folder))
        weights.append((folder / "hf" / "model.safetensors").read_bytes())
    assert len(seen[0]) == 32
    assert seen[0] == seen[1]
    assert weights[0] == weights[1]
