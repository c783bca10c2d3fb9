"""Rotary positions as a config says them: base, share of a head, scaling. What is computed otherwise is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SCALINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "dynamic": (("factor",), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
        ("mscale", "mscale_all_dim", "truncate"),
    ),
}
"""Kinds of scaling that transformers, SGLang and the trainer compute alike: what each needs, and what it may have.

Dynamic scaling begins behind `max_position_embeddings`, which no sequence of a run may be longer than: it is none.
"""

_ANY = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_ELSEWHERE = {
    "longrope": "its frequencies depend on the length of a sequence",
}


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of a model. Sources: YaRN (arXiv 2309.00071); transformers' modeling_rope_utils.py (5.12)."""

    base: float
    """The base of the wavelengths."""
    share: float
    """The share of a head, from its beginning, that is turned."""
    scaling: Mapping[str, Any]
    """The kind (`rope_type`) and its numbers."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Rotary:
        """Those of a completed config."""
        rope = dict(config["rope_parameters"])
        share = float(rope.pop("partial_rotary_factor"))
        return cls(float(rope.pop("rope_theta")), share, rope)

    @property
    def kind(self) -> str:
        """The kind of scaling, a key of `SCALINGS` in a supported model."""
        return str(self.scaling["rope_type"])

    @property
    def is_plain(self) -> bool:
        """Whether positions up to `max_position_embeddings` are turned as without scaling."""
        return self.kind in ("default", "dynamic")

    @property
    def magnitude(self) -> float:
        """What YaRN multiplies turned queries and keys with; 1 for the other kinds."""
        if self.kind != "yarn":
            return 1.0
        factor, above, below = (self.scaling.get(key) for key in ("factor", "mscale", "mscale_all_dim"))
        assert factor is not None
        if above and below:
            return _magnitude(factor, above) / _magnitude(factor, below)
        return _magnitude(factor, 1.0)


def _magnitude(factor: float, weight: float) -> float:
    """YaRN's sqrt(1/t) (eq. 22), with DeepSeek's weight of the logarithm."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def complete_scaling(rope: dict[str, Any], whole: Mapping[str, Any]) -> None:
    """Fill in what transformers takes for numbers of a scaling that are not given."""
    if rope["rope_type"] in ("llama3", "yarn"):
        length = whole.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        rope["original_max_position_embeddings"] = length or whole["max_position_embeddings"]
    if rope["rope_type"] == "yarn":
        rope["beta_fast"], rope["beta_slow"] = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
        for key in ("mscale", "mscale_all_dim", "attention_factor"):
            if rope.get(key, 0) is None:
                del rope[key]


def known_scaling(config: Mapping[str, Any]) -> Iterator[str]:
    """A scaling that is computed alike everywhere, with all that it needs and nothing else."""
    rotary, family = Rotary.of(config), config["model_type"]
    if rotary.kind not in SCALINGS:
        why = f" ({_ELSEWHERE[rotary.kind]})" if rotary.kind in _ELSEWHERE else ""
        yield f"rope scaling of type {rotary.kind} is not supported for {family}{why}; only {', '.join(SCALINGS)}"
        return
    turned = int(config["head_dim"] * rotary.share)
    if rotary.share > 1 or turned < 2 or turned % 2:
        yield f"partial_rotary_factor={rotary.share:g} turns {turned} of {config['head_dim']} numbers; must be pairs"
    needed, optional = SCALINGS[rotary.kind]
    unknown = sorted(config["rope_parameters"].keys() - {*_ANY, *needed, *optional})
    if unknown:
        yield f"rope_parameters.{unknown[0]} is not supported for {family} with rope_type={rotary.kind}"
    for key in needed:
        value = rotary.scaling.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            yield f"rope_parameters.{key}={value}: must be a number above 0 with rope_type={rotary.kind}"
            return
    yield from _contradictions(rotary)


def told_engines(config: Mapping[str, Any]) -> dict[str, Any]:
    """What engines read instead of a completed config's keys: SGLang slows short sequences too by dynamic scaling."""
    rotary = Rotary.of(config)
    if rotary.kind != "dynamic":
        return {}
    plain = {"rope_type": "default", "rope_theta": rotary.base}
    return {"rope_parameters": plain if rotary.share == 1 else {**plain, "partial_rotary_factor": rotary.share}}


def _contradictions(rotary: Rotary) -> Iterator[str]:
    scaling = rotary.scaling
    if scaling.get("factor", 1) < 1:
        yield f"rope_parameters.factor={scaling['factor']}: must be at least 1"
    if rotary.kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        yield (
            f"rope_parameters.low_freq_factor={scaling['low_freq_factor']}: must be below high_freq_factor="
            f"{scaling['high_freq_factor']}"
        )
    if rotary.kind == "yarn":
        if not isinstance(scaling.get("truncate", True), bool):
            yield f"rope_parameters.truncate={scaling['truncate']}: must be true or false"
        weights = [scaling[key] for key in ("mscale", "mscale_all_dim") if key in scaling]
        if len(weights) == 1 or any(isinstance(w, bool) or not isinstance(w, (int, float)) for w in weights):
            yield "rope_parameters.mscale and mscale_all_dim must be given both or not at all, as numbers"
        elif rotary.share != 1 and rotary.magnitude != 1:
            yield f"rope_type=yarn is not supported together with partial_rotary_factor={rotary.share}"
