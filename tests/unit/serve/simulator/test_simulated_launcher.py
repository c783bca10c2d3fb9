"""A launcher of simulated engines; what it starts is tried in tests/unit/run/contracts/test_launcher_contract.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.serve.engine_launcher import EngineSite
from rlscale.serve.engine_process import EngineProcesses
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.simulator.simulated_launcher import SimulatedLauncher


@pytest.mark.parametrize("name", ["median", "decode_s", "slots"])
def test_a_number_that_is_not_above_zero_is_refused_by_its_key(tmp_path: Path, name: str) -> None:
    site = EngineSite(tmp_path / "log", tmp_path, "key", EngineProcesses(tmp_path, "key", None))
    with pytest.raises(UserError, match=rf"rollout\.engine\.{name}=0: must be above 0"):
        SimulatedLauncher(ServerSpec("engine", "model", Device.cpu), site, **{name: 0})
