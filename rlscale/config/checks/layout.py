"""Does the layout fit the model and the cluster: parallel sizes, ranks, placement. Engines are in engine_layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd

from rlscale.config.checks.check_context import CheckContext, divisors
from rlscale.config.checks.engine_layout import engines_fit, evaluation_has_its_devices
from rlscale.config.checks.model_fits import architecture_is_known
from rlscale.config.checks.ranges import out_of_range
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.keys import keys
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import LOOPBACK_HOSTS, Placement
from rlscale.families import FAMILIES


def check_layout(config: Config) -> None:
    """Check nothing but the model and how it lies on the trainer's ranks: all that matters where nothing is trained.

    Raises ConfigError with one line per problem. A model that is not downloaded yet is not looked at.
    """
    problems = [*out_of_range(keys(config.parallel, "parallel."))]
    if not problems:
        context = CheckContext(config, Sizes.of(config), read_architecture(config.model))
        problems = [*architecture_is_known(context)] or [line for one in _ON_RANKS for line in one(context)]
    if problems:
        raise ConfigError(problems)


def tensor_divides_the_model(context: CheckContext) -> Iterator[str]:
    """Heads, key-value heads and the MLP are cut over the tensor-parallel ranks."""
    tensor, sizes = context.config.parallel.tensor, dict[str, int]()
    for key, words in (
        ("num_attention_heads", "attention heads"),
        ("num_key_value_heads", "key-value heads"),
        ("linear_num_key_heads", "key heads of the gated delta nets"),
    ):
        if number := context.size(key):
            sizes[f"the {number} {words}"] = number
    width = context.size("intermediate_size")
    if width and not context.experts:
        sizes[f"intermediate_size={width}"] = width
    for words, number in sizes.items():
        if number % tensor:
            fitting = divisors(gcd(*sizes.values()))
            yield f"parallel.tensor={tensor} does not divide {words} of {context.config.model.name}; use {fitting}"
            return


def pipeline_divides_the_layers(context: CheckContext) -> Iterator[str]:
    """Every stage, and every chunk of one, holds the same number of layers."""
    parallel, layers = context.config.parallel, context.size("num_hidden_layers")
    if parallel.virtual_pipeline is not None and parallel.pipeline == 1:
        yield f"parallel.virtual_pipeline={parallel.virtual_pipeline} needs parallel.pipeline above 1; set it to null"
        return
    if not layers:
        return
    if layers % parallel.pipeline:
        yield (
            f"parallel.pipeline={parallel.pipeline} does not divide the {layers} layers of "
            f"{context.config.model.name}; use {divisors(layers)}"
        )
    elif layers // parallel.pipeline % (parallel.virtual_pipeline or 1):
        of_stage = layers // parallel.pipeline
        yield (
            f"parallel.virtual_pipeline={parallel.virtual_pipeline} does not divide the {of_stage} layers of a stage; "
            f"use null{divisors(of_stage).removeprefix('1')}"
        )


def whole_sequences_are_on_one_rank(context: CheckContext) -> Iterator[str]:
    """The state of a gated delta net goes through all tokens of a sequence."""
    family = FAMILIES.get(str((context.architecture or {}).get("model_type")))
    if family is not None and family.delta_net and context.config.parallel.context > 1:
        yield (
            f"parallel.context={context.config.parallel.context}: the gated delta nets of {context.config.model.name} "
            "need all tokens of a sequence on one rank; set it to 1"
        )


def sequence_needs_tensor(context: CheckContext) -> Iterator[str]:
    """Sequence parallelism works between tensor-parallel regions."""
    parallel = context.config.parallel
    if parallel.sequence and parallel.tensor == 1:
        yield "parallel.sequence=true needs parallel.tensor above 1; set parallel.sequence=false"


def experts_fit(context: CheckContext) -> Iterator[str]:
    """Expert sizes need experts, and must divide them and the ranks of a stage."""
    parallel, name = context.config.parallel, context.config.model.name
    if context.architecture is not None and not context.experts:
        if parallel.expert > 1:
            yield f"parallel.expert={parallel.expert}: {name} has no experts; set it to 1"
        if parallel.expert_tensor is not None:
            yield f"parallel.expert_tensor={parallel.expert_tensor}: {name} has no experts; set it to null"
        return
    width = context.size("moe_intermediate_size") or 0
    whole = _Cut("expert", parallel.expert, context.experts, f"the {context.experts} experts")
    inside = _Cut("expert_tensor", parallel.expert_tensor or 1, width, f"moe_intermediate_size={width}")
    ranks = context.sizes.trainer_ranks // parallel.pipeline
    uneven = [
        f"parallel.{one.key}={one.size} does not divide {one.words} of {name}; use {one.fitting(ranks, other)}"
        for one, other in ((whole, inside), (inside, whole))
        if one.uneven
    ]
    yield from uneven
    if any(tensor_divides_the_model(context)):
        return  # the lines below would say the same fault again
    if not uneven and ranks % (whole.size * inside.size):
        one, other = (inside, whole) if ranks % inside.size and not ranks % whole.size else (whole, inside)
        yield (
            f"parallel.expert={whole.size} x parallel.expert_tensor={inside.size} does not divide the {ranks} trainer "
            f"ranks of a pipeline stage; use parallel.{one.key}={one.fitting(ranks, other)}"
            f"{_data_that_fits(context, whole.size * inside.size)}"
        )
    if (context.experts or parallel.expert > 1) and parallel.tensor > 1 and not parallel.sequence:
        yield (
            f"parallel.tensor={parallel.tensor} with experts needs parallel.sequence=true "
            "(Megatron does not train them without); set it, or parallel.tensor=1"
        )


@dataclass(frozen=True)
class _Cut:
    """A key of `parallel` that cuts something of the experts."""

    key: str
    size: int
    number: int
    """How many there are of what is cut; 0 where that cannot be read."""
    words: str

    @property
    def uneven(self) -> bool:
        """Whether it does not divide what it cuts."""
        return self.number > 0 and self.number % self.size > 0

    def fitting(self, ranks: int, other: _Cut) -> str:
        """Sizes that divide what is cut and, together with the other size, the ranks of a stage."""
        if other.uneven or ranks % other.size:
            return f"{divisors(gcd(self.number, ranks))} with parallel.{other.key}=1"
        return divisors(gcd(self.number, ranks // other.size))


def _data_that_fits(context: CheckContext, product: int) -> str:
    """The nearest numbers of data-parallel ranks with which this product of expert sizes divides a stage's ranks."""
    parallel, sizes = context.config.parallel, context.sizes
    step = product // gcd(product, parallel.tensor * parallel.context)
    below = sizes.data_parallel // step * step
    near = [data for data in (below, below + step) if 0 < data <= sizes.trainer_devices // sizes.model_ranks]
    if near:
        return f", or parallel.data={' or '.join(map(str, near))}"
    if context.on_gpus:
        return ""
    return f", or parallel.data={step} with cluster.max_trainer_ranks={step * sizes.model_ranks}"


def ranks_fit_the_cluster(context: CheckContext) -> Iterator[str]:
    """As many trainer ranks as devices at most; on GPUs whole copies of the model fill them."""
    sizes, parallel = context.sizes, context.config.parallel
    product = f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x context {parallel.context}"
    ranks, devices = sizes.trainer_ranks, sizes.trainer_devices
    if devices < 1:
        return  # the cluster itself is wrong, which gpus_are_shared_out says
    if ranks > devices:
        if context.on_gpus:
            has, more = f"the cluster has {devices} GPUs for the trainer", "choose a larger cluster"
        else:
            has, more = f"cluster.max_trainer_ranks={devices}", "raise that limit"
        copies = devices // sizes.model_ranks
        fewer = f"parallel.data={copies}" if copies else f"tensor x pipeline x context of at most {devices}"
        yield (
            f"parallel: {product} x data {sizes.data_parallel} = {ranks} trainer ranks, but {has}; "
            f"use {fewer}, or {more}"
        )
    elif context.on_gpus and parallel.data is None and devices % sizes.model_ranks:
        copies = devices // sizes.model_ranks
        yield (
            f"parallel: {product} = {sizes.model_ranks} GPUs per model copy does not divide the {devices} GPUs of the "
            f"trainer; use {divisors(devices)}, or parallel.data={copies} to use {copies * sizes.model_ranks} of them"
        )
    elif context.on_gpus and ranks < devices:
        context.notes.append(f"the trainer uses {ranks} of its {devices} GPUs")


def gpus_are_shared_out(context: CheckContext) -> Iterator[str]:
    """The cluster section must agree with itself."""
    cluster = context.config.cluster
    if not context.on_gpus:
        return
    if cluster.gpus_per_node < 1:
        yield "cluster.gpus_per_node=0: cluster.device=cuda needs GPUs; say how many each machine has"
        return
    if cluster.placement is Placement.disaggregated:
        yield from _engine_share(context)
    if cluster.nodes > 1 and cluster.ray_address is None:
        yield f"cluster.nodes={cluster.nodes} needs a running Ray cluster; give cluster.ray_address (auto finds it)"
    if cluster.nodes > 1 and cluster.host in LOOPBACK_HOSTS:
        yield f"cluster.host={cluster.host}: other machines cannot reach it; use 0.0.0.0 in a closed network"


def ray_address_is_one(context: CheckContext) -> Iterator[str]:
    """Ray would look for a cluster of any name for a long time, and answer with a traceback."""
    address = context.config.cluster.ray_address
    if address is not None and not re.fullmatch(r"auto|(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}", address):
        form = "host:port, without ray://, on a machine of that cluster"
        yield f"cluster.ray_address={address}: is not an address; write {form}, or auto for this machine's cluster"


def _engine_share(context: CheckContext) -> Iterator[str]:
    cluster = context.config.cluster
    if cluster.rollout_nodes and cluster.rollout_gpus:
        yield "cluster.rollout_nodes and cluster.rollout_gpus are both given; give the first on several machines only"
    elif not cluster.rollout_nodes and not cluster.rollout_gpus:
        key = "cluster.rollout_nodes" if cluster.nodes > 1 else "cluster.rollout_gpus"
        yield f"{key}: cluster.placement=disaggregated leaves no GPUs for the engines; say how many they get"
    elif cluster.rollout_gpus and cluster.nodes > 1:
        yield f"cluster.rollout_gpus={cluster.rollout_gpus} is for one machine; use cluster.rollout_nodes"
    elif context.sizes.trainer_devices < 1:
        yield "cluster: the engines get every GPU and the trainer none; lower cluster.rollout_nodes or rollout_gpus"


_ON_RANKS = (
    tensor_divides_the_model,
    pipeline_divides_the_layers,
    whole_sequences_are_on_one_rank,
    sequence_needs_tensor,
    experts_fit,
    gpus_are_shared_out,
    ray_address_is_one,
    ranks_fit_the_cluster,
)
"""Those about the trainer's ranks alone."""

LAYOUT_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    *_ON_RANKS,
    engines_fit,
    evaluation_has_its_devices,
)
