"""`engines add`, `remove`, `list`: what they print, and what they refuse."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.run.disk.membership_orders import EngineOrders, Present, Told
from rlscale.run.disk.run_folder import RunFolder

URL, OWN = "http://127.0.0.1:9", "http://127.0.0.1:8"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.mark(recipe="arithmetic", config_hash="x", state="unfinished")
    return folder


@pytest.mark.parametrize(
    ("told", "code", "line"),
    [
        (Told(URL, "serving"), 0, f"{URL}: serving"),
        (Told(URL, "refused", "it is another model"), 2, f"{URL}: refused: it is another model"),
    ],
)
def test_an_order_is_given_and_the_answer_of_the_run_is_printed(
    run: RunFolder, told: Told, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer() -> None:
        orders = EngineOrders(run.path)
        while not (given := list(orders.orders())):
            time.sleep(0.01)
        orders.answer(given[0], told)
        orders.tell_present([Present(OWN, "the run", "serving")])

    run.acquire()
    goes_on = threading.Thread(target=answer)
    goes_on.start()
    assert main(["engines", "add", URL, f"run.output={run.path}"]) == code
    goes_on.join()
    assert main(["engines", "list", f"run.output={run.path}"]) == 0
    refused = [f"{URL}: refused (it is another model)"] if code else []
    assert capsys.readouterr().out.splitlines() == [line, f"{OWN}: serving, started by the run", *refused]
    run.release()
    assert main(["engines", "list", f"run.output={run.path}"]) == 0
    assert capsys.readouterr().out.startswith("the run does not go on now; when it last did:\n")


def test_a_run_that_does_not_go_on_or_does_not_answer_is_said(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", "remove", URL, f"run.output={run.path}"]) == 2
    assert "the run does not go on now; it looks at this when it does" in capsys.readouterr().out
    run.acquire()
    assert main(["engines", "add", URL, f"run.output={run.path}", "wait=0.1"]) == 2
    run.release()
    assert "has not answered within 0.1 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["join", URL], "add or remove with one URL, or list"),
        (["add"], "add or remove with one URL"),
        (["add", "nowhere"], "is not the address of an engine"),
        (["add", URL, "run.outputs=x"], "does not know run.outputs"),
        (["add", URL, "wait=long"], "wait=long: must be a number of seconds"),
    ],
)
def test_what_is_typed_wrong_is_one_line(
    run: RunFolder, words: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", *words, f"run.output={run.path}"]) == 2
    assert wrong in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "list", f"run.output={tmp_path / 'nothing'}"]) == 2
    assert "holds no run" in capsys.readouterr().err
