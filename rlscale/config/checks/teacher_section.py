"""Is there a teacher where one is read, and is one read where it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.other_models import other_model_fits
from rlscale.config.schema.model_config import ModelConfig


def teacher_is_given(context: CheckContext) -> Iterator[str]:
    """One teacher exactly, where its log-probs are read; none elsewhere."""
    algo, teacher = context.config.algo, context.config.teacher
    given = [f"teacher.{name}={value}" for name in ("path", "recipe") if (value := getattr(teacher, name)) is not None]
    if len(given) == 2:
        yield f"{given[0]} and {given[1]} are both given; set one of them to null"
    if context.needs.teacher and not given:
        why = (
            f"algo.distil_coef={algo.distil_coef:g}" if algo.distil_coef else "algo.advantage.reads=[teacher_logprobs]"
        )
        yield (
            f"{why} needs a teacher; give teacher.path=<Hugging Face folder or hub name>, or teacher.recipe=<recipe "
            "that trains one>" + (", or algo.distil_coef=0" if algo.distil_coef else "")
        )
    if not context.needs.teacher and not context.supervised:
        for text in given:
            yield f"{text} is never read, because algo.distil_coef=0; set algo.distil_coef=1, or leave it out"
    elif not context.needs.teacher:
        for text in given:
            yield f"{text} is never read by supervised training (algo/loss=sft); leave it out"


def teacher_is_known(context: CheckContext) -> Iterator[str]:
    """The teacher's model is one that the trainer can build."""
    path = context.config.teacher.path
    if path is not None and context.needs.teacher:
        yield from other_model_fits(context, ModelConfig(name=path, path=path), "teacher")


TEACHER_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (teacher_is_given, teacher_is_known)
