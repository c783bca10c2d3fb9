"""How large Ray's object store is, in which copies of the trainer's state lie."""

from __future__ import annotations

from rlscale.config.schema.cluster_config import ClusterConfig

_WITHOUT_GPUS = 1 << 30
_RAYS_SHARE, _RAYS_MOST = 0.3, 200e9
"""What Ray takes by itself: of a machine's memory, and at most."""


def given_store_bytes(cluster: ClusterConfig) -> int | None:
    """Bytes that a run gives it; None where Ray decides."""
    return _WITHOUT_GPUS if cluster.gpus_per_node == 0 else None


def store_bytes(cluster: ClusterConfig, memory_bytes: float) -> float:
    """Bytes of it on a machine with so much memory, if /dev/shm has the room."""
    return given_store_bytes(cluster) or min(_RAYS_SHARE * memory_bytes, _RAYS_MOST)
