"""Subcommands that need the parts of a run, but no loop."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlscale.config.checks.layout import check_layout
from rlscale.config.composition.command_words import help_is_shown, recipe_and_overrides
from rlscale.config.composition.compose import compose
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import UserError
from rlscale.config.machine import check_gpus, check_starting_weights
from rlscale.config.schema import Config
from rlscale.config.shown import say
from rlscale.data.folders.companions import companions_of
from rlscale.platform.ownership import make_own
from rlscale.run.assembly import trainer_spec
from rlscale.run.commands.recipe_of_run import compose_of_run, tell_code, trusted
from rlscale.run.disk.resume import checkpoint_of
from rlscale.run.model_folders import ModelFolders, unsummed_starts
from rlscale.run.processes.forks import Forks, warm_forks, with_workers
from rlscale.run.processes.placement import lay_out
from rlscale.run.processes.ray_session import RaySession, node_ids
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.sides.rank_places import RankPlaces
from rlscale.run.sides.trainer_group import TrainerGroup
from rlscale.trainer.trainer_spec import Form, TrainerSpec

EXPORT_USAGE = (
    "usage: python -m rlscale export run.output=FOLDER [to=FOLDER] [iteration=N] [model=policy|critic] [parallel=...]\n"
    "                               [--trust-run]\n"
    "  run.output  folder of a run\n"
    "  to          folder for the model; by default hf-<iteration> or hf_critic-<iteration> in the run's folder\n"
    "  iteration   which checkpoint; by default the newest whole one\n"
    "  model       policy (default), or the critic of a run that has one\n"
    "  parallel    layout of the ranks that convert, and cluster their machines; by default the run's\n"
    "  --trust-run let the ranks be of a trainer that the run's own recipe names"
)

IMPORT_USAGE = (
    "usage: python -m rlscale import model=NAME|model.path=FOLDER to=FOLDER [parallel=...] [key=value ...]\n"
    "  model, ...  the model, as in a run; with model.init=FOLDER, the weights that the run would start from\n"
    "  to          folder for the checkpoint, which a run starts from with model.init=FOLDER\n"
    "  parallel    layout of the ranks that convert; a run of any other layout can read the checkpoint"
)

_ELSEWHERE = ("parallel", "cluster")
"""Sections that may be otherwise than in the run whose checkpoint is exported."""

_FOLDERS = {"policy": "hf", "critic": "hf_critic"}
"""The models that can be exported, and how their folders are called."""


def export(arguments: Sequence[str]) -> int:
    """Write a model of a run's checkpoint as Hugging Face safetensors."""
    if help_is_shown(arguments, EXPORT_USAGE):
        return 0
    trust, arguments = trusted(arguments)
    elsewhere = [word for word in arguments if word.lstrip("~").partition("=")[0].split(".")[0] in _ELSEWHERE]
    own = [word for word in arguments if word not in elsewhere]
    given = _given(own, ("run.output", "to", "iteration", "model"), "parallel=..., cluster=...")
    wanted = given.get("model", "policy")
    if wanted not in _FOLDERS:
        raise UserError(f"model={wanted}: export knows {' and '.join(_FOLDERS)}")
    if "run.output" not in given:
        raise UserError("export needs run.output=FOLDER, the folder of a run")
    run = Path(given["run.output"])
    checkpoint = checkpoint_of(run, given.get("iteration"))
    number = checkpoint.name.removeprefix("iteration_").lstrip("0") or "0"
    target = _empty(Path(given.get("to", run / f"{_FOLDERS[wanted]}-{number}")).resolve())
    config = compose_of_run(run, elsewhere, (), _is_run, trust=trust, repeats=False)
    tell_code(config, _is_run)
    _check(config)
    models = ModelFolders.of(config)  # without the teacher, which is not part of what is exported
    if wanted == "critic" and models.critic is None:
        raise UserError(f"model=critic: {run} has none (algorithm {config.algo.name})")
    _try_writing(target)
    spec = dataclasses.replace(trainer_spec(config, models), companions=companions_of(config, models.policy))
    if wanted == "critic":
        spec = dataclasses.replace(spec, critic_init_path=str(checkpoint / "trainer" / "critic"))
    else:
        spec = spec.of_checkpoint(str(checkpoint / "trainer"))
    _convert(config, spec, target, Form.hugging_face, run.resolve() / "logs" / "export", critic=wanted == "critic")
    say(f"exported {checkpoint} to {target}")
    return 0


def import_(arguments: Sequence[str]) -> int:
    """Write a Hugging Face model as a Megatron checkpoint of its weights."""
    if help_is_shown(arguments, IMPORT_USAGE):
        return 0
    recipe, words = recipe_and_overrides(arguments, "import")
    targets = [word.removeprefix("to=") for word in words if word.startswith("to=")]
    if len(targets) != 1 or not targets[0]:
        raise UserError("import needs to=FOLDER once, the folder for the checkpoint")
    target = _empty(Path(targets[0]).resolve())
    config = compose(recipe, [word for word in words if not word.startswith("to=")])
    tell_code(config, _is_run)
    _check(config)
    check_starting_weights(config)
    _try_writing(target)
    models = ModelFolders.of_policy(config)
    models.check_start(config)
    for line in unsummed_starts(config):
        say(f"note: {line}")
    spec = trainer_spec(config, models)
    spec = dataclasses.replace(spec, critic=None, model=dataclasses.replace(spec.model, lora=None))
    _convert(config, spec, target, Form.checkpoint, target.with_name(f".{target.name}-logs"))
    say(f"imported {spec.init_path} to {target}; a run starts from it with model.init={target}")
    return 0


def _is_run(key: str) -> bool:
    """Of a configuration, the trainer and the machines of its ranks."""
    return key.partition(".")[0] in ("trainer", "cluster")


def _check(config: Config) -> None:
    """Whether the model can be laid out on the ranks that convert, and this machine has their GPUs."""
    if config.run.in_process:
        raise UserError("run.in_process=true: a model is converted by ranks in processes of their own; leave it out")
    check_layout(config)
    check_gpus(config)


def _convert(config: Config, spec: TrainerSpec, target: Path, to: Form, logs: Path, *, critic: bool = False) -> None:
    """Let trainer ranks convert; their logs stay only if they fail."""
    stop = StopSignal()
    scratch = make_own(Path(config.run.scratch), "run.scratch").resolve()  # before forks have files in it
    with with_workers(config, warm_forks(config)) as forks, RaySession(config.cluster, scratch):
        stop.install()
        calls = Calls(stop, config.cluster.call_timeout_s, str(logs), config.cluster.answer_timeout_s)
        try:
            _convert_here(config, spec, target, to, calls, logs, forks, critic=critic)
        finally:
            stop.restore()
    shutil.rmtree(logs, ignore_errors=True)


def _convert_here(
    config: Config,
    spec: TrainerSpec,
    target: Path,
    to: Form,
    calls: Calls,
    logs: Path,
    forks: Forks,
    *,
    critic: bool = False,
) -> None:
    """The same in a Ray session that is up."""
    layout = lay_out(config.cluster, Sizes.of(config).trainer_ranks, [])
    nodes = node_ids(layout.nodes, config.cluster.gpus_per_node)
    trainer = TrainerGroup(RankPlaces(layout, nodes, calls, logs, config, forks))
    try:
        trainer.convert(spec, target, to, config.cluster.start_timeout_s, critic=critic)
    finally:
        trainer.close()


def export_checkpoint(config: Config, checkpoint: Path, target: Path, calls: Calls, logs: Path, forks: Forks) -> Path:
    """Write the policy of a checkpoint to the folder `target`, in a Ray session that is up. Returns the folder."""
    models = ModelFolders.of_policy(config)
    spec = trainer_spec(config, models).of_checkpoint(str(checkpoint / "trainer"))
    spec = dataclasses.replace(spec, critic=None, companions=companions_of(config, models.policy))
    _convert_here(config, spec, target, Form.hugging_face, calls, logs, forks)
    return target


def _empty(target: Path) -> Path:
    """The folder to write, which must be free."""
    for folder in (target, *target.parents):
        if folder.is_file():
            raise UserError(f"to={target}: {folder} is a file; choose another folder")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"to={target} exists and is not empty; choose another folder")
    return target


def _try_writing(target: Path) -> None:
    """Make the folder that holds it, and write there, before anything is started. UserError where that fails."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target if target.is_dir() else target.parent, prefix=".rlscale-"):
            pass
    except OSError as error:
        raise UserError(f"to={target} cannot be written: {error.strerror}; choose another folder") from error


def _given(arguments: Sequence[str], known: Sequence[str], more: str) -> dict[str, str]:
    given = {}
    for word in arguments:
        key, separator, value = word.partition("=")
        if not separator or key not in known:
            raise UserError(f"export does not know {word!r}; it takes {', '.join(f'{k}=...' for k in known)}, {more}")
        if key in given:
            raise UserError(f"{word}: {key} is given twice")
        given[key] = value
    return given
