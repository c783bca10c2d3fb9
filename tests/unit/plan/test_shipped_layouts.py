"""The recipes of published models, and the layouts named after them, fit their machines by our own plan."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.published_configs import architecture_of
from rlscale.plan.planned_run import plan_run

DATA = ["data.path=train.jsonl", "eval.data.path=test.jsonl"]
OF_141, OF_288 = "cluster.gpu_memory_gb=141", "cluster.gpu_memory_gb=288"
GLM4_5 = ["parallel=glm4_5_64gpu", "cluster.nodes=8", "rollout.engines=8", OF_141]
GLM5 = ["parallel=glm5_128gpu", "rollout.max_response_tokens=1024", OF_288]

RUNS: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in ("gsm8k", "qwen2_5_1_5b_gsm8k", "llama3_8b_math", "qwen3_30b_math")},
    **{name: (name, []) for name in ("qwen3_next_math", "glm4_5_air_math")},
    "deepseek_v3_math": ("deepseek_v3_math", [OF_288]),
    **{model: ("glm4_5_air_math", [f"model={model}", *GLM4_5]) for model in ("glm4_5", "glm4_6", "glm4_7")},
    **{model: ("deepseek_v3_math", [f"model={model}", *GLM5]) for model in ("glm5", "glm5_1", "glm5_2")},
}
"""Recipe and what is changed: GPUs of 80 GB where nothing is said of them."""


@pytest.mark.parametrize("name", RUNS)
def test_a_published_model_fits_the_machines_of_its_layout(name: str) -> None:
    recipe, changes = RUNS[name]
    config = compose(recipe, [*DATA, *changes])
    architecture = architecture_of(config.model)
    check(config, architecture)
    assert plan_run(config, architecture).fits


def test_glm4_5_in_bfloat16_does_not_fit_gpus_of_80_gb_as_the_layouts_file_says() -> None:
    recipe, changes = RUNS["glm4_5"]
    config = compose(recipe, [*DATA, *changes, "cluster.gpu_memory_gb=80"])
    assert not plan_run(config, architecture_of(config.model)).fits
