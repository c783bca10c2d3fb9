"""Components: are the targets named, do they fit the rest of the configuration, are the trackers known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.targets import named_target
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.component import TARGET, component_nodes
from rlscale.config.schema.tracker_config import SHIPPED

_LOOPS = "rlscale.run.loops."


def components_are_named(context: CheckContext) -> Iterator[str]:
    """Every node has a dotted name; a section with a shipped class takes no arguments for one of your own."""
    for key, node, shipped in component_nodes(context.config):
        yield from named_target(node, key, f"the shipped {shipped}", needed=True)
        if key == "rollout.engine" and context.config.rollout.engine_urls and node != {TARGET: shipped}:
            yield f"{key} is not read with rollout.engine_urls: those engines run already; leave it out"
        if context.supervised and key in ("buffer", "rollout.filter") and node != {TARGET: shipped}:
            yield f"{key}: supervised training has no groups of an engine to keep or to filter; leave it out"
    for key in ("trainer", "rollout"):
        section = getattr(context.config, key)
        if section.arguments and section._target_.startswith("rlscale."):
            yield (
                f"{key}.arguments.{min(section.arguments)}: {section._target_} takes no further arguments; leave it "
                f"out, or name a class of your own in {key}._target_"
            )


def critic_is_trained_by_the_policys_trainer(context: CheckContext) -> Iterator[str]:
    """A critic is one more model of the same ranks."""
    config = context.config
    for name in (TARGET, "arguments"):
        if getattr(config.critic.trainer, name) != getattr(config.trainer, name):
            yield f"critic.trainer.{name}: the critic is trained by the policy's trainer; set trainer.{name} instead"


def loop_fits_the_algorithm(context: CheckContext) -> Iterator[str]:
    """Of the shipped loops: supervised data needs its own, and devices are shared or not."""
    config = context.config
    target = str(config.loop.get(TARGET, ""))
    if not target.startswith(_LOOPS):
        return
    loop = target.removeprefix(_LOOPS)
    placement = config.cluster.placement.name
    choose = "choose loop=by_placement"
    if loop in ("colocated", "disaggregated") and not context.needs.trains:
        yield f"loop={loop}: with run.generate_only=true no step is made; {choose}"
    elif loop == "supervised" and not context.supervised:
        yield f"loop=supervised: algo={config.algo.name} trains on what engines generate; {choose}"
    elif loop in ("colocated", "disaggregated") and context.supervised:
        yield f"loop={loop}: supervised training generates nothing; {choose}"
    elif loop in ("colocated", "disaggregated") and loop != placement:
        yield f"loop={loop}: cluster.placement={placement}; {choose}"


def trackers_are_known(context: CheckContext) -> Iterator[str]:
    """Each kind is the name of an entry of `tracker.known`."""
    tracker = context.config.tracker
    for kind in tracker.kinds:
        if kind not in tracker.known:
            hint = did_you_mean(nearest(kind, tracker.known)) or "."
            yield f"tracker.kinds: there is no tracker {kind}{hint} Known: {', '.join(tracker.known)}"
    for name, node in tracker.known.items():
        key = f"tracker.known.{name}"
        if not isinstance(node, Mapping):
            yield f"{key}: must be a mapping with _target_"
        elif name not in tracker.kinds and node != SHIPPED.get(name):
            yield f"{key} is never read, because tracker.kinds does not name it; add it there, or leave it out"
        else:
            yield from named_target(node, key, "a shipped tracker", needed=True)


COMPONENT_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    components_are_named,
    critic_is_trained_by_the_policys_trainer,
    loop_fits_the_algorithm,
    trackers_are_known,
)
