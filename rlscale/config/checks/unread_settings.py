"""Settings that nothing reads, because of another one: what stands in a configuration acts, or is refused.

Most say so on their field (`schema.about.Unread`); where it hangs on several sections, the checks of these do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.composition.command_line_text import as_typed, shown
from rlscale.config.composition.differences import differences
from rlscale.config.keys import plain
from rlscale.config.schema.about import Unread, Where
from rlscale.config.schema.cluster_config import ClusterConfig
from rlscale.config.schema.run_config import Recover
from rlscale.config.schema.section import Section


def keys_are_read(context: CheckContext) -> Iterator[str]:
    """Of every section but the cluster's, which a stage before the run takes from the run."""
    yield from _unread(context, lambda name: not name.startswith("cluster."))


def cluster_is_read(context: CheckContext) -> Iterator[str]:
    """Of the cluster's section."""
    yield from _unread(context, lambda name: name.startswith("cluster."))


def _unread(context: CheckContext, looked_at: Callable[[str], bool]) -> Iterator[str]:
    """One line for each value that is not the default and that nothing reads, by what the schema says of its field."""
    for one in context.keys:
        if not one.unread or not looked_at(one.name):
            continue
        rule = next((found for found in one.unread if _holds(*found, context)), None)
        if rule is None:
            continue
        (unread, section), (prefix, dot, name) = rule, one.name.rpartition(".")
        values = {name: plain(one.default)}, {name: plain(one.value)}
        for key, (default, value) in differences(*values, prefix + dot):
            said = {"key": key, "default": shown(default), "algo": context.config.algo.name, "section": section}
            yield f"{key}={shown(value)}{unread.why.format(**said)}"


def _holds(unread: Unread, section: Section, context: CheckContext) -> bool:
    match unread.where:
        case Where.supervised:
            return context.supervised
        case Where.sampled:
            return not context.supervised
        case Where.cpu:
            return not context.on_gpus
        case Where.gpus:
            return context.on_gpus
        case Where.replayed:
            return context.config.rollout.replay is not None
        case by_section:
            return by_section(section)


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


def ranks_that_hang_come_back(context: CheckContext) -> Iterator[str]:
    """A note only: what is left of it in a recipe does no harm."""
    config, usual = context.config, ClusterConfig().hang_factor
    if config.cluster.hang_factor != usual and (config.run.recover is Recover.none or config.run.in_process):
        key = "run.in_process=true" if config.run.in_process else "run.recover=none"
        context.notes.append(
            f"cluster.hang_factor={config.cluster.hang_factor} is not read with {key}: no other ranks come in the "
            "place of those that hang"
        )
    yield from ()


def trackers_differ(context: CheckContext) -> Iterator[str]:
    """Two of a kind would write the same twice."""
    kinds = context.config.tracker.kinds
    if len(set(kinds)) != len(kinds):
        yield f"tracker.kinds={as_typed(kinds)}: names a tracker twice"


def engines_have_their_options(context: CheckContext) -> Iterator[str]:
    """A note only: recipes have options for the engines that they start, and run with others, too."""
    rollout = context.config.rollout
    if rollout.sglang and rollout.engine_urls:
        context.notes.append(
            f"rollout.sglang.{min(rollout.sglang)} is not read with rollout.engine_urls: those engines have the "
            "options that they were started with"
        )
    yield from ()


def paths_are_given(context: CheckContext) -> Iterator[str]:
    """An empty path would be the current folder."""
    run = context.config.run
    for key, value in (("run.root", run.root), ("run.scratch", run.scratch), ("run.output", run.output)):
        if value is not None and not value.strip():
            yield f"{key} is empty; name a folder{', or null' if key == 'run.output' else ''}"


UNREAD_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    keys_are_read,
    evaluation_comes_to_pass,
    ranks_that_hang_come_back,
    trackers_differ,
    engines_have_their_options,
    paths_are_given,
)
