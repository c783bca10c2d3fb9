"""What an algorithm needs: models, passes, rewards, engines. Everybody who must know asks here.

A term whose coefficient is 0 needs nothing, and supervised training needs nothing but labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from rlscale.config.schema import Config
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    BaselineAdvantage,
    CustomAdvantage,
    CustomLoss,
    GaeAdvantage,
    GspoLoss,
    KLPlacement,
    OldLogprobs,
    ReturnsAdvantage,
    SftLoss,
)
from rlscale.config.schema.correction_config import Level, WeightKind

COLUMNS = {"old_logprobs": "policy", "ref_logprobs": "reference", "teacher_logprobs": "teacher", "values": "critic"}
"""Columns of a batch that models compute before an iteration's first step, in that order, and the model of each."""


class Moment(Enum):
    """When a pass is made, of those before an iteration's first step."""

    batch = "batch"
    """For the whole batch, because advantages or corrections read its column: the driver asks for it."""
    ranks = "ranks"
    """By each rank for its own part, because the loss alone reads its column. A batch that brings it needs no pass."""


@dataclass(frozen=True)
class Pass:
    """One pass of a model over an iteration's samples, before the first step."""

    column: str
    """The column that it computes, one of `COLUMNS`."""
    model: str
    """policy, behaviour (for each token the policy as it sampled it), reference, teacher or critic."""
    moment: Moment


@dataclass(frozen=True)
class AlgoNeeds:
    """What the algorithm's section alone says."""

    supervised: bool
    """Whether labels are trained on: no samples, no advantages, log-probs at temperature 1."""
    critic: bool
    """Whether advantages are made from values: the critic that gives them is trained too."""
    reference: bool
    """Whether a frozen copy of the policy is kept, be it for the reward, for the loss or for a custom advantage."""
    teacher: bool
    """Whether a teacher's log-probs are read."""
    kl_in_reward: bool
    """Whether the rewards contain a KL term."""
    kl_in_loss: bool
    """Whether the loss contains a KL term."""
    advantage_reads_kl: bool
    """Whether the advantage takes a KL term in the reward."""
    weight_level: Level
    """What shares one importance weight: as configured, by default a segment for the losses of GSPO, else a token."""
    weighs_ahead: bool
    """Whether importance weights are computed with the batch (column `correction`) and not in each micro-batch."""
    rejects: bool
    """Whether the correction may leave segments out."""
    old_model: str
    """The model of a pass for the old log-probs, which the first iteration of a run makes in any case, to be measured:
    policy or behaviour."""
    sampler_words: int
    """How many of the likeliest words the engine names where it draws a token, with their log-probs."""
    passes: tuple[Pass, ...]
    """Those that every iteration makes, in their order. With `correction.bypass` there is none for the old log-probs,
    which are the engine's."""

    @staticmethod
    def of_algo(algo: AlgoConfig) -> AlgoNeeds:
        """What an algorithm needs, whatever the rest of the configuration says."""
        supervised = isinstance(algo.loss, SftLoss)
        asked = algo.advantage.reads if isinstance(algo.advantage, CustomAdvantage) else []
        by_loss = _asked_by_loss(algo)
        penalty = algo.kl.placement is KLPlacement.reward and algo.kl.coef != 0.0
        kl_in_loss = algo.kl.placement is KLPlacement.loss and algo.kl.coef != 0.0
        found = AlgoNeeds(
            supervised=supervised,
            critic=not supervised and (isinstance(algo.advantage, GaeAdvantage) or "values" in asked),
            reference=not supervised and (penalty or kl_in_loss or "ref_logprobs" in {*asked, *by_loss}),
            teacher=not supervised and (algo.distil_coef != 0.0 or "teacher_logprobs" in {*asked, *by_loss}),
            kl_in_reward=penalty,
            kl_in_loss=kl_in_loss,
            advantage_reads_kl=isinstance(algo.advantage, ReturnsAdvantage | BaselineAdvantage | GaeAdvantage),
            weight_level=_weight_level(algo),
            weighs_ahead=_weighs_ahead(algo),
            rejects=algo.correction.rejection.level is not None or algo.correction.rejection.veto is not None,
            sampler_words=0 if supervised else algo.correction.score_centering or 0,
            old_model="behaviour" if algo.old_logprobs is OldLogprobs.behaviour else "policy",
            passes=(),
        )
        return found if supervised else replace(found, passes=tuple(_passes(algo, found, asked)))

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the trainer by their names, the policy first."""
        others = {"critic": self.critic, "reference": self.reference, "teacher": self.teacher}
        return ("policy", *(name for name, there in others.items() if there))

    def passes_at(self, moment: Moment) -> tuple[Pass, ...]:
        """The passes of one moment."""
        return tuple(one for one in self.passes if one.moment is moment)

    def makes(self, column: str, moment: Moment | None = None) -> bool:
        """Whether every iteration makes a pass for a column, at any moment or at that one."""
        return any(one.column == column and moment in (None, one.moment) for one in self.passes)


@dataclass(frozen=True)
class Needs(AlgoNeeds):
    """What a whole configuration says."""

    trains: bool
    """Whether steps are made; not where a run only generates."""
    engines: bool
    """Whether anything is generated: samples to train on, or an evaluation's. Not where stored ones are replayed."""
    measures_apart: bool
    """Whether engines that do nothing else evaluate beside the training."""
    rewards: bool
    """Whether anything is scored: whatever is generated is."""
    temperature: float
    """What the trainer divides its logits by."""
    kept_versions: int
    """Versions of the policy's weights that are kept besides the present one."""

    @staticmethod
    def of(config: Config) -> Needs:
        """What a configuration needs; never an error, also before it is checked."""
        algo, rollout = AlgoNeeds.of_algo(config.algo), config.rollout
        replays = rollout.replay is not None and not algo.supervised
        generates = not replays and (not algo.supervised or config.eval.enabled)
        trains = algo.supervised or not config.run.generate_only
        behaves = algo.old_model == "behaviour" and not algo.supervised
        return Needs(
            **vars(algo),
            trains=trains,
            engines=generates,
            measures_apart=generates
            and trains
            and not algo.supervised
            and config.eval.enabled
            and config.eval.engines > 0,
            rewards=generates,
            temperature=1.0 if algo.supervised else rollout.temperature,
            kept_versions=rollout.max_staleness if behaves else 0,
        )


def _passes(algo: AlgoConfig, needs: AlgoNeeds, asked: Sequence[str]) -> Iterator[Pass]:
    """The passes of reinforcement learning; `asked` are the columns that a custom advantage reads."""
    corrects = needs.weighs_ahead or needs.rejects
    old = needs.kl_in_reward or needs.critic or corrects or algo.distil_coef != 0.0 or "old_logprobs" in asked
    read = {
        "old_logprobs": old and not algo.correction.bypass,
        "ref_logprobs": needs.kl_in_reward or "ref_logprobs" in asked,
        "teacher_logprobs": needs.teacher,
        "values": needs.critic,
    }
    models = {**COLUMNS, "old_logprobs": needs.old_model}
    yield from (Pass(column, models[column], Moment.batch) for column in COLUMNS if read[column])
    later_steps = algo.steps_per_iteration * algo.epochs_per_iteration > 1
    if not old and not algo.correction.bypass and (later_steps or algo.old_logprobs is not OldLogprobs.auto):
        yield Pass("old_logprobs", needs.old_model, Moment.ranks)
    if (needs.kl_in_loss or "ref_logprobs" in _asked_by_loss(algo)) and not read["ref_logprobs"]:
        yield Pass("ref_logprobs", "reference", Moment.ranks)


def _asked_by_loss(algo: AlgoConfig) -> Sequence[str]:
    """The columns by models that one's own loss reads besides the policy's."""
    return algo.loss.reads if isinstance(algo.loss, CustomLoss) else ()


def _weight_level(algo: AlgoConfig) -> Level:
    if algo.correction.level is not None:
        return algo.correction.level
    return Level.geometric if isinstance(algo.loss, GspoLoss) else Level.token


def _weighs_ahead(algo: AlgoConfig) -> bool:
    config = algo.correction
    return config.weight is not WeightKind.none and (config.normalise or _weight_level(algo) is not Level.token)
