"""What a machine tells of itself: plain data, gathered on the machine in a second or two, judged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Folder:
    """A folder that a run writes to, or the nearest one above it that is there."""

    path: str
    writable: bool
    free_bytes: float


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver shows it."""

    name: str
    total_bytes: float
    """NaN where the driver does not say."""
    used_bytes: float
    """By whoever uses it now; NaN as well."""


@dataclass(frozen=True)
class Listening:
    """What servers of a run find."""

    host: str
    """Where they listen (`cluster.host`)."""
    can_bind: bool
    free_of_20: int
    """Of twenty ports that a run may draw, how many are free."""
    outgoing_from: int
    """First of the ports that the system gives to outgoing connections."""


@dataclass(frozen=True)
class Facts:
    """One machine."""

    name: str
    python: str
    packages: Mapping[str, str | None]
    """Of the lock's packages, and of those that are used where they are, the version that is installed."""
    cores: int
    memory_bytes: float
    """Of the host, or of the container or job that bounds this process."""
    available_bytes: float
    shared_bytes: float
    """Free in /dev/shm."""
    gpus: tuple[Gpu, ...]
    """Those that this process may use."""
    driver: str
    """Version of the GPUs' driver, "" without one."""
    folders: Mapping[str, Folder]
    """By the key that names it."""
    open_files: int
    """Files that a process may have open."""
    open_files_most: int
    """What it may raise that to."""
    listening: Listening
    unreadable: tuple[str, ...]
    """key=path of files and folders that the run reads and this machine does not."""
    to_download: tuple[str, ...]
    """key=name of models on the hub that are not in this machine's cache."""
    offline: bool
    """Whether Hugging Face's libraries are told not to download."""
    hub_cache: Folder
    variables: Mapping[str, str]
    """Of the environment, those that change how a run's parts behave."""
    clock_offset_s: float = 0.0
    """How much later it is there than here."""
    clock_error_s: float = 0.0
    """How exactly that is known."""
    open_ray: bool | None = False
    """Whether the Ray that it is a machine of asks nobody for a token; None where that could not be found out."""


@dataclass(frozen=True)
class Link:
    """Data sent from one machine to another."""

    sender: str
    receiver: str
    backend: str
    bytes_per_s: float | None
    """None where nothing came."""
    why: str = ""
    """Why not."""
