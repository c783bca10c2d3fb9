"""Does a model besides the policy fit: one that the trainer knows, cut over the ranks as the policy is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.layout import experts_fit, pipeline_divides_the_layers, tensor_divides_the_model
from rlscale.config.checks.model_fits import architecture_is_known
from rlscale.config.checks.sampling import attention_sees_all_trained_tokens
from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.schema.model_config import ModelConfig


def other_model_fits(context: CheckContext, model: ModelConfig, key: str) -> Iterator[str]:
    """Problems of the model whose section is `key`; nothing for one with the policy's architecture."""
    other = CheckContext(dataclasses.replace(context.config, model=model), context.sizes, None)
    try:
        other.architecture = read_architecture(model)
    except UserError as error:
        yield _of(key, str(error))
        return
    if other.architecture is None:
        context.notes.append(f"{key}.path={model.path} is not downloaded yet: its sizes are checked when it is")
    if other.architecture is None or other.architecture == context.architecture:
        return
    unknown = [*architecture_is_known(other)]
    if unknown:
        yield from (_of(key, line) for line in unknown)
        return
    cuts = [tensor_divides_the_model, pipeline_divides_the_layers]
    if other.experts:
        # A dense model stands in the layout of a policy with experts as if parallel.expert were 1.
        cuts.append(experts_fit)
    for one in cuts:
        yield from (_of(key, line) for line in one(other))
    yield from (f"{key}: {line}" for line in attention_sees_all_trained_tokens(other))
    ours, theirs = context.size("vocab_size"), other.size("vocab_size")
    if ours and theirs and theirs < ours:
        yield (
            f"{key}: {model.name} has a vocabulary of {theirs}, the policy one of {ours}; choose a model with the "
            "policy's tokenizer"
        )


def _of(key: str, line: str) -> str:
    return f"{key}.{line.removeprefix('model.')}" if line.startswith("model.") else f"{key}: {line}"
