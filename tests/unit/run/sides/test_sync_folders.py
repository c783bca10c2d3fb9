"""Where weights lie on their way to engines, and that nothing of them stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.sides.sync_folders import SyncFolders
from tests.unit.families.folders import TINY

NOBODY: Any = None


@pytest.fixture
def syncs(tmp_path: Path) -> SyncFolders:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(TINY["qwen3"]))
    return SyncFolders(tmp_path / "run")


def test_each_fleet_has_a_folder_of_its_own_which_goes_at_the_end(syncs: SyncFolders, tmp_path: Path) -> None:
    folders = [syncs.sync(compose(), *3 * [NOBODY], tmp_path / "model").folder for _ in range(2)]
    assert len(set(folders)) == 2
    for folder in folders:
        folder.mkdir(parents=True)
    syncs.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_of_a_folder_that_the_user_names_only_what_this_run_put_there_goes(syncs: SyncFolders, tmp_path: Path) -> None:
    named = tmp_path / "shared"
    named.mkdir()
    (named / "another's").touch()
    config = compose(None, ["weights/transport=delta", f"weights.transport.folder={named}"])
    syncs.sync(config, *3 * [NOBODY], tmp_path / "model")
    (exchange,) = syncs._exchanges
    assert exchange.parent == named
    exchange.mkdir()
    (exchange / "tensors").touch()
    syncs.close()
    assert [path.name for path in named.iterdir()] == ["another's"]
