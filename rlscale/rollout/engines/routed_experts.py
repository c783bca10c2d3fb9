"""The experts that an engine sent the tokens of a request to, as its answer gives them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.derived.expert_routing import replay_without_experts
from rlscale.config.errors import UserError
from rlscale.families.family import dense_layers
from rlscale.families.tensors import experts_of


@dataclass(frozen=True)
class ExpertSizes:
    """What the choices of a mixture of experts are counted in."""

    layers: int
    """Layers of the model."""
    top_k: int
    """Experts that a layer sends each token to."""
    experts: int
    """Experts of each layer."""
    dense: int = 0
    """The first layers, which have none."""

    @staticmethod
    def of(architecture: Mapping[str, Any]) -> ExpertSizes:
        """Those of a Hugging Face config. UserError where the model has no experts."""
        experts, top_k = experts_of(architecture), architecture.get("num_experts_per_tok")
        if not experts or not top_k:
            raise UserError(replay_without_experts("rollout", f"the model ({architecture.get('model_type')})"))
        return ExpertSizes(int(architecture["num_hidden_layers"]), int(top_k), experts, dense_layers(architecture))

    def decode(self, answer: Any, tokens: int) -> NDArray[np.int16]:
        """`meta_info.routed_experts`, base64 of int32, -> int16 [tokens, layers, top_k]. ValueError if it is not that.

        An expert that is named twice for one token was never chosen: the engine did not record that layer.
        """
        if not isinstance(answer, str):
            raise ValueError(
                "the answer has none; the engine must be started by rlscale, to return them through the router"
            )
        try:
            read = base64.b64decode(answer, validate=True)
        except ValueError as error:
            raise ValueError(f"the answer is not base64 ({error})") from error
        shape = (tokens, self.layers, self.top_k)
        if len(read) != 4 * tokens * self.layers * self.top_k:
            raise ValueError(f"the answer has {len(read)} bytes, which is not int32 {list(shape)} for {tokens} tokens")
        chosen = np.frombuffer(read, "<i4").reshape(shape)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= self.experts):
            raise ValueError(f"the answer names experts {chosen.min()} to {chosen.max()} of {self.experts}")
        ordered = np.sort(chosen[:, self.dense :], axis=-1)
        if (ordered[..., 1:] == ordered[..., :-1]).any():
            raise ValueError(
                "the answer names an expert twice for one token, so the engine did not record which it chose"
            )
        return chosen.astype(np.int16)
