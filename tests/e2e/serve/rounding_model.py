"""Transformers' Qwen3 computing as engines with quantised activations do, by the reference in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlscale.families.served_form import ServedForm, WeightForm
from tests.unit.platform.numpy_activations import Roundings


@dataclass
class Greedy:
    """What follows a prompt where the most probable token is taken each time."""

    tokens: list[int]
    logprobs: list[float]
    clear: float
    """How near a choice was to another: of a code (the largest is 448), or of a token (in log-probs)."""


class RoundingModel:
    """A model of weights that are worth what their codes are, with the inputs of each product rounded besides."""

    def __init__(self, model: PreTrainedModel, form: ServedForm) -> None:
        self._model, self._roundings = model, Roundings()
        of_linears, of_experts = self._kernels(form.kind)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and form.quantises(f"{name}.weight"):
                module.register_forward_pre_hook(lambda _, inputs: (self._rounded(of_linears, inputs[0]), *inputs[1:]))
            elif name.endswith(".experts"):
                module.forward = lambda *given, own=module: self._experts(own, of_experts, *given)

    @torch.no_grad()
    def greedy(self, prompt: Sequence[int], count: int) -> Greedy:
        """`count` tokens, each computed by itself behind what was computed before, as an engine does."""
        self._roundings.nearest = float("inf")
        given, cache = torch.tensor([list(prompt)]), None
        made = Greedy([], [], 1.0)
        for _ in range(count):
            output: Any = self._model(given, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            (best, next_best), (token, _) = output.logits[0, -1].log_softmax(-1).topk(2)
            made.tokens.append(int(token))
            made.logprobs.append(float(best))
            made.clear = min(made.clear, float(best - next_best))
            given = token.reshape(1, 1)
        made.clear = min(made.clear, self._roundings.nearest)
        return made

    def clear_prompt(self, length: int, count: int, vocabulary: int, least: float = 5e-5) -> tuple[list[int], Greedy]:
        """A prompt at which sums in another order make no other choice, and what follows it."""
        for seed in range(200):
            generator = torch.Generator().manual_seed(seed)
            prompt = torch.randint(vocabulary, (length,), generator=generator).tolist()
            found = self.greedy(prompt, count)
            if found.clear > least:
                return prompt, found
        raise AssertionError(f"of 200 prompts none is {least:g} away from every tie")

    def _kernels(self, kind: WeightForm) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        own = self._roundings
        if kind is WeightForm.fp8_tensor:
            return own.by_token, own.by_batch
        if kind is WeightForm.fp8_block:
            return (lambda x: own.by_group(x, 128),) * 2
        return (lambda x: own.by_power_of_two(x, 32),) * 2

    @staticmethod
    def _rounded(kernel: Callable[[Any], Any], x: Tensor) -> Tensor:
        return torch.from_numpy(kernel(x.reshape(-1, x.shape[-1]).numpy())).reshape(x.shape)

    def _experts(
        self, own: Any, kernel: Callable[[Any], Any], hidden: Tensor, chosen: Tensor, shares: Tensor
    ) -> Tensor:
        """In the place of transformers' loop: the second products' inputs are rounded together."""
        rounded = self._rounded(kernel, hidden)
        pairs = [(token, int(expert)) for token, row in enumerate(chosen) for expert in row]
        gates_and_ups = torch.stack([own.gate_up_proj[expert] @ rounded[token] for token, expert in pairs])
        gates, ups = gates_and_ups.chunk(2, dim=-1)
        inner = self._rounded(kernel, nn.functional.silu(gates) * ups)
        outputs = torch.stack([own.down_proj[expert] @ x for (_, expert), x in zip(pairs, inner, strict=True)])
        return (outputs.view(*chosen.shape, -1) * shares.unsqueeze(-1)).sum(1)
