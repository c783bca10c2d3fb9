"""`python -m rlscale simulate`: what a run's schedule would come to, and what would help most, without its machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rlscale.config.checks import check
from rlscale.config.composition.command_words import help_is_shown, recipe_and_overrides
from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.simulator_config import SimulationConfig
from rlscale.config.schema.speculation_config import Algorithm
from rlscale.config.shown import say
from rlscale.config.simulator_options import is_of_simulator, read_simulation
from rlscale.observe.formatting import duration
from rlscale.run.commands.recipe_of_run import tell_code
from rlscale.run.simulation.simulate import Simulated, simulate

USAGE = (
    "usage: python -m rlscale simulate [recipe=NAME|PATH.yaml] [group=option ...] [key=value ...]\n"
    "                                  [lengths=LAW|FILE] [simulator.KEY=value ...]\n"
    "  Runs the loop, the rollout service and the buffer of a recipe on simulated engines, in virtual time.\n"
    "  lengths      log_normal, uniform, constant, or a file with one length per line\n"
    "  simulator.*  speed of engines and trainer, faults: docs/rollout.md lists the keys\n"
    "  Prints times, idle shares, staleness, lengths and lost tokens, and what would help most."
)
_BUILT = ("buffer", "loop", "rollout")
"""Sections of which a simulation builds something."""
_WORTH_SAYING = 0.01
"""Share of an iteration below which a change is not worth mentioning."""


@dataclass(frozen=True)
class Change:
    """Another setting, and how it is said."""

    words: str
    config: Config
    simulation: SimulationConfig


def simulate_command(arguments: Sequence[str]) -> int:
    """Print what a simulation comes to. Returns 0; UserError for what cannot be simulated."""
    if help_is_shown(arguments, USAGE):
        return 0
    own = [word for word in arguments if is_of_simulator(word)]
    config = compose(*recipe_and_overrides([word for word in arguments if word not in own], "simulate"))
    tell_code(config, lambda key: key.partition(".")[0] in _BUILT)
    check(config)
    simulation = read_simulation(own, config)
    found = simulate(config, simulation)
    for line in lines(config, simulation, found):
        say(line)
    if simulation.advice:
        say("what would help:")
        for line in advice(config, simulation, found):
            say(f"  {line}")
    return 0


def lines(config: Config, simulation: SimulationConfig, found: Simulated) -> Iterator[str]:
    """What a simulation came to, for people."""
    rollout, law = config.rollout, simulation.engine.lengths
    where = law.path if law.path else f"median {law.median:g}"
    yield (
        f"{config.run.recipe}: {found.engines} engines of {found.slots} slots, {config.cluster.placement.value}, "
        f"max_staleness {rollout.max_staleness}, on_sync {rollout.on_sync.value}; "
        f"lengths {law.law.value} ({where}), cut at {rollout.max_response_tokens}"
    )
    yield (
        f"simulated {duration(found.virtual_s)} in {duration(found.real_s)} "
        f"({found.virtual_s / found.real_s:.1f} x real time, {found.samples_per_s:,.0f} samples/s)"
    )
    yield f"iteration        {duration(found.iteration_s)} (the first {duration(found.first_s)})"
    yield (
        f"  ideal          {duration(found.ideal_s)} generating with full engines, {duration(found.train_s)} training"
    )
    yield f"trainer idle     {found.trainer_idle:.1%}"
    yield f"engines idle     {found.engines_idle:.1%}; slots taken {found.slots_taken:.1%}"
    tokens = sum(found.staleness.values())
    shares = ", ".join(f"{age}: {count / tokens:.1%}" for age, count in sorted(found.staleness.items()))
    yield f"staleness        {shares} of the trained tokens"
    yield f"length ratio     {found.length_ratio:.3f} (trained / begun; standard error {found.length_error:.3f})"
    yield f"tokens lost      {found.lost:.2%} of those generated"
    if unknown := _unknown_speed(config):
        yield (
            f"not told         what {unknown} costs or saves: give speeds measured with it (simulator.engine.decode_s, "
            "simulator.training_s)"
        )
    if found.masked:
        yield f"tokens masked    {found.masked:.2%} of the batches', which are over the bound (rollout.stale)"
    if found.preemptions:
        yield f"preemptions      {found.preemptions} (the cache was full)"
    if found.restarts:
        yield f"restarts         {found.restarts} engines died"


def _unknown_speed(config: Config) -> str:
    """Settings under which engines or trainer take another time than the same ones without; the simulator has none."""
    words = ["run.bitwise=true"] if config.run.bitwise else []
    algorithm = config.rollout.speculation.algorithm
    if algorithm is not Algorithm.none:
        words.append(f"rollout.speculation.algorithm={algorithm.value}")
    return " and ".join(words)


def advice(config: Config, simulation: SimulationConfig, found: Simulated) -> list[str]:
    """What other settings come to, the best first; each is simulated as the first was."""
    said = []
    for change in changes(config, simulation):
        other = simulate(change.config, change.simulation)
        gain = 1 - other.iteration_s / found.iteration_s
        if gain > _WORTH_SAYING:
            said.append((gain, f"{change.words}: {duration(other.iteration_s)} per iteration ({-gain:+.0%})"))
    return [line for _, line in sorted(said, reverse=True)] or ["none of the settings tried"]


def changes(config: Config, simulation: SimulationConfig) -> Iterator[Change]:
    """Settings worth trying."""
    rollout, engine = config.rollout, simulation.engine
    engines = simulation.engines or Sizes.of(config).engines
    yield Change(
        f"twice the engines (simulator.engines={2 * engines})", config, replace(simulation, engines=2 * engines)
    )
    slots = replace(engine, slots=2 * engine.slots)
    yield Change(f"twice the slots (simulator.engine.slots={slots.slots})", config, replace(simulation, engine=slots))
    if config.cluster.placement is Placement.disaggregated:
        bound = max(1, 2 * rollout.max_staleness)
        further = replace(config, rollout=replace(rollout, max_staleness=bound))
        yield Change(f"rollout.max_staleness={bound}", further, simulation)
    yield Change("a trainer of twice the speed", config, _faster_training(simulation))
    if simulation.sync_s or engine.update_s:
        instant = replace(simulation, sync_s=0.0, engine=replace(engine, update_s=0.0))
        yield Change("weight syncs that take no time", config, instant)
    if simulation.reward_s:
        yield Change("rewards that take no time", config, replace(simulation, reward_s=0.0))


def _faster_training(simulation: SimulationConfig) -> SimulationConfig:
    if simulation.training_s is not None:
        return replace(simulation, training_s=simulation.training_s / 2)
    if simulation.training_tokens_per_s is not None:
        return replace(simulation, training_tokens_per_s=2 * simulation.training_tokens_per_s)
    return replace(simulation, training_share=simulation.training_share / 2)
