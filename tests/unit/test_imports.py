"""Arrows between the packages of rlscale point one way, and each package uses its own libraries only."""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rlscale"


@dataclass(frozen=True)
class Allowed:
    """What a package may import besides the standard library."""

    libraries: frozenset[str]
    packages: frozenset[str]


def allow(libraries: str = "", packages: str = "") -> Allowed:
    return Allowed(frozenset(libraries.split()), frozenset(packages.split()))


EVERY_PACKAGE = "families config plan algo platform doctor data weights envs serve rollout trainer observe"

# The columns of samples and batches are NumPy arrays, so the packages that hand them on import numpy; tokenizers,
# huggingface_hub and jinja2 come with transformers, pyarrow with datasets, mbridge with the mapping onto megatron, yaml
# with omegaconf.
PACKAGES = {
    "families": allow(),
    "config": allow("omegaconf hydra yaml", "families"),
    "plan": allow("", "families config"),
    "explain": allow("omegaconf yaml", "config"),
    "algo": allow("torch numpy"),
    "platform": allow("torch xxhash", "families config"),
    "doctor": allow("psutil", "families config plan platform"),
    "data": allow("numpy torch datasets pyarrow transformers tokenizers huggingface_hub jinja2", "families config"),
    "weights": allow("numpy torch safetensors megatron mbridge zstandard", "families config platform"),
    "envs": allow(
        "numpy torch math_verify sympy jsonschema referencing aiohttp pint reasoning_gym Gym textarena"
        " if_verifiable langdetect bm25s",
        "config platform data",
    ),
    "serve": allow("aiohttp psutil", "families config platform weights"),
    "rollout": allow("numpy aiohttp", "families config data envs"),
    "trainer": allow("numpy torch megatron transformer_engine xxhash", "families config platform algo data weights"),
    "observe": allow("rich wandb tensorboard mlflow prometheus_client", "config data"),
    "dashboard": allow("numpy aiohttp", "config data observe"),
    "run": allow("numpy psutil ray hydra", EVERY_PACKAGE),
    "cli": allow("", "config run"),
    "__main__": allow("", "cli"),
}

SINGLE_FILES = {
    # The program of an SGLang server and of a router, which run in processes of their own.
    "serve/engine_main.py": {"sglang", "torch"},
    "serve/router_main.py": {"sglang_router"},
    # Names by which `ps` shows what was forked.
    "serve/fork_server_main.py": {"setproctitle"},
    # Stand-ins for modules that are missing on the CPU must be in place before transformers looks for the real ones.
    "platform/sglang_quantised.py": {"sglang"},
    "platform/sglang_bitwise.py": {"sglang"},
    "platform/sglang_stubs.py": {"transformers"},
    # Whether the process that left a shared-memory file behind is still alive.
    "weights/transports/flat_bucket.py": {"psutil"},
    # The state in a checkpoint is written with the one, and holds times that the other read from Parquet.
    "rollout/state_encoding.py": {"msgpack", "pandas"},
    # Every record of a finished group has its checksum.
    "rollout/group_records.py": {"xxhash"},
    # How much of the host's memory is left for other processes.
    "platform/device.py": {"psutil"},
    # How fast machines reach each other, by the libraries that weights are sent with.
    "doctor/bandwidth.py": {"torch"},
    # Tokens of an engine without a model.
    "serve/simulator/engine_answers.py": {"numpy"},
    "serve/simulator/engine_request.py": {"numpy"},
    "serve/simulator/prefix_cache.py": {"numpy"},
    "serve/simulator/token_entries.py": {"numpy"},
    "serve/simulator/token_stream.py": {"numpy"},
    # Names by which `ps` shows actors; threads of a trainer rank, set in its own process before anything else.
    "run/processes/actor.py": {"setproctitle"},
    "run/processes/actors.py": {"torch"},
}
"""Packages that one file needs and the rest of its package does not, and why."""

ORDERS = {
    "trainer/megatron": ("ranks", "batch", "model", "steps", "disk", "roster"),
    "run": ("processes", "disk", "sides", "sessions"),
    "config": (
        *("target_key", "schema", "errors", "shown", "own_files", "nearest", "keys", "hf_architecture"),
        *("environment_values", "own_targets", "foreign_code"),
        *("named_code", "optim_groups", "passthrough", "derived", "composition", "checks"),
    ),
    "data": ("sample", "prompts", "tokens", "folders", "stored", "batches"),
}
"""Parts of packages, each of which imports from those before it only; what is not named may import them all, and is
imported by none of them. See docs/architecture.md."""

FILES = sorted(
    str(file.relative_to(PACKAGE))
    for file in PACKAGE.rglob("*.py")
    if file.name != "__init__.py" or file.parent != PACKAGE
)


@functools.cache
def imported(file: str) -> tuple[str, ...]:
    """Dotted names that a file imports anywhere in it, inside functions and for type checking too."""
    return tuple(imports_of((PACKAGE / file).read_text(encoding="utf-8"), file))


def imports_of(source: str, file: str) -> Iterator[str]:
    """Modules, and what is taken from a package as a name of its own (`rlscale.algo.kl` of `from rlscale.algo`)."""
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import hides which package it reaches into"
            assert node.module is not None
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else node.module for name in inner)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements inside a node, those of blocks included. Imports are never inside of expressions."""
    for block in _BLOCKS:
        for inner in getattr(node, block, ()):
            yield inner
            yield from statements(inner)


_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")


@functools.cache
def is_module(name: str) -> bool:
    """Whether a dotted name is a file or a package of rlscale."""
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def module_name(file: str) -> str:
    return ".".join(("rlscale", *Path(file).with_suffix("").parts)).removesuffix(".__init__")


def circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; none without one."""
    try:
        TopologicalSorter({name: set(others) & set(imports) for name, others in imports.items()}).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def name_of_package(file: str) -> str:
    first = file.split("/")[0]
    return first.removesuffix(".py")


def test_every_package_is_in_the_table() -> None:
    assert {name_of_package(file) for file in FILES} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_table(package: str) -> None:
    own = [file for file in FILES if name_of_package(file) == package]
    assert own
    assert [line for file in own for line in refused(file, package)] == []


def refused(file: str, own: str) -> Iterator[str]:
    """A line for each import of a file that the table does not allow its package."""
    allowed = PACKAGES[own]
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top == "rlscale":
            other = rest.split(".")[0]
            if other in PACKAGES and other != own and other not in allowed.packages:
                yield f"{file}: {own} may not import {name}"
        elif top not in sys.stdlib_module_names and top not in allowed.libraries | SINGLE_FILES.get(file, set()):
            yield f"{file}: {own} may not import {name}"


def test_arrows_point_down() -> None:
    order = list(PACKAGES)
    for name, allowed in PACKAGES.items():
        reached = allowed.packages - {"cli"} if name == "__main__" else allowed.packages
        assert all(order.index(other) < order.index(name) for other in reached), name


def test_single_files_are_still_needed() -> None:
    for file, libraries in SINGLE_FILES.items():
        assert libraries <= {name.split(".")[0] for name in imported(file)}, file


@pytest.mark.parametrize("package", ORDERS)
def test_parts_of_a_package_import_downwards(package: str) -> None:
    order, prefix = ORDERS[package], f"rlscale.{package.replace('/', '.')}."
    for part in order:
        files = [file for file in FILES if file.startswith(f"{package}/{part}/") or file == f"{package}/{part}.py"]
        assert files, f"{package} has no {part}"
        for file in files:
            reached = {name.removeprefix(prefix).split(".")[0] for name in imported(file) if name.startswith(prefix)}
            upwards = reached - set(order[: order.index(part) + 1])
            assert not upwards, f"{file} imports upwards: {upwards}"


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checking count too: who needs whom is then one order over all files."""
    found = circle({module_name(file): set(imported(file)) for file in FILES})
    assert not found, f"imports run in a circle: {' -> '.join(found)}"


def test_a_circle_is_found_wherever_the_import_stands() -> None:
    local = "def f():\n    from rlscale.algo.kl import kl\n"
    typed = "if TYPE_CHECKING:\n    from rlscale.algo import critic\n"
    sources = {"rlscale.algo.critic": local, "rlscale.algo.kl": typed, "rlscale.algo.losses": "import torch"}
    found = circle({name: set(imports_of(source, name)) for name, source in sources.items()})
    assert set(found) == {"rlscale.algo.critic", "rlscale.algo.kl"}


def test_no_two_files_have_the_same_name() -> None:
    """A name in a traceback or in an editor's tab says then which file it is."""
    names = Counter(Path(file).name for file in FILES if Path(file).name not in ("__init__.py", "__main__.py"))
    assert [name for name, times in names.items() if times > 1] == []
