"""Engines and the rollout service without a trainer: one evaluation of a model as it lies on disk."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlscale.config.derived.eval_sets import eval_sets
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.shown import say
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.data.target import current_folder_importable
from rlscale.platform.ownership import make_own
from rlscale.rollout.evaluation import EvalResult
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.run.commands.convert_command import export_checkpoint
from rlscale.run.processes.forks import Forks, early_forks, with_workers
from rlscale.run.processes.placement import lay_out, lay_out_beside
from rlscale.run.processes.ray_session import RaySession, node_ids
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sides.generate_only import VERSION, serving
from rlscale.run.sides.models_beside import ModelsBeside
from rlscale.run.sides.run_context import RunContext


def measure(config: Config, checkpoint: Path | None, logs: Path) -> EvalResult:
    """Evaluate the model of `config`, or that of a checkpoint, which is exported to a temporary folder first.

    UserError where a part fails; StopRequested on a signal. By then no process is left.
    """
    if config.run.in_process:
        raise UserError("run.in_process=true: eval has its rollout service in a process of its own; leave it out")
    scratch = make_own(Path(config.run.scratch), "run.scratch").resolve()  # before forks have files in it
    stop = StopSignal()
    calls = Calls(stop, config.cluster.call_timeout_s, str(logs), config.cluster.answer_timeout_s)
    with (
        current_folder_importable(),
        early_forks(config) as early,
        with_workers(config, early) as forks,
        tempfile.TemporaryDirectory(dir=scratch, prefix="eval-") as temporary,
        RaySession(config.cluster, scratch),
    ):
        stop.install()
        try:
            model = ensure_model_folder(config.model, scratch)
            if checkpoint is not None:
                say(f"exporting {checkpoint}")
                model = export_checkpoint(config, checkpoint, Path(temporary) / "model", calls, logs, forks)
            return _measured(config, model, calls, logs, forks)
        finally:
            stop.restore()


def _measured(config: Config, model: Path, calls: Calls, logs: Path, forks: Forks) -> EvalResult:
    """One evaluation on engines that read their weights from the model's folder, also after a restart."""
    sizes = Sizes.of(config)
    layout = lay_out(config.cluster, sizes.trainer_ranks, config.rollout.engine_gpus)
    layout = dataclasses.replace(layout, beside=lay_out_beside(config, sizes))
    nodes = node_ids(layout.nodes, config.cluster.gpus_per_node)
    scratch = Path(config.run.scratch).resolve()
    own = serving(dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, max_staleness=0)))
    context = RunContext(layout, nodes, calls, logs, scratch, _say, forks)
    engines = context.fleet(own)
    # All samples come back, not only the few for a report.
    spec = dataclasses.replace(RolloutSpec.of(own, model), report_samples=2**31)
    rollout = context.rollout(spec)
    models: ModelsBeside | None = None

    def mend() -> None:
        engines.heal(_nothing_to_send, rollout.redirect)
        if models is not None:
            models.mend(VERSION)

    try:
        engines.launch(str(model))
        models = ModelsBeside(own, context, engines.machines)
        models.launch(str(model))
        rollout.prepared()
        _say("starting the engines")
        engines.ready()
        models.ready()
        models.tell(rollout)
        rollout.start(engines.router_url, engines.api_key)
        _say("evaluating")
        result: EvalResult = rollout.evaluate(VERSION, mend, next(iter(eval_sets(config.eval))))
        return result
    finally:
        rollout.close()
        engines.close()
        if models is not None:
            models.close()


def _nothing_to_send(urls: Sequence[str]) -> None:
    """A restarted engine has the weights of its folder, which are the right ones."""


def _say(text: str) -> None:
    say(text)
