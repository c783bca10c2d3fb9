"""The options of the engines, read without importing them, are those of the imported dataclasses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlscale.config import passthrough
from rlscale.config.derived.derived_options import DERIVED
from rlscale.config.passthrough import KINDS, known_options

REAL_FIELDS = """
import dataclasses, importlib, json, sys
module, name = sys.argv[1:]
cls = getattr(importlib.import_module(module), name)
print(json.dumps([field.name for field in dataclasses.fields(cls)]))
"""


@pytest.mark.parametrize("kind", ["router"])
def test_options_are_the_fields_of_the_real_dataclass(kind: str) -> None:
    where = KINDS[kind]
    module = f"{where.package}.{where.file.removesuffix('.py').replace('/', '.')}"
    done = subprocess.run(
        [sys.executable, "-c", REAL_FIELDS, module, where.cls], capture_output=True, text=True, check=True
    )
    options = known_options(kind)
    assert options is not None
    assert list(options) == json.loads(done.stdout.splitlines()[-1])


def test_inherited_options_are_found_in_the_other_file() -> None:
    options = known_options("transformer")
    assert options is not None
    assert options["tensor_model_parallel_size"].types == ("int",)  # of ModelParallelConfig
    assert options["num_moe_experts"].types == ("int", "None")  # of TransformerConfig
    assert len(options) == 242  # megatron-core 0.16.1: as dataclasses.fields counts them


@pytest.mark.parametrize(
    ("kind", "name", "types"),
    [
        ("server", "mem_fraction_static", ("float", "None")),
        ("server", "schedule_policy", ("str",)),
        ("ddp", "bucket_size", ("int", "None")),
        ("optimizer", "lr", ("float", "None")),
        ("router", "policy", ("str",)),
        ("transformer", "activation_func", ()),
    ],
)
def test_plain_types_are_read_from_the_annotation(kind: str, name: str, types: tuple[str, ...]) -> None:
    options = known_options(kind)
    assert options is not None
    assert options[name].types == types


@pytest.mark.parametrize("kind", DERIVED)
def test_every_derived_option_exists_in_the_installed_package(kind: str) -> None:
    options = known_options(kind)
    assert options is not None
    assert set(DERIVED[kind]) - set(options) == set()


def test_options_are_kept_per_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget() -> None:
        monkeypatch.setattr(passthrough, "_KNOWN", {})

    forget()
    options = known_options("ddp", tmp_path)
    (file,) = tmp_path.iterdir()
    assert "megatron-core-0.16.1" in file.name
    file.write_text(json.dumps([{"name": "only", "types": ["int"], "default": "1", "meaning": ""}]))
    forget()
    again = known_options("ddp", tmp_path)
    assert again is not None
    assert list(again) == ["only"]
    file.write_text("{broken")
    forget()
    assert known_options("ddp", tmp_path) == options


def test_one_process_reads_them_once_whatever_the_folder(tmp_path: Path) -> None:
    assert known_options("ddp", tmp_path) is known_options("ddp", tmp_path / "other")


def test_a_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "_KNOWN", {})
    absent = passthrough.Kind("no-such-distribution", "nosuch", "x.py", "X")
    monkeypatch.setitem(passthrough.KINDS, "absent", absent)
    assert known_options("absent") is None


def test_reading_options_imports_none_of_the_packages() -> None:
    code = (
        "import sys; from rlscale.config.passthrough import KINDS, known_options\n"
        "assert all(known_options(kind) for kind in KINDS)\n"
        "print([name for name in ('torch', 'megatron', 'sglang', 'sglang_router') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
