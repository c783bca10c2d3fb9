"""Fixtures of the tests on several gloo ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the pool's processes import these modules by their names

from rank_pool import RankPool
from tiny_models import make_model


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    """Two ranks for the whole run."""
    ranks = RankPool(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models by kind: dense, tied, moe, and deep (dense, of four layers); a critic of each (`critic_dense`, ...),
    and other weights of two of them (`other_dense`, `other_moe`).
    """
    folder = tmp_path_factory.mktemp("models")
    sizes: dict[str, dict[str, int]] = {"dense": {}, "tied": {}, "moe": {}, "deep": {"num_hidden_layers": 4}}
    made = {}
    for kind, own in sizes.items():
        made[kind] = make_model(folder / kind, kind, **own)
        made[f"critic_{kind}"] = make_model(folder / f"critic_{kind}", kind, critic=True, seed=1, **own)
    return made | {f"other_{kind}": make_model(folder / f"other_{kind}", kind, seed=2) for kind in ("dense", "moe")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        gpu = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
