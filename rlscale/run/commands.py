"""Subcommands that need the parts of a run, but no loop."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rlscale.config.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema.cluster import Device
from rlscale.config.sizes import Sizes
from rlscale.data.model_folder import ensure_model_folder
from rlscale.run.assembly import trainer_spec
from rlscale.run.calls import Calls, StopSignal
from rlscale.run.checkpoint import CheckpointStore
from rlscale.run.folder import read_mark
from rlscale.run.placement import lay_out
from rlscale.run.ray_session import RaySession, node_ids
from rlscale.run.trainer_group import TrainerGroup

EXPORT_USAGE = (
    "usage: python -m rlscale export run.output=FOLDER [to=FOLDER] [iteration=N]\n"
    "  run.output  folder of a run\n"
    "  to          folder for the model; by default hf-<iteration> in the run's folder\n"
    "  iteration   which checkpoint; by default the newest whole one"
)


def export(arguments: Sequence[str]) -> int:
    """Write the model of a run's checkpoint as Hugging Face safetensors."""
    if any(word in ("-h", "--help") for word in arguments):
        print(EXPORT_USAGE)
        return 0
    given = _given(arguments, ("run.output", "to", "iteration"))
    if "run.output" not in given:
        raise UserError("export needs run.output=FOLDER, the folder of a run")
    run = Path(given["run.output"])
    checkpoint = _checkpoint(run, given.get("iteration"))
    target = Path(given.get("to", run / f"hf-{checkpoint.name.removeprefix('iteration_').lstrip('0') or 0}")).resolve()
    if target.is_file():
        raise UserError(f"to={target} is a file; choose a folder")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"to={target} exists and is not empty; choose another folder")

    config = compose(str(run / "recipe.yaml"), [])
    scratch = Path(config.run.scratch).resolve()
    logs = run.resolve() / "logs" / "export"
    sizes = Sizes.of(config)
    model = ensure_model_folder(config.model, scratch)
    stop = StopSignal()
    with RaySession(config.cluster, scratch):
        stop.install()
        layout = lay_out(config.cluster, sizes.trainer_ranks, 0, 1)
        calls = Calls(stop, config.cluster.call_timeout_s, str(logs))
        device = config.cluster.device
        nodes = node_ids(1, need_gpus=device is Device.cuda)
        trainer = TrainerGroup(layout, nodes, calls, logs, device, config.trainer.threads)
        try:
            trainer.start(trainer_spec(config, model), config.cluster.start_timeout_s)
            trainer.call("load", checkpoint / "trainer", what="loading the checkpoint")
            trainer.call("export", target, what="export")
        finally:
            trainer.close()
            stop.restore()
    shutil.rmtree(logs, ignore_errors=True)
    print(f"exported {checkpoint} to {target}")
    return 0


def _given(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    given = {}
    for word in arguments:
        key, separator, value = word.partition("=")
        if not separator or key not in known:
            raise UserError(f"export does not know {word!r}; it takes {', '.join(f'{k}=...' for k in known)}")
        given[key] = value
    return given


def _checkpoint(run: Path, iteration: str | None) -> Path:
    if read_mark(run) is None:
        raise UserError(f"run.output={run} holds no run")
    whole = CheckpointStore(run / "checkpoints", keep=1).whole()
    if not whole:
        raise UserError(f"run.output={run} holds no whole checkpoint")
    if iteration is None:
        return whole[-1].resolve()
    for path in whole:
        if path.name.removeprefix("iteration_").lstrip("0") == iteration.lstrip("0"):
            return path.resolve()
    numbers = ", ".join(path.name.removeprefix("iteration_").lstrip("0") or "0" for path in whole)
    raise UserError(f"iteration={iteration}: {run} has checkpoints of the iterations {numbers}")
