"""What a session does with an iteration's groups: passes before the steps, the critic's warm-up, skipped steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.derived.needs import Pass
from rlscale.config.errors import UserError
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.stored.stored_rollouts import RolloutStore, StoredRollouts
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sessions.evaluations import Evaluations
from rlscale.run.sessions.reinforcement_session import ReinforcementSession
from rlscale.run.sessions.session import SessionParts
from rlscale.run.sessions.supervised_session import SupervisedSession
from rlscale.run.sides.engine_side import NoEngines, RunningEngines
from rlscale.run.sides.engines import Engines


class Trainer:
    """Gives every column its own constant, and remembers what it was asked to train on."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.trained: list[tuple[RankShard, bool, bool]] = []
        self.metrics: dict[str, float] = {}
        self.left_out: set[str] = set()
        self.copies = 1
        self.profiles: list[tuple[Path, int, int]] = []

    def busy(self) -> list[list[tuple[str, float, float]]]:
        return [[("train", float(len(self.trained)), 9.0)]]

    @contextmanager
    def profiled(self, folder: Path, iteration: int) -> Iterator[None]:
        before = len(self.trained)
        yield
        self.profiles.append((folder, iteration, len(self.trained) - before))

    def columns(self, one: Pass, parts: list[RankShard], batch: Batch) -> Any:
        self.asked.append(one.column)
        return np.full(batch.tokens_total, -len(self.asked), np.float32)

    def train_shards(
        self, parts: list[RankShard], version: int, *, force_old: bool = False, policy: bool = True
    ) -> dict[str, float]:
        assert len(parts) == self.copies
        self.trained.append((parts[0], force_old, policy))
        own = {"loss": 0.1, "steps": 1.0, "skipped_steps": 0.0} if policy else {}
        metrics = {"critic_loss": 0.5, "critic_steps": 1.0, "skipped_in_a_row": 0.0} | own | self.metrics
        return {name: value for name, value in metrics.items() if name not in self.left_out}


class Records:
    """Remembers which passes were timed."""

    def __init__(self, store: RolloutStore) -> None:
        self.rollout_store = store
        self.passes: list[str] = []
        self.skipped = 0.0
        self.shown: list[tuple[int, int]] = []

    def generation(self, iteration: int, stats: Any) -> None:
        """Nothing was counted."""

    def note(self, text: str) -> None: ...

    def span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def ranks(self, busy: list[list[tuple[str, float, float]]]) -> None:
        self.busy = busy

    def rollouts(self, iteration: int, groups: list[Group]) -> None:
        self.shown.append((iteration, len(groups)))

    def skipped_steps(self, iteration: int, metrics: dict[str, float]) -> None:
        self.skipped += metrics.get("skipped_steps", 0.0)

    def model_pass(self, name: str) -> AbstractContextManager[None]:
        self.passes.append(name)
        return nullcontext()


def session(tmp_path: Path, *overrides: str) -> tuple[Any, Trainer]:
    config = compose(None, ["rollout.groups_per_iteration=2", "rollout.samples_per_group=2", *overrides])
    trainer = Trainer()
    none: Any = None
    kind = SupervisedSession if "algo=sft" in overrides else ReinforcementSession
    records: Any = Records(RolloutStore(tmp_path / "rollouts", config.rollout.store, 8, 1.0))
    parts = SessionParts(config, "hash", RunFolder(tmp_path), none, StopSignal(), none, records)
    ranks: Any = trainer
    made: Any = kind(parts, ranks, NoEngines(), partial(Evaluations, config.eval, none))
    return made, trainer


def groups() -> list[Group]:
    tokens = np.arange(3, dtype=np.int32)
    made = []
    for index in range(2):
        prompt = Prompt(index=index, id=str(index), tokens=tokens[:2], label=None)
        logprobs = np.full(3, -1.0, np.float32)
        samples = [Sample.from_response(prompt, place, tokens, logprobs, version=0) for place in range(2)]
        for place, sample in enumerate(samples):
            sample.reward = float(place)
        made.append(Group(prompt, samples))
    return made


def test_passes_that_the_advantages_need_come_before_the_steps(tmp_path: Path) -> None:
    run, trainer = session(tmp_path, "algo=ppo")
    run.train(groups())
    assert trainer.asked == run.records.passes == ["old_logprobs", "ref_logprobs", "values"]
    ((part, force_old, policy),) = trainer.trained
    assert {"returns", "value_weight", "advantages", "old_logprobs"} <= part.batch.columns.keys()
    assert (force_old, policy) == (True, True)
    assert "explained_variance" in run._metrics


@pytest.mark.parametrize(
    ("words", "asked", "logprob"),
    [
        ([], [], None),
        (["rollout.store_ratios=true"], ["old_logprobs"], -1.0),
        (["algo=ppo", "rollout.store_ratios=true"], ["old_logprobs", "ref_logprobs", "values"], -1.0),
        (["algo=ppo", "algo.correction.bypass=true"], ["ref_logprobs", "values"], None),
        (["algo=ppo", "algo.old_logprobs=behaviour"], ["old_logprobs", "ref_logprobs", "values"], None),
        (
            ["algo=ppo", "algo.old_logprobs=behaviour", "rollout.store_ratios=true"],
            ["old_logprobs", "ref_logprobs", "values", "old_logprobs"],
            -4.0,
        ),
    ],
    ids=["no pass", "a pass for it", "the pass that is made", "the engine's own", "older weights'", "a pass beside it"],
)
def test_stored_samples_keep_what_their_tokens_are_trained_with(
    words: list[str], asked: list[str], logprob: float | None, tmp_path: Path
) -> None:
    run, trainer = session(tmp_path, "rollout.store=all", *words)
    given = groups()
    run.records.rollout_store.write(1, 0, given)
    run.train(given)
    assert trainer.asked == asked
    sample = [one for group in given for one in group.samples][3]
    found = StoredRollouts(tmp_path, "run.output").trained(1, {3: sample})[3]
    assert found.advantages[:2].tolist() == [0.0, 0.0]
    assert found.advantages[2] > 0, "the better of two"
    assert (found.logprobs is None) == (logprob is None)
    if found.logprobs is not None:
        assert found.logprobs.tolist() == [logprob] * 5
    ((part, _, _),) = trainer.trained
    assert ("old_logprobs" in part.batch.columns) == ("algo=ppo" in words), "what is stored alone is not trained with"


def test_the_steps_of_the_iterations_that_are_asked_for_are_profiled(tmp_path: Path) -> None:
    run, trainer = session(tmp_path, "profile.iterations=[2,3]")
    for _ in range(4):
        run.train(groups())
    assert trainer.profiles == [(tmp_path / "profile", 2, 1), (tmp_path / "profile", 3, 1)]


class Profiled(NoEngines):
    """Remembers of which iterations it was to record what engines do."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def begin_profile(self, folder: Path, iteration: int) -> None:
        self.told.append((folder.name, iteration))

    def end_profile(self) -> None:
        self.told.append("end")


@pytest.mark.parametrize(("algo", "told"), [("algo=grpo", [("profile", 2), "end"]), ("algo=sft", [])])
def test_engines_record_from_where_they_go_on_until_the_groups_of_an_iteration_are_there(
    algo: str, told: list[Any], tmp_path: Path
) -> None:
    given = ["eval.enabled=false", "run.iterations=3"]
    run, _ = session(tmp_path, algo, *given, "profile.iterations=[2]")
    source: Any = SimpleNamespace(resume=lambda _: None, collect=lambda _: groups(), stats=lambda: None)
    run._group_source, run._engines = source, (engines := Profiled())
    run._evaluations = SimpleNamespace(between=lambda: None, beside=dict, iteration_done=lambda: None)
    for _ in range(3):
        run.go_on()
        run.train(run.collect())
    assert engines.told == told


def test_what_each_rank_did_goes_to_the_timeline_after_its_steps(tmp_path: Path) -> None:
    run, _ = session(tmp_path)
    run.train(groups())
    assert run.records.busy == [[("train", 1.0, 9.0)]], "the steps were made by then"


def test_the_ranks_are_told_which_version_their_weights_are(tmp_path: Path) -> None:
    run, trainer = session(tmp_path)
    run.state.version = 7
    run.train(groups())
    ((part, _, _),) = trainer.trained
    assert part.batch.column("version") == 7


def test_the_iterations_answers_are_handed_to_the_records_unless_they_are_the_datas_own(tmp_path: Path) -> None:
    run, _ = session(tmp_path)
    run.train(groups())
    run.train(groups())
    assert run.records.shown == [(1, 2), (2, 2)]
    run, _ = session(tmp_path, "algo=sft", "eval.enabled=false")
    run.train(groups())
    assert run.records.shown == []


def test_samples_over_the_cap_are_trained_on_each_alone_and_counted(tmp_path: Path) -> None:
    run, trainer = session(tmp_path, "trainer.max_tokens_per_microbatch=4")
    run.train(groups())  # four samples of five tokens
    ((part, _, _),) = trainer.trained
    assert sorted(rows.tolist() for step in part.steps for rows in step) == [[0], [1], [2], [3]]
    assert run._metrics["oversized_samples"] == 4.0


def test_an_algorithm_that_needs_no_pass_makes_none(tmp_path: Path) -> None:
    run, trainer = session(tmp_path)
    run.train(groups())
    run.train(groups())
    assert trainer.asked == []
    assert [force_old for _, force_old, _ in trainer.trained] == [True, False]


def test_the_engines_log_probs_are_not_measured_against_a_forced_pass(tmp_path: Path) -> None:
    run, trainer = session(tmp_path, "algo/correction=bypass")
    run.train(groups())
    assert [force_old for _, force_old, _ in trainer.trained] == [False]


def test_warm_up_trains_the_critic_alone_and_counts_no_step_of_the_policy(tmp_path: Path) -> None:
    run, trainer = session(tmp_path, "algo=ppo", "critic.warmup_iterations=2", "run.stop_loss=0.2")
    seen = []
    for _ in range(4):
        run.train(groups())
        seen.append((run.state.iteration, run.state.steps, list(run.state.recent_losses)))
    assert seen == [(1, 0, []), (2, 0, []), (3, 1, [0.1]), (4, 2, [0.1, 0.1])]
    assert [(first, policy) for _, first, policy in trainer.trained] == [
        (False, False), (False, False), (True, True), (False, True),
    ]  # fmt: skip


def test_batches_are_divided_for_the_copies_that_there_are(tmp_path: Path) -> None:
    run, trainer = session(tmp_path)
    for trainer.copies in (1, 2):
        run.train(groups())
    assert trainer.trained[0][0].batch.rows > trainer.trained[1][0].batch.rows > 0


def test_a_warm_up_of_a_critic_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    run, trainer = session(tmp_path, "critic.warmup_iterations=2")
    run.train(groups())
    assert trainer.trained[0][2] is True


@pytest.mark.parametrize(("algo", "keys"), [("grpo", r"optim\.lr$"), ("ppo", r"optim\.lr or critic\.optim\.lr$")])
def test_steps_may_be_skipped_up_to_the_bound(tmp_path: Path, algo: str, keys: str) -> None:
    run, trainer = session(tmp_path, f"algo={algo}", "trainer.max_skipped_steps=2")
    trainer.left_out = {"loss"}  # as no step was made
    for in_a_row in (1.0, 2.0):
        trainer.metrics = {"skipped_in_a_row": in_a_row, "skipped_steps": 1.0}
        run.train(groups())
    assert (run.state.iteration, run.state.recent_losses) == (2, [])
    trainer.metrics["skipped_in_a_row"] = 3.0
    with pytest.raises(RunFailed, match=rf"^3 steps in a row .* trainer\.max_skipped_steps=2; lower {keys}"):
        run.train(groups())
    assert run.records.skipped == 3
    assert run._trustworthy, "skipped steps leave the weights alone"
    done = run.state.iteration, run._untrained, run._in_steps
    assert done == (3, False, False), "other steps of the iteration may have been made, which nobody makes again"


@pytest.mark.parametrize("fails", ["ranks", "skipped_steps", "rollouts"])
def test_an_iteration_counts_as_done_once_its_steps_are_made_whatever_fails_then(tmp_path: Path, fails: str) -> None:
    run, _ = session(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    setattr(run.records, fails, full)
    with pytest.raises(OSError, match="No space"):
        run.train(groups())
    assert (run.state.iteration, run.state.steps, run._untrained, run._in_steps) == (1, 1, False, False)
    assert run._metrics["loss"] == 0.1


def test_weights_are_not_trusted_after_a_loss_that_is_no_number(tmp_path: Path) -> None:
    run, trainer = session(tmp_path)
    trainer.metrics = {"loss": float("inf")}
    with pytest.raises(RunFailed, match=r"^loss of iteration 1 is not finite"):
        run.train(groups())
    assert not run._trustworthy


def test_log_probs_of_other_bits_end_a_run_that_was_asked_for_the_same(tmp_path: Path) -> None:
    run, trainer = session(tmp_path, "run.bitwise=true")
    trainer.metrics = {"logprob_diff_max": 0.0}
    run.train(groups())
    trainer.metrics = {"logprob_diff_max": 2.4e-7}
    said = (
        r"^trainer and engine log-probs of the same weights differ by 2\.40e-07 in iteration 2, though "
        r"run\.bitwise=true; leave run\.bitwise out$"
    )
    with pytest.raises(RunFailed, match=said):
        run.train(groups())
    assert not run._trustworthy


@pytest.mark.parametrize("dies", [True, False])
def test_a_failed_sync_is_repeated_if_an_engine_is_seen_dead_a_moment_later(
    dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlscale.run.sides.engine_side._DEATH_SHOWS_S", 0.5)
    looked: list[None] = []
    sent: list[int] = []
    healed: list[None] = []

    def down() -> list[str]:
        looked.append(None)
        return ["engine-0"] if dies and len(looked) > 2 else []

    def sync(version: int) -> dict[str, float]:
        sent.append(version)
        if len(sent) == 1:
            raise UserError("connection reset by peer")
        return {"sync_bytes": 1.0}

    engines: Any = SimpleNamespace(
        calls=SimpleNamespace(stopping=False), down=down, heal=lambda *_: healed.append(None)
    )
    engines.down_within = partial(Engines.down_within, engines)
    engines.restarts_of = {"http://127.0.0.1:7": 1} if dies else {}
    none: Any = None
    rollout: Any = SimpleNamespace(redirect=None)
    side = RunningEngines(none, engines, rollout, sync, shares_devices=False)  # type: ignore[arg-type]  # a fake
    if dies:
        assert side.update_weights(5) == {"sync_bytes": 1.0, "engine_restarts/127.0.0.1:7": 1.0}
        assert (sent, len(healed)) == ([5, 5], 2)
    else:
        with pytest.raises(UserError, match="connection reset"):
            side.update_weights(5)
        assert (sent, len(healed)) == ([5], 1)


def test_a_loop_that_comes_back_early_or_without_an_end_is_an_error_that_names_it(tmp_path: Path) -> None:
    made, _ = session(tmp_path, "run.iterations=3")
    with pytest.raises(UserError, match=r"loop: mine\.loop returned after 0 of 3 iterations without all of run\.iter"):
        made.check_ended("mine.loop")
    made.state.iteration = 3
    with pytest.raises(UserError, match=r"loop: mine\.loop returned after 3 of 3 iterations without run\.end\(\)"):
        made.check_ended("mine.loop")
    made._ended = True
    made.check_ended("mine.loop")


def test_an_evaluation_is_measured_while_the_engines_generate_for_the_next_iteration(tmp_path: Path) -> None:
    run, _ = session(tmp_path)
    told: list[Any] = []
    run._group_source = SimpleNamespace(resume=lambda version: told.append(("resume", version)))
    run._evaluations = SimpleNamespace(between=lambda: told.append("evaluate"), beside=lambda: {"found": 1.0})
    run.state.version = 7
    run.go_on()
    assert told == [("resume", 7), "evaluate"]
    assert run._metrics == {"found": 1.0}
