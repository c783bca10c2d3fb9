"""The device that a process computes on, and the few calls that differ between CPU and CUDA."""

from __future__ import annotations

import ctypes
import resource
from dataclasses import dataclass

import psutil
import torch

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device

_SPARE_SHARE = 0.25
"""Share of the host's memory that is to be left for other processes (engines, above all)."""
_ALL_ARENAS = b"arena.4096.purge"
"""jemalloc's control for it: its MALLCTL_ARENAS_ALL is 4096."""


def host_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory; pinned if the tensor is on a GPU, for copies at the bus's full speed.

    torch rounds each piece of pinned memory up to a power of two, and keeps what is freed for later ones.
    """
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor)


@dataclass(frozen=True)
class Platform:
    """One process's device. Build it with `Platform.of`."""

    device: torch.device
    """Where tensors live."""
    backend: str
    """Backend of torch.distributed: gloo or nccl."""

    @staticmethod
    def of(device: Device, local_rank: int = 0) -> Platform:
        """The platform of a process; `local_rank` counts the processes of one machine and picks the GPU.

        Raises UserError when CUDA is asked for and this machine has no such GPU: two processes never share one.
        """
        if device is Device.cpu:
            return Platform(torch.device("cpu"), "gloo")
        if not torch.cuda.is_available():
            raise UserError("cluster.device=cuda, but torch sees no GPU here; use cluster=local_cpu or fix the driver")
        shown = torch.cuda.device_count()
        if local_rank >= shown:
            raise UserError(
                f"GPU {local_rank} (counted from 0) is needed here, but torch sees {shown}: ask for fewer GPUs of this "
                "machine in cluster.*, or show it more (CUDA_VISIBLE_DEVICES)"
            )
        torch.cuda.set_device(local_rank)
        return Platform(torch.device("cuda", local_rank), "nccl")

    @staticmethod
    def to_look(device: Device) -> Platform:
        """The platform of a process that only imports and looks: the CPU where this machine has no such device."""
        return Platform.of(device if torch.cuda.is_available() else Device.cpu)

    @property
    def is_cuda(self) -> bool:
        """Whether tensors live on a GPU."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait until the device has done what it was given (nothing to wait for on the CPU)."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def empty_cache(self) -> None:
        """Give memory that is kept for later back: torch's to the GPU, on the CPU the allocator's to the system."""
        if self.is_cuda:
            torch.cuda.empty_cache()
            return
        library = ctypes.CDLL(None)
        if purge := getattr(library, "mallctl", None):  # jemalloc, in the place of the C library's
            purge(_ALL_ARENAS, None, None, None, ctypes.c_size_t(0))
        if trim := getattr(library, "malloc_trim", None):  # glibc; other C libraries have none, and keep little
            trim(0)

    def settle_host(self) -> None:
        """On the CPU, let go of freed memory after what takes much of it and does not come with each step, as a save.

        Else jemalloc leaves it in pieces, of which it puts the small ones together only when it gives them back; the
        next steps take some of these, the next save finds too few that are large, and takes new memory.
        """
        if not self.is_cuda:
            self.empty_cache()

    def spare_host(self) -> None:
        """On the CPU, give memory back as `empty_cache` does when the machine has little left for other processes.

        Taking it again costs page faults in the next step, so it is kept as long as nobody needs it.
        """
        if not self.is_cuda:
            memory = psutil.virtual_memory()
            if memory.available < _SPARE_SHARE * memory.total:
                self.empty_cache()

    def memory_peak_bytes(self) -> int:
        """Most memory used so far: of the GPU by tensors, on the CPU by the whole process."""
        if self.is_cuda:
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def install_megatron(self) -> None:
        """Prepare the import of Megatron-core; must come before it."""
        from rlscale.platform import megatron_cpu, megatron_fixups

        if self.is_cuda:
            megatron_fixups.install()
        else:
            megatron_cpu.install()
