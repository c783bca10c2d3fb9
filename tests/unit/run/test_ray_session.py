"""What is said where Ray cannot be started."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import ray
from ray._private import node

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import ClusterConfig
from rlscale.run.ray_session import _TOO_SLOW, RaySession


def raising(message: str, *_: object, **__: object) -> None:
    raise Exception(message)


def test_the_installed_ray_says_it_so() -> None:
    assert _TOO_SLOW in inspect.getsource(node)


def test_a_machine_that_is_too_busy_for_ray_is_told_from_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    said = "The current node timed out during startup. This could happen because some of the raylet failed to startup"
    monkeypatch.setattr(ray, "init", lambda **options: raising(said))
    with pytest.raises(UserError, match=r"Ray did not start within its 30 s: the machine is too busy \(load \d+ on"):
        RaySession(ClusterConfig(), tmp_path).__enter__()
    monkeypatch.setattr(ray, "init", lambda **options: raising("something else"))
    with pytest.raises(Exception, match="something else"):
        RaySession(ClusterConfig(), tmp_path).__enter__()
