"""A part of `make fuzz`: mutated command lines and files, planted code, malformed HTTP requests to every endpoint."""

from __future__ import annotations

import asyncio
import pickle
import random
from pathlib import Path

import jinja2
import pytest
import yaml

from tests.battery.__main__ import attempts, told
from tests.battery.attempt import GOOD
from tests.battery.case import Case, load
from tests.battery.http_requests import BYTES, SERVERS
from tests.battery.mutations import mutated
from tests.battery.planted import OF_MODEL, RAN, plant, planted

SEED = 3


def test_the_same_seed_gives_the_same_cases_and_another_gives_others() -> None:
    cases = load()
    one, again, other = (list(mutated(cases, 50, seed)) for seed in (SEED, SEED, SEED + 1))
    assert one == again
    assert [case.argv for case in one] != [case.argv for case in other]


def test_whatever_is_typed_or_lies_there_is_answered_in_lines(tmp_path: Path) -> None:
    quick = [case for case in load() if not case.stock]  # making good folders to damage takes longer than all of these
    wrong = [told(one) for one in attempts([*mutated(quick, 4, SEED)], tmp_path) if one.outcome not in GOOD]
    assert not wrong, "\n".join(wrong)


def test_code_that_is_planted_in_files_of_a_run_is_not_run(tmp_path: Path) -> None:
    cases = [case for case in planted() if case.stock == ["run"]]
    read_by_torch = [case for case in cases if case.name.endswith("trainer/.metadata: checkpoint compare run run")]
    torchscript = [case for case in cases if "torchscript" in case.surface and "weights checksum" in case.name]
    named = [case for case in cases if case.name.endswith("trainer/further: checkpoint verify run")]
    assert (len(read_by_torch), len(torchscript), len(named)) == (4, 2, 2)
    chosen = [*read_by_torch, *torchscript, *named, *random.Random(SEED).sample(cases, 3)]
    wrong = [told(one) for one in attempts(chosen, tmp_path) if one.outcome not in GOOD]
    assert not wrong, "\n".join(wrong)


def test_code_that_is_planted_in_files_of_a_model_is_not_run_by_a_check_that_comes_to_it(tmp_path: Path) -> None:
    checks = [case for case in planted() if case.surface == "planted code: model" and case.argv[0] == "check"]
    assert len(checks) == len(OF_MODEL)
    good = " ".join(checks[0].argv)
    control = Case(surface="control", name=good, argv=good.split(), base=[], names=None, stock=["model"])
    wrong = [told(one) for one in attempts([control, *checks], tmp_path) if one.outcome not in GOOD]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [*OF_MODEL, "run/recipe.yaml"])
def test_what_is_planted_runs_where_it_is_read_carelessly(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path, {name: "code"})
    content = (tmp_path / name).read_bytes()
    match Path(name).suffix:
        case ".yaml":
            yaml.unsafe_load(content)
        case ".jinja":
            jinja2.Template(content.decode()).render()
        case ".py":
            exec(content.decode(), {})
        case _:
            pickle.loads(content)
    assert (tmp_path / RAN).exists()


@pytest.mark.parametrize("name", SERVERS)
def test_a_malformed_request_is_refused_by_its_status_and_leaves_nothing_behind(name: str) -> None:
    answered = asyncio.run(SERVERS[name](60, SEED))
    assert [one for one in answered if not one.good] == []
    refused = sum(one.status is not None and one.status >= 400 for one in answered)
    assert refused > len(BYTES)
