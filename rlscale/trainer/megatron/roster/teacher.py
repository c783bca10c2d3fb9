"""The frozen teacher: its weights in the policy's model where the architectures agree, else a model of its own."""

from __future__ import annotations

from collections.abc import Callable

from rlscale.config.errors import UserError
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.disk.starting_weights import build_loaded
from rlscale.trainer.megatron.model.architecture import Architecture
from rlscale.trainer.megatron.model.model import Model, Role
from rlscale.trainer.megatron.roster.frozen_weights import FrozenWeights
from rlscale.trainer.trainer_spec import TrainerSpec


def build_teacher(
    spec: TrainerSpec, policy: Model, platform: Platform, make_room: Callable[[], None]
) -> FrozenWeights | Model:
    """The teacher of `spec.teacher_path`: weights to swap into the policy's model, or a model in the same layout.

    `make_room` is called before a model of its own is built; until then the policy must be awake.
    UserError for one that cannot be read or built, or that does not know all of the policy's tokens.
    """
    own = spec.of_teacher()
    student, teacher = Architecture.read(spec.model_path), Architecture.read(own.model_path)
    if teacher.vocabulary < student.vocabulary:
        raise UserError(
            f"the teacher in {own.model_path} has a vocabulary of {teacher.vocabulary}, the policy one of "
            f"{student.vocabulary}; teacher.path must be a model with the policy's tokenizer"
        )
    if teacher.same_as(student):
        return FrozenWeights.of_folder(policy, own.init_path)
    make_room()
    try:
        return build_loaded(own, platform, Role.teacher)
    except UserError as error:
        raise UserError(f"the teacher in {own.model_path} cannot be built in the policy's layout: {error}") from error
