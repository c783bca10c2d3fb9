"""What the values of a configuration mean together. Needs nothing but the configuration and the model's HF config."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.architecture import read_architecture
from rlscale.config.checks.algorithm import ALGORITHM_CHECKS
from rlscale.config.checks.layout import LAYOUT_CHECKS
from rlscale.config.checks.model import MODEL_CHECKS
from rlscale.config.checks.options import OPTION_CHECKS
from rlscale.config.checks.ranges import out_of_range
from rlscale.config.checks.sampling import SAMPLING_CHECKS
from rlscale.config.checks.stages import STAGE_CHECKS
from rlscale.config.checks.subject import Subject
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.schema import Config
from rlscale.config.sizes import Sizes
from rlscale.config.warm_start import compose_warm_start

__all__ = ["check"]


def check(config: Config) -> list[str]:
    """Check a composed configuration. Returns notes: which checks were skipped and why, and what looks unintended.

    Raises ConfigError with every problem found, one line each.
    """
    problems = list(out_of_range(config))
    if problems:
        # The checks below divide by and compare these values.
        raise ConfigError(problems)
    subject = Subject(config, Sizes.of(config), None)
    try:
        subject.architecture = read_architecture(config.model)
    except UserError as error:
        problems.append(str(error))
    else:
        if subject.architecture is None:
            subject.notes.append(
                f"model.path={config.model.path} is not downloaded yet: its heads, layers, experts and context length "
                "are checked when it is"
            )
    for one in _ALL:
        problems += one(subject)
    warm_problems, warm_notes = _check_warm_start(config)
    problems += warm_problems
    if problems:
        raise ConfigError(problems)
    return [*subject.notes, *(note for note in warm_notes if note not in subject.notes)]


_ALL: tuple[Callable[[Subject], Iterator[str]], ...] = (
    *MODEL_CHECKS,
    *LAYOUT_CHECKS,
    *ALGORITHM_CHECKS,
    *SAMPLING_CHECKS,
    *STAGE_CHECKS,
    *OPTION_CHECKS,
)


def _check_warm_start(config: Config) -> tuple[list[str], list[str]]:
    """Problems and notes of the supervised stage before this one, each saying that it is meant."""
    if config.warm_start is None:
        return [], []
    try:
        stage = compose_warm_start(config)
        if stage.warm_start is not None:
            return [
                f"warm_start.recipe={config.warm_start.recipe}: has a warm start of its own; only one stage can"
            ], []
        # The sections that the stage takes from this run are checked with the run itself.
        problems = [
            *out_of_range(stage),
            *(line for one in _OF_STAGE for line in one(Subject(stage, Sizes.of(stage), None))),
        ]
    except ConfigError as error:
        problems = error.problems
    except UserError as error:
        problems = [str(error)]
    return [f"warm_start.recipe={config.warm_start.recipe}: {problem}" for problem in problems], []


_OF_STAGE = (*ALGORITHM_CHECKS, *SAMPLING_CHECKS, *STAGE_CHECKS)
