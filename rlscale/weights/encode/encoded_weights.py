"""Weights in the form of the engines, on their way from whoever has them to whoever carries them."""

from __future__ import annotations

from collections.abc import Iterator

from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.weights.bucket import Bucket, WeightSource
from rlscale.weights.encode import encoding_of


class EncodedWeights:
    """A WeightSource whose buckets hold codes and scales of what another one has as numbers.

    Codes are beside their scales in one bucket, which is smaller than it was.
    """

    def __init__(self, source: WeightSource, form: ServedForm) -> None:
        self._source, self._form, self._encoding = source, form, encoding_of(form)

    def buckets(self, version: int) -> Iterator[Bucket]:
        """See WeightSource."""
        for bucket in self._source.buckets(version):
            named = []
            for name, tensor in bucket.named:
                named += self._encoding.named(name, tensor) if self._form.quantises(name) else [(name, tensor)]
            yield Bucket(named, version)


def served_weights(source: WeightSource, form: ServedForm) -> WeightSource:
    """The weights as engines are to hold them."""
    return source if form.kind is WeightForm.as_trained else EncodedWeights(source, form)
