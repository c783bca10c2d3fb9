"""`--dry-run`: what a command would start, as files to read; nothing is started, downloaded or kept besides them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlscale.config.checks import check
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.composition.yaml_text import to_yaml
from rlscale.config.derived.needs import Needs
from rlscale.config.derived.sizes import Sizes
from rlscale.config.environment_values import FROM, without_secrets
from rlscale.config.errors import UserError
from rlscale.config.keys import config_hash
from rlscale.config.machine import missing_files, shortcomings
from rlscale.config.own_files import write_text
from rlscale.config.schema import Config
from rlscale.config.shown import say
from rlscale.run.disk.run_folder import DRY_RUN, new_folder_name, refuse_folder
from rlscale.run.dry_run.job_script import kubernetes_job, slurm_job
from rlscale.run.dry_run.planned_processes import planned_processes
from rlscale.run.dry_run.started_folders import started_folders
from rlscale.run.preflight import Findings, look

PROCESSES = "processes.yaml"
SLURM, KUBERNETES = "job.sbatch", "rayjob.yaml"


def dry_run(config: Config, command: Sequence[str], *, slurm: bool = False, image: str | None = None) -> int:
    """Check a composed configuration and write what `command` would start. Returns 0; ConfigError with the problems.

    `slurm`: with a script for sbatch. `image`: with a KubeRay job that runs it.
    """
    if config.run.smoke:
        raise UserError("run.smoke=true: --dry-run shows what a run starts; leave one of them out")
    for note in check(config):  # said before anything is built: whose code that is, is one of them
        say(f"note: {note}")
    found = Findings()
    found.problems += missing_files(config) if config.cluster.ray_address is None else []
    with found.of(""):
        refuse_folder(config, config_hash(config))
    look(config, found, fetch=False)
    found.raise_problems()
    scripts = {}
    folder = _folder(config)
    if slurm:
        scripts[SLURM] = slurm_job(config, folder)
    if image is not None:
        scripts[KUBERNETES] = kubernetes_job(config, image)
    with started_folders(config, needs_engines=Needs.of(config).engines) as folders:
        processes = planned_processes(config, folders, list(command))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(config, folder)
        said = without_secrets({"processes": processes}, config.run.environment)
        write_text(folder / PROCESSES, to_yaml(said))
        for name, text in scripts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose another run.output") from error
    if named := sorted(set(FROM.findall(scripts.get(KUBERNETES, "")))):
        found.notes.append(f"{KUBERNETES} gives its containers no {', '.join(named)}, which its recipe reads; add them")
    for line in (*Sizes.of(config).lines(), *(f"note: {note}" for note in found.notes)):
        say(line)
    for line in shortcomings(config) if config.cluster.ray_address is None else ():
        say(f"not on this machine: {line}")
    for process in processes:
        gpus = f", GPU {', '.join(map(str, process['gpus']))}" if "gpus" in process else ""
        say(f"  {process['name']:<24} machine {process['machine']}{gpus}")
    say(f"nothing was started; {', '.join(['recipe.yaml', 'resolved.yaml', PROCESSES, *scripts])} are in {folder}")
    return 0


def _folder(config: Config) -> Path:
    """Below `run.output` where that is given, and no hindrance to the run there; otherwise beside other runs."""
    if config.run.output is not None:
        return Path(config.run.output).resolve() / DRY_RUN
    return (Path(config.run.root) / config.run.recipe / f"{DRY_RUN}_{new_folder_name()}").resolve()
