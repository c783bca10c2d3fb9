"""Groups of the policy's engines: what they add up to, and what is refused by name."""

from __future__ import annotations

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError
from rlscale.run.processes.placement import Slot, lay_out_run

GROUPS = "rollout.engine_groups"
READS = f"{GROUPS}.reads.role=prefill"
WRITES = f"{GROUPS}.writes={{role: decode, engines: 2}}"
PAIR = [READS, WRITES]
ASYNC = ["cluster.placement=disaggregated", "rollout.max_staleness=1"]
OF_ONE = [f"{GROUPS}.writes={{engines: 1, gpus_per_engine: 1}}"]
EVALUATED_BY_FOUR = ["rollout.gpus_per_engine=4", "eval.engines=1"]
SEVERAL = [
    *("cluster=node8", "cluster.nodes=3", "cluster.ray_address=auto", "cluster.host=0.0.0.0"),
    *("cluster.placement=disaggregated", "cluster.rollout_nodes=2"),
]
APART = ["cluster=node8", "cluster.placement=disaggregated", "cluster.rollout_gpus=4"]


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        ([READS], "there is role=prefill and no role=decode"),
        ([WRITES], "there is role=decode and no role=prefill"),
        ([*PAIR, f"{GROUPS}.all.engines=1"], r"all\.role=regular: the router sends requests to pairs"),
        ([*PAIR, "rollout.engines=2"], r"rollout\.engines=2 is not read with rollout\.engine_groups"),
        ([*PAIR, f"{GROUPS}.reads.gpus_per_engine=2"], "reads.gpus_per_engine=2 has no meaning on the CPU"),
        ([*PAIR, f"{GROUPS}.writes.engines=4"], r"reads\.engines=1 \+ .*writes\.engines=4, but cluster\.max_engines=4"),
        ([*PAIR, f"{GROUPS}.reads.sglang.page_sise=1"], "reads.sglang.page_sise: .* did you mean page_size"),
        ([*PAIR, f"{GROUPS}.reads.sglang.disaggregation_mode=decode"], "is set by rollout.engine_groups"),
        ([*PAIR, "rollout.router.pd_disaggregation=true"], "pd_disaggregation: is set by rollout.engine_groups"),
        ([*PAIR, *ASYNC, "rollout.on_sync=retract"], "on_sync=retract would go on with keys and values of old weights"),
        (
            [*PAIR, *ASYNC, "rollout.on_sync=in_place"],
            "on_sync=in_place would go on with keys and values of old weights",
        ),
        ([*PAIR, "rollout.top_k=2000"], "top_k=2000: they name at most 1024 words to each other"),
        ([*PAIR, "rollout.concurrency=adaptive"], "concurrency=adaptive reads the cache of whole engines"),
        ([*APART, *PAIR, f"{GROUPS}.writes.gpus_per_engine=2"], "need 5 GPUs, but the cluster has 4"),
        (["cluster=node8", *PAIR], "have 3 GPUs, but colocated engines use the same 8 as the trainer"),
        ([*APART, *PAIR, f"{GROUPS}.reads.gpus_per_engine=16"], "gpus_per_engine=16: a machine has"),
        (
            [
                *APART,
                *PAIR,
                f"{GROUPS}.reads.gpus_per_engine=2",
                f"{GROUPS}.writes.engines=1",
                "weights.verify_tensors=1",
            ],
            r"verify_tensors=1: the ranks of an engine of rollout\.engine_groups\.reads\.gpus_per_engine=2 share",
        ),
        ([*APART, *PAIR, "eval.engines=2"], r"engine_groups \+ eval\.engines=2: need 5 GPUs, but the cluster has 4"),
        (
            [*APART, "cluster.rollout_gpus=7", *OF_ONE, "rollout.gpus_per_engine=3", "eval.engines=2"],
            r"^rollout\.gpus_per_engine=3 does not divide",
        ),
        (
            [*SEVERAL, f"{GROUPS}.writes={{engines: 6, gpus_per_engine: 1}}", *EVALUATED_BY_FOUR],
            r"engine_groups \+ eval\.engines=1: in this order an engine would lie on two machines of 8 GPUs",
        ),
    ],
)
def test_groups_that_make_no_whole_are_one_line(overrides: list[str], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as raised:
        check(compose(None, overrides))
    assert len(raised.value.problems) == 1, raised.value.problems


def test_engines_of_groups_are_counted_and_those_that_generate_apart() -> None:
    config = compose(None, PAIR)
    check(config)
    assert Sizes.of(config).engines == 3
    assert "engines: 3" in Sizes.of(config).lines()
    assert (config.rollout.generating_engines, config.rollout.disaggregated) == (2, True)
    plain = compose(None, [f"{GROUPS}.small.engines=2", f"{GROUPS}.large.engines=1"])
    check(plain)
    assert (plain.rollout.engine_count, plain.rollout.generating_engines, plain.rollout.disaggregated) == (3, 3, False)


def test_engines_of_groups_have_their_own_gpus_in_their_order() -> None:
    config = compose(None, [*APART, READS, f"{GROUPS}.reads.gpus_per_engine=2", WRITES])
    check(config)
    assert Sizes.of(config).engine_gpus == 4
    assert lay_out_run(config).engines == (Slot(0, (4, 5)), Slot(0, (6,)), Slot(0, (7,)))
