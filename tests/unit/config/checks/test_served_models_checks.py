"""What a model beside the policy must be told, and what is refused by name."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.derived.gpus_beside import first_gpus
from rlscale.config.derived.serving_beside import serving_beside
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError
from rlscale.config.schema.rollout_config import OnSync

JUDGE = "rollout.models.judge"
FOLDER = f"{JUDGE}.path=/models/judge"
URL = f"{JUDGE}.engine_urls=['http://a:1']"
THREE_NODES = [
    "cluster=node8",
    "cluster.nodes=4",
    "cluster.ray_address=auto",
    "cluster.host=0.0.0.0",
    "cluster.placement=disaggregated",
    "cluster.rollout_nodes=3",
]
APART = ["cluster=node8", "cluster.placement=disaggregated", "cluster.rollout_gpus=3", "rollout.engines=1"]


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (["rollout.models.policy.path=/m"], "rollout.models.policy: is the model that is trained"),
        (["rollout.models.Big.path=/m"], "rollout.models.Big: a name has small letters"),
        ([f"{JUDGE}.engines=1"], "judge: is found nowhere; give rollout.models.judge.path"),
        ([f"{JUDGE}.engine_urls=[localhost:1]"], "localhost:1 is not an address; write it as http://host:port"),
        (
            [FOLDER, f"{JUDGE}.engine_key_file=/k"],
            "judge.engine_key_file is only read with rollout.models.judge.engine_u",
        ),
        ([URL, f"{JUDGE}.engines=2"], "judge.engines=2 is not read with engine_urls beside it"),
        ([URL, f"{JUDGE}.dtype=bfloat16"], "judge.dtype=bfloat16 is not read with engine_urls beside it"),
        ([URL, f"{JUDGE}.sglang.max_running_requests=4"], "judge.sglang.max_running_requests is not read with"),
        ([FOLDER, f"{JUDGE}.sglang.max_running_request=4"], "no such option; did you mean max_running_requests"),
        ([FOLDER, f"{JUDGE}.sglang.port=4"], "judge.sglang.port: is set by"),
        ([FOLDER, f"{JUDGE}.router.polcy=random"], "judge.router.polcy: RouterArgs of the installed"),
        ([FOLDER, f"{JUDGE}.gpus_per_engine=2"], "judge.gpus_per_engine=2 has no meaning on the CPU"),
        ([FOLDER, f"{JUDGE}.engines=4"], "judge.engines=4 beside 1 of the policy, but cluster.max_engines=4"),
        ([FOLDER, f"{JUDGE}.follows_policy=true"], "judge.path is not read with rollout.models.judge.follows_policy"),
        ([URL, f"{JUDGE}.follows_policy=true"], "weights go to engines that the run starts only"),
        (
            [f"{JUDGE}.follows_policy=true", f"{JUDGE}.sglang.speculative_algorithm=NEXTN"],
            r"judge\.sglang\.speculative_algorithm: weights of the policy, .* would go to their draft",
        ),
        ([f"{JUDGE}.follows_policy=true", "weights/transport=delta"], "keeps what one group of engines holds"),
        (
            [f"{JUDGE}.follows_policy=true", "model.lora={rank: 4}", "weights.lora=adapter", "model.init=/m"],
            "judge.follows_policy=true: requests to it name no adapter of the policy; set weights.lora=merged",
        ),
        ([FOLDER, "rollout.replay=/stored", "eval.enabled=false"], r"\(judge\) are not read with rollout.replay"),
        (["cluster=node8", "rollout.engines=8", FOLDER], "judge.engines=1: colocated engines leave no GPUs to others"),
        (
            [*THREE_NODES, FOLDER, f"{JUDGE}.gpus_per_engine=16"],
            "judge.gpus_per_engine=16: an engine of such a model is on one machine, which has cluster.gpus_per_node=8",
        ),
        ([*APART, FOLDER, f"{JUDGE}.engines=3"], "beside the policy's 1 GPUs need 4, but the cluster has 3"),
    ],
)
def test_what_a_model_cannot_be_is_one_line(overrides: list[str], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as raised:
        check(compose(None, overrides))
    assert len(raised.value.problems) == 1


def test_a_judge_of_a_run_whose_engines_hold_adapters_is_served_without_any() -> None:
    config = compose(None, [FOLDER, "model.lora={rank: 4}", "weights.lora=adapter"])
    assert config.serves_adapters
    assert not serving_beside(config, "judge").serves_adapters


def test_supervised_training_has_use_for_one_in_its_evaluation_alone() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.models \(judge\): supervised training .* eval\.enabled=true"):
        check(compose("arithmetic_sft", [FOLDER]))
    judged = ["reward=judge", "reward.function.model=judge", "reward.function.rubric=short"]
    config = compose("arithmetic_sft", [FOLDER, "eval.enabled=true", "data@eval.data=arithmetic_held_out", *judged])
    check(config)
    assert "engines: 1, 1 for judge" in Sizes.of(config).lines()


def test_engines_beside_the_policy_are_counted_and_those_of_somebody_else_are_not() -> None:
    config = compose(None, [FOLDER, f"{JUDGE}.engines=2", "rollout.models.other.engine_urls=['http://a:1']"])
    check(config)
    sizes = Sizes.of(config)
    assert sizes.beside == {"judge": 2, "other": 0}
    assert (sizes.all_engines, sizes.starts_engines) == (3, True)
    assert "engines: 1, 2 for judge" in sizes.lines()
    given = Sizes.of(compose(None, ["rollout.engine_urls=['http://a:1']", FOLDER]))
    assert (given.started_engines, given.starts_engines) == (0, True)


def test_a_judge_speculates_by_sglangs_own_options() -> None:
    check(compose(None, [FOLDER, f"{JUDGE}.sglang.speculative_algorithm=NGRAM"]))


def test_their_gpus_are_in_the_lines_at_the_start() -> None:
    config = compose(None, [*APART, FOLDER, f"{JUDGE}.engines=2"])
    check(config)
    assert "engines: 1, 2 for judge on 3 GPUs" in Sizes.of(config).lines()


def test_an_engine_that_fits_into_a_machine_lies_on_one() -> None:
    cluster = ["cluster=node8", "cluster.nodes=3", "cluster.rollout_nodes=2", "cluster.placement=disaggregated"]
    config = compose(
        None,
        [*cluster, "rollout.engines=3", "rollout.gpus_per_engine=2", FOLDER, f"{JUDGE}.gpus_per_engine=4"],
    )
    assert first_gpus(config, Sizes.of(config)) == ({"judge": [8]}, 12)


def test_a_fleet_beside_is_the_runs_with_what_is_its_own() -> None:
    given = [
        *(FOLDER, f"{JUDGE}.engines=2", f"{JUDGE}.dtype=bfloat16", f"{JUDGE}.sglang.max_running_requests=4"),
        *("rollout.models.mirror.follows_policy=true", "rollout.top_p=0.9", "rollout.engines=2"),
        *("rollout.engines_at_least=2", "rollout.engines_at_most=3"),
        *("rollout.weights=mxfp8", "rollout.quantised_activations=true"),
    ]
    config = compose(None, given)
    judge, mirror = serving_beside(config, "judge"), serving_beside(config, "mirror")
    assert (judge.rollout.engines, mirror.rollout.engines) == (2, 1)
    assert all(one.rollout.engines_at_least is one.rollout.engines_at_most is None for one in (judge, mirror))
    assert (judge.model.dtype.value, mirror.model.dtype) == ("bfloat16", config.model.dtype)
    assert dict(judge.rollout.sglang) == {"served_model_name": "judge", "max_running_requests": 4}
    assert (judge.rollout.on_sync, mirror.rollout.on_sync) == (OnSync.wait, OnSync.retract)
    assert (judge.rollout.quantised_activations, mirror.rollout.quantised_activations) == (False, True)
