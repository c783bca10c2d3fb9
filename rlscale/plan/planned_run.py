"""The plan of a run: what each kind of device needs in each phase, on the host, and the time of an iteration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.derived.engines_alike import engines_alike
from rlscale.config.derived.needs import Needs
from rlscale.config.derived.same_state import copies_state, distinct_states
from rlscale.config.derived.serving_beside import serving_beside
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device, Placement
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.run_config import Recover
from rlscale.config.schema.trainer_config import EightBits, Mtp
from rlscale.families import FAMILIES, reach_of
from rlscale.families.config_file import problems
from rlscale.families.family import Reach
from rlscale.families.linears import adapter_parameters
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.plan.drafts import draft_of
from rlscale.plan.engine_memory import EngineMemory, engine_memory, served_bytes
from rlscale.plan.iteration_time import IterationTime, Speeds, iteration_time
from rlscale.plan.model_shape import ModelShape
from rlscale.plan.rank_layout import RankLayout
from rlscale.plan.trainer_memory import GIB, RankMemory, Training, rank_memory, stages

DEVICE_GB = 80.0
"""GB of a GPU where `cluster.gpu_memory_gb` does not say."""
USABLE = 0.94
"""Share of a device that allocators can fill: the rest is lost between blocks and to what others hold."""
PINNED = 1.5
"""Pinned host memory over what lies in it: torch rounds every piece up to a power of two."""


COPIES = "copies for lost ranks"
"""Kind of the memory for copies of the trainer's state (`checkpoint.in_memory`)."""
COPIES_STORED = 2
"""Copies of a state that Ray's store has at once: the last one, and the one that it is given."""
COPIES_AT_ONCE = COPIES_STORED + 1
"""All that there are then, with what the ranks hand over, which is still in their own memory."""
RANK, ENGINE, OTHERS = 0.7 * GIB, 0.7 * GIB, 1.1 * GIB
"""What Python and its libraries take of a CPU machine, as seen in a run of the default recipe: a trainer rank, an
engine (server, scheduler, detokenizer), and the rest of a run together (driver, Ray, rollout service, router, fork
servers). Pages that processes share are divided among them."""


_Beside = tuple[str, Config, ModelShape]
"""A model beside the policy: its name, what its engines are started with, its sizes."""


@dataclass(frozen=True)
class Phase:
    """What lies on a device in a phase, by kind."""

    name: str
    where: str
    """Whose device it is: a trainer stage's, an engine's, or both."""
    kinds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Bytes of all kinds."""
        return sum(self.kinds.values())


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    parameters: int
    layout: RankLayout
    ranks: tuple[RankMemory, ...]
    """A rank of each stage; none where nothing is trained."""
    engine: EngineMemory | None
    phases: tuple[Phase, ...]
    host: Mapping[str, float]
    """Bytes of a machine's memory by kind."""
    device_bytes: float
    """Of a GPU; on the CPU what all processes may take together, infinite where nobody says."""
    uncounted: tuple[str, ...]
    """Models that nothing here counts."""
    longest_fits: bool
    """Whether an engine's cache holds the longest sequence."""
    time: IterationTime | None
    reach: Reach | None = None
    """How many tokens the model's attention sees at most, and a sequence may have; None where it sees all."""

    @property
    def worst(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        """Whether every phase fits, and the engines can hold a sequence."""
        return self.worst.total <= USABLE * self.device_bytes and self.longest_fits


def plan_run(config: Config, architecture: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a checked configuration. UserError where the model's config is neither here nor shipped."""
    known = architecture or architecture_of(config.model)
    shape = ModelShape.of(known)
    sizes, needs, layout = Sizes.of(config), Needs.of(config), RankLayout.of(config)
    on_gpu = config.cluster.device is Device.cuda
    if on_gpu:
        device = (config.cluster.gpu_memory_gb or DEVICE_GB) * 1e9
    else:
        device = (config.cluster.memory_gb or float("inf")) * 1e9
    lora = config.model.lora
    share = 1.0 if lora is None else adapter_parameters(known, lora.rank, lora.targets) / shape.parameters
    training = training_of(config, on_gpu=on_gpu, trained_share=share)
    trained = ModelShape.of(known, mtp=config.trainer.mtp is Mtp.trained)
    ranks = tuple(rank_memory(trained, layout, training, stage) for stage in stages(layout)) if needs.trains else ()
    draft = draft_of(config, known)
    engines: dict[str, EngineMemory] = {}
    if needs.engines and on_gpu and not config.rollout.engine_urls:
        asleep = _trainer_asleep(ranks) if config.cluster.placement is Placement.colocated else 0.0
        for name, own in engines_alike(config).items():
            engines[name] = engine_memory(own, shape, device, USABLE * device - asleep, draft)
    engine = min(engines.values(), key=lambda one: one.cached_tokens, default=None)
    sequence = sizes.max_sequence_tokens
    time = None
    if untimed(config) is None:
        cached = engine.cached_tokens if engine is not None else 1e6
        time = iteration_time(config, shape, layout, cached, needs, Speeds())
    beside, unknown = _models_beside(config, sizes)
    unknown += ["draft"] if draft is None else []
    on_cpu = (_on_cpu(config, shape, sizes, layout, ranks, training, beside),)
    others = [_engine_phase(name, engine_memory(own, of, device, USABLE * device)) for name, own, of in beside]
    others += [_engine_phase(name, one) for name, one in engines.items() if one is not engine]
    return Plan(
        parameters=shape.parameters,
        layout=layout,
        ranks=ranks,
        engine=engine,
        phases=(*_on_gpus(config, ranks, engine, _buckets(config, shape, layout)), *others) if on_gpu else on_cpu,
        host=_host(config, needs, ranks, training) | _snapshot(config, shape, needs) if on_gpu else {},
        device_bytes=device,
        uncounted=(*(name for name in needs.models if name not in ("policy", "reference")), *unknown),
        longest_fits=engine is None or engine.cached_tokens >= sequence,
        time=time,
        reach=reach_of(known),
    )


def untimed(config: Config) -> str | None:
    """Why no time of an iteration is estimated; None where it is."""
    if config.cluster.device is Device.cpu:
        return "on the CPU: the formula goes by an H100's speeds"
    if not Needs.of(config).trains:
        return "where nothing is trained"
    return "with rollout.engine_groups" if config.rollout.engine_groups else None


def _trainer_asleep(ranks: tuple[RankMemory, ...]) -> float:
    """What the fullest rank leaves on its device while engines that share it work."""
    return max((rank.communication + rank.context for rank in ranks), default=0.0)


def training_of(config: Config, *, on_gpu: bool, trained_share: float = 1.0) -> Training:
    """How the policy is trained: its longest micro-batch is a full one, or a single longer sample."""
    trainer, sizes, lora = config.trainer, Sizes.of(config), config.model.lora
    number = config.model.dtype.bytes
    kept = None if lora is None or lora.base is WeightForm.as_trained else ServedForm(lora.base)
    tokens = max(trainer.max_tokens_per_microbatch, sizes.max_sequence_tokens)
    return Training(
        tokens=min(tokens, max(sizes.samples_per_step // max(sizes.data_parallel, 1), 1) * sizes.max_sequence_tokens),
        recompute=trainer.recompute,
        bytes_per_number=number,
        bytes_per_kept=None if kept is None else kept.bytes_per_weight(number),
        distributed_optimizer=trainer.distributed_optimizer,
        optimizer_on_host=config.optim.on_host,
        entropy=True,
        on_gpu=on_gpu,
        trained_share=trained_share,
        sequence=sizes.max_sequence_tokens,
        rounds=trainer.fake_quant,
        eight_bits=trainer.fp8 is not EightBits.none,
    )


def _buckets(config: Config, shape: ModelShape, layout: RankLayout) -> float:
    """Bytes of weights on their way: a bucket and the one before it; of experts that are gathered, all ranks' twice."""
    gathered = shape.experts and layout.expert * layout.expert_tensor > 1
    return (4.0 if gathered else 2.0) * config.weights.bucket_bytes(config.cluster.device)


def _snapshot(config: Config, shape: ModelShape, needs: Needs) -> dict[str, float]:
    """Bytes of what rank 0 holds for deltas: what was published last, and what has changed since."""
    if not needs.engines or not needs.trains or "transports.delta." not in str(config.weights.transport.get(TARGET)):
        return {}
    return {"deltas": 2.0 * served_bytes(config, shape)}


def _on_gpus(
    config: Config, ranks: tuple[RankMemory, ...], engine: EngineMemory | None, buckets: float
) -> Iterator[Phase]:
    needs, shared = Needs.of(config), config.cluster.placement is Placement.colocated and engine is not None
    behind = {"engine, asleep": engine.left_behind} if shared and engine is not None else {}
    for rank in ranks:
        where = f"stage {rank.stage + 1}" if len(ranks) > 1 else "trainer"
        yield Phase("train", where, {**rank.kinds, **behind})
        still = {name: size for name, size in rank.kinds.items() if name not in ("activations", "logits")}
        if needs.passes:
            passing = {"activations": rank.activations / 3, "logits": rank.logits}
            yield Phase("log-probs", where, {**still, **passing, **behind})
        if needs.engines:
            served = {"engine's weights": engine.weights + engine.left_behind} if shared and engine is not None else {}
            yield Phase("sync", where, {**still, "buckets": buckets, **served})
        yield Phase("save", where, {**still, **behind})
    if engine is not None:
        asleep = {"trainer, asleep": _trainer_asleep(ranks)} if shared and ranks else {}
        yield _engine_phase("engine", engine, asleep)


def _engine_phase(where: str, engine: EngineMemory, besides: Mapping[str, float] | None = None) -> Phase:
    own = {"weights": engine.weights, "KV cache": max(engine.cache, 0.0), "graphs": engine.graphs}
    return Phase("generate", where, {**own, "CUDA context": engine.context, **(besides or {})})


def _models_beside(config: Config, sizes: Sizes) -> tuple[list[_Beside], list[str]]:
    """The models of `rollout.models` that the run starts engines for; and the names of those of an unknown size."""
    found, unknown = list[_Beside](), list[str]()
    for name, number in sizes.beside.items():
        model, own = config.rollout.models[name], serving_beside(config, name)
        if not number:
            continue
        try:
            path = config.model if model.follows_policy else ModelConfig(name=name, path=model.path)
            known = architecture_of(path)
        except UserError:
            known = {}
        if known.get("model_type") not in FAMILIES or any(problems(known)):
            unknown.append(name)
        else:
            found.append((name, own, ModelShape.of(known)))
    return found, unknown


def _on_cpu(
    config: Config,
    shape: ModelShape,
    sizes: Sizes,
    layout: RankLayout,
    ranks: tuple[RankMemory, ...],
    training: Training,
    beside: Sequence[_Beside],
) -> Phase:
    """Everything lies in one memory."""
    times = layout.tensor * layout.context * layout.data
    kinds: dict[str, float] = {}
    for rank in ranks:
        for name, size in rank.kinds.items():
            if size:
                kinds[name] = kinds.get(name, 0.0) + times * size
    if engines := sizes.engines + sizes.eval_engines:
        kinds["engines' weights"] = engines * served_bytes(config, shape)
    served = engines + sum(sizes.beside.values())
    kinds["processes"] = len(ranks) * times * RANK + served * ENGINE + OTHERS
    for name, own, other in beside:
        kinds[f"{name}'s weights"] = sizes.beside[name] * served_bytes(own, other)
    kinds |= _snapshot(config, shape, Needs.of(config)) | _copies(config, ranks, training, len(distinct_states(config)))
    return Phase("train", "all processes", kinds)


def _copies(config: Config, ranks: tuple[RankMemory, ...], training: Training, states: int) -> dict[str, float]:
    """Bytes of the copies of so many ranks' states that lost ranks begin with, while the next ones are made."""
    if not ranks or config.run.recover is Recover.none or config.run.in_process or not copies_state(config):
        return {}
    versions = 1 + Needs.of(config).kept_versions
    beside = _critic_state(config, ranks, on_gpu=training.on_gpu)
    policy = (rank.weights * training.trained_share * versions + rank.optimizer for rank in ranks)
    largest = max(map(sum, zip(policy, beside, strict=True)))
    return {COPIES: COPIES_AT_ONCE * states * largest}


def _critic_state(config: Config, ranks: tuple[RankMemory, ...], *, on_gpu: bool) -> list[float]:
    """Of a rank of each stage the bytes of the critic's weights and optimizer; 0 without one, or of an unknown size."""
    critic, nothing = config.critic, [0.0] * len(ranks)
    if not Needs.of(config).critic:
        return nothing
    try:
        known = architecture_of(critic.model)
    except UserError:
        return nothing
    own = replace(config, model=critic.model, optim=critic.optim, trainer=critic.trainer)
    shape, layout, lora = ModelShape.of(known), RankLayout.of(own), critic.model.lora
    share = 1.0 if lora is None else adapter_parameters(known, lora.rank, lora.targets) / shape.parameters
    training = training_of(own, on_gpu=on_gpu, trained_share=share)
    parts = (rank_memory(shape, layout, training, rank.stage) for rank in ranks)
    return [part.weights * share + part.optimizer for part in parts]


def _host(config: Config, needs: Needs, ranks: tuple[RankMemory, ...], training: Training) -> dict[str, float]:
    """Bytes of the memory of a machine that has trainer ranks."""
    if not ranks:
        return {}
    per_node = min(config.cluster.gpus_per_node, RankLayout.of(config).ranks)
    worst = max(ranks, key=lambda rank: rank.parameters)
    copy = worst.parameters * training.bytes_per_number * PINNED
    found = {"processes": per_node * 6.0 * GIB}
    if config.optim.on_host:
        # Gradients are copied to where the optimizer is.
        found["optimizer"] = per_node * (worst.host_optimizer + worst.host_optimizer / 3)
    if config.cluster.placement is Placement.colocated and needs.engines:
        found["trainer, asleep"] = per_node * (worst.weights + worst.optimizer) * PINNED
    if needs.reference and config.model.lora is None:  # else it is the base, which is there
        found["reference"] = per_node * copy
    if needs.kept_versions:
        found["kept versions"] = per_node * copy * needs.kept_versions * training.trained_share
    found |= _copies(config, ranks, training, min(per_node, len(distinct_states(config))))
    found["checkpoint being written"] = per_node * (worst.weights + worst.optimizer + worst.host_optimizer)
    return found
