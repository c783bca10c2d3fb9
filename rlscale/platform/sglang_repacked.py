"""INT4 weights in SGLang on GPUs: as they are loaded while an update comes, and as kernels want them after it.

SGLang lays packed weights out anew once they are loaded (Marlin's order, or Triton's), and has nobody who calls the way
back: an update would be written into the kernels' layout as if it were the folder's. Here a layer remembers what its
parameters were before that. The first tensors of a version find them so again, in the same memory; the last ones have
the layer laid out once more, and the result is copied to where the kernels, and graphs that were captured with them,
look for it. Every weight must come between the two, as it does in this project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlscale.platform.adapting import adapts_now

if TYPE_CHECKING:  # who starts engines imports this module, and has no use for torch
    import torch
    from torch import Tensor

LINEAR = "sglang.srt.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16"
EXPERTS = "sglang.srt.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16_moe"

_FORM = "rlscale_loading_form"
_LAID_OUT = ("is_marlin_converted", "is_triton_converted")
"""What SGLang sets on layers of experts, and then does nothing more to them."""


@dataclass(frozen=True)
class _Loaded:
    """A parameter as weights are loaded into it."""

    parameter: torch.nn.Parameter
    shape: torch.Size
    dtype: torch.dtype
    attributes: dict[str, Any]


class LoadingForm:
    """What a layer's parameters were before they were laid out for kernels. Made just before that."""

    def __init__(self, layer: Any) -> None:
        own = layer.named_parameters(recurse=False)
        self._loaded = {name: _Loaded(p, p.shape, p.dtype, dict(p.__dict__)) for name, p in own}
        self._served: dict[str, Tensor] = {}
        self.is_open = False
        """Whether the layer is as weights are loaded."""

    def settle(self, layer: Any) -> None:
        """Give up the memory of parameters in whose place others have come."""
        for name, loaded in self._loaded.items():
            if getattr(layer, name, None) is not loaded.parameter:
                loaded.parameter.data = loaded.parameter.data.new_empty(0)

    def open(self, layer: Any) -> None:
        """Have the layer load again: its parameters of before, in the memory of those that it has now."""
        import torch

        for name, loaded in self._loaded.items():
            served = getattr(layer, name, None)
            if served is None or served.nbytes != loaded.shape.numel() * loaded.dtype.itemsize:
                continue  # made for the kernel alone, and not loaded
            memory = served.data.reshape(-1).view(torch.uint8).view(loaded.dtype)
            self._served[name] = served
            loaded.parameter.data = memory.view(loaded.shape)
            loaded.parameter.__dict__.update(loaded.attributes)
            layer._parameters[name] = loaded.parameter
        for mark in _LAID_OUT:
            if hasattr(layer, mark):
                setattr(layer, mark, False)
        self.is_open = True

    def close(self, scheme: Any, layer: Any, lay_out: Callable[[Any, Any], None]) -> None:
        """Lay the layer out by SGLang's `lay_out`, and put the result where it was before."""
        before = (layer, _tensors(layer) | self._served), (scheme, _tensors(scheme))
        lay_out(scheme, layer)
        for owner, tensors in before:
            for name, old in tensors.items():
                new = getattr(owner, name)
                if new is not old and new.shape == old.shape and new.dtype == old.dtype:
                    old.data.copy_(new.data)
                    setattr(owner, name, old)
        self.settle(layer)
        self._served, self.is_open = {}, False


def open_layers(model: torch.nn.Module) -> None:
    """Have every INT4 layer of a model load again; those that do already are left alone."""
    for layer in model.modules():
        form: LoadingForm | None = layer.__dict__.get(_FORM)
        if form is not None and not form.is_open:
            form.open(layer)


def close_layers(model: torch.nn.Module) -> None:
    """Lay out for the kernels what was loaded since `open_layers`."""
    for layer in model.modules():
        form: LoadingForm | None = layer.__dict__.get(_FORM)
        if form is not None and form.is_open:
            scheme: Any = layer.scheme
            scheme.process_weights_after_loading(layer)


def keep_loading_form(scheme: Any) -> None:
    """Let the layers of a scheme of SGLang remember what they were, and lay them out anew in place."""
    if not adapts_now(scheme, "rlscale_keeps_loading_form"):
        return
    lay_out = scheme.process_weights_after_loading

    def lay_out_in_place(self: Any, layer: Any) -> None:
        form = layer.__dict__.get(_FORM)
        if form is None:
            form = layer.__dict__[_FORM] = LoadingForm(layer)
            lay_out(self, layer)
            form.settle(layer)
        elif form.is_open:
            form.close(self, layer, lay_out)

    scheme.process_weights_after_loading = lay_out_in_place


def adapt_linear(module: Any) -> None:
    """LINEAR, on GPUs."""
    keep_loading_form(module.CompressedTensorsWNA16)


def adapt_experts(module: Any) -> None:
    """EXPERTS, on GPUs. Triton's scheme inherits from Marlin's, and is asked first whether it was adapted."""
    for scheme in (module.CompressedTensorsWNA16TritonMoE, module.CompressedTensorsWNA16MoE):
        keep_loading_form(scheme)


def adapt_runner_updater(module: Any) -> None:
    """The module of WeightUpdater: layers are opened before anything is loaded. Before it is made to verify."""
    updater = module.WeightUpdater
    if not adapts_now(updater, "rlscale_opens_layers"):
        return
    for name in (
        "_update_weights_from_flattened_bucket",
        "update_weights_from_distributed",
        "update_weights_from_disk",
    ):
        setattr(updater, name, _opening(getattr(updater, name)))


def _opening(load: Callable[..., Any]) -> Callable[..., Any]:
    def open_and_load(self: Any, *args: Any, **keywords: Any) -> Any:
        open_layers(self.get_model())
        return load(self, *args, **keywords)

    return open_and_load


def _tensors(owner: Any) -> dict[str, Tensor]:
    """Of a layer or scheme, those that are its own attributes."""
    import torch

    held = {**vars(owner), **vars(owner).get("_parameters", {})}
    return {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}


ADAPTATIONS: dict[str, Callable[[Any], None]] = {LINEAR: adapt_linear, EXPERTS: adapt_experts}
"""Module -> what is changed in it right after its import, on GPUs."""
