"""Settings that nothing reads, because of another one: what stands in a configuration acts, or is refused.

Those of the parts of an algorithm, of a critic, of the schedule and of a cluster are with the other checks of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.command_line_text import as_typed
from rlscale.config.schema.cluster_config import ClusterConfig
from rlscale.config.schema.tracker_config import TrackerConfig


def stop_loss_has_a_loss(context: CheckContext) -> Iterator[str]:
    """The loss of reinforcement learning says nothing about how far training is: it starts at 0 and stays around it."""
    bound = context.config.run.stop_loss
    if bound is not None and not context.supervised:
        yield (
            f"run.stop_loss={bound:g}: the loss of {context.config.algo.name} stays around 0 however good the policy "
            "is, and would end the run at once; leave it out (it is for algo=sft)"
        )


def evaluation_comes_to_pass(context: CheckContext) -> Iterator[str]:
    """What is left of an evaluation that is switched off stays as the recipe has it, and is said."""
    evaluation, iterations = context.config.eval, context.config.run.iterations
    if evaluation.every and not evaluation.enabled:
        context.notes.append(f"eval.every={evaluation.every} is not read with eval.enabled=false")
    elif evaluation.every >= iterations:
        context.notes.append(
            f"eval.every={evaluation.every} is not reached within run.iterations={iterations}: evaluated before and "
            "after training only"
        )
    yield from ()


def tracker_reads_its_settings(context: CheckContext) -> Iterator[str]:
    """Project, name and offline belong to Weights & Biases."""
    tracker, default = context.config.tracker, TrackerConfig()
    if len(set(tracker.kinds)) != len(tracker.kinds):
        yield f"tracker.kinds={as_typed(tracker.kinds)}: names a tracker twice"
    if "wandb" in tracker.kinds:
        return
    for name in ("project", "name", "offline"):
        value = getattr(tracker, name)
        if value != getattr(default, name):
            yield (
                f"tracker.{name}={as_typed(value)} is read by Weights & Biases only; choose tracker=wandb, or leave it "
                "out"
            )


def engines_read_their_settings(context: CheckContext) -> Iterator[str]:
    """On the CPU an engine has no GPUs, and engines that somebody else started have their options already."""
    rollout = context.config.rollout
    if rollout.gpus_per_engine != 1 and not context.on_gpus:
        yield f"rollout.gpus_per_engine={rollout.gpus_per_engine} has no meaning on the CPU; set it to 1"
    elif rollout.gpus_per_engine != 1 and rollout.engine_urls:
        yield (
            f"rollout.gpus_per_engine={rollout.gpus_per_engine} is not read with rollout.engine_urls: those engines "
            "have their GPUs; leave it out"
        )
    if rollout.sglang and rollout.engine_urls:
        # A note only: recipes have options for the engines that they start, and run with others, too.
        context.notes.append(
            f"rollout.sglang.{min(rollout.sglang)} is not read with rollout.engine_urls: those engines have the "
            "options that they were started with"
        )


def limits_of_a_cpu_machine(context: CheckContext) -> Iterator[str]:
    """Of a machine whose cores are shared; GPUs are counted."""
    cluster, default = context.config.cluster, ClusterConfig()
    if not context.on_gpus:
        return
    for name in ("max_trainer_ranks", "max_engines", "memory_gb"):
        value = getattr(cluster, name)
        if value != getattr(default, name):
            yield f"cluster.{name}={as_typed(value)} is read on a CPU machine only; leave it out"


def drift_has_engines(context: CheckContext) -> Iterator[str]:
    """Trainer and engines disagree about samples, and supervised training has none."""
    bound = context.config.weights.max_logprob_diff
    if bound is not None and context.supervised:
        yield (
            f"weights.max_logprob_diff={bound:g}: supervised training (algo/loss=sft) has no samples of an engine to "
            "compare; set it to null"
        )


def paths_are_given(context: CheckContext) -> Iterator[str]:
    """An empty path would be the current folder."""
    run = context.config.run
    for key, value in (("run.root", run.root), ("run.scratch", run.scratch), ("run.output", run.output)):
        if value is not None and not value.strip():
            yield f"{key} is empty; name a folder{', or null' if key == 'run.output' else ''}"


UNREAD_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    stop_loss_has_a_loss,
    evaluation_comes_to_pass,
    tracker_reads_its_settings,
    engines_read_their_settings,
    limits_of_a_cpu_machine,
    drift_has_engines,
    paths_are_given,
)
