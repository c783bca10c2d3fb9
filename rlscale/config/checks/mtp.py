"""Has the model a layer that predicts a token further, which could be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.source_sampling import sampled_apart
from rlscale.config.schema.trainer_config import Mtp, TrainerConfig
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete
from rlscale.families.multi_token_prediction import why_not_trained


def trained_mtp_is_there(context: CheckContext) -> Iterator[str]:
    """In the policy's folder, in a form that is known."""
    config, architecture = context.config, context.architecture
    if config.trainer.mtp is Mtp.frozen or architecture is None:
        return
    family = FAMILIES[str(architecture["model_type"])]
    reason = why_not_trained(family, complete(architecture))
    if reason is None and config.model.path is None:
        reason = "a model that is made (model.create) has no such layer"
    if reason is not None:
        yield f"trainer.mtp=trained: {reason}; use frozen"


def mtp_knows_the_temperature(context: CheckContext) -> Iterator[str]:
    """The layer's log-probs are at the run's temperature."""
    config = context.config
    if config.trainer.mtp is Mtp.frozen:
        return
    for name, sampled in sampled_apart(config.rollout, config.data).items():
        if sampled.temperature != config.rollout.temperature:
            yield (
                f"data.sources.{name}.temperature={sampled.temperature:g} with trainer.mtp=trained, whose loss is at "
                "one temperature for all; leave it out, or use trainer.mtp=frozen"
            )


def loss_scale_is_read(context: CheckContext) -> Iterator[str]:
    """It is the factor of a loss."""
    trainer = context.config.trainer
    if trainer.mtp is Mtp.frozen and trainer.mtp_loss_scale != TrainerConfig.mtp_loss_scale:
        yield f"trainer.mtp_loss_scale={trainer.mtp_loss_scale:g} is never read with trainer.mtp=frozen; leave it out"


def mtp_is_the_policys(context: CheckContext) -> Iterator[str]:
    """A critic has no such layer."""
    config = context.config
    if context.needs.critic and config.critic.trainer.mtp is not config.trainer.mtp:
        given = config.critic.trainer.mtp.name
        yield f"critic.trainer.mtp={given} is never read: a critic has no such layer; leave it out"


MTP_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    trained_mtp_is_there,
    mtp_knows_the_temperature,
    loss_scale_is_read,
    mtp_is_the_policys,
)
