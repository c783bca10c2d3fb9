"""What the driver writes down and shows: metrics, timeline, samples, progress, summary, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

from rlscale.config.derived.eval_sets import EvalSet
from rlscale.config.derived.sizes import Sizes
from rlscale.config.environment_values import without_secrets
from rlscale.config.keys import plain
from rlscale.config.schema import Config
from rlscale.config.shown import say
from rlscale.data.sample import Group
from rlscale.data.stored.stored_rollouts import FOLDER, RolloutStore, spread
from rlscale.observe.chrome_trace import write_requests, write_trace
from rlscale.observe.load_log import EngineLoadLog
from rlscale.observe.metrics import MetricsLog, read_metrics
from rlscale.observe.progress import Progress
from rlscale.observe.report import write_report
from rlscale.observe.samples import TRAINING, SamplesLog, shown
from rlscale.observe.summary import Summary, in_summary
from rlscale.observe.timeline import ENGINES, EVALUATION, PASSES, Timeline
from rlscale.observe.trackers import Tracker, build_tracker
from rlscale.rollout.engines.engine_loads import EngineLoad
from rlscale.rollout.evaluation import EvalResult
from rlscale.rollout.rollout_stats import RolloutStats
from rlscale.run.disk import checkpoint
from rlscale.run.disk.run_end import why_ended
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.disk.sample_warnings import DuplicationWarning, LengthWarning
from rlscale.run.disk.stages import TEACHER

_FAILURES = ("failed_requests", "failed_rewards")
Restarts = tuple[int, int]  # of engines, and of the trainer's ranks together
_LAST = ("critic_loss", "explained_variance")
"""Metrics of which the summary keeps the last iteration's."""


class Records:
    """The files and the terminal of one run. The driver tells it what happens; it decides where that goes."""

    def __init__(self, config: Config, folder: RunFolder, started: float) -> None:
        self._config, self._folder, self._started = config, folder, started
        self._log: MetricsLog | None = None
        self._samples: SamplesLog | None = None
        self._load_log: EngineLoadLog | None = None
        self._timeline = Timeline(folder.path, resumed=folder.resumed)
        self._progress = Progress.of(config.run)
        self._tracker: Tracker | None = None
        self._summary = Summary(recipe=config.run.recipe)
        self._counters: dict[str, float] = {}
        self._generation: dict[str, int] = {}
        self._measures: dict[str, float] = {}
        self._lengths, self._duplication = LengthWarning(self.note), DuplicationWarning(self.note)
        self._loads: dict[str, EngineLoad] = {}
        self._phases_before: dict[str, float] = {}
        self._tokenizer = ""
        self._passes: dict[str, float] = {}

    # ---- before the loop ---------------------------------------------------------------------------------------

    def introduce(self, notes: Sequence[str]) -> None:
        """Say what runs, where to, and what the sizes come to."""
        config = self._config
        self.note(f"{config.run.recipe}: model {config.model.name}, algorithm {config.algo.name}, {self._folder.path}")
        for line in (*Sizes.of(config).lines(), *notes):
            self.note(line)
        if self._folder.resumed:
            self.note(
                "this continues an unfinished run of the same recipe and configuration; "
                "checkpoint.resume=never starts afresh"
            )

    def phase(self, text: str) -> None:
        """What the run is busy with, for the terminal."""
        self._progress.phase(text)

    def note(self, text: str) -> None:
        """A line that stays on the terminal."""
        self._progress.note(text)

    def suspend(self) -> None:
        """Leave the terminal to another run (a stage before this one)."""
        self._progress.close()
        self._suspended = time.time()

    def unsuspend(self, stage: str) -> None:
        """Take the terminal back from the stage."""
        seconds = time.time() - self._suspended
        if stage == TEACHER:
            self._summary.teacher_seconds = seconds
        else:
            self._summary.warm_start_seconds = seconds
        self._progress = Progress.of(self._config.run)

    def reads_with(self, tokenizer: Path) -> None:
        """The folder of the tokenizer that stored tokens are of."""
        self._tokenizer = str(tokenizer)

    def begin_loop(self, state: checkpoint.Progress) -> None:
        """The loop starts from `state`: continue its files and totals there."""
        resumed = state.iteration if self._folder.resumed else None
        self._log = MetricsLog(self._folder.path, resumed)
        self._samples = SamplesLog(self._folder.path, resumed)
        self._load_log = EngineLoadLog(self._folder.path, resumed)
        told = without_secrets(plain(self._config), self._config.run.environment)
        self._tracker = build_tracker(self._config.tracker, self._folder.path, run_config=told, resumed=resumed)
        self._progress.begin(state.iteration)
        self._counters = dict(state.counters)
        if self._folder.resumed:
            self._counters["resumed"] = self._counters.get("resumed", 0) + 1
        self._summary.startup_seconds = time.time() - self._started
        self._timeline.begin_loop()

    # ---- in the loop -------------------------------------------------------------------------------------------

    def span(self, name: str) -> AbstractContextManager[None]:
        """Time a block of the driver: generate, train, sync, evaluate, checkpoint."""
        self._progress.phase(_PHASES.get(name, name))
        return self._timeline.span(name)

    @contextmanager
    def model_pass(self, name: str) -> Iterator[None]:
        """Time a pass that computes a column of the batch; it is part of `train`, and a metric of its own."""
        began = time.perf_counter()
        with self._timeline.span(name, PASSES):
            yield
        self._passes[f"seconds_{name}"] = time.perf_counter() - began

    def generation(self, iteration: int, stats: RolloutStats) -> None:
        """What the rollout service counted so far, and found of its last batch, that of an iteration."""
        for line in stats.notes:
            self.note(line)
        for start, end in stats.intervals:
            self._timeline.add("generate", ENGINES, start, end)
        spans = {f"engine {engine}": [("generate", *one) for one in times] for engine, times in stats.busy.items()}
        self._timeline.add_lanes(spans)
        self._generation, self._measures, self._loads = stats.counters, stats.measures, stats.loads
        self._lengths.heed(stats.measures)
        if iteration in self._config.profile.iterations:
            write_requests(self._folder.path, [asdict(one) for one in stats.requests], stats.more_requests)

    def ranks(self, busy: Sequence[Sequence[tuple[str, float, float]]]) -> None:
        """What each of the trainer's ranks did, and when."""
        self._timeline.add_lanes({f"rank {number}": times for number, times in enumerate(busy)})

    def skipped_steps(self, iteration: int, metrics: dict[str, float]) -> None:
        """Count and say the steps of an iteration that left the weights alone, if there are any."""
        for prefix, who in (("", ""), ("critic_", " of the critic")):
            if skipped := metrics.get(f"{prefix}skipped_steps"):
                self._add("steps_skipped", skipped)
                made = f"{skipped:.0f} of {metrics[f'{prefix}steps']:.0f} steps{who}"
                self.note(f"iteration {iteration}: {made} skipped, as their gradients are not finite")

    def iteration(self, state: checkpoint.Progress, metrics: dict[str, float]) -> None:
        """Log one iteration everywhere."""
        metrics = {**self._generation, **self._measures, **self._passes, **metrics}
        self._passes = {}
        self._add("tokens_trained", metrics.get("tokens", 0))
        self._add("own_tokens", metrics.get("logprob_diff_tokens", 0))
        drift = metrics.get("logprob_diff_mean", 0.0) * metrics.get("logprob_diff_tokens", 0)
        self._add("own_abs", drift)
        self._raise("logprob_diff_max", metrics.get("logprob_diff_max"))
        self._raise("canary_diff_max", metrics.get("canary_diff"))
        self._counters |= {name: metrics[name] for name in _LAST if name in metrics}
        if "ppo_kl_first_step" in metrics and not self._config.algo.correction.bypass:
            self._counters.setdefault("ppo_kl_first_step", metrics["ppo_kl_first_step"])
        self._duplication.heed(metrics)
        metrics["weight_version"] = state.version
        phases = self._timeline.phases()
        metrics |= {f"seconds_{name}": seconds - self._phases_before.get(name, 0.0) for name, seconds in phases.items()}
        self._phases_before = phases
        if metrics["seconds_loop"] > 0:
            metrics["tokens_per_s"] = metrics.get("batch_tokens", 0.0) / metrics["seconds_loop"]
        if self._load_log is not None:
            self._load_log.log(state.iteration, {url: asdict(load) for url, load in self._loads.items()})
        self._write(state.iteration, metrics)
        self._progress.iteration(state.iteration, self._config.run.iterations, metrics)

    def evaluation(
        self, when: str, iteration: int, result: EvalResult, one: EvalSet, *, first: bool = True
    ) -> dict[str, float]:
        """Log an evaluation of the set `one` with the weights of an iteration, which may be past.

        Returns what the summary keeps of it. Of a named set that has the name in front; of the `first` set, which
        summary and progress show, it does not.
        """
        accuracies = {f"pass@{k}": value for k, value in result.pass_at_k.items()}
        measured = {
            **accuracies,
            "reward": result.mean_reward,
            "response_length": result.mean_length,
            "truncated": result.truncated_share,
            "failures": float(result.failures),
        }
        of = f"{one.name}/" if one.name else ""
        self._write(iteration, {f"eval/{of}{name}": value for name, value in measured.items()})
        if first:
            self._summary.eval_trained_on = result.trained_on
            self._progress.show({"accuracy": result.pass_at_1})
        found = ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
        which = f"of {one.name} " if one.name else ""
        self.note(
            f"evaluation {which}{when} training (iteration {iteration}): {found}, "
            f"reward {result.mean_reward:.3f}, "
            f"{result.mean_length:.1f} tokens, {result.samples} samples of {result.prompts} prompts"
            + (f", {result.trained_on} of them trained on" if result.trained_on else "")
            + (f", {result.dropped} left out as too long or bad" if result.dropped else "")
        )
        self._show(result.groups, when, iteration, one.config.success_reward)
        return in_summary(one.name, accuracies, first=first)

    def evaluated(self, iteration: int) -> dict[str, dict[str, float]]:
        """The accuracies of this iteration that are written down, by the name of the evaluation set."""
        found: dict[str, dict[str, float]] = {}
        for row in read_metrics(self._folder.path):
            for key, value in row.items() if row["iteration"] == iteration else ():
                if key.startswith("eval/") and (metric := key.rpartition("/")[2]).startswith("pass@"):
                    found.setdefault("/".join(key.split("/")[1:-1]), {})[metric] = value
        return found

    def beside(self, start: float, end: float) -> None:
        """An evaluation beside the training took from `start` to `end` (seconds since 1970)."""
        self._timeline.add("evaluate", EVALUATION, start, end)

    @property
    def rollout_store(self) -> RolloutStore:
        """Where the groups of iterations are stored, as far as `rollout.store` wants it."""
        rollout = self._config.rollout
        return RolloutStore(
            self._folder.path / FOLDER,
            rollout.store,
            self._config.run.report_samples,
            rollout.temperature,
            self._tokenizer,
            rollout.store_format,
        )

    def rollouts(self, iteration: int, groups: Sequence[Group]) -> None:
        """Write down a few of the answers that an iteration trained on, if it is one whose samples are shown."""
        most, every = self._config.run.report_samples, self._config.run.report_samples_every
        if most and every and (iteration == 1 or iteration % every == 0):
            self._show(spread(groups, most), TRAINING, iteration, self._config.eval.success_reward)

    def _show(self, groups: Sequence[Group], phase: str, iteration: int, success: float) -> None:
        assert self._samples is not None
        self._samples.log(shown(groups, phase, iteration, success))

    def update_counters(self, state: checkpoint.Progress) -> None:
        """Put the totals into what a checkpoint keeps."""
        state.counters = dict(self._counters)

    # ---- after it ----------------------------------------------------------------------------------------------

    def end_loop(self, eval_after: dict[str, float] | None) -> None:
        """The loop is over; `eval_after` is what the last evaluation found."""
        self._timeline.end_loop()
        if eval_after is not None:
            self._summary.eval_after, self._summary.eval_after_metrics = eval_after["pass@1"], eval_after

    def finish(self, status: str, state: checkpoint.Progress | None, message: str | None, restarts: Restarts) -> None:
        """Write summary and report, and print the last line: status, accuracies, time, folder."""
        self._timeline.end_loop()
        self._summary.engine_restarts, self._summary.trainer_restarts = restarts
        self._fill_summary(status, state, message)
        self._summary.write(self._folder.path)
        if self._tracker is not None:
            self._tracker.close()
        self._timeline.close()
        for log in (self._log, self._samples, self._load_log):
            if log is not None:
                log.close()
        write_trace(self._folder.path)
        write_report(self._folder.path)
        self._progress.close()
        say(self._last_line())

    def _fill_summary(self, status: str, state: checkpoint.Progress | None, message: str | None) -> None:
        summary, counters = self._summary, self._counters
        summary.status, summary.message = status, message
        summary.wall_seconds = time.time() - self._started
        phases, totals = self._timeline.phases(), self._timeline.totals()
        summary.loop_seconds = phases["loop"]
        summary.generate_seconds, summary.train_seconds = phases["generate"], phases["train"]
        summary.sync_seconds, summary.other_seconds = phases["sync"], phases["other"]
        summary.evaluate_seconds = totals.get("evaluate", 0.0)
        summary.checkpoint_seconds = totals.get("checkpoint", 0.0)
        if state is not None:
            summary.ended = why_ended(self._config.run, status, state)
            summary.iterations, summary.steps, summary.weight_version = state.iteration, state.steps, state.version
            if state.eval_before is not None:
                summary.eval_before, summary.eval_before_metrics = state.eval_before["pass@1"], state.eval_before
        summary.resumed = int(counters.get("resumed", 0))
        summary.tokens_trained = int(counters.get("tokens_trained", 0))
        summary.steps_skipped = int(counters.get("steps_skipped", 0))
        summary.tokens_generated = self._generation.get("tokens_generated", 0)
        summary.samples_failed = sum(self._generation.get(name, 0) for name in _FAILURES)
        summary.prompts_too_long = self._generation.get("prompts_too_long", 0)
        summary.prompts_bad = self._generation.get("prompts_bad", 0)
        summary.groups_dropped = self._generation.get("groups_dropped_equal", 0)
        if counters.get("own_tokens"):
            summary.logprob_diff_mean = counters["own_abs"] / counters["own_tokens"]
        summary.logprob_diff_max = counters.get("logprob_diff_max")
        summary.canary_diff_max = counters.get("canary_diff_max")
        summary.ppo_kl_first_step = counters.get("ppo_kl_first_step")
        summary.critic_loss, summary.explained_variance = (counters.get(name) for name in _LAST)

    def _last_line(self) -> str:
        summary = self._summary
        accuracies = [
            f"{when} {accuracy:.3f}"
            for when, accuracy in (("before", summary.eval_before), ("after", summary.eval_after))
            if accuracy is not None
        ]
        middle = f"accuracy {', '.join(accuracies)}  " if accuracies else ""
        ended = f": {summary.ended}" if summary.ended else ""
        return f"{summary.status}{ended}  {middle}{summary.wall_seconds:.1f} s  {self._folder.path}"

    def _write(self, iteration: int, metrics: dict[str, float]) -> None:
        assert self._log is not None
        assert self._tracker is not None
        self._log.log(iteration, metrics)
        self._tracker.log(iteration, metrics)

    def _add(self, name: str, value: float) -> None:
        self._counters[name] = self._counters.get(name, 0.0) + value

    def _raise(self, name: str, value: float | None) -> None:
        if value is not None:
            self._counters[name] = max(self._counters.get(name, float("-inf")), value)


_PHASES = {
    "generate": "generating",
    "train": "training",
    "sync": "syncing weights",
    "evaluate": "evaluating",
    "checkpoint": "saving a checkpoint",
}
