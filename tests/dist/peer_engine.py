"""The receiving side of a broadcast: SGLang's own code for its process group, in a process of its own."""

from __future__ import annotations

import ast
import importlib.metadata
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rank_pool import start_process


class PeerEngine:
    """An engine whose process joins groups and receives broadcasts as an SGLang server does (a Receiver)."""

    def __init__(self, fails_at: int | None = None) -> None:
        """`fails_at`: the number of the bucket at which it answers with an error instead of joining in."""
        self.url = "http://127.0.0.1:1"
        self.received: dict[str, torch.Tensor] = {}
        self.versions: list[tuple[int, bool]] = []
        self._fails_at = fails_at
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = start_process(_engine, theirs)

    def _call(self, *message: Any) -> Any:
        self._pipe.send(message)
        good, value = self._pipe.recv()
        if not good:
            raise RuntimeError(value)
        return value

    def open_group(self, address: str, port: int, rank_offset: int, world_size: int, group: str, backend: str) -> None:
        """See Receiver."""
        self._call("open", address, port, rank_offset, world_size, group, backend)

    def receive_broadcast(
        self,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        group: str,
        version: int,
        last: bool,
    ) -> None:
        """See Receiver."""
        if self._fails_at == len(self.versions):
            raise RuntimeError("no such parameter")
        self.received |= {
            name: torch.from_numpy(value) for name, value in self._call("receive", names, dtypes, shapes, group)
        }
        self.versions.append((version, last))

    def close_group(self, group: str) -> None:
        """See Receiver."""
        self._call("close", group)

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _sglang_init_group() -> Any:
    """SGLang's `init_custom_process_group`, without importing the rest of SGLang."""
    file = importlib.metadata.distribution("sglang").locate_file("sglang/srt/utils/common.py")
    tree = ast.parse(Path(str(file)).read_text())
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "init_custom_process_group"]
    names: dict[str, Any] = {"torch_release": (2, 13)}
    exec(compile(ast.Module([function], []), "common.py", "exec"), names)
    return names["init_custom_process_group"]


def _engine(pipe: Any) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    init_group, groups = _sglang_init_group(), {}
    while True:
        try:
            kind, *args = pipe.recv()
        except EOFError:
            return
        result: Any = None
        if kind == "open":
            address, port, rank, world_size, name, backend = args
            groups[name] = init_group(
                backend=backend,
                init_method=f"tcp://{address}:{port}",
                world_size=world_size,
                rank=rank,
                group_name=name,
            )
        elif kind == "receive":
            names, dtypes, shapes, group = args
            tensors = [torch.empty(s, dtype=getattr(torch, d)) for s, d in zip(shapes, dtypes, strict=True)]
            for work in [dist.broadcast(t, src=0, group=groups[group], async_op=True) for t in tensors]:
                work.wait()
            result = [(name, tensor.float().numpy()) for name, tensor in zip(names, tensors, strict=True)]
        else:
            dist.destroy_process_group(groups.pop(args[0]))
        pipe.send((True, result))
