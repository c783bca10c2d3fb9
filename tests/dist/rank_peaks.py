"""What a trainer rank holds at most while it makes a step, from its first tensor on, recorded in torch's allocator."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec


def peak_of_rank(
    rank: int, world_size: int, address: str, port: int, spec: TrainerSpec, shards: list[RankShard]
) -> tuple[int, int]:
    """Bytes of a rank: (held once it is built, most while it trains on its shard)."""
    from scenarios import open_trainer

    trainers = []

    def build() -> None:
        trainers.append(open_trainer(rank, world_size, address, port, spec))

    def step() -> None:
        trainers[0].train_shard(shards[trainers[0].data_parallel_rank()], 0)

    try:
        return _recorded(build, step)
    finally:
        for trainer in trainers:
            trainer.close()


def _recorded(build: Callable[[], None], step: Callable[[], None]) -> tuple[int, int]:
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        build()
        with record_function("the step"):
            step()
    assert recorded.profiler is not None
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    (began,) = (event.start_ns() for event in events if event.name() == "the step")
    memory = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    held = sum(size for at, size in memory if at < began)
    return held, max(accumulate((size for at, size in memory if at >= began), initial=held))
