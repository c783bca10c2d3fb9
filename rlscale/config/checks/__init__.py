"""What the values of a configuration mean together. Needs nothing but the configuration and the model's HF config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlscale.config.checks.advantage import ADVANTAGE_CHECKS
from rlscale.config.checks.algorithm import ALGORITHM_CHECKS
from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.component_targets import COMPONENT_CHECKS
from rlscale.config.checks.critic_section import CRITIC_CHECKS
from rlscale.config.checks.data_and_reward import STAGE_CHECKS
from rlscale.config.checks.eight_bits import EIGHT_BITS_CHECKS
from rlscale.config.checks.elastic_engines import ELASTIC_CHECKS
from rlscale.config.checks.engine_form import SERVED_CHECKS
from rlscale.config.checks.engine_groups_section import ENGINE_GROUPS_CHECKS
from rlscale.config.checks.first_prompts_section import FIRST_PROMPTS_CHECKS
from rlscale.config.checks.in_process import IN_PROCESS_CHECKS
from rlscale.config.checks.kl_term import KL_CHECKS
from rlscale.config.checks.layout import LAYOUT_CHECKS
from rlscale.config.checks.learning_rate import SCHEDULE_CHECKS
from rlscale.config.checks.lora_base import BASE_CHECKS
from rlscale.config.checks.lora_section import LORA_CHECKS
from rlscale.config.checks.megatron import MEGATRON_CHECKS
from rlscale.config.checks.mismatch_correction import CORRECTION_CHECKS
from rlscale.config.checks.model_fits import MODEL_CHECKS, architecture_is_known
from rlscale.config.checks.moe import MOE_CHECKS
from rlscale.config.checks.mtp import MTP_CHECKS
from rlscale.config.checks.optimizer_options import OPTIMIZER_CHECKS
from rlscale.config.checks.options import OPTION_CHECKS
from rlscale.config.checks.output_parsers import PARSER_CHECKS
from rlscale.config.checks.parameter_patterns import PARAMETER_CHECKS
from rlscale.config.checks.profile_section import PROFILE_CHECKS
from rlscale.config.checks.ranges import out_of_range
from rlscale.config.checks.replay_source import ROUTING_CHECKS
from rlscale.config.checks.same_bits import BITWISE_CHECKS
from rlscale.config.checks.sampling import SAMPLING_CHECKS
from rlscale.config.checks.saving import SAVING_CHECKS
from rlscale.config.checks.served_adapter import ADAPTER_CHECKS
from rlscale.config.checks.served_models_section import SERVED_MODELS_CHECKS
from rlscale.config.checks.speculation_section import SPECULATION_CHECKS
from rlscale.config.checks.stored_rollouts_section import STORED_ROLLOUTS_CHECKS
from rlscale.config.checks.teacher_section import TEACHER_CHECKS
from rlscale.config.checks.tool_calls import TOOL_CHECKS
from rlscale.config.checks.turn_credit import TURN_CHECKS
from rlscale.config.checks.unread_settings import UNREAD_CHECKS, cluster_is_read
from rlscale.config.checks.weight_transport import TRANSPORT_CHECKS
from rlscale.config.composition.stage_configs import compose_teacher, compose_warm_start
from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.keys import keys
from rlscale.config.named_code import code_that_runs
from rlscale.config.schema import Config

__all__ = ["check"]


def check(config: Config, architecture: Mapping[str, Any] | None = None) -> list[str]:
    """Check a composed configuration. Returns notes: which checks were skipped and why, and what looks unintended.

    `architecture`: the model's completed Hugging Face config, where the caller knows it; else it is read.
    Raises ConfigError with every problem found, one line each.
    """
    values = keys(config)
    problems = list(out_of_range(values))
    if problems:
        # The checks below divide by and compare these values.
        raise ConfigError(problems)
    context = CheckContext(config, Sizes.of(config), None)
    context.keys = values
    context.notes += code_that_runs(config)
    try:
        context.architecture = read_architecture(config.model) if architecture is None else architecture
    except UserError as error:
        problems.append(str(error))
    else:
        if context.architecture is None:
            context.notes.append(
                f"model.path={config.model.path} is not downloaded yet: its heads, layers, experts and context length "
                "are checked when it is"
            )
    unknown = [*architecture_is_known(context)]
    if unknown:
        context.architecture = None  # the other checks compute with it
    problems += unknown
    for one in _ALL:
        problems += one(context)
    problems += [*_check_warm_start(config, context.architecture), *_check_teacher(config, context.architecture)]
    if problems:
        raise ConfigError(problems)
    return context.notes


_OF_STAGE: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    *ALGORITHM_CHECKS,
    *SCHEDULE_CHECKS,
    *ADVANTAGE_CHECKS,
    *KL_CHECKS,
    *PARSER_CHECKS,
    *TURN_CHECKS,
    *TOOL_CHECKS,
    *CORRECTION_CHECKS,
    *CRITIC_CHECKS,
    *TEACHER_CHECKS,
    *ROUTING_CHECKS,
    *MTP_CHECKS,
    *MEGATRON_CHECKS,
    *EIGHT_BITS_CHECKS,
    *MOE_CHECKS,
    *SAMPLING_CHECKS,
    *STORED_ROLLOUTS_CHECKS,
    *STAGE_CHECKS,
    *UNREAD_CHECKS,
    *COMPONENT_CHECKS,
    *TRANSPORT_CHECKS,
    *OPTIMIZER_CHECKS,
)
"""Those about sections that a stage before the run does not take from the run."""

_ALL = (
    *(*MODEL_CHECKS, *LAYOUT_CHECKS, *SERVED_CHECKS, cluster_is_read),
    *(*_OF_STAGE, *PROFILE_CHECKS, *FIRST_PROMPTS_CHECKS, *PARAMETER_CHECKS, *LORA_CHECKS, *BASE_CHECKS),
    *(*ADAPTER_CHECKS, *OPTION_CHECKS, *ENGINE_GROUPS_CHECKS, *SPECULATION_CHECKS, *SERVED_MODELS_CHECKS),
    *(*ELASTIC_CHECKS, *SAVING_CHECKS, *BITWISE_CHECKS, *IN_PROCESS_CHECKS),
)


def _check_warm_start(config: Config, architecture: Mapping[str, Any] | None) -> list[str]:
    """Problems of the supervised stage before this one, each saying that it is meant."""
    if config.warm_start is None:
        return []
    try:
        stage = compose_warm_start(config)
        if stage.warm_start is not None:
            problems = ["has a warm start of its own; only one stage can"]
        else:
            problems = _of_stage(stage, architecture)
    except ConfigError as error:
        problems = error.problems
    except UserError as error:
        problems = [str(error)]
    return [f"warm_start.recipe={config.warm_start.recipe}: {problem}" for problem in problems]


def _check_teacher(config: Config, architecture: Mapping[str, Any] | None) -> list[str]:
    """Problems of the stage that makes the teacher, each saying that it is meant."""
    if config.teacher.recipe is None or not Needs.of(config).teacher:
        return []
    try:
        stage = compose_teacher(config)
        problems = [*_of_stage(stage, architecture), *_check_warm_start(stage, architecture)]
    except ConfigError as error:
        problems = error.problems
    except UserError as error:
        problems = [str(error)]
    return [f"teacher.recipe={config.teacher.recipe}: {problem}" for problem in problems]


def _of_stage(stage: Config, architecture: Mapping[str, Any] | None) -> list[str]:
    """Problems of a stage's own sections; those that it takes from the run, its model too, are checked with that."""
    problems = list(out_of_range(keys(stage)))
    context = CheckContext(stage, Sizes.of(stage), architecture)
    return problems or [line for one in _OF_STAGE for line in one(context)]
