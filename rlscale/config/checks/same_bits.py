"""Can trainer and engines compute with the same bits (`run.bitwise`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.refused_options import OFF
from rlscale.config.composition.command_line_text import as_typed
from rlscale.config.derived.source_sampling import sampled_apart
from rlscale.config.schema.engine_group_config import Role
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.speculation_config import Algorithm
from rlscale.families import FAMILIES
from rlscale.families.bitwise import why_not_bitwise
from rlscale.families.config_file import complete
from rlscale.families.served_form import WeightForm

_TRAINER = "rlscale.trainer.megatron.trainer.MegatronTrainer"
_LAUNCHER = "rlscale.serve.engine_launcher.SglangLauncher"

CHANGE_ARITHMETIC = (
    *("dtype", "quantization", "quantization_param_path", "modelopt_quant", "quantize_and_serve", "rl_quant_profile"),
    *("kv_cache_dtype", "enable_fp32_lm_head", "enable_tf32_matmul", "enable_torch_compile"),
    *("attention_backend", "prefill_attention_backend", "decode_attention_backend", "sampling_backend"),
    *("model_impl", "json_model_override_args", "moe_runner_backend", "enable_deterministic_inference"),
    *("enable_fused_qk_norm_rope", "enable_hisparse", "dp_size", "pp_size", "ep_size", "enable_dp_attention"),
    *("rl_on_policy_target", "bf16_gemm_backend", "forward_hooks", "enable_lora", "lora_paths", "dllm_algorithm"),
    *("enable_custom_logit_processor", "enable_two_batch_overlap", "enable_single_batch_overlap", "enable_prefill_cp"),
    *(
        "attn_cp_size",
        "dcp_size",
        "moe_dp_size",
        "moe_dense_tp_size",
        "moe_a2a_backend",
        "enforce_shared_experts_fusion",
    ),
    *("enable_eplb", "ep_num_redundant_experts", "kt_weight_path"),
)
"""Options of SGLang under which an engine computes otherwise, or by other code than is adapted."""

CHANGE_FORWARD = (
    *("apply_rope_fusion", "batch_invariant_mode", "bias_activation_fusion", "bias_dropout_fusion", "test_mode"),
    *("disable_bf16_reduced_precision_matmul", "moe_permute_fusion", "moe_router_dtype", "moe_shared_expert_overlap"),
    *("moe_token_dispatcher_type", "use_te_activation_func"),
)
"""Options of Megatron under which the forward pass computes otherwise, of those that are not refused in any run."""


def model_is_computed_alike(context: CheckContext) -> Iterator[str]:
    """By the same operations in the same order."""
    if not _asked(context) or context.architecture is None:
        return
    family = FAMILIES[str(context.architecture["model_type"])]
    if reason := why_not_bitwise(family, complete(context.architecture)):
        yield f"run.bitwise=true with a model of {family.model_type}: {reason}; leave run.bitwise out"
    if context.config.model.dtype is DType.float16:
        yield "run.bitwise=true with model.dtype=float16: this is done in float32 and bfloat16 only; use one of them"


def both_compute_on_the_cpu(context: CheckContext) -> Iterator[str]:
    """Where the order of every sum is the project's own."""
    if _asked(context) and context.on_gpus:
        yield (
            "run.bitwise=true with cluster.device=cuda: on GPUs this has not been made: Megatron's batch-invariant "
            "mode needs flash attention and kernels that nobody switches on here; use cluster.device=cpu, or leave "
            "run.bitwise out"
        )


def sums_have_one_order(context: CheckContext) -> Iterator[str]:
    """A sum over ranks or threads has another order than that of one engine."""
    if not _asked(context):
        return
    config = context.config
    for size in ("tensor", "context", "expert", "expert_tensor"):
        if (getattr(config.parallel, size) or 1) > 1:
            yield (
                f"run.bitwise=true with parallel.{size}={getattr(config.parallel, size)}: a sum over ranks has another "
                f"order than an engine's; use parallel.{size}=1 (parallel.data and parallel.pipeline may be larger)"
            )
    for key, threads in (
        ("trainer.threads", config.trainer.threads),
        ("rollout.threads_per_engine", config.rollout.threads_per_engine),
    ):
        if threads is not None and threads > 1:
            yield f"run.bitwise=true with {key}={threads}: a sum over threads has another order; leave it out, or use 1"


def weights_are_the_same(context: CheckContext) -> Iterator[str]:
    """What an engine holds is what the trainer computes with."""
    if not _asked(context):
        return
    config = context.config
    form = config.rollout.weights
    if form is not WeightForm.as_trained and not config.trainer.fake_quant:
        yield (
            f"run.bitwise=true with rollout.weights={form.value}: engines would hold other weights than the trainer; "
            "add trainer.fake_quant=true, or use rollout.weights=as_trained"
        )
    if form is not WeightForm.as_trained and context.experts:
        yield (
            f"run.bitwise=true with rollout.weights={form.value}: quantised experts are computed in another order; "
            "use rollout.weights=as_trained"
        )
    if config.model.lora is not None:
        yield (
            "run.bitwise=true with model.lora: engines compute with merged weights or by kernels of their own, the "
            "trainer with base and adapter apart; leave one of the two out"
        )
    if config.rollout.engine_urls:
        yield (
            "run.bitwise=true with rollout.engine_urls: engines that somebody else started compute as they were "
            "started; leave one of the two out"
        )


def trainers_compute_plainly(context: CheckContext) -> Iterator[str]:
    """By Megatron's plain operations, which are replaced, in rlscale's own trainer."""
    if not _asked(context):
        return
    trainer = context.config.trainer
    for option in sorted(trainer.megatron.keys() & {*CHANGE_FORWARD}):
        if (value := trainer.megatron[option]) not in OFF:
            yield (
                f"run.bitwise=true with trainer.megatron.{option}={as_typed(value)}: changes how the trainer computes, "
                "and engines compute as before; leave one of the two out"
            )
    if trainer._target_ != _TRAINER:
        yield (
            f"run.bitwise=true with trainer._target_={trainer._target_}: nobody knows how it computes; use {_TRAINER}"
        )


def engines_are_sglangs(context: CheckContext) -> Iterator[str]:
    """Real ones, started by rlscale."""
    if not _asked(context):
        return
    rollout = context.config.rollout
    if (engine := rollout.engine.get("_target_")) != _LAUNCHER:
        yield (
            f"run.bitwise=true with rollout.engine._target_={engine}: only engines that rlscale starts compute as the "
            "trainer; use rollout/engine=sglang"
        )


def engines_compute_plainly(context: CheckContext) -> Iterator[str]:
    """Each alone, a token in each pass, by the operations that are adapted."""
    if not _asked(context):
        return
    rollout = context.config.rollout
    if rollout.quantised_activations:
        yield (
            "run.bitwise=true with rollout.quantised_activations=true: engines would quantise the inputs of products, "
            "and the trainer does not; leave one of the two out"
        )
    if rollout.speculation.algorithm is not Algorithm.none:
        yield (
            f"run.bitwise=true with rollout.speculation.algorithm={rollout.speculation.algorithm.value}: log-probs of "
            "tokens that a draft proposed are computed elsewhere in the engine; leave one of the two out"
        )
    for name, group in rollout.engine_groups.items():
        if group.role is not Role.regular:
            yield (
                f"run.bitwise=true with rollout.engine_groups.{name}.role={group.role.value}: it has not been tried "
                "with keys and values that one engine hands to another; use role=regular"
            )
    if rollout.replay is not None:
        yield (
            f"run.bitwise=true with rollout.replay={rollout.replay}: stored rollouts may be of engines without it; "
            "leave one of the two out"
        )
    sections = {"rollout.sglang": rollout.sglang}
    sections |= {f"rollout.engine_groups.{name}.sglang": one.sglang for name, one in rollout.engine_groups.items()}
    for section, options in sections.items():
        for option in sorted(options.keys() & {*CHANGE_ARITHMETIC}):
            yield (
                f"run.bitwise=true with {section}.{option}={options[option]}: changes how an engine computes, and the "
                "trainer computes as before; leave one of the two out"
            )


def tokens_are_drawn_at_one_temperature(context: CheckContext) -> Iterator[str]:
    """By which the trainer divides all logits of a micro-batch."""
    if not _asked(context):
        return
    rollout = context.config.rollout
    for name, own in sampled_apart(rollout, context.config.data).items():
        if own.temperature != rollout.temperature:
            yield (
                f"run.bitwise=true with data.sources.{name}.temperature={own.temperature:g}: log-probs have the same "
                f"bits at one temperature only; use rollout.temperature={rollout.temperature:g} for all sources"
            )


def _asked(context: CheckContext) -> bool:
    return context.config.run.bitwise and not context.supervised


BITWISE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    model_is_computed_alike,
    both_compute_on_the_cpu,
    sums_have_one_order,
    weights_are_the_same,
    trainers_compute_plainly,
    engines_are_sglangs,
    engines_compute_plainly,
    tokens_are_drawn_at_one_temperature,
)
