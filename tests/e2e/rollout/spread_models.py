"""Weights far enough from one another that log-probs tell them apart, and what Hugging Face says with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlscale.rollout.engines.generation import Generation


def spread_models(folder: Path, number: int) -> list[PreTrainedModel]:
    """So many sets of weights of one architecture, none of which ends a response early."""
    found = []
    for seed in range(number):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        found.append(model)
    return found


def difference(
    models: list[PreTrainedModel], prompt: np.ndarray, generation: Generation, chosen: np.ndarray | None = None
) -> float:
    """Largest |engine - Hugging Face| log-prob of all or some tokens, each by the weights of its version."""
    tokens = torch.tensor([[*prompt.tolist(), *generation.tokens.tolist()]])
    with torch.no_grad():
        reference = [model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in models]
    own = torch.stack([by.gather(1, tokens[0, len(prompt) :, None])[:, 0] for by in reference]).numpy()
    expected = own[generation.versions % len(models), np.arange(len(generation.tokens))]
    found = np.abs(expected - generation.logprobs)
    return float(found.max() if chosen is None else found[chosen].max())
