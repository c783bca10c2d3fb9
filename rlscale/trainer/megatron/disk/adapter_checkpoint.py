"""Adapters in a distributed checkpoint, which holds nothing else of the model: the base lies where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.utils import make_sharded_tensor_for_checkpoint, make_tp_sharded_tensor_for_checkpoint
from torch.nn import Parameter

from rlscale.config.errors import UserError
from rlscale.config.schema.lora_config import LoraConfig
from rlscale.families.served_form import WeightForm
from rlscale.trainer.adapter_base import ADAPTER, base_of
from rlscale.trainer.megatron.model.adapter_tensors import tensor_group
from rlscale.trainer.megatron.model.adapters import Adapters
from rlscale.trainer.megatron.model.model import Model
from rlscale.weights.parameters import EXPERTS

_FORM = "base_form"
"""Key of `ADAPTER`: the form in which the base was kept."""


def adapter_shards(model: Model) -> dict[str, Any]:
    """A and B of this rank as shards, by names that do not depend on the layout."""
    assert model.adapters is not None
    copies = parallel_state.get_data_parallel_group(with_context_parallel=True)
    of_expert = parallel_state.get_expert_data_parallel_group()
    state = {}
    for name, parameter, dimension in _named(model.adapters):
        groups: dict[str, Any] = {
            "tp_group": tensor_group(name, model.groups),
            "dp_cp_group": of_expert if EXPERTS in name else copies,
        }
        if dimension is None:
            state[name] = make_sharded_tensor_for_checkpoint(parameter, name, **groups)
        else:
            state[name] = make_tp_sharded_tensor_for_checkpoint(parameter, name, dimension, **groups)
    return state


@torch.no_grad()
def put_adapter(model: Model, loaded: dict[str, Any]) -> None:
    """Give the adapters what was read into `adapter_shards`."""
    assert model.adapters is not None
    for name, parameter, _ in _named(model.adapters):
        parameter.copy_(loaded[name])


def adapter_text(adapters: Adapters) -> str:
    """The content of `ADAPTER`."""
    return json.dumps({"base": adapters.base, "mark": adapters.mark, **_said(adapters.lora)}, indent=2) + "\n"


def check_adapter(folder: str | Path, model: Model) -> None:
    """UserError if the folder holds adapters and the model is whole, or the reverse, or adapters of another kind."""
    file = Path(folder) / ADAPTER
    if model.adapters is None:
        if file.is_file():
            raise UserError(
                f"{folder} holds adapters alone, on the model in {base_of(folder)}; start from that model, with "
                f"model.lora as in the run that made them and model.lora.path={folder}, or from an export of that run"
            )
        return
    if not file.is_file():
        raise UserError(f"{folder} holds a whole model, and this run (model.lora) adapters; start with model.init")
    theirs, ours = json.loads(file.read_text(encoding="utf-8")), _said(model.adapters.lora)
    theirs.setdefault(_FORM, WeightForm.as_trained.value)  # of before there were others
    for key, value in ours.items():
        if theirs.get(key) != value:
            name = "base" if key == _FORM else key
            raise UserError(
                f"{folder} holds adapters with {key}={theirs.get(key)}, this run has model.lora.{name}={value}"
            )
    if theirs.get("mark") != model.adapters.mark:
        raise UserError(
            f"{folder} holds adapters on the weights that were in {theirs.get('base')}, and those in "
            f"{model.adapters.base} are others; give back what they were trained on (model.path, model.init), "
            "or start a new run"
        )


def _said(lora: LoraConfig) -> dict[str, Any]:
    return {"rank": lora.rank, "alpha": lora.alpha, "targets": lora.targets, _FORM: lora.base.value}


def _named(adapters: Adapters) -> Iterator[tuple[str, Parameter, int | None]]:
    for linear, factors in adapters.factors():
        for matrix in ("a", "b"):
            yield f"adapter.{linear}.{matrix}", getattr(factors, matrix), factors.dimension(matrix)
