"""The shipped transports of weights: does the chosen one reach these engines."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.said_options import said_gpus, said_options
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.rollout_config import Concurrency
from rlscale.config.schema.trainer_config import Mtp
from rlscale.families.served_form import WeightForm

_TRANSPORTS = "rlscale.weights.transports."
_AUTO = "choose weights/transport=auto"
_APART = "cluster.placement=disaggregated"
_ONE_BY_ONE = ("shared_memory, disk or delta", "disk or delta")
"""Transports to engines apart from the trainer that reach them one by one: on the CPU, on GPUs."""
OTHER_MACHINES = "choose weights/transport=broadcast, or disk with a weights.transport.folder that both reach"


def transport_goes_there(context: CheckContext) -> Iterator[str]:
    """Memory is shared on one machine and device, handles of GPUs need GPUs, NCCL wants devices apart."""
    config, name = context.config, _name(context)
    apart = config.cluster.placement is Placement.disaggregated
    if name == "cuda_ipc" and not context.on_gpus:
        yield f"weights.transport: CUDA IPC needs cluster.device=cuda; {_AUTO}"
    elif name == "cuda_ipc" and apart:
        yield f"weights.transport: CUDA IPC reaches engines on the trainer's own GPUs only; {_AUTO}"
    elif name == "shared_memory" and context.on_gpus:
        yield f"weights.transport: shared memory is for engines on the CPU; {_AUTO}"
    elif name == "shared_memory" and apart and config.cluster.nodes > 1:
        yield f"weights.transport: memory is not shared over cluster.nodes={config.cluster.nodes}; {_AUTO}"
    elif name == "broadcast" and context.on_gpus and not apart:
        yield f"weights.transport: NCCL cannot broadcast between processes on the same GPU; {_AUTO}"


def memory_is_shared_with_given_engines(context: CheckContext) -> Iterator[str]:
    """Engines that somebody else runs share memory only if they are on this machine."""
    if not weights_take_shared_memory(context):
        return
    for url in context.config.rollout.engine_urls:
        host = urlsplit(url).hostname
        if host is not None and _is_elsewhere(host):
            elsewhere = f"{url} is on another machine, and shares no memory with the trainer"
            yield f"weights.transport: {elsewhere}; {OTHER_MACHINES}"
            return


def weights_take_shared_memory(context: CheckContext) -> bool:
    """Whether engines get weights through memory that they share with the trainer: as chosen, or by themselves."""
    by_default = not context.on_gpus and context.config.cluster.placement is Placement.colocated
    return _name(context) == "shared_memory" or (_name(context) == "choice" and by_default)


def files_have_a_place(context: CheckContext) -> Iterator[str]:
    """Versions that are kept are counted, and another path for engines is one of a folder that has a path here."""
    node, name = context.config.weights.transport, _name(context)
    if name not in ("disk", "delta"):
        return
    if node.get("folder") is None and node.get("folder_on_engines") is not None:
        yield (
            "weights.transport.folder_on_engines: the run's own folder has a new name in every process; name a "
            "weights.transport.folder as well"
        )
    keep, encoding = node.get("keep", 1), node.get("encoding", "xor")
    if type(keep) is not int or keep < 1:
        yield f"weights.transport.keep={keep}: must be a whole number of at least 1"
    if encoding not in ("xor", "overwrite"):
        yield f"weights.transport.encoding={encoding}: use xor or overwrite"
    for key, workers in said_options(context.config.rollout, "tokenizer_worker_num").items():
        if name == "delta" and workers != 1:
            yield (
                f"{key}={workers}: SGLang's further processes do not know the call that patches weights; leave it out, "
                "or choose weights/transport=disk"
            )


def engines_take_turns(context: CheckContext) -> Iterator[str]:
    """Others generate while some load: on devices of their own, ahead of the trainer, reached one by one."""
    config, most = context.config, context.config.weights.max_engines_at_once
    if most is None:
        return
    begin, away = f"weights.max_engines_at_once={most}:", "leave it out"
    if not context.needs.engines or context.supervised or config.run.generate_only:
        yield f"weights.max_engines_at_once={most} is never read: no engine generates during a sync; {away}"
    elif config.rollout.engine_urls:
        yield (
            f"{begin} engines of rollout.engine_urls that rlscale did not start keep keys and values of old weights "
            f"while they are paused, and it has not been tried with those that it did; {away}"
        )
    elif config.rollout.engine_groups:
        yield f"{begin} engines of rollout.engine_groups have not been tried with it; {away}"
    elif not config.syncs_in_waves:
        yield f"{begin} there are no more than rollout.engines={config.rollout.engines}; {away}"
    elif config.cluster.placement is not Placement.disaggregated:
        yield f"{begin} nobody generates on devices that the trainer has; {away}, or set {_APART}"
    elif config.rollout.max_staleness == 0:
        yield f"{begin} with rollout.max_staleness=0 nothing is generated during a sync; {away}, or raise the bound"
    elif config.rollout.concurrency is Concurrency.adaptive:
        yield (
            f"{begin} rollout.concurrency=adaptive forgets how many requests an engine takes whenever the router "
            f"leaves it out; use fixed, or {away}"
        )
    elif config.serves_adapters:
        yield (
            f"{begin} requests name the adapter of their version, which all engines change together "
            f"(weights.lora=adapter); {away}"
        )
    elif _name(context) in ("broadcast", "choice"):  # which broadcasts to engines apart from the trainer
        others = _ONE_BY_ONE[context.on_gpus]
        yield f"{begin} a broadcast goes to all engines at once; choose weights/transport={others}, or {away}"


def tensors_can_be_compared(context: CheckContext) -> Iterator[str]:
    """Checksums are told of whole tensors that are served as they were trained."""
    config = context.config
    if not (every := config.weights.verify_tensors):
        return
    begin = f"weights.verify_tensors={every}:"
    if config.run.generate_only:
        yield f"{begin} no engine of run.generate_only=true is given weights; set it to 0"
    if config.rollout.weights is not WeightForm.as_trained:
        yield f"{begin} engines of rollout.weights={config.rollout.weights.value} hold codes; set it to 0"
    if config.trainer.mtp is Mtp.trained:
        yield f"{begin} engines drop the layer that trainer.mtp=trained sends them; set it to 0"
    if config.serves_adapters:
        yield f"{begin} engines of weights.lora=adapter are sent no whole tensor; set it to 0"
    sizes = said_gpus(config.rollout)
    for name, model in config.rollout.models.items():
        if model.follows_policy:
            sizes[f"rollout.models.{name}.gpus_per_engine"] = model.gpus_per_engine
    for key, per in sizes.items():
        if context.on_gpus and per > 1:
            yield f"{begin} the ranks of an engine of {key}={per} share its tensors; set it to 0"


def _name(context: CheckContext) -> str:
    """The module of a shipped transport; empty for one of somebody's own."""
    target = str(context.config.weights.transport.get(TARGET, ""))
    return target.removeprefix(_TRANSPORTS).partition(".")[0] if target.startswith(_TRANSPORTS) else ""


def _is_elsewhere(host: str) -> bool:
    """Whether a host is certainly another machine. Of names this cannot be told without asking a name server."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))  # only addresses of this machine can be bound
    except OSError:
        return True
    return False


TRANSPORT_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    transport_goes_there,
    memory_is_shared_with_given_engines,
    files_have_a_place,
    engines_take_turns,
    tensors_can_be_compared,
)
