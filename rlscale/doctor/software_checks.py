"""Checks of what is installed and readable on a machine: versions, the hub's cache, models and data, variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlscale.config.composition.written_recipe import ESSENTIAL
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.trainer_config import EightBits
from rlscale.doctor.facts import Facts
from rlscale.doctor.finding import Finding, ok, problem, warning

_SHOWN = 4
_CPU_BUILD = "+cpu"


def versions(lock: Mapping[str, str], facts: Facts) -> Iterator[Finding]:
    """What is installed, against the lock that this rlscale was tested with."""
    wrong = {name: facts.packages.get(name) for name, pin in lock.items() if not _same(facts.packages.get(name), pin)}
    essential = {name: have for name, have in wrong.items() if name in ESSENTIAL}
    if essential:
        yield problem(_listed(essential, lock), "install requirements.lock (make install)")
    elif wrong:
        yield warning(_listed(wrong, lock), "install requirements.lock (make install)")
    else:
        yield ok(f"Python {facts.python}, {len(lock)} packages as in the lock")


def torch_build(config: Config, facts: Facts) -> Iterator[Finding]:
    """A torch that can use GPUs, where the run does."""
    have = facts.packages.get("torch")
    if config.cluster.device is Device.cuda and have is not None and have.endswith(_CPU_BUILD):
        yield problem(f"torch {have} cannot use GPUs", "install the CUDA build (docs/gpus.md)")


def eight_bits(config: Config, facts: Facts) -> Iterator[Finding]:
    """Transformer Engine, where the trainer computes in FP8."""
    recipe = config.trainer.fp8
    if recipe is EightBits.none:
        return
    have = facts.packages.get("transformer_engine")
    if have is None:
        yield problem(f"trainer.fp8={recipe.value} needs Transformer Engine, which is not installed", "docs/gpus.md")
    elif not recipe.is_in(have):
        since = ".".join(map(str, recipe.since))
        yield problem(
            f"Transformer Engine {have} does not have trainer.fp8={recipe.value}", f"install {since} or later"
        )
    else:
        yield ok(f"Transformer Engine {have}")


def files(config: Config, facts: Facts) -> Iterator[Finding]:
    """What the run reads can be read."""
    for line in facts.unreadable:
        yield problem(line, "put it where every machine of the run sees it")
    if not facts.unreadable:
        yield ok("models and data can be read")


def hub_cache(config: Config, facts: Facts) -> Iterator[Finding]:
    """Models of the hub are there, or can be downloaded to where there is room."""
    if not facts.to_download:
        return
    names = ", ".join(facts.to_download)
    if facts.offline:
        yield problem(f"{names} is not in {facts.hub_cache.path}, and HF_HUB_OFFLINE is set", "hf download it first")
    elif not facts.hub_cache.writable:
        yield problem(f"{names} cannot be downloaded to {facts.hub_cache.path}", "set HF_HOME to a folder of yours")
    else:
        yield warning(f"{names} is not in {facts.hub_cache.path} yet", "hf download it first; the run does otherwise")


def environment(config: Config, facts: Facts) -> Iterator[Finding]:
    """No variable that keeps a run from starting, and no Ray that anybody may use."""
    if facts.open_ray:
        yield problem(
            "Ray asks for no token: whoever reaches it runs what they like as you",
            "start it with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, on every machine (docs/security.md)",
        )
    if facts.open_ray is None:
        yield warning(
            "whether Ray asks for a token could not be found out",
            "see that it was started with RAY_AUTH_MODE=token (docs/security.md)",
        )
    mode = facts.variables.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        yield problem(f"RAY_AUTH_MODE={mode}: without its token Ray runs what anybody sends", "unset it")
    if facts.variables.get("CUDA_LAUNCH_BLOCKING", "0") == "1":
        yield warning("CUDA_LAUNCH_BLOCKING=1 makes every kernel wait", "unset it unless you debug")


def _same(have: str | None, pin: str) -> bool:
    return have is not None and have.partition("+")[0] == pin.partition("+")[0]


def _listed(wrong: Mapping[str, str | None], lock: Mapping[str, str]) -> str:
    names = [f"{name} {have or 'missing'} instead of {lock[name]}" for name, have in wrong.items()]
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
