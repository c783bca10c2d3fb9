"""Ranks and engines on machines, without Ray and without a GPU."""

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.schema.cluster_config import ClusterConfig, Device, Placement
from rlscale.run.processes.placement import Layout, Slot, lay_out, lay_out_run, shares_devices


def gpus(**fields) -> ClusterConfig:
    return ClusterConfig(device=Device.cuda, **fields)


def test_on_a_cpu_everything_is_on_the_one_machine_without_gpus():
    layout = lay_out(ClusterConfig(), ranks=2, engines=[1] * 2)
    assert layout.ranks == (Slot(0), Slot(0))
    assert layout.engines == (Slot(0), Slot(0))
    assert layout.nodes == 1


def test_colocated_engines_share_the_ranks_gpus():
    layout = lay_out(gpus(nodes=1, gpus_per_node=8), ranks=8, engines=[2] * 4)
    assert [slot.gpus for slot in layout.ranks] == [(g,) for g in range(8)]
    assert [slot.gpus for slot in layout.engines] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_disaggregated_on_one_machine_gives_the_last_gpus_to_the_engines():
    cluster = gpus(nodes=1, gpus_per_node=8, rollout_gpus=4, placement=Placement.disaggregated)
    layout = lay_out(cluster, ranks=4, engines=[2] * 2)
    assert [slot.gpus for slot in layout.ranks] == [(0,), (1,), (2,), (3,)]
    assert [slot.gpus for slot in layout.engines] == [(4, 5), (6, 7)]


def test_disaggregated_over_machines_gives_the_last_machines_to_the_engines():
    cluster = gpus(nodes=3, gpus_per_node=8, rollout_nodes=1, placement=Placement.disaggregated)
    layout = lay_out(cluster, ranks=16, engines=[1] * 8)
    assert {slot.node for slot in layout.ranks} == {0, 1}
    assert [(slot.node, slot.gpus) for slot in layout.engines] == [(2, (g,)) for g in range(8)]
    assert layout.nodes == 3


def test_an_engine_is_not_cut_at_the_end_of_a_machine():
    with pytest.raises(ValueError, match="an engine of 4 GPUs would begin on GPU 6 of a machine and end on another"):
        lay_out(gpus(nodes=2, gpus_per_node=8), ranks=16, engines=[6, 4])


def test_an_engine_larger_than_a_machine_starts_on_its_first_machine():
    layout = lay_out(gpus(nodes=2, gpus_per_node=8), ranks=16, engines=[16] * 1)
    assert layout.engines == (Slot(0, tuple(range(8))),)


def test_engines_that_evaluate_come_after_the_others_and_those_of_somebody_else_take_no_gpu():
    apart = ["cluster=node8", "cluster.placement=disaggregated", "cluster.rollout_gpus=2"]
    both = lay_out_run(compose(None, [*apart, "rollout.engines=1", "eval.engines=1"]))
    assert (both.engines, both.eval_engines) == ((Slot(0, (6,)),), (Slot(0, (7,)),))
    given = "rollout.engine_urls=['http://a:1']"
    evaluating = lay_out_run(compose(None, [*apart, given, "eval.engines=2"]))
    assert (evaluating.engines, evaluating.eval_engines) == ((), (Slot(0, (6,)), Slot(0, (7,))))
    assert lay_out_run(compose(None, [given, "eval.engines=0"])).engines == ()


def test_models_beside_the_policy_get_the_gpus_that_its_engines_leave():
    judge = ["rollout.models.judge.path=/m", "rollout.models.judge.engines=2"]
    other = ["rollout.models.other.path=/m", "rollout.models.other.gpus_per_engine=2"]
    apart = ["cluster=node8", "cluster.placement=disaggregated", "cluster.rollout_gpus=6"]
    layout = lay_out_run(compose(None, [*apart, "rollout.engines=1", "eval.engines=1", *judge, *other]))
    assert (layout.engines, layout.eval_engines) == ((Slot(0, (2,)),), (Slot(0, (3,)),))
    assert layout.beside == {"judge": (Slot(0, (4,)), Slot(0, (5,))), "other": (Slot(0, (6, 7)),)}
    given = ["rollout.engine_urls=['http://a:1']", "rollout.models.other.engine_urls=['http://a:2']"]
    assert lay_out_run(compose(None, [*judge, *given])).beside == {"judge": (Slot(0), Slot(0)), "other": ()}


def test_a_run_without_a_rank_and_an_engine_of_its_own_is_on_the_first_machine():
    assert Layout((), ()).nodes == 1


def test_only_colocated_gpus_are_shared():
    assert shares_devices(gpus())
    assert not shares_devices(gpus(placement=Placement.disaggregated))
    assert not shares_devices(ClusterConfig())


def test_a_layout_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        lay_out(gpus(nodes=1, gpus_per_node=2), ranks=4, engines=[1] * 1)
