"""How fast data gets from one machine to another, by the libraries that a run sends its weights with."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from rlscale.platform.rendezvous import store_at

GLOO, NCCL = "gloo", "nccl"
_BYTES = 64 << 20
_TIMES = 3


def exchange(rank: int, address: str, port: int, backend: str, limit_s: float = 30.0) -> float:
    """Bytes per second from rank 0 to rank 1, which both call this at the same time; `address`, `port`: rank 0's.

    RuntimeError where they do not meet, or nothing comes, within the limit; OSError where rank 0 cannot listen there.
    """
    limit = timedelta(seconds=limit_s)
    store = store_at(address, port, rank, 2, limit)
    device = torch.device("cuda", 0) if backend == NCCL else torch.device("cpu")
    group = _group(backend, store, rank, limit)
    tensor = torch.zeros(_BYTES, dtype=torch.uint8, device=device)
    _pass(group, 0, tensor)  # the first opens the connections
    began = time.perf_counter()
    for _ in range(_TIMES):
        _pass(group, 0, tensor)
    # The receiver's word, so that what the sender's buffers took is not counted as sent.
    _pass(group, 1, tensor[:1])
    return _TIMES * _BYTES / (time.perf_counter() - began)


def _group(backend: str, store: distributed.Store, rank: int, limit: timedelta) -> Any:
    """A group of two that is nobody else's: torch's own default group stays free."""
    if backend == NCCL:
        if not distributed.is_nccl_available():
            raise RuntimeError("this torch has no NCCL")
        options = distributed.ProcessGroupNCCL.Options()
        options._timeout = limit
        return distributed.ProcessGroupNCCL(store, rank, 2, options)
    return distributed.ProcessGroupGloo(store, rank, 2, limit)


def _pass(group: Any, sender: int, tensor: torch.Tensor) -> None:
    """Send from the rank `sender` to the other."""
    rank = group.rank()
    work = group.send([tensor], 1 - rank, 0) if rank == sender else group.recv([tensor], sender, 0)
    work.wait()
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
