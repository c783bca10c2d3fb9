"""Job scripts that bring up a Ray cluster of the run's machines and start the run on it, from templates."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rlscale.config.composition.written_recipe import recipe_text
from rlscale.config.errors import UserError
from rlscale.config.foreign_code import allowed_code
from rlscale.config.schema import Config

_IMAGE = re.compile(r"[\w.:/@-]+")
_MOUNT = "/recipe"
_HOME = "/rlscale"
"""Where docker/cuda.Dockerfile puts rlscale."""


def slurm_job(config: Config, folder: Path) -> str:
    """The text of a script for `sbatch`; it runs the `recipe.yaml` of `folder`, which every machine has to see."""
    own_cluster = config.cluster.nodes > 1
    words = [f"recipe={folder / 'recipe.yaml'}", *_of_this_run(config)]
    return _filled(
        "job.sbatch.template",
        name=shlex.quote(f"rlscale-{config.run.recipe}"),
        nodes=config.cluster.nodes,
        gpus=f"#SBATCH --gpus-per-node={config.cluster.gpus_per_node}\n" if config.cluster.gpus_per_node else "",
        folder=shlex.quote(str(folder)),
        log=shlex.quote(str(folder).replace("%", "%%") + "/slurm-%j.log"),  # sbatch reads quotes as a shell does
        here=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
        gpus_per_node=config.cluster.gpus_per_node,
        words=shlex.join([*words, *(["cluster.ray_address=auto"] if own_cluster else [])]),
        cluster="yes" if own_cluster else "no",
    )


def kubernetes_job(config: Config, image: str) -> str:
    """The text of a ConfigMap with the recipe and of a KubeRay RayJob that runs it, in YAML.

    UserError for an image without a name.
    """
    cluster = config.cluster
    words = [f"recipe={_MOUNT}/recipe.yaml", "cluster.ray_address=auto", *_of_this_run(config, elsewhere=True)]
    if not _IMAGE.fullmatch(image):
        raise UserError(f"--kubernetes={image}: name the image that has rlscale installed, --kubernetes=IMAGE")
    return _filled(
        "rayjob.yaml.template",
        name=_kubernetes_name(f"rlscale-{config.run.recipe}"),
        image=json.dumps(image),
        entrypoint=json.dumps(f"python -m rlscale {shlex.join(words)}"),
        recipe="\n".join(f"    {line}".rstrip() for line in recipe_text(config).splitlines()),
        ray=version("ray"),
        mount=_MOUNT,
        home=_HOME,
        workers=cluster.nodes - 1,
        gpus=json.dumps(str(cluster.gpus_per_node)),
    )


def _of_this_run(config: Config, *, elsewhere: bool = False) -> list[str]:
    """The words that a written recipe leaves out. `elsewhere`: paths of this machine mean nothing there."""
    if elsewhere:
        words = [f"run.root={_HOME}/outputs", f"run.scratch={_HOME}/.rlscale"]
    else:
        run = config.run
        words = [f"run.root={Path(run.root).resolve()}", f"run.scratch={Path(run.scratch).resolve()}"]
        words += [f"run.output={Path(run.output).resolve()}"] if run.output is not None else []
    return [*words, "run.progress=plain", *allowed_code()]


def _kubernetes_name(name: str) -> str:
    """Lower-case letters, digits and dashes, 40 of them at most, as pods' names are made of it."""
    plain_name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower())
    return plain_name[:40].strip("-")


def _filled(template: str, **values: Any) -> str:
    text = files("rlscale.run.dry_run").joinpath(template).read_text(encoding="utf-8")
    return Template(text).substitute(values)
