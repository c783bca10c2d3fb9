"""What tests of transports share: a process group of one rank, and buckets of several types."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from rlscale.weights.bucket import Bucket


@pytest.fixture
def rank() -> Iterator[None]:
    """This process as the only rank of a trainer."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def buckets(version: int = 4, seed: int = 0) -> list[Bucket]:
    """Four tensors of two types in two buckets."""
    random = torch.Generator().manual_seed(seed)
    a, c, d = (torch.randn(*shape, generator=random) for shape in ((3, 5), (2, 2), (100,)))
    b = torch.randn(7, generator=random).to(torch.bfloat16)
    return [Bucket([("a", a), ("b", b), ("c", c)], version), Bucket([("d", d)], version)]


def tensors(of: list[Bucket]) -> dict[str, torch.Tensor]:
    """All tensors of some buckets by name."""
    return {name: tensor for bucket in of for name, tensor in bucket.named}
