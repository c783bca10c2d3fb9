"""Who belongs to a run's engines: joined with its weights, left without loss, and lost where they answer no more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.run.disk.membership_orders import EngineOrders, Present
from rlscale.run.processes.remote_calls import ProcessLost
from rlscale.run.sides import guest, membership
from rlscale.run.sides.engine_records import Engine
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.guest import Guest
from rlscale.run.sides.membership import Membership
from rlscale.serve.http import Unanswered
from rlscale.serve.standstill import Standstill

FIRST, GUEST = "http://127.0.0.1:1", "http://127.0.0.1:2"
GIVEN = [f"rollout.engine_urls=[{FIRST}]", "rollout.engines_at_most=2"]


class Run:
    """One engine, a router that remembers, a rollout that is told; nothing of it is started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        self.happened: list[str] = []
        self.notes: list[str] = []
        self.gone: set[str] = set()
        self.ranks = 1
        self.version: dict[str, str] = {}
        calls: Any = SimpleNamespace(
            patience_s=20.0,
            stopping=False,
            one=lambda answer, *_, **__: answer,
            aside=lambda do, *_: do(),
        )
        none: Any = None
        config = compose(None, [*GIVEN, *overrides])
        self.engines = Engines(config, none, [], calls, Path(), Path(), self.notes.append)
        self.engines._launchers = {0: none}
        self.engines._engines.append(Engine(None, none, FIRST))
        router: Any = SimpleNamespace(
            add=lambda url, role, meanwhile: self.happened.append(f"asked {url}"),
            remove=lambda url: self.happened.append(f"not asked {url}"),
        )
        monkeypatch.setattr(Engines, "_router_client", lambda _: router)
        monkeypatch.setattr(Engines, "meet", lambda _, url: self.happened.append(f"met {url}"))
        monkeypatch.setattr(membership, "told", lambda *_, **__: {"tp_size": self.ranks})
        monkeypatch.setattr(membership, "answers", self._answers)
        monkeypatch.setattr(guest, "answers", self._answers)
        monkeypatch.setattr(guest, "ask_engine", lambda url, *_: self._answers(url, "/server_info"))
        rollout: Any = SimpleNamespace(
            leave=lambda urls: self.happened.append(f"emptied {urls[0]}"),
            give_up=lambda urls: self.happened.append(f"not waited for {' and '.join(urls)}"),
            engines_are=lambda count: self.happened.append(f"{count} engines"),
        )
        self.orders = EngineOrders(folder)
        self.membership = Membership(self.engines, rollout, self.orders, self.notes.append)

    def _answers(self, url: str, path: str, *_: Any) -> Any:
        if url in self.gone:
            raise Unanswered("refused")
        return {"weight_version": self.version.get(url, "default")} if path == "/model_info" else None

    def look(self) -> None:
        """Once every guest has been asked and has answered."""
        for url in self.engines.guests:
            if url not in self.gone:
                self.membership._guest(url).ask()
        self.membership.look(self.give)

    def say(self, url: str, *, wanted: bool) -> tuple[str, str]:
        """State and reason after an order."""
        order = self.orders.give(url, wanted=wanted)
        self.membership.look(self.give)
        (told,) = self.orders.told(order)
        return told.state, told.why

    def give(self, urls: list[str]) -> None:
        self.happened.append(f"weights to {urls[0]}")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_an_engine_is_met_and_given_weights_before_it_is_asked_and_leaves_emptied(run: Run) -> None:
    assert run.say(GUEST, wanted=True) == ("serving", "")
    assert run.happened == [f"met {GUEST}", f"weights to {GUEST}", f"asked {GUEST}", "2 engines"]
    assert run.engines.urls == [FIRST, GUEST]
    run.membership.look(run.give)
    assert len(run.happened) == 4, "an order is followed once"
    run.happened.clear()
    assert run.say(GUEST, wanted=False) == ("left", "")
    assert run.happened == [f"not asked {GUEST}", f"emptied {GUEST}", "1 engines"]
    assert run.engines.urls == [FIRST]


def test_an_engine_that_was_started_again_at_its_address_gets_the_weights_before_it_is_asked(run: Run) -> None:
    run.look()
    assert run.happened == [], "before its first weights it has none to lose"
    run.version[FIRST] = "4"
    run.look()
    run.version[FIRST] = "default"
    run.look()
    assert run.happened == [f"not asked {FIRST}", f"weights to {FIRST}", f"asked {FIRST}"]
    assert run.notes == [f"{FIRST} was started again, and has {run.engines.restarted_with}"]
    run.version[FIRST] = "4"
    run.look()
    assert len(run.happened) == 3


def test_one_that_the_run_needs_is_given_the_weights_until_it_takes_them(run: Run) -> None:
    tries: list[list[str]] = []

    def give(urls: list[str]) -> None:
        tries.append(urls)
        if len(tries) < 3:
            raise UserError("it is starting")

    for version in ("3", "default"):
        run.version[FIRST] = version
        run.membership._guest(FIRST).ask()
    for _ in range(4):
        run.membership.look(give)
    assert (tries, run.happened[-1], run.engines.urls) == ([[FIRST]] * 3, f"asked {FIRST}", [FIRST])
    assert [note.partition(" (")[0] for note in run.notes] == [
        f"{FIRST} was started again and is of no use now",
        f"{FIRST} was started again, and has {run.engines.restarted_with}",
    ]


def test_a_rank_that_is_lost_meanwhile_says_nothing_against_the_engine(run: Run) -> None:
    def give(urls: list[str]) -> None:
        raise ProcessLost("weight sync 3: the process died", [])

    run.say(GUEST, wanted=True)
    for version in ("3", "default"):
        run.version[GUEST] = version
        run.membership._guest(GUEST).ask()
    with pytest.raises(ProcessLost):
        run.membership.look(give)
    assert run.engines.urls == [FIRST, GUEST]


def test_one_that_was_started_again_and_takes_no_weights_leaves_where_the_run_can_do_without_it(run: Run) -> None:
    def give(urls: list[str]) -> None:
        raise UserError("it is full\nand more")

    run.say(GUEST, wanted=True)
    for version in ("3", "default"):
        run.version[GUEST] = version
        run.membership._guest(GUEST).ask()
    run.membership.look(give)
    assert run.engines.urls == [FIRST]
    assert run.notes[-1].startswith(f"{GUEST} was started again and is of no use now (it is full), and has left")


def test_an_engine_that_takes_no_weights_is_refused_and_the_run_goes_on(run: Run) -> None:
    def give(urls: list[str]) -> None:
        raise UserError("weight sync 3: it is full\nand more")

    order = run.orders.give(GUEST, wanted=True)
    run.membership.look(give)
    (told,) = run.orders.told(order)
    assert (told.state, told.why) == ("refused", "weight sync 3: it is full")
    assert run.engines.urls == [FIRST]
    assert f"asked {GUEST}" not in run.happened
    assert run.notes == [f"{GUEST} does not join: weight sync 3: it is full"]


def test_there_are_no_more_than_the_most_and_no_fewer_than_the_least(run: Run) -> None:
    assert run.say(FIRST, wanted=False) == ("refused", "the run needs 1 engines (rollout.engines_at_least)")
    run.say(GUEST, wanted=True)
    state, why = run.say("http://127.0.0.1:3", wanted=True)
    assert (state, why) == ("refused", "there are 2 engines already (rollout.engines_at_most)")


def test_none_joins_a_run_that_has_not_said_so_and_one_of_several_ranks_needs_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Run(tmp_path / "a", monkeypatch, "rollout.engines_at_most=null", "rollout.engines_at_least=1")
    (tmp_path / "a").mkdir()
    assert closed.say(GUEST, wanted=True)[1].startswith("rollout.engines_at_most is not given")
    (tmp_path / "b").mkdir()
    several = Run(tmp_path / "b", monkeypatch)
    several.ranks = 2
    assert several.say(GUEST, wanted=True) == (
        "refused",
        "it has tp_size=2, which takes weights/transport=disk, or delta",
    )
    (tmp_path / "c").mkdir()
    for transport in ("disk", "delta"):
        files = Run(tmp_path / "c", monkeypatch, f"weights/transport={transport}")
        files.ranks = 2
        assert files.say(GUEST, wanted=True) == ("serving", "")


def test_a_guest_that_is_gone_is_lost_down_to_what_the_run_needs(run: Run) -> None:
    run.say(GUEST, wanted=True)
    run.gone = {GUEST}
    assert run.membership.lose_unreachable()
    assert run.engines.urls == [FIRST]
    assert "takes it in again" in run.notes[-1]
    run.gone = {FIRST}
    assert not run.membership.lose_unreachable()
    assert not run.membership.lose_unreachable()
    assert run.engines.urls == [FIRST]
    assert len([note for note in run.notes if "the run waits for it" in note]) == 1, "said once"


def test_an_engine_that_cannot_be_emptied_stays_and_one_joins_no_run_that_is_to_end(run: Run) -> None:
    def leave(urls: list[str]) -> None:
        raise UserError("rollout.leave did not finish")

    run.say(GUEST, wanted=True)
    run.membership.rollout.leave = leave  # type: ignore[method-assign]  # a namespace here
    assert run.say(GUEST, wanted=False) == ("refused", "rollout.leave did not finish")
    assert (run.engines.urls, run.happened[-1]) == ([FIRST, GUEST], f"asked {GUEST}")
    run.engines.calls.stopping = True  # type: ignore[misc]  # as above
    run.orders.give("http://127.0.0.1:3", wanted=True)
    run.membership.look(run.give)
    assert run.engines.urls == [FIRST, GUEST]


def test_a_guest_that_is_silent_for_too_long_is_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.say(GUEST, wanted=True)
    silent = {GUEST: 19.0, FIRST: 0.0}
    monkeypatch.setattr(Guest, "silence", lambda self: silent[self.url])
    run.membership.look(run.give)
    assert run.engines.urls == [FIRST, GUEST]
    silent[GUEST] = 20.0
    run.happened.clear()
    run.membership.look(run.give)
    assert run.engines.urls == [FIRST]
    assert run.happened == [f"not asked {GUEST}", f"not waited for {GUEST}", "1 engines"]


def test_what_guests_had_that_are_lost_together_is_cut_off_once_and_one_that_is_needed_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, another = Run(tmp_path, monkeypatch, "rollout.engines_at_most=3"), "http://127.0.0.1:3"
    run.say(GUEST, wanted=True)
    run.say(another, wanted=True)
    still = [20.0]
    monkeypatch.setattr(Standstill, "without_a_pass", lambda _: still[0])
    run.happened.clear()
    run.membership.look(run.give)
    assert run.engines.urls == [another]
    assert [one for one in run.happened if one.startswith("not waited")] == [f"not waited for {FIRST} and {GUEST}"]
    still[0] = 21.0
    run.membership.look(run.give)
    run.membership.look(run.give)
    assert len([note for note in run.notes if "the run waits for it" in note]) == 1


def test_the_rollout_hears_of_an_engine_that_the_run_could_not_start_again(run: Run) -> None:
    run.say(GUEST, wanted=True)
    run.happened.clear()
    run.engines.let_go(GUEST)  # as `heal` does
    run.membership.look(run.give)
    run.membership.look(run.give)
    assert run.happened == ["1 engines"]


def test_an_order_that_cannot_be_read_is_said_once_and_ends_nothing(run: Run) -> None:
    run.orders.give(GUEST, wanted=True)
    for file in (run.orders._folder).glob("*.json"):
        file.write_text("{")
    run.membership.look(run.give)
    run.membership.look(run.give)
    assert len(run.notes) == 1
    assert "remove it" in run.notes[0]


def test_an_order_that_is_no_order_keeps_no_other_from_being_followed(run: Run) -> None:
    run.orders.give("http://127.0.0.1:3", wanted=True)
    (wrong,) = run.orders._folder.glob("*.json")
    wrong.write_text("{")
    wrong.rename(wrong.with_name("0.json"))  # the first that is read
    assert run.say(GUEST, wanted=True) == ("serving", "")


def test_an_engine_is_the_same_by_either_spelling_of_its_address(run: Run) -> None:
    named = GUEST.replace("127.0.0.1", "localhost")
    run.say(GUEST, wanted=True)
    assert run.say(named, wanted=True) == ("serving", "")
    assert run.engines.urls == [FIRST, GUEST]
    assert run.say(named, wanted=False) == ("left", "")
    assert run.engines.urls == [FIRST]


def test_a_run_that_continues_does_not_try_again_what_it_refused(run: Run) -> None:
    run.ranks = 2
    assert run.say(GUEST, wanted=True)[0] == "refused"
    run.ranks = 1
    again = Membership(run.engines, run.membership.rollout, run.orders, run.notes.append)
    again.look(run.give)
    assert run.engines.urls == [FIRST]
    run.membership = again
    assert run.say(GUEST, wanted=True) == ("serving", ""), "a new order is tried"


def test_the_engines_that_there_are_are_written_down_when_they_change(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.say(GUEST, wanted=True)
    run.engines._engines[0].spec = SimpleNamespace()  # type: ignore[assignment]  # the run started it
    monkeypatch.setattr(Guest, "silence", lambda _: 6.0)
    run.membership.look(run.give)
    assert run.orders.present() == [
        Present(FIRST, "the run", "serving"),
        Present(GUEST, "somebody else", "silent"),
    ]


def test_an_engine_of_a_spare_machine_joins_by_itself_and_ends_when_it_leaves_or_is_refused(run: Run) -> None:
    ready, ended = [GUEST], []
    machines: Any = SimpleNamespace(
        look=lambda: [ready.pop()] if ready else [], lost=lambda url: ended.append(url) or True, urls={GUEST}
    )
    run.membership.machines = machines
    run.membership.look(run.give)
    assert run.engines.urls == [FIRST, GUEST]
    assert {one.url: one.started_by for one in run.orders.present()}[GUEST] == "the run"
    run.gone = {GUEST}
    assert run.membership.lose_unreachable()
    assert (ended, "takes it in again" in run.notes[-1]) == ([GUEST], False)
    ready.append(GUEST)
    run.ranks = 2
    run.membership.look(run.give)
    assert (ended, run.engines.urls) == ([GUEST, GUEST], [FIRST])
