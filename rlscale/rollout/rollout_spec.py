"""What the rollout service is built from."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlscale.config.checks.output_parsers import OF_THE_MODEL
from rlscale.config.derived.needs import AlgoNeeds
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.schema import SINGLE_TURN, Config
from rlscale.config.schema.agent_config import AgentConfig
from rlscale.config.schema.algo_config import OverlongConfig, RefillConfig
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.data_config import DataConfig
from rlscale.config.schema.eval_config import EvalConfig
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.config.schema.trainer_config import RoutingReplay
from rlscale.data.folders.model_folder import ensure_tokenizer_folder, read_chat_template
from rlscale.rollout.engines.routed_experts import ExpertSizes

_BUFFER = {TARGET: "rlscale.data.buffer.Buffer"}
_REPLAY = "rlscale.rollout.replay.ReplayService"


@dataclass(frozen=True)
class RolloutSpec:
    """The parts of a configuration that concern generating, scoring and evaluating; picklable.

    `tokenizer_folder` is a local folder; `chat_template` Jinja text, or None for the tokenizer's own; `seed` is
    `run.seed`; `report_samples` the number of evaluated prompts that an evaluation hands back for the report;
    `buffer` and `env` are the configuration's nodes; `overlong` and `refill` are those of `algo`, and concern training
    only; so does `experts`: where given, the samples bring the choice of experts of a model of these sizes, and
    `credits_turns`: whether they bring the reward of each turn, and `sampler_words`: how many of the likeliest words
    they bring for each token. `served_models`: the names of `rollout.models`, whose addresses are told once they are
    served and then are in the folder `addresses`. `journal`: the folder that groups are written to as they finish, ""
    for none, and `journal_ahead` how many versions later than a checkpoint's the groups may be that a run which
    continues from it uses. `adapters`: whether engines hold the policy as an adapter, which
    requests name.
    """

    rollout: RolloutConfig
    reward: RewardConfig
    data: DataConfig
    eval: EvalConfig
    seed: int
    tokenizer_folder: str
    chat_template: str | None = None
    report_samples: int = 8
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    refill: RefillConfig = field(default_factory=RefillConfig)
    experts: ExpertSizes | None = None
    credits_turns: bool = False
    sampler_words: int = 0
    adapters: bool = False
    buffer: dict[str, Any] = field(default_factory=lambda: dict(_BUFFER))
    env: dict[str, Any] = field(default_factory=lambda: {TARGET: SINGLE_TURN})
    agent: AgentConfig = field(default_factory=AgentConfig)
    served_models: tuple[str, ...] = ()
    addresses: str = ""
    journal: str = ""
    journal_ahead: int = 0
    traces: bool = False
    """Whether requests are remembered for the trace of the run."""

    @staticmethod
    def of(config: Config, model_folder: Path) -> RolloutSpec:
        """The spec of a run; `model_folder` is what `ensure_model_folder` gave. UserError if a file is missing."""
        model: ModelConfig = config.model
        experts = None
        if config.trainer.routing_replay is RoutingReplay.rollout:
            architecture = read_architecture(ModelConfig(name=model.name, path=str(model_folder)))
            experts = ExpertSizes.of(architecture or {})
        return RolloutSpec(
            rollout=_service(with_parsers(config.rollout, model, config.agent)),
            reward=config.reward,
            data=config.data,
            eval=config.eval,
            seed=config.run.seed,
            tokenizer_folder=str(ensure_tokenizer_folder(model, model_folder)),
            chat_template=read_chat_template(model),
            report_samples=config.run.report_samples,
            overlong=config.algo.overlong,
            refill=config.algo.refill,
            experts=experts,
            credits_turns=config.algo.turn_discount is not None,
            sampler_words=AlgoNeeds.of_algo(config.algo).sampler_words,
            adapters=config.serves_adapters,
            buffer=config.buffer,
            env=config.env,
            agent=config.agent,
            served_models=tuple(config.rollout.models),
            traces=bool(config.profile.iterations),
            addresses=str(Path(config.run.scratch).resolve() / f"models-{secrets.token_hex(4)}"),
        )


def with_parsers(rollout: RolloutConfig, model: ModelConfig, agent: AgentConfig) -> RolloutConfig:
    """The section with the model's parsers where it asks for them: by name, or as agents do that are told of none."""
    works = agent.command is not None or agent._target_ is not None
    asks = (OF_THE_MODEL, None) if works else (OF_THE_MODEL,)
    return dataclasses.replace(
        rollout,
        tool_parser=model.tool_parser if rollout.tool_parser in asks else rollout.tool_parser,
        reasoning_parser=model.reasoning_parser if rollout.reasoning_parser in asks else rollout.reasoning_parser,
    )


def _service(rollout: RolloutConfig) -> RolloutConfig:
    """The section with the service that it asks for: with `replay` the one that reads what another run stored."""
    if rollout.replay is None:
        return rollout
    return dataclasses.replace(rollout, _target_=_REPLAY, arguments={"folder": rollout.replay})
