"""Data, reward and what the stages of a run must agree on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.targets import named_target
from rlscale.config.derived.data_paths import data_paths
from rlscale.config.derived.data_sections import evaluation_sections, reward_of, training_sections
from rlscale.config.errors import UserError
from rlscale.config.schema import SINGLE_TURN, Config
from rlscale.config.schema.algo_config import ScoreKind
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.data_config import ArithmeticData, CustomData, DataConfig, FileData, MixtureData

_SPLITS = ("train", "held_out")
NO_REWARD = "rlscale.envs.rewards.none.no_reward"
"""The function of `reward=none`."""


def recipe_is_a_plain_name(context: CheckContext) -> Iterator[str]:
    """The recipe's name becomes a folder below `run.root`, and must not lead out of it."""
    name = context.config.run.recipe
    if name in ("", "..") or Path(name).name != name:
        yield f"run.recipe={name}: must be a plain name, without a slash, and not .. (it names a folder of run.root)"


def model_has_a_plain_name(context: CheckContext) -> Iterator[str]:
    """A model's name becomes a folder below `run.scratch`, and must not lead out of it."""
    config = context.config
    names = {config.critic.model.name: "critic.model.name", config.model.name: "model.name"}
    for name, key in names.items():
        if name in ("", "..") or Path(name).name != name:
            yield f"{key}={name}: must be a plain name, without a slash, and not .. (it names a folder of run.scratch)"


def reward_is_named(context: CheckContext) -> Iterator[str]:
    """Whatever is sampled is scored: by the reward, or by a custom environment."""
    config = context.config
    told: list[str] = []
    needed = context.needs.rewards and config.env.get(TARGET) == SINGLE_TURN
    for key in (*training_sections(config), *evaluation_sections(config)):
        reward = reward_of(config, key)
        own = "reward" if reward is config.reward else f"{key.removesuffix('.data')}.reward"
        choice = "reward=<option>" if own == "reward" else f"reward@{own}=<option>"
        told += named_target(reward.function, f"{own}.function", choice, needed=needed)
        told += named_target(reward.group_function, f"{own}.group_function", choice, needed=False)
    yield from dict.fromkeys(told)


def evaluation_scores_single_samples(context: CheckContext) -> Iterator[str]:
    """What an evaluation measures must not hang on what judges whole groups, which it never asks."""
    config = context.config
    told = "is never asked, because an evaluation scores each sample by itself"
    for key in evaluation_sections(config) if config.eval.enabled else ():
        reward, section = reward_of(config, key), key.removesuffix(".data")
        if not reward.group_function:
            continue
        own = config.eval.sets[section.rpartition(".")[2]].reward if key != "eval.data" else None
        if own is not None:
            yield (
                f"{section}.reward.group_function {told}; choose a reward without one "
                f"(reward@{section}.reward=<option>)"
            )
        elif reward.function.get(TARGET) == NO_REWARD and config.env.get(TARGET) == SINGLE_TURN:
            other = "eval.data=null" if key == "eval.data" else f"reward@{section}.reward=<option>"
            yield (
                f"{section}: its reward is that of the training, whose group_function {told}, and whose function gives "
                f"each 0; choose eval.enabled=false, or {other}"
            )
        else:
            context.notes.append(f"{section}: the training's group_function {told}")


def reward_is_read(context: CheckContext) -> Iterator[str]:
    """Without a reward, nothing may depend on one."""
    config = context.config
    if config.reward.function.get("_target_") != NO_REWARD or config.env.get(TARGET) != SINGLE_TURN:
        return
    score = config.algo.score.kind
    if not config.reward.group_function and not context.supervised and score is not ScoreKind.none:
        yield (
            f"algo.score.kind={score.name} reads rewards, and reward=none gives each response 0; choose another "
            "reward, or an algorithm that reads none (algo=opd)"
        )
    if config.eval.enabled:
        context.notes.append(
            "reward=none gives each response 0, so that the accuracy of the evaluation says nothing; choose another "
            "reward, or eval.enabled=false"
        )


def data_is_usable(context: CheckContext) -> Iterator[str]:
    """Each source by its own kind."""
    for key, data in training_sections(context.config).items():
        yield from _source(data, key)
    if context.config.eval.enabled:
        for key, data in evaluation_sections(context.config).items():
            yield from _source(data, key)


def mixture_is_usable(context: CheckContext) -> Iterator[str]:
    """What a mixture has itself, and what each of its sources has."""
    config = context.config
    data = config.data
    if isinstance(config.eval.data, MixtureData):
        yield "eval.data=mixture: an evaluation is of one source; give each a set, data@eval.sets.NAME.data=..."
    sections = {**training_sections(config), **evaluation_sections(config)}
    for key, inner in sections.items():
        if isinstance(inner, MixtureData) and key not in ("data", "eval.data"):
            yield f"{key}: is a mixture; name its sources in the outer one"
    if not isinstance(data, MixtureData):
        return
    if not data.sources:
        yield "data=mixture has no sources; choose some with data@data.sources.NAME.data=<option>"
    if context.supervised:
        yield "data=mixture: supervised training reads one source; data.path may be a list of files"
    plain = MixtureData()
    for name in ("shuffle", "apply_chat_template", "system_prompt", "chat_template_kwargs"):
        if (value := getattr(data, name)) != getattr(plain, name):
            yield f"data.{name}={value}: each source of a mixture has its own; set data.sources.NAME.data.{name}"
    longest = config.rollout.max_response_tokens
    for name, one in data.sources.items():
        if one.max_response_tokens is not None and one.max_response_tokens > longest:
            yield (
                f"data.sources.{name}.max_response_tokens={one.max_response_tokens} is above "
                f"rollout.max_response_tokens={longest}, which bounds every response; raise that"
            )


def splits_agree(context: CheckContext) -> Iterator[str]:
    """Training and held-out problems stay apart only if both sides divide them the same way."""
    config = context.config
    for (ours, data), (theirs, evaluation) in _pairs(config):
        if not (isinstance(data, ArithmeticData) and isinstance(evaluation, ArithmeticData)):
            continue
        names = ["split_seed", "held_out_share"]  # these alone divide the problems; the others say which there are
        if not isinstance(config.data, MixtureData) and theirs == "eval.data":
            names += ["max_number", "reverse_answer"]
        for name in names:
            here, there = getattr(data, name), getattr(evaluation, name)
            if here != there:
                yield (
                    f"{ours}.{name}={here} and {theirs}.{name}={there} must be the same, or training problems and "
                    "held-out problems meet"
                )


def _pairs(config: Config) -> Iterator[tuple[tuple[str, DataConfig], tuple[str, DataConfig]]]:
    """Every section that is trained on with every one that is evaluated, with their keys."""
    if config.eval.enabled:
        yield from itertools.product(training_sections(config).items(), evaluation_sections(config).items())


def evaluation_is_held_out(context: CheckContext) -> Iterator[str]:
    """An evaluation on what is trained on says nothing about new problems; files are compared when they are read."""
    if context.config.eval.allow_overlap:
        return
    how = "or allow it with eval.allow_overlap=true"
    for (ours, data), (theirs, evaluation) in _pairs(context.config):
        if (
            isinstance(data, ArithmeticData)
            and isinstance(evaluation, ArithmeticData)
            and data.split == evaluation.split
        ):
            yield (
                f"{ours}.split={data.split} and {theirs}.split={evaluation.split}: the evaluation would be on what is "
                f"trained on; choose {ours}.split=train and {theirs}.split=held_out, {how}"
            )
        if isinstance(data, CustomData) and isinstance(evaluation, CustomData) and data.source == evaluation.source:
            yield (
                f"{ours}.source and {theirs}.source are the same, so the evaluation would be on what is trained on; "
                f"give your class an argument that divides its problems, {how}"
            )


def evaluation_is_rendered_alike(context: CheckContext) -> Iterator[str]:
    """What makes text of a prompt is often set for training and forgotten for the evaluation."""
    for (ours, data), (theirs, evaluation) in _pairs(context.config):
        for name in ("apply_chat_template", "system_prompt", "chat_template_kwargs"):
            here, there = getattr(data, name), getattr(evaluation, name)
            if here != there:
                context.notes.append(
                    f"{ours}.{name}={here} but {theirs}.{name}={there}: the evaluation's prompts are written "
                    "differently from those that are trained on"
                )
    yield from ()


def _source(data: DataConfig, key: str) -> Iterator[str]:
    if data.system_prompt is not None and not data.apply_chat_template:
        yield f"{key}.system_prompt is never read with {key}.apply_chat_template=false; set it to null"
    if isinstance(data, ArithmeticData) and data.split not in _SPLITS:
        yield f"{key}.split={data.split}: must be {' or '.join(_SPLITS)}"
    if isinstance(data, FileData):
        yield from _file(data, key)
    if isinstance(data, CustomData):
        yield from named_target(data.source, f"{key}.source", f"{key}=<option>", needed=True)


def _file(data: FileData, key: str) -> Iterator[str]:
    try:
        data_paths(data, key)
    except UserError as error:
        yield str(error)
    if data.label_key == data.prompt_key:
        yield (
            f"{key}.label_key={data.label_key} is the same key as {key}.prompt_key; name the key of the label, or null "
            "for none"
        )


STAGE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    recipe_is_a_plain_name,
    model_has_a_plain_name,
    reward_is_named,
    evaluation_scores_single_samples,
    reward_is_read,
    data_is_usable,
    mixture_is_usable,
    splits_agree,
    evaluation_is_held_out,
    evaluation_is_rendered_alike,
)
