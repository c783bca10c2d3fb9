"""An evaluation on what is trained on is refused, or said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.data.configured_source import build_source
from rlscale.run.held_out import compare


def rows(folder: Path, name: str, numbers: range) -> Path:
    file = folder / name
    file.write_text("".join(json.dumps({"prompt": f"{n}+1=", "label": str(n + 1)}) + "\n" for n in numbers))
    return file


def notes(*overrides: str) -> list[str]:
    config = compose(None, list(overrides))
    assert config.eval.data is not None
    return compare(
        config, {"data": build_source(config.data), "eval.data": build_source(config.eval.data, "eval.data")}
    )


def files(train: str, held: str) -> list[str]:
    return ["data=jsonl", f"data.path={train}", "data@eval.data=jsonl", f"eval.data.path={held}"]


def test_the_default_recipe_holds_its_problems_out_of_every_stage() -> None:
    assert notes() == []


@pytest.mark.parametrize(("train", "held", "shared"), [("", "", 100), ("", "@:20", 20), ("@:60", "@40:", 20)])
def test_the_same_rows_for_both_are_refused(tmp_path: Path, train: str, held: str, shared: int) -> None:
    file = rows(tmp_path, "rows.jsonl", range(100))
    with pytest.raises(UserError, match=rf"^data: {shared} of the rows taken of {file} are eval.data's too; take"):
        notes("warm_start=null", *files(f"{file}{train}", f"{file}{held}"))
    wanted = notes("warm_start=null", "eval.allow_overlap=true", *files(f"{file}{train}", f"{file}{held}"))
    assert len(wanted) == 1
    assert wanted[0].endswith("prompts of eval.data are in data too")


def test_slices_that_do_not_meet_are_fine(tmp_path: Path) -> None:
    file = rows(tmp_path, "rows.jsonl", range(100))
    assert notes("warm_start=null", *files(f"{file}@:60", f"{file}@60:")) == []


def test_a_copy_of_the_training_data_is_refused_and_a_part_of_it_is_said(tmp_path: Path) -> None:
    train, copy = rows(tmp_path, "train.jsonl", range(100)), rows(tmp_path, "copy.jsonl", range(50))
    with pytest.raises(UserError, match=r"^data: holds all 50 prompts of eval.data, so the evaluation would"):
        notes("warm_start=null", *files(str(train), str(copy)))
    some = rows(tmp_path, "some.jsonl", range(95, 145))
    assert notes("warm_start=null", *files(str(train), str(some))) == ["5 of 50 prompts of eval.data are in data too"]


def test_what_a_stage_trained_on_counts_as_trained_on(tmp_path: Path) -> None:
    trained = next(iter(build_source(compose("arithmetic_sft").data).next(1)))
    (tmp_path / "held.jsonl").write_text(json.dumps({"prompt": trained.prompt, "label": "x"}) + "\n")
    train = rows(tmp_path, "train.jsonl", range(5000, 5005))
    with pytest.raises(UserError, match=r"^data of warm_start.recipe=arithmetic_sft: holds all 1 prompts of eval.data"):
        notes(*files(str(train), str(tmp_path / "held.jsonl")))
