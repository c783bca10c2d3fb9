"""Every shipped option and recipe composes and passes the checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rlscale.config.checks import check
from rlscale.config.composition import debug_option
from rlscale.config.composition.compose import compose
from rlscale.config.composition.groups import Groups
from rlscale.config.composition.recipe_file import shipped_recipes
from rlscale.config.hf_architecture import read_architecture
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete, read_config
from rlscale.families.tensors import experts_of, parameter_count

GROUPS = Groups.of()
OPTIONS = [(group, option) for group in GROUPS.names if group != debug_option.GROUP for option in GROUPS.options(group)]

DENSE8 = ["cluster=node8", "parallel=dense_8gpu", "rollout.engines=8"]
MOE8 = ["cluster=node8", "parallel=moe_8gpu", "rollout.engines=2", "rollout.gpus_per_engine=4"]
MULTINODE = [
    "cluster=multinode_disaggregated",
    "parallel=moe_multinode",
    "rollout.max_staleness=1",
    "rollout.engines=4",
    "rollout.gpus_per_engine=4",
]
WHOLE_NODES = ["rollout.gpus_per_engine=8", "cluster.ray_address=auto", "cluster.host=0.0.0.0"]
PUBLISHED = sorted(option for option in GROUPS.options("model") if not option.startswith("tiny") and option != "any")
MIXTURES = ("qwen3_30b", "glm4_5", "glm4_5_air", "glm4_6", "glm4_7")
HYBRIDS = ("qwen3_next_80b", "qwen3_next_80b_thinking", "qwen3_coder_next")
HYBRID = ["parallel=qwen3_next_32gpu", "cluster=node8", "cluster.nodes=4", "rollout.engines=4", *WHOLE_NODES]
MODEL_OF = {
    "gsm8k": "qwen3_0_6b",
    "qwen2_5_1_5b_gsm8k": "qwen2_5_1_5b",
    "llama3_8b_math": "llama3_8b",
    "qwen3_30b_math": "qwen3_30b",
    "qwen3_next_math": "qwen3_next_80b",
    "glm4_5_air_math": "glm4_5_air",
    "deepseek_v3_math": "deepseek_v3",
}
"""Recipes of published models, whose data are the user's."""
NEEDS = {
    "parallel=qwen3_30b_8gpu": ["model=qwen3_30b", *MOE8[:1], *MOE8[2:]],
    "parallel=qwen3_next_32gpu": ["model=qwen3_next_80b", *HYBRID[1:]],
    "parallel=glm4_5_64gpu": ["model=glm4_5", "cluster=node8", "cluster.nodes=8", "rollout.engines=8", *WHOLE_NODES],
    "parallel=glm4_5_air_32gpu": [
        *("model=glm4_5_air", "cluster=node8", "cluster.nodes=4", "rollout.engines=4"),
        *WHOLE_NODES,
    ],
    "parallel=deepseek_v3_128gpu": [
        *("model=deepseek_v3", "cluster=node8", "cluster.nodes=16", "rollout.engines=16"),
        *WHOLE_NODES,
    ],
    "parallel=glm5_128gpu": [
        *("model=glm5", "cluster=node8", "cluster.nodes=16", "rollout.engines=16"),
        *WHOLE_NODES,
    ],
    "parallel=dense_8gpu": ["model=qwen3_4b", *DENSE8],
    "parallel=moe_8gpu": ["model=qwen3_30b", *MOE8],
    "parallel=moe_multinode": ["model=qwen3_30b", *MULTINODE],
    "cluster=node8": ["model=qwen3_0_6b", *DENSE8],
    "cluster=multinode_disaggregated": ["model=qwen3_30b", *MULTINODE],
    "model=any": ["model.path=owner/model", "model.name=mine"],
    "model=tiny_qwen3": ["rollout.max_prompt_tokens=16", "rollout.max_response_tokens=8"],
    "model=tiny_qwen3_moe": ["rollout.max_prompt_tokens=16", "rollout.max_response_tokens=8"],
    **{f"model={model}": MOE8 if model in MIXTURES else DENSE8 for model in PUBLISHED},
    **{f"model={model}": HYBRID for model in HYBRIDS},
    "data=mixture": ["data@data.sources.a.data=arithmetic"],
    "algo=sft": ["rollout.samples_per_group=1"],
    "algo=opd": ["teacher.path=owner/teacher"],
    "algo/score=none": ["algo=opd", "teacher.path=owner/teacher"],
    "algo/advantage=none": ["algo=opd", "teacher.path=owner/teacher"],
    "algo/kl=reward": ["algo=ppo"],
    "algo/correction=opsm": ["algo.correction.opsm_delta=1e-3"],
    "algo/correction=rejection": [
        "algo.correction.rejection.level=geometric",
        "algo.correction.rejection.upper=2",
    ],
    **{
        f"algo/{part}=custom": [f"algo.{part}.function._target_=mine.fn"]
        for part in ("score", "advantage", "loss", "correction", "reduction")
    },
    "algo/loss=sft": ["algo=sft", "rollout.samples_per_group=1"],
    "rollout=one_step_off": ["cluster.placement=disaggregated"],
    "rollout=asynchronous": ["cluster.placement=disaggregated"],
    "optim=adam_cosine": ["~optim"],
    "loop=disaggregated": ["cluster.placement=disaggregated"],
    "loop=supervised": ["algo=sft", "rollout.samples_per_group=1"],
    "weights/transport=cuda_ipc": ["model=qwen3_0_6b", *DENSE8],
    "reward=none": ["algo=opd", "teacher.path=owner/teacher"],
    "reward=tournament": ["eval.enabled=false"],
    "reward=custom": ["reward.function._target_=mine.Reward"],
    "env=search": ["env.tools.corpus=x.jsonl"],
    "data=jsonl": ["data.path=x.jsonl"],
    "data=parquet": ["data.path=x.parquet"],
    "data=custom": ["data.source._target_=mine.Source"],
    "data@eval.data=jsonl": ["eval.data.path=x.jsonl"],
    "data@eval.data=parquet": ["eval.data.path=x.parquet"],
    "data=arithmetic_held_out": ["eval.data.split=train"],
    "data@eval.data=arithmetic": ["eval.data.split=held_out"],
    "data@eval.data=custom": ["eval.data.source._target_=mine.Source"],
}
"""What an option needs beside it, as the documentation says."""


def with_fixture(overrides: list[str], hf: Path) -> list[str]:
    """The architecture of the chosen model from tests/fixtures instead of the hub."""
    name = next((text.removeprefix("model=") for text in overrides if text.startswith("model=")), "")
    return [*overrides, f"model.path={hf / name}"] if (hf / name / "config.json").is_file() else overrides


CHOICES = [
    *(f"{group}={option}" for group, option in OPTIONS),
    *(f"data@eval.data={option}" for option in GROUPS.options("data") if option != "mixture"),
]


def overrides_of(choice: str) -> list[str]:
    """A choice and what it needs."""
    return list(dict.fromkeys([choice, *NEEDS.get(choice, [])]))


ALSO_ABOUT = {
    "loop": ("cluster", "algo"),
    "weights/transport": ("cluster",),
    "data@eval.data": ("data",),
    "algo=ppo": ("model",),
    "algo/advantage=gae": ("model",),
}
"""Further sections on which it depends whether a choice has a meaning: there is not a critic of every model."""


def sections_of(choice: str) -> set[str]:
    """The sections that a choice and what it needs are about."""
    overrides = overrides_of(choice)
    own = {re.split(r"[/.=]", text.lstrip("~").rpartition("@")[2])[0] for text in overrides}
    names = [name for text in overrides for name in (text, text.partition("=")[0])]
    return own.union(*(ALSO_ABOUT.get(name, ()) for name in names))


def packed(choices: list[str]) -> list[list[str]]:
    """The choices in as few configurations as take each with others only that are about other sections."""
    packs: list[list[str]] = []
    for choice in sorted(choices, key=lambda choice: -len(sections_of(choice))):
        free = (pack for pack in packs if not any(sections_of(choice) & sections_of(other) for other in pack))
        pack = next(free, None)
        if pack is None:
            packs.append([choice])
        else:
            pack.append(choice)
    return packs


@pytest.mark.parametrize("choices", packed(CHOICES), ids=" ".join)
def test_every_option_composes_and_passes_the_checks(choices: list[str], hf: Path, plain_recipe: str) -> None:
    overrides = [text for choice in choices for text in overrides_of(choice)]
    config = compose(plain_recipe, with_fixture(overrides, hf))
    check(config)
    chosen = dict(choice.split("=") for choice in choices)
    assert {group: config.run.groups[group] for group in chosen} == chosen


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_models_parameters_are_those_that_its_file_says_and_its_family_is_supported(model: str, hf: Path) -> None:
    architecture = complete(read_config(hf / model))
    assert list(FAMILIES[architecture["model_type"]].unsupported(architecture)) == []
    said = yaml.safe_load((GROUPS.folders[0] / "model" / f"{model}.yaml").read_text())
    assert said["name"] == model
    assert float(said["parameters"]) == pytest.approx(parameter_count(architecture), rel=0.03)


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_recipe_composes_and_passes_the_checks(recipe: str, hf: Path) -> None:
    yours = ["data.path=train.jsonl", "eval.data.path=test.jsonl"]
    model = MODEL_OF.get(recipe)
    assert check(compose(recipe, [*yours, f"model.path={hf / model}"] if model else [])) == []


def test_the_default_recipe_trains_the_tiny_mixture_of_experts_as_the_readme_says() -> None:
    config = compose(overrides=["model=tiny_qwen3_moe", "algo.steps_per_iteration=2", "trainer.routing_replay=rollout"])
    assert check(config) == []
    architecture = read_architecture(config.model)
    assert architecture is not None
    assert experts_of(architecture) == 8
    assert parameter_count(architecture) < 5e6
    dense = read_architecture(compose().model)
    assert dense is not None
    assert 0.5e6 < parameter_count(dense) < 2e6
    assert {**architecture, "model_type": "qwen3"}.items() >= dense.items()


def test_option_files_say_what_they_are() -> None:
    for group, option in OPTIONS:
        text = (GROUPS.folders[0] / group / f"{option}.yaml").read_text()
        assert text.startswith("# "), f"conf/{group}/{option}.yaml"
