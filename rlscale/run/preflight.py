"""Before anything starts: hooks, rewards, data, models and tokenizers of a run and of the stages that it still needs.

The cheap things come first, for the whole run and all of its stages, and their problems are told together: a reward
that cannot be imported must not wait for the import of torch.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rlscale.config.checks import check
from rlscale.config.derived.data_paths import data_paths
from rlscale.config.derived.data_sections import evaluation_sections, reward_of, training_sections
from rlscale.config.derived.hub_names import not_downloaded, own_draft, served_paths
from rlscale.config.derived.needs import Needs
from rlscale.config.derived.speculation_options import draft_options
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.named_code import code_that_runs
from rlscale.config.schema import Config
from rlscale.config.schema.data_config import ArithmeticData, CustomData, DataConfig, FileData
from rlscale.config.shown import say_error
from rlscale.data.configured_source import build_source
from rlscale.data.folders.cached_only import cached_only
from rlscale.data.prompt_queue import CheckLabel
from rlscale.data.prompts.prompt_files import FileSource
from rlscale.data.prompts.sources import PromptSource
from rlscale.data.stored.stored_rollouts import StoredRollouts
from rlscale.data.target import current_folder_importable
from rlscale.envs.configured_environment import takes_reward
from rlscale.envs.configured_group_rewards import build_group_reward
from rlscale.envs.reward import build_reward, label_check
from rlscale.envs.served_models import declared
from rlscale.observe.trackers import check_tracker
from rlscale.rollout.endpoint.configured_agent import configured_agent
from rlscale.run.components import check_components
from rlscale.run.disk.stages import KEYS, stages_before
from rlscale.run.held_out import compare
from rlscale.trainer.hooks import check_hooks


@dataclass
class Findings:
    """What was looked at, and what came of it; a line each."""

    checked: list[str] = field(default_factory=list)
    """What is as it should be."""
    notes: list[str] = field(default_factory=list)
    """What could not be looked at, or may be unintended."""
    problems: list[str] = field(default_factory=list)
    """What would end the run."""

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Collect the problem that ends the block, if one does, as one of `stage` ("" for the run itself)."""
        try:
            yield
        except ConfigError as error:
            self.problems += [f"{stage}{line}" for line in error.problems]
        except UserError as error:
            self.problems += [f"{stage}{line}" for line in str(error).splitlines()]

    def raise_problems(self) -> None:
        """ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))


@dataclass
class _Part:
    """A run or one of its stages, and what was opened for it."""

    stage: str
    """What its lines begin with: "" for the run itself, `warm_start.recipe=...: ` for a stage."""
    config: Config
    trains: bool = True
    """False for the evaluation alone: training's data and hooks are then no part of it."""
    sources: dict[str, PromptSource] = field(default_factory=dict)
    check_labels: dict[str, CheckLabel | None] = field(default_factory=dict)
    """Of each section that names prompts, what its reward says of labels, where that does."""

    @property
    def supervised(self) -> bool:
        return self.trains and Needs.of(self.config).supervised

    @property
    def scores(self) -> bool:
        """Whether anything is sampled, and so scored."""
        return not self.trains or Needs.of(self.config).rewards


def _note(line: str) -> None:
    say_error(f"note: {line}")


def _tell_code(parts: Sequence[_Part], tell: Callable[[str], None]) -> None:
    """Whose code stages run, before any of it is imported; that of the run itself its checks have told."""
    for part in parts[1:]:
        for line in code_that_runs(part.config):
            tell(part.stage + line)


def preflight(config: Config, *, trains: bool = True) -> list[str]:
    """Build and check all that can be known before processes start; models that are missing are made or downloaded.

    Without `trains`, what the evaluation alone needs. Returns notes. Raises ConfigError with every problem found.
    """
    found = Findings()
    look(config, found, fetch=True, trains=trains, tell=_note)
    found.raise_problems()
    return found.notes


def look(
    config: Config, found: Findings, *, fetch: bool, trains: bool = True, tell: Callable[[str], None] = _note
) -> None:
    """Look at everything, and add to `found`. Without `fetch` nothing is made or downloaded that would stay, and
    the hub is not asked.

    With problems in the cheap things, the others are left out. `tell` hears first whose code the run's stages run.
    """
    with current_folder_importable(), found.of(""), nullcontext() if fetch else cached_only():
        parts = [*_parts(config)] if trains else [_Part("", config, trains=False)]
        _tell_code(parts, tell)
        for part in parts:
            _look_at_cheap_things(part, found)
        if found.problems:
            return
        with tempfile.TemporaryDirectory() as other:
            for part in parts:
                with found.of(part.stage):
                    _try_models(part, found, None if fetch else Path(other))


def preflight_of_sweep(config: Config) -> None:
    """The cheap part of one of a sweep's runs; models, tokenizers and rows are looked at when it starts.

    Raises ConfigError with every problem found.
    """
    found = Findings()
    with current_folder_importable(), found.of(""):
        parts = [*_parts(config)]
        _tell_code(parts, _note)
        for part in parts:
            _look_at_cheap_things(part, found)
    found.raise_problems()


def _look_at_cheap_things(part: _Part, found: Findings) -> None:
    """What needs no model: functions, trackers, data files and how they overlap."""
    with declared(part.config.rollout.models):
        _look_at_functions(part, found)
    if part.trains:
        with found.of(part.stage):
            check_tracker(part.config.tracker)
    _open_sources(part, found)
    with found.of(part.stage), user_code("data"):
        found.notes += [part.stage + note for note in compare(part.config, part.sources)]


def _parts(config: Config, stage: str = "") -> Iterator[_Part]:
    """The run, then the stages that it still needs, and theirs."""
    yield _Part(stage, config)
    for before in stages_before(config):
        if before.result() is None:
            named = f"{KEYS[before.what]}={before.recipe}: "
            yield from _parts(before.config, stage + named)


def _look_at_functions(part: _Part, found: Findings) -> None:
    """Hooks and reward: imported, and built from their arguments."""
    config = part.config
    if part.trains:
        with found.of(part.stage):
            check_hooks(config.algo)
        with found.of(part.stage), user_code("_target_"):
            found.checked += [f"{part.stage}{line}" for line in check_components(config)]
    if part.scores:
        with found.of(part.stage), user_code("agent._target_"):
            if configured_agent(config.agent) is not None:
                found.checked.append(f"{part.stage}agent: {config.agent.command or config.agent._target_}")
        with found.of(part.stage), user_code("reward.function"):
            if takes_reward(config.env):
                for key in _sections(part):
                    reward = reward_of(config, key)
                    part.check_labels[key] = label_check(build_reward(reward))
                    found.checked.append(f"{part.stage}reward: {reward.function.get('_target_')}")
        with found.of(part.stage), user_code("reward.group_function"):
            for key in _sections(part):
                if build_group_reward(reward := reward_of(config, key)) is not None:
                    found.checked.append(f"{part.stage}reward.group_function: {reward.group_function.get('_target_')}")
        found.checked = list(dict.fromkeys(found.checked))


def _open_sources(part: _Part, found: Findings) -> None:
    """Training data, and the evaluation's where it evaluates."""
    config = part.config
    if config.rollout.replay is not None and part.trains:
        with found.of(part.stage):
            stored = StoredRollouts(Path(config.rollout.replay), "rollout.replay")
            stored.check_replayable(config.run.iterations, config.rollout.temperature)
            found.checked.append(f"{part.stage}rollout.replay: {config.rollout.replay}")
        return  # the data are not read
    for key, data in _sections(part).items():
        with found.of(part.stage), user_code(f"{key}.source"):
            if data is None:
                raise UserError(f"{key} is empty; choose a source with data@eval.data=..., or set eval.enabled=false")
            if _is_elsewhere(part, data):
                found.notes.append(f"{part.stage}{key}: the file lies on the cluster, and is read when the run starts")
                continue
            source = build_source(data, key)
            part.sources[key] = source
            if isinstance(source, FileSource) and source.bad.count:
                found.notes.append(part.stage + source.bad.note())
            found.checked.append(f"{part.stage}{key}: {_described(data)}, {len(source):,} prompts")


def _sections(part: _Part) -> dict[str, DataConfig | None]:
    """The sections whose prompts are read, by key."""
    config = part.config
    wanted: dict[str, DataConfig | None] = {**training_sections(config)} if part.trains else {}
    if config.eval.enabled and not (part.trains and config.run.generate_only):
        evaluated: dict[str, DataConfig | None] = {**evaluation_sections(config)}
        wanted |= evaluated or {"eval.data": None}
    return wanted


def _is_elsewhere(part: _Part, data: DataConfig) -> bool:
    """Whether a file may be on the machines of another cluster only."""
    if part.config.cluster.ray_address is None or part.supervised or not isinstance(data, FileData):
        return False
    return not any(one.path.exists() for one in data_paths(data, "data"))


def _described(data: DataConfig) -> str:
    if isinstance(data, FileData):
        return data.path if isinstance(data.path, str) else ", ".join(data.path)
    if isinstance(data, CustomData):
        return str(data.source.get("_target_"))
    return f"arithmetic, {data.split}" if isinstance(data, ArithmeticData) else type(data).__name__


def _try_models(part: _Part, found: Findings, other: Path | None) -> None:
    """Model folders, tokenizer and chat template, tried on the first prompts of every source.

    With `other` nothing is downloaded, and models are made in that folder.
    """
    from rlscale.data.folders.model_folder import find_served
    from rlscale.run.model_folders import ModelFolders, unsummed_starts

    config = part.config
    if other is not None and (away := not_downloaded(config)):
        found.notes += [
            f"{part.stage}{name} is not downloaded yet: weights, tokenizer and chat template are looked at when it is"
            for name in away
        ]
        return
    for name, path in served_paths(config).items():
        find_served(path, f"rollout.models.{name}.path", config.rollout.models[name].sglang)
    if (draft := own_draft(config)) is not None:
        find_served(draft, "rollout.speculation.draft", draft_options(config.rollout.sglang), need_tokenizer=False)
    models = ModelFolders.of(config, other).taught_by(config)
    models.check_start(config)
    found.notes += [f"{part.stage}{line}" for line in unsummed_starts(config)]
    if config.model.path is not None:  # perhaps only now downloaded: what `check` had to skip before
        check(config)
    _try_encoders(part, found, models.policy)


def _try_encoders(part: _Part, found: Findings, model: Path) -> None:
    """The tokenizer of the model in that folder, or the one given in its place, for every source."""
    from rlscale.data.folders.model_folder import ensure_tokenizer_folder, read_chat_template
    from rlscale.data.source_trial import try_prompts
    from rlscale.data.supervised import ExampleEncoder
    from rlscale.data.tokens.prompt_encoder import PromptEncoder

    config = part.config
    tokenizer = ensure_tokenizer_folder(config.model, model)
    template = read_chat_template(config.model)
    ends: list[str] = []
    for key, source in part.sources.items():
        data = _sections(part)[key]
        assert data is not None
        with found.of(part.stage), user_code(f"{key}.source"):
            encoder = PromptEncoder(tokenizer, data, config.rollout.max_prompt_tokens, template, key)
            ends.append(f"{part.stage}{encoder.end_of_turn}")
            learned = part.supervised and key in training_sections(config)
            examples = ExampleEncoder(encoder, config.rollout.max_response_tokens, key) if learned else encoder
            judge = None if learned else part.check_labels.get(key)
            found.notes += [
                f"{part.stage}{note}" for note in try_prompts(source, examples, key, data.max_bad_rate, judge)
            ]
    found.notes += dict.fromkeys(ends)
    found.checked.append(f"{part.stage}tokenizer and template: tried on the prompts of {' and '.join(part.sources)}")


@contextmanager
def user_code(key: str) -> Iterator[None]:
    """Turn what somebody's own function or class raises into a UserError that names key, error, file and line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({os.path.relpath(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
        raise UserError(f"{key}: failed with {error!r}{where}") from error
