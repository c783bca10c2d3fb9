"""The hooks and components of rlscale are a closed list, which is complete and holds nothing else."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.config.composition.compose import compose
from rlscale.config.foreign_code import refusal_of
from rlscale.config.own_targets import OWN_TARGETS
from rlscale.config.schema import SINGLE_TURN
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.component import component_nodes
from rlscale.config.target_key import TARGET
from rlscale.data.target import import_target
from rlscale.run.components import prepare_imports

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"_target_['\"]?\s*[:=]\s*['\"]?(rlscale\.[\w.]+)")
LISTED = [f"rlscale.{module}.{name}" for module, names in OWN_TARGETS.items() for name in names]
WRITTEN_IN = ("conf", "recipes", "docs", "examples", "README.md")
DANGEROUS = (
    "rlscale.envs.workers.processes.started",
    "rlscale.envs.sandbox.kernel.mount",
    "rlscale.envs.sandbox.kernel._libc.system",
    "rlscale.envs.sandbox.program.Sandbox",
    "rlscale.envs.sandbox.confine.main",
    "rlscale.trainer.megatron.roster.state_copy.put_copy",
    "rlscale.weights.delta.published.write_delta",
    "rlscale.weights.transports.flat_bucket.Rebuild",
    "rlscale.observe.jsonl.rewrite",
    "rlscale.observe.atomic.write_text",
    "rlscale.data.target.import_target",
    "rlscale.data.folders.model_folder.ensure_model_folder",
    "rlscale.run.processes.printing.print_anything",
    "rlscale.serve.process.GuardedProcess",
    "rlscale.cli.main",
    "rlscale.__main__.main",
    "rlscale.envs.environment.SingleTurn.step",
    "rlscale.envs.rewards.code_tests._run",
    "rlscale.envs.rewards",
    "rlscale",
)


def written() -> set[str]:
    """Every `_target_` into rlscale of the shipped groups and recipes, of the documentation and the examples."""
    found = set()
    for place in WRITTEN_IN:
        files = [ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*.*")
        for file in files:
            if file.suffix in (".yaml", ".md", ".py", ".sh", ".ipynb"):
                found.update(name.rstrip(".") for name in NAMED.findall(file.read_text(encoding="utf-8")))
    return found


def test_every_target_that_is_shipped_documented_or_a_default_may_be_named() -> None:
    config = compose()
    defaults = {shipped for _, _, shipped in component_nodes(config)} | {SINGLE_TURN}
    trackers = {node[TARGET] for node in config.tracker.known.values()}
    named = written() | defaults | trackers
    assert len(named) > 40
    assert {target: why for target in named if (why := refusal_of(target)) is not None} == {}


@pytest.mark.parametrize("target", LISTED)
def test_what_is_listed_is_a_class_or_function_of_the_module_that_names_it(target: str) -> None:
    prepare_imports(Device.cpu)
    module, _, name = target.rpartition(".")
    found = getattr(import_module(module), name)
    assert inspect.isclass(found) or inspect.isfunction(found)
    assert found.__module__ == module
    assert not name.startswith("_")
    assert import_target(target, target) is found


@pytest.mark.parametrize("target", DANGEROUS)
def test_nothing_else_of_rlscale_may_be_named(target: str) -> None:
    assert refusal_of(target) is not None


def test_a_function_of_rlscale_that_is_no_hook_is_not_called_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.yaml").write_text(
        "defaults: [arithmetic, _self_]\n"
        "buffer: {_target_: rlscale.envs.workers.processes.started, module: writes_a_file}\n"
    )
    (tmp_path / "writes_a_file.py").write_text("open('ran', 'w').close()\n")
    assert main(["check", "recipe=./stranger.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: buffer._target_=rlscale.envs.workers.processes.started: this part of rlscale has no hooks; see "
        "docs/hooks.md and docs/components.md\n"
    )
    assert not (tmp_path / "ran").exists()


def test_a_slip_in_the_name_of_a_hook_says_which_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "reward.function._target_=rlscale.envs.rewards.exact.ExactAnwser"]) == 2
    assert "did you mean ExactAnswer?" in capsys.readouterr().err
