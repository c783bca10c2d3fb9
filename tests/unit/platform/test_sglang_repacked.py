"""INT4 layers that are laid out for kernels load again, in the memory that kernels know.

Stand-ins for SGLang's schemes turn codes over as those do, in place or into other parameters: the real ones need a GPU,
and that their text is as it was read is a test of test_sglang_cpu.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from rlscale.platform.sglang_repacked import adapt_runner_updater, close_layers, keep_loading_form, open_layers


class Replacing:
    """As for linears: other parameters, of another type and shape, and a new workspace each time."""

    def process_weights_after_loading(self, layer: Any) -> None:
        layer.weight_packed.rows_first = False
        codes = layer.weight_packed.data.t().contiguous().view(torch.uint8)
        layer.weight_packed = Parameter(codes, requires_grad=False)
        layer.weight_scale = Parameter(layer.weight_scale.data.t().contiguous(), requires_grad=False)
        layer.g_idx_sort_indices = torch.empty(0, dtype=torch.int32)
        self.workspace = torch.zeros(4)


class InPlace:
    """As for experts: the same parameters in another shape, marked as done."""

    def process_weights_after_loading(self, layer: Any) -> None:
        if getattr(layer, "is_marlin_converted", False):
            return
        for name in ("weight_packed", "weight_scale"):
            own = getattr(layer, name)
            turned = own.data.t().contiguous()
            own.resize_(turned.shape)
            own.copy_(turned)
        layer.weight_g_idx = Parameter(torch.empty(0, dtype=torch.int32), requires_grad=False)
        layer.is_marlin_converted = True


@pytest.fixture(params=[Replacing, InPlace])
def layer(request: pytest.FixtureRequest) -> Any:
    """A layer with numbers in it, laid out once."""
    scheme = type(request.param.__name__, (request.param,), {})
    keep_loading_form(scheme)
    made: Any = torch.nn.Module()
    made.scheme = scheme()
    for name, dtype, columns in (("weight_packed", torch.int32, 6), ("weight_scale", torch.float32, 3)):
        made.register_parameter(name, Parameter(torch.empty(4, columns, dtype=dtype), requires_grad=False))
    made.register_parameter("weight_g_idx", Parameter(torch.zeros(8, dtype=torch.int32), requires_grad=False))
    made.weight_packed.rows_first = True
    load(made, 0)
    made.scheme.process_weights_after_loading(made)
    return made


def codes_of(version: int) -> dict[str, Tensor]:
    codes = torch.arange(24, dtype=torch.int32).reshape(4, 6) + 100 * version
    return {"weight_packed": codes, "weight_scale": torch.arange(12.0).reshape(4, 3) + version}


def load(layer: Any, version: int) -> None:
    """As SGLang's loaders do, which go by what a parameter says of itself."""
    for name, tensor in codes_of(version).items():
        parameter = getattr(layer, name)
        assert name != "weight_packed" or parameter.rows_first
        parameter.data.copy_(tensor)


def laid_out(version: int) -> dict[str, bytes]:
    return {name: tensor.t().contiguous().numpy().tobytes() for name, tensor in codes_of(version).items()}


def held(layer: Any) -> dict[str, bytes]:
    return {name: getattr(layer, name).data.numpy().tobytes() for name in codes_of(0)}


def places(layer: Any) -> list[int]:
    tensors = [layer.weight_packed, layer.weight_scale, getattr(layer.scheme, "workspace", layer.weight_scale)]
    return [tensor.data_ptr() for tensor in tensors]


def test_every_update_is_laid_out_where_the_last_one_was(layer: Any) -> None:
    model = torch.nn.ModuleList([layer])
    assert held(layer) == laid_out(0)
    first, shapes = places(layer), [layer.weight_packed.shape, layer.weight_scale.shape]
    for version in (1, 2):
        open_layers(model)
        load(layer, version)
        open_layers(model)  # the second part of the same update
        close_layers(model)
        assert held(layer) == laid_out(version)
        assert places(layer) == first
        assert [layer.weight_packed.shape, layer.weight_scale.shape] == shapes
    close_layers(model)
    layer.scheme.process_weights_after_loading(layer)
    assert held(layer) == laid_out(2), "what is laid out is not laid out again"


def test_an_update_takes_no_memory_of_its_own(layer: Any) -> None:
    before = {layer.weight_packed.data_ptr(), layer.weight_scale.data_ptr()}
    open_layers(torch.nn.ModuleList([layer]))
    assert {layer.weight_packed.data_ptr(), layer.weight_scale.data_ptr()} == before
    assert layer.weight_packed.shape == (4, 6)


def test_an_engine_opens_its_layers_before_it_loads(layer: Any) -> None:
    seen = []

    class WeightUpdater:
        def get_model(self) -> torch.nn.Module:
            return torch.nn.ModuleList([layer])

        def _update_weights_from_flattened_bucket(self, bucket: int) -> bool:
            seen.append(layer.weight_packed.shape)
            load(layer, bucket)
            return True

        update_weights_from_distributed = update_weights_from_disk = _update_weights_from_flattened_bucket

    module = SimpleNamespace(WeightUpdater=WeightUpdater)
    adapt_runner_updater(module)
    adapt_runner_updater(module)  # a second time changes nothing
    updater = WeightUpdater()
    for version, update in enumerate(
        (
            updater._update_weights_from_flattened_bucket,
            updater.update_weights_from_distributed,
            updater.update_weights_from_disk,
        ),
        start=1,
    ):
        assert update(version)
        close_layers(updater.get_model())
        assert held(layer) == laid_out(version)
    assert seen == [(4, 6)] * 3
