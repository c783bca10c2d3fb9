"""The agents of a run, and the endpoint that they talk to."""

from __future__ import annotations

from collections.abc import Callable

from rlscale.config.schema.agent_config import AgentConfig
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.conversation import EpisodeRules
from rlscale.rollout.endpoint.agent import Agent
from rlscale.rollout.endpoint.agent_episodes import AgentEpisodes
from rlscale.rollout.endpoint.agent_session import Limits, Policy
from rlscale.rollout.endpoint.configured_agent import configured_agent
from rlscale.rollout.endpoint.endpoint_server import EndpointServer
from rlscale.rollout.endpoint.output_parser import OutputParser
from rlscale.rollout.engines.continued import Continued
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.episode import Judging
from rlscale.rollout.failures import FailureRate


class Agents:
    """The agents of a run, which share one endpoint. Life: `start`, any number of `episodes`, `close`."""

    def __init__(self, config: AgentConfig, make: Callable[[], Agent], limits: Limits) -> None:
        self._config, self._make, self._limits = config, make, limits
        self._endpoint = EndpointServer()

    @staticmethod
    def of(config: AgentConfig, rules: EpisodeRules) -> Agents | None:
        """None where no agent is configured. UserError naming the key of one that cannot be made."""
        make = configured_agent(config)
        return None if make is None else Agents(config, make, Limits(rules.turns, rules.turn_tokens))

    async def start(self, parser: OutputParser) -> None:
        """Listen. `parser` reads what the policy writes."""
        self._parser = parser
        await self._endpoint.start()

    async def close(self) -> None:
        """End what is left of sessions."""
        await self._endpoint.close()

    def episodes(
        self,
        engines: Continued,
        encoder: PromptEncoder,
        sampling: SamplingParams,
        longest: int,
        requests: FailureRate,
        judging: Judging,
        experts: ExpertSizes | None = None,
    ) -> AgentEpisodes:
        """Episodes of the agent. `longest`: tokens of a conversation; the other arguments are those of `Episodes`."""
        config = self._config
        policy = Policy(engines, encoder, sampling, self._parser, longest, experts)
        return AgentEpisodes(self._endpoint, self._make, policy, self._limits, config.timeout_s, requests, judging)
