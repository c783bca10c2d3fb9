"""Components of one's own are refused before a run where the run could not call them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.run.components import check_components, look_at

OWN = """
from rlscale.data.buffer import Buffer
from rlscale.rollout.service import RolloutService
from rlscale.serve.engine_launcher import SglangLauncher
from rlscale.trainer.trainer_protocol import Trainer


class Raises(Buffer):
    def __init__(self):
        raise RuntimeError("the disk is full")


class Deaf(Buffer):
    put = None


class Touches:
    def __init__(self):
        open("built", "w").close()


class Awaited(Buffer):
    async def put(self, group):
        super().put(group)


class Narrow(Buffer):
    def take(self, n):
        return []


class Delegates:
    dropped = 0

    def __init__(self):
        self._inner = Buffer()

    def __len__(self):
        return len(self._inner)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def made():
    return Buffer()


def not_made(size=1):
    return size


class Launcher(SglangLauncher):
    def __init__(self, spec, site, slow=False):
        super().__init__(spec, site)


class LauncherOfNothing:
    def __init__(self, spec):
        pass


async def waits(group):
    return True


class Waits:
    async def __call__(self, group):
        return True


class Undrained(RolloutService):
    drain = None


class OnceWritten:
    def __init__(self, spec, rank, world_size, local_rank):
        pass


for name, method in vars(Trainer).items():
    if not name.startswith("_"):
        setattr(OnceWritten, name, method)


class Log:
    def __init__(self, run):
        pass

    async def log(self, iteration, metrics):
        pass

    def close(self):
        pass
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_components.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_components", None)


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"own_components.{name}", **arguments}


@pytest.mark.parametrize(
    ("key", "name", "line"),
    [
        ("buffer", "Raises", "cannot be built: RuntimeError.'the disk is full'"),
        ("buffer", "Deaf", "put is missing"),
        ("buffer", "Awaited", "put is `async def`, and is called without await; write it as `def`"),
        ("buffer", "Narrow", "take has the parameters .*too many positional arguments"),
        ("buffer", "not_made", "__len__ is missing; put is missing"),
        ("rollout.engine", "LauncherOfNothing", "it is given spec, site.*: too many positional arguments"),
        ("weights.transport", "Log", "connect is missing; send is missing; commit is missing"),
        ("rollout.filter", "waits", "is `async def`, and is called without await"),
        ("rollout.filter", "Waits", "is `async def`, and is called without await"),
        ("loop", "waits", "is `async def`, and is called without await"),
        ("tracker.known.mine", "Log", "log is `async def`"),
    ],
)
def test_what_a_run_could_not_call_is_one_line_with_its_key(key: str, name: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        look_at(key, node(name))
    (text,) = str(refused.value).splitlines()
    assert text.startswith(f"{key}: own_components.{name} ")
    assert re.search(line, text)


def test_a_class_that_lacks_a_method_is_not_built_to_find_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^buffer: own_components\.Touches does not follow .*put is missing"):
        look_at("buffer", node("Touches"))
    assert not (tmp_path / "built").exists()


def test_a_factory_a_delegating_class_and_a_subclass_are_taken() -> None:
    for key, name in (("buffer", "made"), ("buffer", "Delegates"), ("rollout.engine", "Launcher")):
        look_at(key, node(name))


def test_a_service_that_drains_no_engine_is_refused_only_where_engines_take_weights_in_turns() -> None:
    own = ["rollout._target_=own_components.Undrained", "rollout.engines=2"]
    assert check_components(compose(None, own)) == ["rollout: own_components.Undrained"]
    with pytest.raises(UserError, match=r"rollout: own_components\.Undrained .*drain is missing"):
        check_components(compose(None, [*own, "weights.max_engines_at_once=1"]))


def test_a_trainer_that_cannot_copy_its_state_is_refused_only_where_copies_are_asked_for() -> None:
    own = ["trainer._target_=own_components.OnceWritten", "parallel.data=2"]
    assert check_components(compose(None, own)) == ["trainer: own_components.OnceWritten"]
    missing = r"trainer: own_components\.OnceWritten .*CopiesState: state_key is missing; copy_state"
    with pytest.raises(UserError, match=missing):
        check_components(compose(None, [*own, "checkpoint.in_memory=true"]))


def test_the_components_of_a_run_on_gpus_are_looked_at_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    own = ["buffer._target_=own_components.made", "cluster=node8", "model=qwen3_30b", "parallel=moe_8gpu"]
    assert check_components(compose(None, own)) == ["buffer: own_components.made"]
