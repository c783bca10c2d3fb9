"""How samples are generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlscale.config.schema.about import (
    SUPERVISED,
    Limit,
    PathKind,
    Scope,
    Unread,
    Where,
    bounded,
    key,
    passed_on,
    path_key,
)
from rlscale.config.schema.component import component, target_field
from rlscale.config.schema.engine_group_config import EngineGroupConfig, Role
from rlscale.config.schema.limits import CORES, DEVICES, IN_MEMORY, PATIENCE, TEMPERATURE, TOKENS, YEAR
from rlscale.config.schema.section import Section
from rlscale.config.schema.served_model_config import ServedModelConfig
from rlscale.config.schema.speculation_config import SpeculationConfig
from rlscale.families.served_form import Int4Grid, ServedForm, WeightForm


class OnSync(Enum):
    """What happens to a generation in flight when the weights change."""

    wait = "wait"
    """It is waited for."""
    abort_and_resume = "abort_and_resume"
    """It is cut off, and sent again with the tokens that it has once the engine has the new weights."""
    retract = "retract"
    """The engine puts it back into its queue, and goes on with the new weights."""
    in_place = "in_place"
    """The engine holds it where it is, and goes on with the new weights."""

    @property
    def pause(self) -> str | None:
        """How engines pause requests that they keep while they take weights; None where they have none then."""
        return self.value if self in (OnSync.retract, OnSync.in_place) else None


class Concurrency(Enum):
    """How many requests are in flight in an engine."""

    fixed = "fixed"
    """As many as `rollout.max_concurrent`."""
    adaptive = "adaptive"
    """As many as its cache takes, by its own reports, and at the most `rollout.max_concurrent`."""


class Store(Enum):
    """Which groups are written down with tokens, log-probs, versions and rewards."""

    none = "none"
    sampled = "sampled"
    """`run.report_samples` groups of every iteration."""
    all = "all"
    """Every group that is trained on."""


class StoreFormat(Enum):
    """How stored groups are written; both are read again."""

    parquet = "parquet"
    jsonl = "jsonl"
    """A line of JSON per sample: larger, and readable with a text editor."""


class Stale(Enum):
    """What happens to tokens over the staleness bound."""

    mask = "mask"
    wait = "wait"
    withhold = "withhold"
    drop = "drop"


class History(Enum):
    """How a policy is shown its earlier turns, in episodes of several."""

    sampled = "sampled"
    """As it sampled them, token by token."""
    template = "template"
    """As the chat template writes them, which may leave their thinking out: a segment begins where it does."""


_ON_POLICY = Unread(
    lambda rollout: rollout.max_staleness == 0,
    " is not read with rollout.max_staleness=0; leave it out, or raise the bound",
)


def _evaluation_reads(name: str) -> Unread:
    """Of how samples are drawn, which evaluation has keys of its own for."""
    return Unread(Where.supervised, SUPERVISED.why.replace(";", f" (evaluation reads eval.{name});"))


_GROUP = Limit(1024, "one scale would stand for very different numbers")
_NO_GPUS = Unread(Where.cpu, " has no meaning on the CPU; set it to 1")
_OTHERS_GPUS = Unread(
    lambda rollout: bool(rollout.engine_urls),
    " is not read with rollout.engine_urls: those engines have their GPUs; leave it out",
)

_IN_GROUPS = Unread(
    lambda rollout: bool(rollout.engine_groups),
    " is not read with rollout.engine_groups, each of which has its own number; leave it out",
)
_GPUS_THREADS = Unread(Where.gpus, " is not read on GPUs; leave it out")
_OTHERS_THREADS = Unread(
    lambda rollout: bool(rollout.engine_urls),
    " is not read with rollout.engine_urls: those engines have their threads; leave it out",
)
_OTHERS_FORM = Unread(
    lambda rollout: bool(rollout.engine_urls),
    " does not reach the engines of rollout.engine_urls, which hold the form they were started with; leave one out",
)
_GPUS_ACTIVATIONS = Unread(Where.gpus, ": on GPUs SGLang's kernels quantise activations by themselves; leave it out")
_NO_FP8 = Unread(
    lambda rollout: rollout.weights in (WeightForm.as_trained, WeightForm.int4),
    " is read with rollout.weights=fp8_block, fp8_tensor or mxfp8 only (int4 is W4A16: its activations stay as they "
    "are); leave it out",
)
_NO_INT4 = Unread(
    lambda rollout: rollout.weights is not WeightForm.int4, " is read with rollout.weights=int4 only; leave it out"
)


@dataclass
class RolloutConfig(Section):
    """Sizes, sampling parameters and engines of the rollout."""

    _target_: str = target_field("rlscale.rollout.service.RolloutService")
    """Class of the service that generates: a rlscale.rollout.service_protocol.Service."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of a service of your own, by name, besides its specification."""
    engine: dict[str, Any] = component("rlscale.serve.engine_launcher.SglangLauncher")
    """`_target_` of a rlscale.serve.engine_launcher.EngineLauncher and its arguments (group `rollout/engine`)."""
    filter: dict[str, Any] = component("rlscale.rollout.filters.keep_all")
    """`_target_` of a rlscale.rollout.filters.Filter: which finished groups are trained on (group `rollout/filter`)."""
    groups_per_iteration: int = bounded(64, at_least=1, limit=IN_MEMORY)
    """Groups (prompts) that one iteration collects and trains on."""
    samples_per_group: int = bounded(8, at_least=1, limit=IN_MEMORY)
    """Samples generated for each prompt."""
    max_prompt_tokens: int = bounded(1024, at_least=1, limit=TOKENS)
    """Longest prompt in tokens; longer ones are dropped and counted."""
    max_response_tokens: int = bounded(1024, at_least=1, limit=TOKENS)
    """Longest response in tokens; generation is cut there. In an environment what the policy is shown counts too."""
    temperature: float = bounded(1.0, above=0, limit=TEMPERATURE, unread=[_evaluation_reads("temperature")])
    """Sampling temperature, by which the trainer divides its logits; a source of `data=mixture` may have its own."""
    top_p: float = bounded(1.0, above=0, at_most=1, unread=[_evaluation_reads("top_p")])
    """Nucleus sampling; 1 switches it off. Log-probs are then those among the words that were left."""
    top_k: int = bounded(-1, at_least=1, off=-1, unread=[_evaluation_reads("top_k")])
    """Sampling from the k most likely tokens; -1 switches it off. Log-probs are as with `top_p`."""
    min_p: float = bounded(0.0, at_least=0, below=1, unread=[_evaluation_reads("min_p")])
    """Leaves out words less likely than this share of the most likely one; 0 switches it off. For engines on GPUs."""
    stop: list[str] = key(list, unread=[_evaluation_reads("stop")])
    """Texts that end a response besides the end of turn; they stay in it."""
    stop_token_ids: list[int] = key(list, unread=[_evaluation_reads("stop_token_ids")])
    """Tokens that end a response besides the end of turn; they stay in it."""
    min_response_tokens: int = bounded(0, at_least=0, limit=TOKENS, unread=[_evaluation_reads("min_response_tokens")])
    """Tokens before which nothing ends a response."""
    ignore_eos: bool = key(False, unread=[_evaluation_reads("ignore_eos")])
    """Generate the longest response always, past the end of turn and the model's own ends."""
    presence_penalty: float = bounded(0.0, at_least=-2, at_most=2, unread=[_evaluation_reads("presence_penalty")])
    """Subtracted from the logits of words that the response has. Refused for training."""
    frequency_penalty: float = bounded(0.0, at_least=-2, at_most=2, unread=[_evaluation_reads("frequency_penalty")])
    """Subtracted from the logits of a word each time that the response has it. Refused for training."""
    repetition_penalty: float = bounded(1.0, above=0, at_most=2, unread=[_evaluation_reads("repetition_penalty")])
    """Divides the logits of words that prompt and response have; 1 switches it off. Refused for training."""
    store: Store = key(Store.none, scope=Scope.execution, unread=[SUPERVISED])
    """Which groups each iteration writes to `rollouts/` in the run's folder: `none`, `sampled` (as many as
    `run.report_samples`) or `all`, which can be trained on again."""
    store_format: StoreFormat = key(StoreFormat.parquet, scope=Scope.execution, unread=[SUPERVISED])
    """What they are written as: `parquet`, or `jsonl`, a line per sample."""
    store_ratios: bool = key(
        False,
        scope=Scope.execution,
        unread=[
            SUPERVISED,
            Unread(lambda rollout: rollout.store is Store.none, ": nothing is stored; set rollout.store"),
        ],
    )
    """Store the trainer's log-probs of each token, too, by a pass for it where the algorithm makes none."""
    replay: str | None = key(None, path=PathKind.path, unread=[SUPERVISED])
    """Folder of a run that stored all of its rollouts: train on those, without engines; null generates."""
    max_staleness: int = bounded(0, at_least=0, limit=PATIENCE, unread=[SUPERVISED])
    """Bound on the trainer's weight version minus the version that generated a token; 0 is on-policy."""
    stale: Stale = key(Stale.mask, unread=[SUPERVISED, _ON_POLICY])
    """What happens to tokens over the bound: `mask` leaves them out of the loss, `wait` holds batches back so that
    there are none, `withhold` trains none of their sample's tokens, `drop` throws their groups away."""
    over_sampling: float = bounded(
        1.0, at_least=1, limit=Limit(100, "a batch would wait behind that many others"), unread=[SUPERVISED, _ON_POLICY]
    )
    """Batches that are under way while the trainer waits for one, in place of `max_staleness` + 1; 1 is off. What is
    not finished goes on after the sync. Grows to this from 1 over the first iterations."""
    on_sync: OnSync = OnSync.wait
    """What happens to a generation in flight when the weights change."""
    concurrency: Concurrency = key(Concurrency.fixed, scope=Scope.execution, unread=[SUPERVISED])
    """How many requests are in flight per engine: `fixed`, `max_concurrent`; `adaptive`, what its cache takes."""
    max_concurrent: int = bounded(
        256, at_least=1, limit=Limit(100000, "no engine takes that many requests at once"), scope=Scope.execution
    )
    """Requests in flight per engine, at the most."""
    request_timeout_s: float = bounded(600.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds after which one generation request counts as failed."""
    request_retries: int = bounded(3, at_least=0, limit=PATIENCE, scope=Scope.execution)
    """Times a failed request is sent again before its sample counts as failed."""
    max_failure_rate: float = bounded(0.2, at_least=0, at_most=1, scope=Scope.execution)
    """Share of failed samples in the last iteration's worth past which the run stops."""
    history: History = key(History.sampled, unread=[SUPERVISED])
    """What a policy is shown of its earlier turns: `sampled`, the very tokens; `template`, what the chat template makes
    of them when the model is deployed, in a new segment wherever that differs."""
    max_turns: int | None = bounded(None, at_least=1, limit=PATIENCE, unread=[SUPERVISED])
    """Turns of the policy after which an episode counts as cut off; null: as many as fit `max_response_tokens`."""
    max_turn_tokens: int | None = bounded(None, at_least=1, limit=TOKENS, unread=[SUPERVISED])
    """Longest single turn in tokens; null: what is left of `max_response_tokens`."""
    max_episode_s: float | None = bounded(None, above=0, limit=YEAR, scope=Scope.execution, unread=[SUPERVISED])
    """Seconds after which an episode begins no further turn and counts as cut off; null: never."""
    step_timeout_s: float = bounded(60.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds that an environment of several turns has for each call; past them the sample has failed."""
    tool_parser: str | None = key(None, unread=[SUPERVISED])
    """SGLang's tool_call_parser that reads the policy's calls of tools, such as qwen25; `model`: that of the model's
    option; null: the same for agents, while an environment finds calls in the text."""
    reasoning_parser: str | None = key(None, unread=[SUPERVISED])
    """SGLang's reasoning_parser that tells the policy's thinking from its answer, such as qwen3; `model`: that of the
    model's option; null: the same for agents, while an environment is given all of it as text."""
    engines: int = bounded(1, at_least=1, limit=DEVICES, unread=[_IN_GROUPS])
    """Engines that serve the policy."""
    engine_groups: dict[str, EngineGroupConfig] = field(default_factory=dict)
    """Engines that serve the policy and are not all alike, in groups by any name: some read prompts and others generate
    (`role`), or have other GPUs and options. Given, there are no others (`engines`)."""
    gpus_per_engine: int = bounded(1, at_least=1, limit=DEVICES, unread=[_NO_GPUS, _OTHERS_GPUS])
    """GPUs of one engine (its tensor-parallel size); ignored on the CPU."""
    threads_per_engine: int | None = bounded(
        1, at_least=1, limit=CORES, scope=Scope.execution, unread=[_GPUS_THREADS, _OTHERS_THREADS]
    )
    """Threads of one engine on the CPU; null: its share of the cores."""
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    """Speculative decoding: a draft proposes tokens, which the policy verifies, several in one pass."""
    weights: WeightForm = key(WeightForm.as_trained, unread=[_OTHERS_FORM])
    """In which form engines hold the weights: `as_trained`, or quantised (`fp8_block`, `fp8_tensor`, `int4`, `mxfp8`)
    on their way to the engines."""
    int4_group: int = bounded(32, at_least=8, limit=_GROUP, unread=[_NO_INT4])
    """Columns of a weight that share a scale with `rollout.weights=int4`."""
    int4_grid: Int4Grid = key(Int4Grid.symmetric, unread=[_NO_INT4])
    """Whole numbers of `rollout.weights=int4`: `symmetric`, -7 to 7 (Kimi-K2-Thinking); `full`, -8 to 7."""
    quantised_activations: bool = key(False, unread=[_GPUS_ACTIVATIONS, _NO_FP8])
    """Whether CPU engines of FP8 weights quantise the inputs of each product too, as the kernels of GPUs always do."""
    engine_urls: list[str] = key(list, scope=Scope.this_run)
    """Engines that somebody else started; given, none are started here."""
    engine_key_file: str | None = path_key(None, PathKind.file, scope=Scope.this_run)
    """File with the API key of the engines in `rollout.engine_urls`, or of all engines where others may join; null if
    those by URL ask for none."""
    engines_at_least: int | None = bounded(None, at_least=1, limit=DEVICES, scope=Scope.execution, unread=[SUPERVISED])
    """Engines with which the run goes on where others are lost for good; null: as many as it began with."""
    engines_at_most: int | None = bounded(None, at_least=1, limit=DEVICES, scope=Scope.execution, unread=[SUPERVISED])
    """Engines that there may be once others have joined a run that goes on (`python -m rlscale engines`); null: none
    may join."""
    engines_on_spare_machines: bool = key(False, scope=Scope.execution, unread=[SUPERVISED])
    """Whether the run starts engines, up to `rollout.engines_at_most`, on machines of Ray's cluster that it does not
    use, also on those that join meanwhile."""
    models: dict[str, ServedModelConfig] = field(default_factory=dict)
    """Models that are served beside the policy by their names, such as a judge; rewards and environments ask them."""
    sglang: dict[str, Any] = passed_on("server")
    """Any option of SGLang's ServerArgs, by its own name."""
    router: dict[str, Any] = passed_on("router")
    """Any option of the router's RouterArgs, by its own name."""

    @property
    def engine_count(self) -> int:
        """Engines that serve the policy, whoever starts them."""
        return len(self.engine_urls) or sum(group.engines for group in self.engine_groups.values()) or self.engines

    @property
    def generating_engines(self) -> int:
        """Of those the ones that a response is generated in: without those that only read prompts."""
        reading = sum(one.engines for one in self.engine_groups.values() if one.role is Role.prefill)
        return self.engine_count - reading

    @property
    def disaggregated(self) -> bool:
        """Whether prompts are read by other engines than those that generate."""
        return any(group.role is not Role.regular for group in self.engine_groups.values())

    @property
    def engine_gpus(self) -> tuple[int, ...]:
        """GPUs of each engine that the run starts for the policy, in their order."""
        if not self.engine_groups:
            return (self.gpus_per_engine,) * self.engines
        groups = self.engine_groups.values()
        return tuple(one.gpus_per_engine or self.gpus_per_engine for one in groups for _ in range(one.engines))

    @property
    def served_form(self) -> ServedForm:
        """The form in which engines hold the weights, with its choices."""
        return ServedForm(self.weights, self.int4_group, self.int4_grid)
