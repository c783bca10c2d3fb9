"""The keys `simulator.*` of a command line, which no recipe holds: what is simulated in place of the machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf

from rlscale.config.checks.ranges import out_of_range
from rlscale.config.composition.assignment import assign
from rlscale.config.composition.groups import Groups
from rlscale.config.composition.overrides import parse_one
from rlscale.config.errors import ConfigError
from rlscale.config.keys import keys
from rlscale.config.schema import Config
from rlscale.config.schema.about import key
from rlscale.config.schema.section import Section
from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulationConfig

_LENGTHS = "simulator.engine.lengths"
_SHORT = "lengths"
"""`lengths=<law>` or `lengths=<file>` is short for the law, or for `measured` with its path."""


@dataclass
class _Root(Section):
    simulator: SimulationConfig = key(SimulationConfig)


def is_of_simulator(word: str) -> bool:
    """Whether a word of the command line belongs to the simulator, and not to the recipe."""
    name = word.partition("=")[0]
    return name == _SHORT or name.split(".")[0] == "simulator"


def read_simulation(words: Sequence[str], config: Config) -> SimulationConfig:
    """The simulation that these words ask for of a run. ConfigError with a line for each that cannot be used."""
    root, groups = OmegaConf.structured(_Root), Groups.of()
    problems: list[str] = []
    given: dict[str, object] = {}
    for word in words:
        override = parse_one(word, problems)
        if override is not None:
            given[override.key_or_group] = override.value()
    if _SHORT in given:
        law = str(given.pop(_SHORT))
        known = law in LengthLaw.__members__
        given[f"{_LENGTHS}.law"] = law if known else LengthLaw.measured.name
        if not known:
            given[f"{_LENGTHS}.path"] = law
            if not Path(law).is_file():
                laws = ", ".join(LengthLaw.__members__)
                problems.append(f"{_SHORT}={law}: is neither a file with one length per line nor one of {laws}")
    for name, value in given.items():
        problems += assign(root, name, value, groups)
    if problems:
        raise ConfigError(problems)
    made = OmegaConf.to_object(root)
    assert isinstance(made, _Root)
    problems = [*out_of_range(keys(made)), *_at_odds(made.simulator, config)]
    if problems:
        raise ConfigError(problems)
    simulation = made.simulator
    if f"{_LENGTHS}.median" not in given:
        median = max(1.0, config.rollout.max_response_tokens / 8)
        lengths: LengthsConfig = replace(simulation.engine.lengths, median=median)
        simulation = replace(simulation, engine=replace(simulation.engine, lengths=lengths))
    simulation.freeze()
    return simulation


def _at_odds(simulation: SimulationConfig, config: Config) -> list[str]:
    """What values mean together."""
    problems, engine = [], simulation.engine
    if simulation.training_s is not None and simulation.training_tokens_per_s is not None:
        problems.append("simulator.training_s and simulator.training_tokens_per_s both say how long training takes")
    if not engine.first_token + 2 <= engine.vocabulary:
        problems.append(
            f"simulator.engine.first_token={engine.first_token}: leaves fewer than two tokens below "
            f"simulator.engine.vocabulary={engine.vocabulary}"
        )
    longest = config.rollout.max_prompt_tokens
    if simulation.prompt_tokens is not None and simulation.prompt_tokens > longest:
        problems.append(
            f"simulator.prompt_tokens={simulation.prompt_tokens}: is over rollout.max_prompt_tokens={longest}"
        )
    faults = engine.faults
    if (share := faults.lost + faults.stalled + faults.duplicated + faults.rubbish + faults.crashed) > 1:
        problems.append(f"simulator.engine.faults: the shares add up to {share:g}; they must not pass 1")
    return problems
