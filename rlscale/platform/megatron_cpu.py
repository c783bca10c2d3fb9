"""Megatron-core on a machine without a GPU: an import hook that retargets CUDA inside Megatron's source to the CPU.

Megatron-core names CUDA directly in some hundred places (`torch.cuda.current_device()`, `device="cuda"`, streams,
`.cuda()`). While its modules are imported, and only its modules, the hook rewrites their syntax tree: `torch.cuda`
becomes a stand-in from this file, CUDA's constants their CPU equivalents, `.cuda()` becomes `.cpu()`. torch itself and
every other package stay untouched. What rewriting cannot mend is in `megatron_fixups`.

Rewritten modules are cached as bytecode beside Python's own (`__pycache__/*.opt-rlscale<digest>.pyc`), so that only the
first import after an installation pays for it. Written for the versions in `TESTED`; a test fails when they move.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import marshal
import os
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from rlscale.platform import megatron_fixups

TESTED = {"megatron-core": "0.16.1", "mbridge": "0.15.1"}
"""The versions that this adaptation was written for."""

PACKAGES = ("megatron.core", "mbridge")
"""Packages whose source is rewritten."""

CONSTANTS = {
    "cuda": "cpu",
    "nccl": "gloo",
    "torch.cuda.FloatTensor": "torch.FloatTensor",
    "torch.cuda.HalfTensor": "torch.HalfTensor",
    "torch.cuda.BFloat16Tensor": "torch.BFloat16Tensor",
}
"""String constants that name CUDA, and what replaces them."""

UNWANTED = ("wandb",)
"""Optional imports of Megatron that cost start-up time and are not used here; inside it they count as not installed."""

_STAND_IN = "__rlscale_cuda__"


class _Stream:
    """A CUDA stream or event on a device that does one thing after another: waiting is over at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        pass

    wait = wait_stream = wait_event = synchronize = record = _nothing

    def record_event(self, *args: Any) -> _Stream:
        return _Stream()

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 0.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stream)

    def __hash__(self) -> int:
        return hash(_Stream)


class _Cuda(types.ModuleType):
    """What `torch.cuda` means inside the rewritten packages; what is not here is torch's own (amp, is_available, …)."""

    Stream = Event = _Stream
    FloatTensor, HalfTensor, BFloat16Tensor = torch.FloatTensor, torch.HalfTensor, torch.BFloat16Tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    @staticmethod
    def current_device() -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_stream(device: Any = None) -> _Stream:
        return _Stream()

    default_stream = current_stream

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: Any) -> Iterator[None]:
        yield

    @staticmethod
    def _nothing(*args: Any, **kwargs: Any) -> None:
        pass

    set_device = synchronize = empty_cache = _nothing

    @staticmethod
    def memory_allocated(device: Any = None) -> int:
        return 0

    max_memory_allocated = memory_reserved = memory_allocated

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    manual_seed = staticmethod(torch.manual_seed)
    random = types.SimpleNamespace(get_rng_state=get_rng_state, set_rng_state=set_rng_state)


class Retarget(ast.NodeTransformer):
    """Rewrites one module's syntax tree from CUDA to the CPU."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`torch.cuda`, where it is read, becomes the stand-in."""
        self.generic_visit(node)
        is_cuda = isinstance(node.value, ast.Name) and node.value.id == "torch" and node.attr == "cuda"
        if is_cuda and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Name(_STAND_IN, ast.Load()), node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Constants that name CUDA."""
        if isinstance(node.value, str) and node.value in CONSTANTS:
            return ast.copy_location(ast.Constant(CONSTANTS[node.value]), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`.cuda(...)` becomes `.cpu()`; pinned memory is off; `barrier(device_ids=)` is for NCCL only."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            node.func.attr, node.args, node.keywords = "cpu", [], []
        for keyword in node.keywords:
            if keyword.arg == "pin_memory" and isinstance(keyword.value, ast.Constant):
                keyword.value = ast.copy_location(ast.Constant(False), keyword.value)
            if keyword.arg == "device_ids":
                keyword.value = ast.copy_location(ast.Constant(None), keyword.value)
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        """Unwanted optional imports (Megatron tries each of them in a `try`) fail."""
        if any(alias.name in UNWANTED for alias in node.names):
            error = ast.parse(f"raise ImportError('{node.names[0].name} is not wanted here')").body[0]
            return ast.fix_missing_locations(ast.copy_location(error, node))
        return node


def retarget(source: bytes, path: str) -> types.CodeType:
    """The code of a module of Megatron, rewritten for the CPU."""
    tree = ast.fix_missing_locations(Retarget().visit(ast.parse(source, path)))
    code: types.CodeType = compile(tree, path, "exec", dont_inherit=True)
    return code


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module rewritten, from the bytecode cache where that is fresh."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        cache = Path(importlib.util.cache_from_source(path, optimization=f"rlscale{_DIGEST}"))
        stat = os.stat(path)
        stamp = stat.st_mtime_ns.to_bytes(8, "little") + stat.st_size.to_bytes(8, "little")
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
            data = cache.read_bytes()
            if data[:16] == stamp:
                code: types.CodeType = marshal.loads(data[16:])
                return code
        code = retarget(self.get_data(path), path)
        if not sys.dont_write_bytecode:
            self.set_data(str(cache), stamp + marshal.dumps(code))  # atomic; a read-only folder is ignored
        return code

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__[_STAND_IN] = _Cuda("rlscale.platform.cuda_on_cpu")
        super().exec_module(module)
        for fixups in (megatron_fixups.ON_EVERY_DEVICE, megatron_fixups.ON_THE_CPU):
            if module.__name__ in fixups:
                fixups[module.__name__](module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of `PACKAGES` as Python would, and has them loaded by `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not any(fullname == package or fullname.startswith(package + ".") for package in PACKAGES):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


# Changes with the rules above, with Python and with torch's way of naming things: stale bytecode is never used.
_DIGEST = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()[:12]


def installed() -> bool:
    """Whether the hook is in place in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def install() -> None:
    """Put the hook in place; once per process, before Megatron's first import. A second call does nothing.

    Raises RuntimeError where CUDA is available (Megatron is not rewritten there) or when Megatron was imported already.
    """
    if installed():
        return
    if torch.cuda.is_available():
        raise RuntimeError("megatron_cpu.install() is for machines without a GPU; this one has one")
    early = [name for name in sys.modules if name.startswith(PACKAGES)]
    if early:
        raise RuntimeError(f"megatron_cpu.install() came too late: {early[0]} is imported already")
    sys.meta_path.insert(0, _Finder())
