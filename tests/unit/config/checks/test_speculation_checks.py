"""What speculation needs of a model, a draft and the rest of a run, and what it becomes for SGLang."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.derived.speculation_options import speculation_options
from rlscale.config.errors import ConfigError
from rlscale.config.schema.speculation_config import Algorithm, SpeculationConfig

KEY = "rollout.speculation"
FAMILIES = Path(__file__).parents[3] / "fixtures" / "families"
ASYNC = ["cluster.placement=disaggregated", "cluster.rollout_gpus=4", "rollout.engines=4", "rollout.max_staleness=1"]
GPUS = ["cluster=node8", "rollout.engines=8"]


def folder_of(tmp_path: Path, family: str, **changed: object) -> Path:
    folder = tmp_path / family
    folder.mkdir()
    config = json.loads((FAMILIES / f"{family}.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check(compose(None, [*GPUS, *overrides]))
    return raised.value.problems


def test_the_cpu_is_refused_with_what_sglang_does_there() -> None:
    with pytest.raises(ConfigError, match="algorithm=ngram: on the CPU SGLang verifies drafts greedily"):
        check(compose(None, [f"{KEY}.algorithm=ngram"]))


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        ([f"{KEY}.algorithm=mtp"], "a model that is made (model.create) has no layer that predicts further tokens"),
        ([f"{KEY}.algorithm=eagle"], "algorithm=eagle needs a draft"),
        ([f"{KEY}.draft=/draft"], "draft=/draft is read with an algorithm of speculation only"),
        ([f"{KEY}.algorithm=ngram", f"{KEY}.draft=/draft"], "draft=/draft is not read with"),
        ([f"{KEY}.algorithm=ngram", f"{KEY}.topk=2"], "topk=2 is not read with algorithm=ngram"),
        ([f"{KEY}.algorithm=ngram", "rollout.top_p=0.9"], "does not say then which words tokens were drawn from"),
        ([f"{KEY}.algorithm=ngram", *ASYNC, "rollout.on_sync=retract"], "on_sync=retract has not been tried"),
        (
            [f"{KEY}.algorithm=ngram", "rollout.sglang.speculative_accept_threshold_acc=0.5"],
            "accepts tokens that the policy would not",
        ),
        (
            [
                f"{KEY}.algorithm=ngram",
                "rollout.engine_groups.all={engines: 8, sglang: {speculative_accept_threshold_acc: 0.5}}",
                "rollout.engines=1",
            ],
            "engine_groups.all.sglang.speculative_accept_threshold_acc=0.5: accepts tokens",
        ),
        (["rollout.sglang.speculative_algorithm=NGRAM"], "is set by rollout.speculation.algorithm"),
    ],
)
def test_what_does_not_speculate_is_one_line(overrides: list[str], wrong: str) -> None:
    (line,) = problems(*overrides)
    assert wrong in line


def test_a_draft_that_does_not_fit_the_policy_is_named(tmp_path: Path) -> None:
    draft = folder_of(tmp_path, "llama", vocab_size=32, hidden_size=96)
    head = [f"{KEY}.algorithm=eagle", f"{KEY}.draft={draft}"]
    found = problems(*head)
    assert [line.split(": ", 1)[1].split(" is ")[0] for line in found] == ["its vocab_size", "its hidden_size"]
    ours = json.loads((draft / "config.json").read_text())
    (line,) = problems(*head, f"{KEY}.steps=2", f"model.path={draft}", "model.create=null")
    assert "steps is given without rollout.speculation.topk" in line
    numbers = [f"{KEY}.steps=2", f"{KEY}.topk=1", f"{KEY}.draft_tokens=4"]
    (line,) = problems(*head, *numbers, f"model.path={draft}", "model.create=null")
    assert "with topk=1 the policy verifies steps + 1 = 3" in line
    assert ours["vocab_size"] == 32


def test_the_models_own_layers_are_looked_for(tmp_path: Path) -> None:
    without = folder_of(tmp_path, "qwen3")
    (line,) = problems(f"{KEY}.algorithm=mtp", f"model.path={without}", "model.create=null")
    assert "qwen3 has no layer that predicts further tokens" in line


def test_a_module_of_its_own_is_there_though_the_config_does_not_count_its_layers(tmp_path: Path) -> None:
    folder, model = folder_of(tmp_path, "qwen3_next"), "model.create=null"
    assert "num_nextn_predict_layers" not in json.loads((folder / "config.json").read_text())
    check(compose(None, [*GPUS, f"{KEY}.algorithm=mtp", f"model.path={folder}", model]))
    glm = folder_of(tmp_path, "glm4_moe", num_nextn_predict_layers=0)
    lines = problems(f"{KEY}.algorithm=mtp", f"model.path={glm}", model)
    assert any("num_nextn_predict_layers=0 says that the model has no layer" in line for line in lines)


def test_options_are_sglangs() -> None:
    given = SpeculationConfig(Algorithm.eagle3, "/draft", steps=3, topk=1, draft_tokens=4)
    assert speculation_options(given, "/model", "/found") == {
        "speculative_algorithm": "EAGLE3",
        "speculative_draft_model_path": "/found",
        "speculative_num_steps": 3,
        "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": 4,
    }
    assert speculation_options(SpeculationConfig(Algorithm.mtp), "/model", None) == {
        "speculative_algorithm": "NEXTN",
        "speculative_draft_model_path": "/model",
    }
    assert speculation_options(SpeculationConfig(Algorithm.ngram), "/model", None) == {"speculative_algorithm": "NGRAM"}
    assert speculation_options(SpeculationConfig(), "/model", None) == {}
