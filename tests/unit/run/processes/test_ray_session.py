"""What is said where Ray cannot be started."""

from __future__ import annotations

import inspect
import os
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import node

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import ClusterConfig
from rlscale.run.processes import ray_session
from rlscale.run.processes.ray_session import _TOO_SLOW, RaySession


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


def test_nobody_else_can_enter_rays_folder_or_read_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray opens its own folder to everybody (`chmod 0777`), whatever it was before."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")
    rays: list[Path] = []

    def init(_temp_dir: str, **_: object) -> None:
        Path(_temp_dir).mkdir()
        Path(_temp_dir).chmod(0o777)
        rays.append(Path(_temp_dir))
        raise Exception("far enough")

    monkeypatch.setattr(ray, "init", init)
    for scratch in (tmp_path / "short", tmp_path / ("long" * 30)):
        with pytest.raises(Exception, match="far enough"):
            RaySession(ClusterConfig(), scratch).__enter__()
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        (entered,) = (scratch / "ray").iterdir()
        assert stat.S_IMODE(entered.stat().st_mode) == 0o700
        assert entered.resolve() in rays[-1].resolve().parents
        assert (token.resolve().parent, stat.S_IMODE(token.stat().st_mode)) == (entered.resolve(), 0o600)


def test_no_ray_is_used_whose_token_is_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(UserError, match="RAY_AUTH_MODE=disabled: without its token Ray runs what anybody sends"):
        RaySession(ClusterConfig(ray_address="127.0.0.1:1"), tmp_path).__enter__()
    with pytest.raises(UserError, match="RAY_AUTH_MODE=disabled"):
        RaySession(ClusterConfig(), tmp_path).__enter__()


def test_of_the_commands_processes_only_rays_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")
    continued: list[dict[int, str]] = []
    waker = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(ray_session, "RayWaker", lambda processes: continued.append(processes) or waker)
    with ExitStack() as stack:

        def sleeping(**_: object) -> int:
            process = stack.enter_context(subprocess.Popen(["sleep", "30"]))
            stack.callback(process.kill)
            return process.pid

        of_ray: list[int] = []
        sleeping()  # a fork server, say
        monkeypatch.setattr(ray, "init", lambda **_: of_ray.append(sleeping()))
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr(ray_session, "watch_raylet", lambda: SimpleNamespace(process=of_ray[0]))
        with RaySession(ClusterConfig(), tmp_path):
            assert [sorted(one) for one in continued] == [of_ray]
