"""Subcommands that need the parts of a run, but no loop."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rlscale.config.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema.cluster import Device
from rlscale.config.sizes import Sizes
from rlscale.run.assembly import trainer_spec
from rlscale.run.calls import Calls, StopSignal
from rlscale.run.checkpoint import CheckpointStore
from rlscale.run.folder import read_mark
from rlscale.run.models import ModelFolders
from rlscale.run.placement import lay_out
from rlscale.run.ray_session import RaySession, node_ids
from rlscale.run.trainer_group import TrainerGroup

EXPORT_USAGE = (
    "usage: python -m rlscale export run.output=FOLDER [to=FOLDER] [iteration=N] [model=policy|critic]\n"
    "  run.output  folder of a run\n"
    "  to          folder for the model; by default hf-<iteration> or hf_critic-<iteration> in the run's folder\n"
    "  iteration   which checkpoint; by default the newest whole one\n"
    "  model       policy (default), or the critic of a run that has one"
)

_FOLDERS = {"policy": "hf", "critic": "hf_critic"}
"""The models that can be exported, and how their folders are called."""


def export(arguments: Sequence[str]) -> int:
    """Write a model of a run's checkpoint as Hugging Face safetensors."""
    if any(word in ("-h", "--help") for word in arguments):
        print(EXPORT_USAGE)
        return 0
    given = _given(arguments, ("run.output", "to", "iteration", "model"))
    wanted = given.get("model", "policy")
    if wanted not in _FOLDERS:
        raise UserError(f"model={wanted}: export knows {' and '.join(_FOLDERS)}")
    if "run.output" not in given:
        raise UserError("export needs run.output=FOLDER, the folder of a run")
    run = Path(given["run.output"])
    checkpoint = _checkpoint(run, given.get("iteration"))
    number = checkpoint.name.removeprefix("iteration_").lstrip("0") or "0"
    target = Path(given.get("to", run / f"{_FOLDERS[wanted]}-{number}")).resolve()
    if target.is_file():
        raise UserError(f"to={target} is a file; choose a folder")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"to={target} exists and is not empty; choose another folder")

    config = compose(str(run / "recipe.yaml"), [])
    models = ModelFolders.of(config)  # without the teacher, which is no part of what is exported
    if wanted == "critic" and models.critic is None:
        raise UserError(f"model=critic: {run} has none (algorithm {config.algo.name})")
    logs = run.resolve() / "logs" / "export"
    sizes = Sizes.of(config)
    stop = StopSignal()
    with RaySession(config.cluster, Path(config.run.scratch).resolve()):
        stop.install()
        layout = lay_out(config.cluster, sizes.trainer_ranks, 0, 1)
        calls = Calls(stop, config.cluster.call_timeout_s, str(logs))
        device = config.cluster.device
        nodes = node_ids(1, need_gpus=device is Device.cuda)
        trainer = TrainerGroup(layout, nodes, calls, logs, device, config.trainer.threads)
        try:
            trainer.start(trainer_spec(config, models), config.cluster.start_timeout_s)
            trainer.call("load", checkpoint / "trainer", what="loading the checkpoint")
            trainer.call("export", target, wanted, what="export")
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
