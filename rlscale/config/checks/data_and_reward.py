"""Data, reward and what the stages of a run must agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.targets import named_target
from rlscale.config.data_paths import data_paths
from rlscale.config.errors import UserError
from rlscale.config.schema import SINGLE_TURN
from rlscale.config.schema.algo_config import ScoreKind
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.data_config import ArithmeticData, CustomData, DataConfig, FileData

_SPLITS = ("train", "held_out")
NO_REWARD = "rlscale.envs.rewards.none.no_reward"
"""The function of `reward=none`."""


def recipe_is_a_plain_name(context: CheckContext) -> Iterator[str]:
    """The recipe's name becomes a folder below `run.root`, and must not lead out of it."""
    name = context.config.run.recipe
    if name in ("", "..") or Path(name).name != name:
        yield f"run.recipe={name}: must be a plain name, without a slash, and not .. (it names a folder of run.root)"


def reward_is_named(context: CheckContext) -> Iterator[str]:
    """Whatever is sampled is scored: by the reward, or by a custom environment."""
    config = context.config
    needed = context.needs.rewards and config.env.get(TARGET) == SINGLE_TURN
    yield from named_target(config.reward.function, "reward.function", "reward=<option>", needed=needed)


def reward_is_read(context: CheckContext) -> Iterator[str]:
    """Without a reward, nothing may depend on one."""
    config = context.config
    if config.reward.function.get("_target_") != NO_REWARD or config.env.get(TARGET) != SINGLE_TURN:
        return
    score = config.algo.score.kind
    if not context.supervised and score is not ScoreKind.none:
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
    yield from _source(context.config.data, "data")
    if context.config.eval.enabled and context.config.eval.data is not None:
        yield from _source(context.config.eval.data, "eval.data")


def splits_agree(context: CheckContext) -> Iterator[str]:
    """Training and held-out problems stay apart only if both sides divide them the same way."""
    data, evaluation = context.config.data, context.config.eval.data
    if not (
        context.config.eval.enabled and isinstance(data, ArithmeticData) and isinstance(evaluation, ArithmeticData)
    ):
        return
    for name in ("split_seed", "held_out_share", "max_number", "reverse_answer"):
        ours, theirs = getattr(data, name), getattr(evaluation, name)
        if ours != theirs:
            yield (
                f"data.{name}={ours} and eval.data.{name}={theirs} must be the same, or training problems and held-out "
                "problems meet"
            )


def evaluation_is_held_out(context: CheckContext) -> Iterator[str]:
    """An evaluation on what is trained on says nothing about new problems; files are compared when they are read."""
    data, evaluation = context.config.data, context.config.eval.data
    if not context.config.eval.enabled or context.config.eval.allow_overlap:
        return
    how = "or allow it with eval.allow_overlap=true"
    if isinstance(data, ArithmeticData) and isinstance(evaluation, ArithmeticData) and data.split == evaluation.split:
        yield (
            f"data.split={data.split} and eval.data.split={evaluation.split}: the evaluation would be on what is "
            f"trained on; choose data.split=train and eval.data.split=held_out, {how}"
        )
    if isinstance(data, CustomData) and isinstance(evaluation, CustomData) and data.source == evaluation.source:
        yield (
            "data.source and eval.data.source are the same, so the evaluation would be on what is trained on; give "
            f"your class an argument that divides its problems, {how}"
        )


def evaluation_is_rendered_alike(context: CheckContext) -> Iterator[str]:
    """What makes text of a prompt is often set for training and forgotten for the evaluation."""
    data, evaluation = context.config.data, context.config.eval.data
    if context.config.eval.enabled and evaluation is not None:
        for name in ("apply_chat_template", "system_prompt", "chat_template_kwargs"):
            ours, theirs = getattr(data, name), getattr(evaluation, name)
            if ours != theirs:
                context.notes.append(
                    f"data.{name}={ours} but eval.data.{name}={theirs}: the evaluation's prompts are written "
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
        yield f"{key}.label_key={data.label_key}: is {key}.prompt_key too; name the key of the label, or null for none"


STAGE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    recipe_is_a_plain_name,
    reward_is_named,
    reward_is_read,
    data_is_usable,
    splits_agree,
    evaluation_is_held_out,
    evaluation_is_rendered_alike,
)
