"""A wheel installed outside the clone finds conf/ and recipes/."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

ASK = """
import rlscale.config.composition.locations as places
from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
config = compose(None, ["algo/kl=loss"])
check(config)
print(places.__file__, places.conf_dir(), places.recipes_dir(), config.algo.kl.placement.name, sep="\\n")
"""


def test_an_installed_wheel_composes_outside_the_clone(tmp_path: Path) -> None:
    wheels, target, elsewhere = tmp_path / "wheels", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = wheels.glob("rlscale-*.whl")
    packed = zipfile.ZipFile(wheel)
    names = packed.namelist()
    assert "rlscale/_assets/conf/algo/loss/clip.yaml" in names
    assert "rlscale/_assets/recipes/arithmetic.yaml" in names
    assert "rlscale/_assets/requirements.lock" in names
    assert {"rlscale/dashboard/page/main.js", "rlscale/run/dry_run/job.sbatch.template"} <= set(names)
    library = {"rlscale/dashboard/vendor/uPlot.iife.min.js", "rlscale/dashboard/vendor/uPlot.LICENSE"}
    assert library <= set(names), "a library travels with its licence"
    assert "rlscale/cli.py" in names
    assert not [name for name in names if name.startswith("tests/")]

    assert not [name for name in names if ".data/" in name], "installing is unpacking, and nothing else"
    packed.extractall(target)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
    )
    file, conf, recipes, placement = done.stdout.splitlines()
    assert file.startswith(str(target))
    assert (conf, recipes) == (f"{target}/rlscale/_assets/conf", f"{target}/rlscale/_assets/recipes")
    assert placement == "loss"
    assert [path.name for path in elsewhere.iterdir()] in ([], [".rlscale"])  # what can be made again


def test_the_lock_has_what_the_package_its_tests_and_its_commit_hooks_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    pins = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    makefile = (ROOT / "Makefile").read_text()
    pinned["torch"] = makefile.partition("TORCH := ")[2].split()[0]
    assert [need.name for need in asked if canonicalize_name(need.name) not in pinned] == []
    assert [str(need) for need in asked if pinned[canonicalize_name(need.name)] not in need.specifier] == []
