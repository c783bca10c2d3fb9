"""Kills, signals and failures: what a run survives, what it says, what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from rlscale.cli import main
from tests.e2e.run.command import SHORT, Started, metrics, only_run, run, summary

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def calm(short: list[str], finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What runs are given besides SHORT, and the folder of such a run that nothing disturbed."""
    given = [f"model.init={only_run(finished[0]) / 'hf'}", "run.iterations=12", "eval.enabled=false"]
    folder = tmp_path_factory.mktemp("calm")
    undisturbed = run(folder, *short, *given)
    assert undisturbed.code == 0, undisturbed.text
    return given, only_run(folder)


def test_an_engine_that_gives_no_tokens_comes_back_and_a_killed_driver_resumes_to_the_same_weights(
    calm: tuple[list[str], Path], ready, tmp_path: Path
):
    """A part of the engine is stopped, then the driver is, and killed. The weights are those of a calm run.

    The runs start from other weights than the engine's folder holds: a sample from a restarted engine that has not been
    given the current ones would show.
    """
    (given, undisturbed), rough = calm, tmp_path
    with Started(rough, *SHORT, *given, "cluster.answer_timeout_s=4") as started:
        started.wait_for("iteration 1/12")
        assert listening_elsewhere(started) == []  # an engine, a router and a Ray of its own are among them
        (detokenizer,) = started.named("sglang::detokenizer")  # without it the engine answers, and gives no tokens
        detokenizer.suspend()
        started.wait_for("engine-0 gave none of its requests a token for")
        started.wait_for("engine-0 is back with the current weights")
        wait_for_a_finished_group(started, only_run(rough) / "checkpoints")
        os.kill(started.process.pid, signal.SIGSTOP)
        started.signal(signal.SIGKILL)
        started.process.wait(timeout=10)
        assert started.seconds_until_gone(15.0) < 15.0
    assert "not forked" not in "".join(path.read_text() for path in (only_run(rough) / "logs").glob("*.log"))
    killed_at = [line["iteration"] for line in metrics(only_run(rough))]

    resumed = run(rough, *SHORT, *given, *ready)
    assert resumed.code == 0, resumed.text
    assert "continues an unfinished run" in resumed.text
    assert "checkpoint.resume=never" in resumed.text
    folder = only_run(rough)
    assert [line["iteration"] for line in metrics(folder)] == list(range(1, 13))
    assert summary(folder)["resumed"] == 1
    assert killed_at
    assert metrics(folder)[-1]["groups_recovered"] > 0
    theirs, ours = (load_file(one / "hf" / "model.safetensors") for one in (undisturbed, folder))
    assert [line["reward"] for line in metrics(folder)] == [line["reward"] for line in metrics(undisturbed)]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


OF_TWO_RANKS = ("recipe=arithmetic_sft", "parallel.data=2", "run.iterations=40", "run.progress=plain")
"""Supervised, without engines."""


@pytest.fixture(scope="module")
def calm_two(ready, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm_two")
    undisturbed = run(folder, *OF_TWO_RANKS, "checkpoint.every=0", *ready)
    assert undisturbed.code == 0, undisturbed.text
    return only_run(folder)


def test_a_rank_of_two_that_is_killed_comes_back_with_the_state_that_both_have_copied(calm_two: Path, tmp_path: Path):
    """There is no checkpoint to go back to."""
    rough = tmp_path
    with Started(rough, *OF_TWO_RANKS, "checkpoint.every=0") as started:
        started.wait_for("iteration 1/")
        wait_for_a_step(started, only_run(rough))
        assert not list((only_run(rough) / "checkpoints").glob("iteration_*"))
        started.named("TrainerActor")[1].kill()
        assert started.process.wait(timeout=120) == 0
        assert started.seconds_until_gone(15.0) < 15.0
    text = started.log.read_text()
    back = re.search(r"back with the state that was copied in memory; iterations trained again: (\d+)", text)
    assert back is not None, text
    assert int(back[1]) <= 1  # one where the copy itself was cut off
    theirs, ours = (load_file(one / "hf" / "model.safetensors") for one in (calm_two, only_run(rough)))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[line["loss"] for line in rows(one)] for one in (calm_two, only_run(rough))]
    assert losses[0] == losses[1]
    totals = summary(only_run(rough))
    assert (totals["trainer_restarts"], totals["steps"]) == (1, 40)


LOSES_A_MACHINE = """
import dataclasses, os, signal, sys
import ray
from rlscale.cli import main
from rlscale.config.checks import saving
from rlscale.run import assembly
from rlscale.run.processes import ray_session
from rlscale.run.processes.machines_gone import MachinesGone
from rlscale.run.processes.placement import Slot
from rlscale.run.sides.trainer_group import TrainerGroup

laid_out, train, started, calls = assembly.lay_out_run, TrainerGroup.train_shards, [], []

def standing_in(nodes, used, gpus):
    started.append(nodes)
    if len(started) == 1:
        return nodes
    raise MachinesGone(nodes, {1}, "")

def train_shards(group, *given, **named):
    calls.append(given)
    if len(calls) == 13:
        *_, pid = ray.get(group._ranks[1].whereabouts.remote())
        os.kill(pid, signal.SIGKILL)
    return train(group, *given, **named)

saving.machines_of_ranks = lambda context: 2
assembly.lay_out_run = lambda config: dataclasses.replace(laid_out(config), ranks=(Slot(0), Slot(1)))
ray_session.node_ids = lambda count, gpus: [ray.get_runtime_context().get_node_id()] * count
ray_session.standing_in = standing_in
TrainerGroup.train_shards = train_shards
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
sys.exit(main())
"""
"""By name each rank is on a machine of its own; that of the second is gone once this one is killed in iteration 13."""


def test_a_rank_whose_machine_is_gone_for_good_leaves_one_copy_that_trains_to_the_same_weights(
    calm_two: Path, ready, tmp_path: Path
):
    (tmp_path / "loses.py").write_text(LOSES_A_MACHINE)
    given = ("checkpoint.every=5", "checkpoint.in_memory=false", "run.recover_smaller_after_s=1")
    ended = run(tmp_path, *OF_TWO_RANKS, *given, *ready, program="loses")
    assert ended.code == 0, ended.text
    text, folder = ended.text, only_run(tmp_path)
    assert "waiting 1 s for another one" in text
    assert "going on with 1 of 2 data-parallel ranks" in text
    assert re.search(
        r"the trainer's ranks are back from .*iteration_0000(05|10), as checkpoint\.in_memory=false", text
    ), text
    theirs, ours = (load_file(one / "hf" / "model.safetensors") for one in (calm_two, folder))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=5e-5, rtol=0, msg=name)
    losses = [[line["loss"] for line in rows(one)] for one in (calm_two, folder)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    totals = summary(folder)
    assert (totals["trainer_restarts"], totals["steps"]) == (1, 40)


def rows(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that are of training."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def wait_for_a_step(started: Started, folder: Path) -> None:
    """Until the ranks train, after two iterations."""
    while True:
        lines = (folder / "timeline.jsonl").read_text().splitlines()
        spans = [json.loads(line)["name"] for line in lines if '"driver"' in line]
        if spans.count("train") >= 2 and spans[-1] == "generate":
            return
        assert started.alive()
        time.sleep(0.005)


def wait_for_a_finished_group(started: Started, checkpoints: Path) -> None:
    """Until one is on disk that was finished after the newest checkpoint."""
    while True:
        whole = sorted(path.parent.name[-6:] for path in checkpoints.glob("iteration_*/manifest.json"))
        newest = whole[-1] if whole else "000000"
        if any(path.stat().st_size > 1000 for path in (checkpoints / "groups").glob(f"{newest}-*.groups")):
            return
        assert started.alive()
        time.sleep(0.01)


def listening_elsewhere(started: Started) -> list[str]:
    """What the processes of a run listen on besides loopback, Ray's and its actors' included."""
    found = []
    for process in [psutil.Process(started.process.pid), *started.family()]:
        with suppress(psutil.NoSuchProcess):
            for one in process.net_connections():
                address = one.laddr.ip.removeprefix("::ffff:") if one.status == psutil.CONN_LISTEN else "127.0.0.1"
                if not address.startswith("127.") and address != "::1":
                    found.append(f"{' '.join(process.cmdline())[:80]} on {address}:{one.laddr.port}")
    return found


def test_a_signal_saves_and_goes_on_or_stops_and_leaves_no_process(alone, tmp_path: Path, capsys):
    """SIGUSR1 comes to every process, as Slurm sends it to a whole job step; SIGTERM to the driver."""
    saves = ("checkpoint.every=0", "checkpoint.keep=1", "checkpoint.keep_best=9", "checkpoint.best_by=weight_version")
    with Started(tmp_path, *alone, "run.iterations=400", *saves) as started:
        started.wait_for("iteration 3")
        assert listening_elsewhere(started) == []
        for process in started.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGUSR1)
        started.signal(signal.SIGUSR1)
        checkpoints = only_run(tmp_path) / "checkpoints"
        while not list(checkpoints.glob("iteration_*")):
            assert started.alive()
            time.sleep(0.1)
        started.signal(signal.SIGTERM)
        assert started.seconds_until_gone(15.0) < 15.0
        assert started.process.wait(timeout=15) == 130
    folder = only_run(tmp_path)
    assert summary(folder)["status"] == "stopped"
    asked, last = sorted(path.name for path in checkpoints.glob("iteration_*"))  # that one stays as the best
    assert (asked >= "iteration_000003", last) == (True, f"iteration_{summary(folder)['iterations']:06d}")
    assert main(["checkpoint", "verify", str(folder)]) == 0
    assert capsys.readouterr().out.count(": whole, ") == 2


FROZEN = ("/raylet/raylet", "gcs_server", "rlscale.serve.router_main", "sglang::scheduler")


def test_an_engine_joins_and_leaves_a_run_and_a_signal_saves_it_with_ray_and_all_servers_frozen(
    shared_server, tmp_path: Path, capsys
):
    """The session's engine comes with the weights of another run, and the canary sees that it has this one's.

    Once it leaves as it gives no tokens, once as it is told to.
    """
    endless = ("run.iterations=4000", "checkpoint.every=0", "eval.enabled=false")
    given = [f"rollout.engine_key_file={shared_server.key_file}", "rollout.engines_at_most=2"]
    given += ["rollout.engines_at_least=1", "cluster.answer_timeout_s=4"]
    with Started(tmp_path, *SHORT, *endless, *given) as started:
        started.wait_for("iteration 1/")
        engine, run_folder = shared_server.url, f"run.output={only_run(tmp_path)}"
        assert main(["engines", "add", "http://127.0.0.1:9", run_folder]) == 2
        assert main(["engines", "add", engine, run_folder]) == 0
        started.wait_for(f"{engine} has joined with the current weights; engines: 2")
        joined_at = int(shared_server.receiver().weight_version())
        while int(shared_server.receiver().weight_version()) < joined_at + 3:  # it is among the others at each sync
            assert started.alive()
            time.sleep(0.1)
        detokenizer = shared_server.process("sglang::detokenizer")
        detokenizer.suspend()
        try:
            started.wait_for(f"{engine} gave none of its requests a token for")
        finally:
            detokenizer.resume()
        assert main(["engines", "add", engine, run_folder]) == 0
        assert main(["engines", "remove", engine, run_folder]) == 0
        started.wait_for(f"{engine} has left; engines: 1")
        told = capsys.readouterr().out.splitlines()
        assert "does not answer" in told[0]
        assert told[1:] == [f"{engine}: serving", f"{engine}: serving", f"{engine}: left"]
        for name in FROZEN:
            (process,) = started.named(name)
            process.suspend()
        started.signal(signal.SIGTERM)
        # Some 10 s on idle cores; other runs compute beside. Who waited for a frozen process would wait for minutes.
        assert started.process.wait(timeout=30) == 130
        assert started.seconds_until_gone(15.0) < 15.0
        assert "the same command continues" in started.log.read_text()
    rows = metrics(only_run(tmp_path))
    for account, came in (("prompts", "drawn"), ("tokens", "received")):
        entries = {key: value for key, value in rows[-1].items() if key.startswith(f"{account}/")}
        assert entries.pop(f"{account}/{came}") == sum(entries.values())
    assert list((only_run(tmp_path) / "checkpoints").glob("iteration_*"))


HANGING = """
import threading
from pathlib import Path

from rlscale.algo.losses import clip

HUNG = Path(__file__).with_name("hung")
steps = 0


def loss(inputs):
    global steps
    steps += 1
    if steps == 3 and not HUNG.exists():
        HUNG.touch()
        threading.Event().wait()
    return clip(inputs.logprobs, inputs.old_logprobs, inputs.advantages, eps_low=0.2, eps_high=0.2)
"""


def test_a_step_that_hangs_is_made_again_by_other_ranks_and_a_line_says_where_it_hung(short, tmp_path: Path):
    """Within seconds: the steps before took less than one, and the deadline of all calls is half an hour."""
    (tmp_path / "my_loss.py").write_text(HANGING)
    given = ["algo/loss=custom", "algo.loss.function._target_=my_loss.loss", "eval.enabled=false", "run.iterations=4"]
    ended = run(tmp_path, *short, *given, "cluster.answer_timeout_s=2")
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    assert re.search(
        r"training step did not finish within \d+ s \(cluster.hang_factor, 20 times the longest", ended.text
    )
    assert "rank 0 is in loss (my_loss.py:16)" in ended.text
    assert "the trainer's ranks are back" in ended.text
    assert [line["iteration"] for line in metrics(folder)] == [1, 2, 3, 4]
    written = {file.name: file.read_text() for file in (folder / "logs" / "hang").iterdir()}
    of_the_run = {"rank-0.txt", "router.txt", "the-launcher-of-machine-0.txt", "the-rollout-service.txt"}
    assert set(written) == of_the_run  # an engine of its own in tests/e2e/serve/test_servers.py
    assert "my_loss.py" in written["rank-0.txt"]
    assert "router_main.py" in written["router.txt"]


def test_a_killed_and_a_frozen_rank_of_two_come_back_and_one_loss_too_many_ends_the_run_with_one_line(
    alone, tmp_path: Path
):
    given = ["run.iterations=400", "parallel.data=2", "eval.enabled=false"]
    with Started(tmp_path, *alone, *given, "run.recover_at_most=2", "cluster.answer_timeout_s=3") as started:
        started.wait_for("iteration 1/")
        for times, lose in enumerate((psutil.Process.kill, psutil.Process.suspend), 1):
            ranks = started.named("TrainerActor")
            assert len(ranks) == 2
            lose(ranks[times - 1])
            started.wait_for("the trainer's ranks are back", times=times)
            assert not set(ranks) & set(started.named("TrainerActor"))
        started.named("TrainerActor")[0].kill()
        assert started.process.wait(timeout=60) == 2
        assert started.seconds_until_gone(15.0) < 15.0
    text = started.log.read_text()
    assert "the process died; starting the trainer's ranks again" in text
    assert "has been stopped for 3 s; starting the trainer's ranks again" in text
    assert (
        "the same command resumes the run (run.recover_at_most=2 recoveries within 100 iterations are used up)" in text
    )
    assert "Traceback" not in text
    folder = only_run(tmp_path)
    rows = [row["iteration"] for row in metrics(folder)]
    assert rows == list(range(1, len(rows) + 1))
    assert summary(folder)["trainer_restarts"] == 2


def test_a_reward_that_raises_fails_its_sample_and_stops_the_run_past_the_rate(short, tmp_path: Path):
    (tmp_path / "my_reward.py").write_text("def broken(response, label, info):\n    return info['no reward today']\n")
    given = ["reward=custom", "reward.function._target_=my_reward.broken", "eval.enabled=false"]
    ended = run(tmp_path, *short, *given)
    assert ended.code == 2
    assert "reward.max_failure_rate" in ended.text
    assert "no reward today" in ended.text
    assert "Traceback" not in ended.text
    written = (only_run(tmp_path) / "logs" / "error.log").read_text()
    assert "my_reward.py" in written
    assert "KeyError: 'no reward today'" in written


LOSS = """
def loss(inputs):
    return {}['weight of the step']
"""
SOURCE = """
import sys

from rlscale.data.prompts.sources import RawPrompt, Stream


class Rows(Stream):
    def __init__(self):
        super().__init__(64, False, 0)

    def item(self, number, index):
        # Whole when the rows are tried before the run, and no longer so in the rollout's process.
        there = 10 if "ray" in sys.modules else 64
        return RawPrompt(index, str(number), {n: "1+1=" for n in range(there)}[number], "2")
"""


@pytest.mark.parametrize(
    ("file", "code", "given", "line"),
    [
        (
            "my_loss",
            LOSS,
            ["algo/loss=custom", "algo.loss.function._target_=my_loss.loss"],
            "training step failed: KeyError: 'weight of the step'.",
        ),
        (
            "my_source",
            SOURCE,
            ["data=custom", "data.source._target_=my_source.Rows"],
            "generation failed: KeyError: 10.",
        ),
    ],
)
def test_an_error_in_a_rank_or_the_rollout_is_one_line_that_names_where_its_traceback_is(
    short, tmp_path: Path, file: str, code: str, given: list[str], line: str
):
    (tmp_path / f"{file}.py").write_text(code)
    ended = run(tmp_path, *short, *given, "eval.enabled=false", "rollout.groups_per_iteration=8")
    log = only_run(tmp_path) / "logs" / "error.log"
    assert ended.code == 2, ended.text
    assert ended.text.strip().splitlines()[-1] == f"error: {line} See {log}"
    assert f"{file}.py" in log.read_text()
    assert "Traceback" not in ended.text


def test_unusable_data_is_one_line_that_names_it(short, tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "1+1=", "label": "2"}\n{"prompt": "1+2=", \n')
    ended = run(tmp_path, *short, "data=jsonl", "data.path=bad.jsonl", "eval.enabled=false")
    assert ended.code == 2, ended.text
    assert "bad.jsonl:2" in ended.text
    assert "Traceback" not in ended.text
