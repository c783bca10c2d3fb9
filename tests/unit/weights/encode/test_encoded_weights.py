"""On the way to the engines matrices become codes, everything else stays, and a weight travels with its scales."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.weights.bucket import Bucket
from rlscale.weights.encode import encoding_of
from rlscale.weights.encode.encoded_weights import served_weights

FORMS = [ServedForm(kind) for kind in WeightForm if kind is not WeightForm.as_trained]
QUERY, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.experts.3.down_proj.weight"
KEPT = {
    "model.embed_tokens.weight": torch.randn(8, 128),
    "model.layers.0.input_layernorm.weight": torch.randn(128),
    "model.layers.0.self_attn.q_proj.bias": torch.randn(128),
    "model.layers.1.mlp.gate.weight": torch.randn(4, 128),
    "model.layers.1.mlp.shared_expert_gate.weight": torch.randn(1, 128),
    "lm_head.weight": torch.randn(8, 128),
}


class TwoBuckets:
    """A source of two buckets."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {QUERY: torch.randn(128, 128), **KEPT}
        self.second: dict[str, Tensor] = {DOWN: torch.randn(128, 256)}

    def buckets(self, version: int) -> Iterator[Bucket]:
        yield from (Bucket(list(named.items()), version) for named in (self.first, self.second))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind.value)
def test_projections_become_codes_and_scales_in_their_own_bucket(form: ServedForm) -> None:
    source, encoding = TwoBuckets(), encoding_of(form)
    first, second = served_weights(source, form).buckets(7)
    assert (first.version, second.version) == (7, 7)
    expected = encoding.encode(source.second[DOWN])
    assert [name for name, _ in second.named] == [DOWN.replace("weight", ending) for ending in expected]
    for (_, sent), own in zip(second.named, expected.values(), strict=True):
        assert torch.equal(sent.view(torch.uint8), own.view(torch.uint8))
    assert second.nbytes < source.second[DOWN].nbytes / 3
    names = dict(first.named)
    assert names.keys() - KEPT.keys() == {
        QUERY.replace("weight", ending) for ending in encoding.encode(torch.ones(128, 128))
    }
    assert all(names[name] is tensor for name, tensor in KEPT.items())


def test_weights_served_as_trained_come_from_the_source_itself() -> None:
    source = TwoBuckets()
    assert served_weights(source, ServedForm()) is source
