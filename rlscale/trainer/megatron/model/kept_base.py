"""The frozen model below adapters kept as codes and scales: each weight is made for its products, and forgotten.

Forms whose scales are of single rows alone: query, key and value in one linear, or a rank's share of rows, are then
encoded like each by itself. What a backward pass needs of a weight is not saved but made once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from rlscale.config.errors import UserError
from rlscale.families.served_form import ServedForm
from rlscale.trainer.megatron.model.model import Model
from rlscale.weights.encode import Encoding, encoding_of
from rlscale.weights.parameters import named_parameters


class KeptWeight:
    """One parameter [rows, columns] as codes and scales. It keeps its shape and type, and NaN for every number."""

    def __init__(self, parameter: Tensor, encoding: Encoding) -> None:
        self.parts: Mapping[str, Tensor] = encoding.encode(parameter.detach())
        self._encoding = encoding
        self._nothing = torch.full((1, 1), torch.nan, dtype=parameter.dtype, device=parameter.device)
        self._shape = (len(parameter), parameter.shape[1])
        self.forget(parameter)

    def value(self) -> Tensor:
        """What the codes are worth, in the parameter's type; made anew in each call."""
        return self._encoding.decode(self.parts, self._shape).to(self._nothing.dtype)

    def forget(self, parameter: Tensor) -> None:
        """Take the numbers from the parameter: whoever reads them by mistake has NaN."""
        parameter.data = self._nothing.expand(self._shape)


class _Kept:
    """In front of a linear: its weights are there while it computes."""

    kept_weights: dict[str, KeptWeight]

    def forward(self, *args: Any, **options: Any) -> Any:
        with _present({getattr(self, name): kept for name, kept in self.kept_weights.items()}):
            return super().forward(*args, **options)  # type: ignore[misc]  # that of the class behind this one


@torch.no_grad()
def keep_base(model: Model, form: ServedForm) -> None:
    """Keep the linears of a model with adapters in a form, once it has its weights. UserError where they do not fit."""
    assert model.adapters is not None, "only a base that is not trained can be kept so"
    encoding, columns = encoding_of(form), encoding_of(form).quantisation.columns
    for chunk in model.bare:
        names = {id(parameter): name for name, parameter in named_parameters([chunk], model.groups.expert)}
        for linear in list(chunk.modules()):
            own: dict[str, KeptWeight] = {}
            for short, parameter in linear.named_parameters(recurse=False):
                name = names.get(id(parameter))
                if name is None or not all(map(form.quantises, model.weights.hf_names(name))):
                    continue
                if parameter.shape[1] % columns:
                    raise UserError(
                        f"model.lora.base={form.kind.value}: a rank has {parameter.shape[1]} columns of "
                        f"{model.weights.hf_names(name)[0]}, which {columns} does not divide; use as_trained"
                    )
                own[short] = model.adapters.kept[name] = KeptWeight(parameter, encoding)
            if own:
                kind: Any = type(linear)
                linear.kept_weights = own
                linear.__class__ = _keeping(kind)


@cache
def _keeping(kind: type[Any]) -> type[Any]:
    return type(f"Kept{kind.__name__}", (_Kept, kind), {})


@contextmanager
def _present(kept: Mapping[Parameter, KeptWeight]) -> Iterator[None]:
    """Within the block parameters have their numbers; what is saved of them for a backward pass is how to make them."""
    places: dict[int, KeptWeight] = {}
    for parameter, weight in kept.items():
        parameter.data = weight.value()
        places[parameter.untyped_storage().data_ptr()] = weight

    def pack(saved: Tensor) -> Any:
        weight = places.get(saved.untyped_storage().data_ptr())
        return saved if weight is None else (weight, saved.size(), saved.stride(), saved.storage_offset())

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        weight, *view = packed
        return weight.value().as_strided(*view)

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for parameter, weight in kept.items():
            weight.forget(parameter)
