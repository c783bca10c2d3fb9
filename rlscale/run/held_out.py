"""Whether the evaluation's prompts are trained on, by the run or by a stage that it starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlscale.config.derived.data_sections import evaluation_sections, training_sections
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.schema import Config
from rlscale.data.configured_source import build_source
from rlscale.data.prompts.overlap import KnowsPrompts, PromptText
from rlscale.data.prompts.prompt_files import FileSource
from rlscale.data.prompts.sources import PromptSource, Stream
from rlscale.run.disk.stages import KEYS, stages_before

_COMPARED = 20_000
"""Prompts of the evaluation that are compared, spread over all of them where there are more."""


def compare(config: Config, sources: Mapping[str, PromptSource]) -> list[str]:
    """Notes on prompts that are evaluated and trained on. `sources`: the run's own, by key (data, eval.data).

    ConfigError where that are all of them, or rows of the same file, unless `eval.allow_overlap` wants it so.
    """
    notes, problems = [], []
    for key in evaluation_sections(config):
        evaluated = sources.get(key)
        if not isinstance(evaluated, Stream):  # a source of one's own that cannot be looked into
            continue
        numbers = range(0, len(evaluated), -(-len(evaluated) // _COMPARED))
        asked = [evaluated.item(number, number).prompt for number in numbers]
        for what, trained in _trained(config, sources):
            problem = None if config.eval.allow_overlap else _problem(key, what, evaluated, asked, trained)
            if problem is not None:
                problems.append(problem)
            elif isinstance(trained, KnowsPrompts) and (shared := trained.holds(asked)):
                notes.append(f"{shared:,} of {len(asked):,} prompts of {key} are in {what} too")
    if problems:
        raise ConfigError(problems)
    return notes


def _problem(
    key: str, what: str, evaluated: PromptSource, asked: list[PromptText], trained: PromptSource
) -> str | None:
    """Why the evaluation would say nothing about new problems."""
    how = "or allow it with eval.allow_overlap=true"
    if isinstance(evaluated, FileSource) and isinstance(trained, FileSource):
        path, count = evaluated.shared_rows(trained)
        if count:
            return (
                f"{what}: {count:,} of the rows taken of {path} are {key}'s too; take slices that do not meet, "
                f"such as {path.name}@:-200 to train on and {path.name}@-200: to evaluate, {how}"
            )
    if isinstance(trained, KnowsPrompts) and trained.holds(asked) == len(asked):
        return (
            f"{what}: holds all {len(asked):,} prompts of {key}, so the evaluation would say nothing about new "
            f"ones; choose others, {how}"
        )
    return None


def _trained(config: Config, sources: Mapping[str, PromptSource]) -> Iterator[tuple[str, PromptSource]]:
    """What is trained on: by the run itself, and by the stages whose models it starts from or learns from."""
    yield from ((key, sources[key]) for key in training_sections(config) if key in sources)
    for stage in stages_before(config):
        # Opened once more: a stage that has its result already is not opened for anything else. Its data may be gone;
        # data of a stage that is still to run are refused by preflight, with the stage's name.
        try:
            source = build_source(stage.config.data)
        except UserError:
            continue
        yield f"data of {KEYS[stage.what]}={stage.recipe}", source
