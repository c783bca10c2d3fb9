"""Stand-ins for modules that SGLang imports but never calls on the CPU.

SGLang imports Triton kernels, sgl_kernel, torchvision and others at module level, also where it then computes with
plain torch. The finder here is appended last to `sys.meta_path`, so a package that is really installed always wins, and
a question "is it installed?" (`importlib.util.find_spec`) is still answered with no. A stand-in can be imported,
decorated with and subclassed; calling one that would have to compute raises NotImplementedError with its name.

The three operations of sgl_kernel that the CPU path really calls are written here in torch.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STUBBED = ("torchvision", "torchaudio", "torchcodec", "decord", "sgl_kernel", "triton")
"""Top-level packages that get a stand-in where they are not installed."""

HIDDEN = ("megatron",)
"""Installed packages that the server must not see: SGLang's tensor dumper imports megatron-core (and with it wandb and
pandas) only because it finds it, for 2 s of start-up and nothing else."""


class StubClass:
    """A class that accepts any argument, subclass keyword and subscript."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__()

    def __init__(self, *args: Any, **keywords: Any) -> None:
        pass

    def __class_getitem__(cls, item: Any) -> type:
        return cls


class StubFunction:
    """A lower-case attribute of a stand-in: a decorator (bare or with arguments) or a namespace of further ones."""

    def __init__(self, name: str) -> None:
        self.__name__ = self._name = name

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if len(args) == 1 and callable(args[0]) and not keywords:
            return args[0]
        if self._name.startswith("triton."):
            return lambda function: function
        raise NotImplementedError(f"{self._name} is a stand-in: its package is not installed on this machine")

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, self._name, name)

    def __getitem__(self, key: Any) -> Any:
        raise NotImplementedError(f"{self._name}[...] is a stand-in: its package is not installed on this machine")

    def __mro_entries__(self, bases: tuple) -> tuple[type]:
        return (StubClass,)


class StubModule(types.ModuleType):
    """A module (and package) whose every attribute is a stand-in."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__version__ = "0.0.0+stub"

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, self.__name__, name)


def _attribute(owner: Any, owner_name: str, name: str) -> Any:
    """Make and remember attribute `name`: a class when it is capitalised, otherwise a function or namespace."""
    if name.startswith("__"):
        raise AttributeError(name)
    qualified = f"{owner_name}.{name}"
    value = type(name, (StubClass,), {"__module__": owner_name}) if name[0].isupper() else StubFunction(qualified)
    setattr(owner, name, value)
    return value


def assign_req_to_token_pool_cpu(
    rows: torch.Tensor,
    req_to_token: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    locations: torch.Tensor,
    row_length: int,
) -> None:
    """Write `locations`, concatenated per request, into req_to_token[row, start:end] (all int tensors)."""
    for of_request, here in _slots(rows, req_to_token, start, end, locations):
        of_request.copy_(here)


def assign_extend_cache_locs_cpu(
    rows: torch.Tensor,
    req_to_token: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    locations: torch.Tensor,
    row_length: int,
) -> None:
    """The reverse of `assign_req_to_token_pool_cpu`: read req_to_token[row, start:end] into `locations`."""
    for of_request, here in _slots(rows, req_to_token, start, end, locations):
        here.copy_(of_request)


def _slots(
    rows: torch.Tensor, req_to_token: torch.Tensor, start: torch.Tensor, end: torch.Tensor, locations: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each request its part of req_to_token and that of `locations`, as views."""
    offset = 0
    for row, first, last in zip(rows.tolist(), start.tolist(), end.tolist(), strict=True):
        yield req_to_token[row, first:last], locations[offset : offset + last - first]
        offset += last - first


def _fill_triton(module: Any) -> None:
    module.cdiv = lambda a, b: -(a // -b)
    module.next_power_of_2 = lambda n: 1 << (n - 1).bit_length() if n > 0 else 1
    module.__version__ = "3.7.1"


def _fill_triton_backends(module: Any) -> None:
    module.backends = {}


def _fill_kernels_of_delta_nets(module: Any) -> None:
    from rlscale.platform import sglang_delta_net  # imports torch, which asking for a stand-in does not need

    sglang_delta_net.fill_kernels(module)


def _fill_sgl_kernel(module: Any) -> None:
    module.assign_req_to_token_pool_cpu = assign_req_to_token_pool_cpu
    module.assign_extend_cache_locs_cpu = assign_extend_cache_locs_cpu


_FILL: dict[str, Callable[[Any], None]] = {
    "triton": _fill_triton,
    "triton.backends": _fill_triton_backends,
    "sgl_kernel": _fill_sgl_kernel,
    "sgl_kernel.mamba": _fill_kernels_of_delta_nets,
}


def _settle_transformers() -> None:
    """Let transformers note that torchvision and torchaudio are missing before their stand-ins appear.

    Its placeholder classes refuse every attribute; SGLang calls `AutoImageProcessor.register` on one at import.
    """
    from transformers.utils import import_utils

    for name in ("is_torchvision_available", "is_torchaudio_available", "is_torchcodec_available"):
        getattr(import_utils, name)()
    placeholder: Any = import_utils.DummyObject
    original = placeholder.__getattribute__

    def getattribute(cls: type, name: str) -> Any:
        return _ignore if name == "register" else original(cls, name)

    placeholder.__getattribute__ = getattribute


def _ignore(*args: Any, **keywords: Any) -> None:
    """Stands for `register` of a placeholder class."""


class StubLoader(importlib.abc.Loader):
    """Makes the stand-in module of a name."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        if spec.name in ("torchvision", "torchaudio"):
            _settle_transformers()
        return StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        _FILL.get(module.__name__, lambda module: None)(module)


class StubFinder(importlib.abc.MetaPathFinder):
    """Finds a stand-in for every name under `STUBBED` that no finder before it found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in STUBBED or _is_only_asked_for():
            return None
        return importlib.machinery.ModuleSpec(fullname, StubLoader(), is_package=True)


class HidingFinder(importlib.abc.MetaPathFinder):
    """Says of every name under `HIDDEN` that it is not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {fullname!r} (hidden from the SGLang server)", name=fullname)
        return None


def _is_only_asked_for() -> bool:
    """Whether the call stack goes through `importlib.util.find_spec`: a question, not an import."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "find_spec" and frame.f_globals.get("__name__") == "importlib.util":
            return True
        frame = frame.f_back  # type: ignore[assignment]  # the stack's end is None, which ends the loop
    return False


def install() -> None:
    """Append the stub finder and put the hiding finder first; a second call does nothing."""
    if not any(isinstance(finder, StubFinder) for finder in sys.meta_path):
        sys.meta_path.append(StubFinder())
        sys.meta_path.insert(0, HidingFinder())
