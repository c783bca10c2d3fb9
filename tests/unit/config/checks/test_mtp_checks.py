"""A layer that predicts a token further is trained where a model has one in a known form, and refused elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.model_fits import TRAINING_BYTES, training_gb
from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes
from rlscale.config.hf_architecture import read_architecture
from rlscale.families.config_file import complete
from rlscale.families.tensors import parameter_count
from tests.unit.families.folders import TINY

Problems = Callable[..., list[str]]

TRAINED = "trainer.mtp=trained"


def folder_of(family: str, at: Path, **changes: object) -> str:
    (at / "config.json").write_text(json.dumps({**TINY[family], **changes}))
    return f"model.path={at}"


def about_mtp(lines: list[str]) -> list[str]:
    """Those of the lines that say something of the layer; the tiny folders have no tokenizer."""
    return [line for line in lines if "mtp" in line or "trainer.frozen" in line]


@pytest.mark.parametrize(
    ("family", "pattern"),
    [
        ("deepseek_v3", "model.layers.2.eh_proj.*"),
        ("glm4_moe", "model.layers.2.eh_proj.*"),
        ("qwen3_next", "mtp.fc.*"),
    ],
)
def test_a_layer_in_the_folder_can_be_trained(problems: Problems, tmp_path: Path, family: str, pattern: str) -> None:
    model = folder_of(family, tmp_path)
    options = [TRAINED, "trainer.mtp_loss_scale=0.3", f"trainer.frozen=[{pattern}]"]
    assert about_mtp(problems("model.create=null", model, *options)) == []
    (line,) = about_mtp(problems("model.create=null", model, options[-1]))
    assert f"{pattern}: matches no parameter of the model" in line


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("qwen3", {}, "qwen3 has no layer that predicts further tokens"),
        (
            "glm4_moe",
            {"num_nextn_predict_layers": 0},
            "num_nextn_predict_layers=0 says that the model has no such layer",
        ),
        ("glm4_moe", {"num_nextn_predict_layers": 2}, "has several such layers, of which one can be trained"),
    ],
)
def test_a_model_without_such_a_layer_is_one_line(
    problems: Problems, tmp_path: Path, family: str, changes: dict[str, object], reason: str
) -> None:
    (line,) = about_mtp(problems("model.create=null", folder_of(family, tmp_path, **changes), TRAINED))
    assert line.startswith("trainer.mtp=trained: ")
    assert reason in line
    assert line.endswith("; use frozen")


def test_memory_of_training_is_that_of_the_layer_too(plain_recipe: str, tmp_path: Path) -> None:
    def needed(*words: str) -> float:
        config = compose(plain_recipe, ["model.create=null", folder_of("glm4_moe", tmp_path), *words])
        context = CheckContext(config, Sizes.of(config), read_architecture(config.model))
        return training_gb(context, 1e6)

    config = complete(TINY["glm4_moe"])
    more = parameter_count(config, mtp=True) - parameter_count(config)
    assert more > 1000
    assert needed(TRAINED) - needed() == pytest.approx(more * TRAINING_BYTES / 1e9)


def test_a_model_that_is_made_has_no_such_layer(problems: Problems) -> None:
    given = [f"model.create.architecture.{key}={json.dumps(value)}" for key, value in TINY["glm4_moe"].items()]
    assert problems(TRAINED)[0].startswith("trainer.mtp=trained: qwen3 has no layer")
    lines = about_mtp(problems(*(each for each in given if "architectures" not in each), TRAINED))
    assert lines == ["trainer.mtp=trained: a model that is made (model.create) has no such layer; use frozen"]


def test_a_critic_of_another_kind_is_one_line(problems: Problems) -> None:
    (line,) = about_mtp(problems("algo=ppo", "critic.trainer.mtp=trained"))
    assert line == "critic.trainer.mtp=trained is never read: a critic has no such layer; leave it out"


def test_a_loss_scale_that_nothing_reads_is_one_line(problems: Problems) -> None:
    assert problems("trainer.mtp_loss_scale=0.3") == [
        "trainer.mtp_loss_scale=0.3 is never read with trainer.mtp=frozen; leave it out"
    ]
