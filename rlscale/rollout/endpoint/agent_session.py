"""One sample's side of the endpoint: its calls are answered by the policy and kept as turns."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.attempt import Attempt, CallAttempt
from rlscale.rollout.endpoint.chat_messages import ToolCall, rendered
from rlscale.rollout.endpoint.dialect import ChatRequest, Refusal, Reply, unusable
from rlscale.rollout.endpoint.output_parser import OutputParser, Parsed
from rlscale.rollout.endpoint.turn_tree import Attachment, Turn, TurnTree
from rlscale.rollout.engines.continued import Continued
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.turn_reading import begins_to_think, written


@dataclass(frozen=True)
class Policy:
    """What answers calls: engines, how tokens are drawn, and how text becomes tokens and tokens text."""

    engines: Continued
    encoder: PromptEncoder
    sampling: SamplingParams
    """`max_new_tokens` bounds what all turns of a session generate together."""
    parser: OutputParser
    longest: int
    """Tokens of a conversation, answers included."""
    experts: ExpertSizes | None = None


@dataclass(frozen=True)
class Limits:
    """What a session may ask for."""

    max_turns: int | None = None
    """Answers; None: as many as fit."""
    max_turn_tokens: int | None = None
    """Tokens of one answer; None leaves it to the sample's budget."""


@dataclass(frozen=True)
class Drawn:
    """An answer that was generated and has not been kept yet."""

    attachment: Attachment
    tools: str
    context: NDArray[np.int32]
    generation: Generation
    reply: Reply
    attempt: CallAttempt


@dataclass
class _Asked:
    """A request, those who wait for its answer, and the answer."""

    task: asyncio.Task[Drawn]
    waiting: int = 0
    kept: Turn | None = None


class Session:
    """Answers calls until it is closed, any number of them at once.

    A request that was asked before gets the same answer, also while that is being generated: clients repeat what they
    believe lost. An answer for which nobody waits any more is discarded. `failed` says what went wrong with an engine;
    `over_budget` whether a call was refused for a limit, and `late` whether the agent's deadline has passed.
    """

    def __init__(
        self,
        policy: Policy,
        limits: Limits,
        seed: Callable[[int], int],
        attempt: Attempt,
        admission: AbstractAsyncContextManager[None],
    ) -> None:
        self._policy, self._limits = policy, limits
        self._seed, self._attempt, self._admission = seed, attempt, admission
        self._asked: dict[str, _Asked] = {}
        self._started = 0
        self._closed: Callable[[], Refusal] | None = None
        self.tree = TurnTree()
        self.repeated = 0
        self.failed = ""
        self.over_budget = False
        self.late = False
        self.finish = "stop"
        self.unheeded: dict[str, Any] = {}
        """What calls asked for by name and did not get, since the run decides it."""

    async def call(self, request: ChatRequest) -> Reply:
        """The policy's answer. Refusal where there is none."""
        if self._closed is not None:
            raise self._closed()
        sampling = self._policy.sampling
        self.unheeded |= {
            name: value for name, value in request.unheeded.items() if getattr(sampling, name, None) != value
        }
        identity = request.identity
        asked = self._asked.get(identity)
        if asked is None:
            self._refuse_if_over()
            asked = self._asked[identity] = _Asked(asyncio.create_task(self._draw(request)))
        else:
            self.repeated += 1
        asked.waiting += 1
        try:
            drawn = await asyncio.shield(asked.task)
            if self._closed is not None:
                raise self._closed()
            if asked.kept is None:
                asked.kept = self._keep(drawn)
            return drawn.reply
        except asyncio.CancelledError:
            if self._closed is not None and asked.task.cancelled():
                raise self._closed() from None
            raise
        finally:
            asked.waiting -= 1
            if asked.kept is None and not asked.waiting and self._asked.get(identity) is asked:
                del self._asked[identity]
                self._abandon(asked.task)

    def undelivered(self, request: ChatRequest) -> None:
        """The answer could not be written: its client has gone."""
        asked = self._asked.get(request.identity)
        if asked is not None and asked.kept is not None and not asked.waiting and self.tree.remove(asked.kept):
            del self._asked[request.identity]
            asked.task.result().attempt.lost("client_gone")

    async def close(self, refusal: Callable[[], Refusal]) -> None:
        """Answer nothing any more: whoever waits, and whoever comes, gets the refusal."""
        self._closed = self._closed or refusal
        tasks = [asked.task for asked in self._asked.values() if asked.kept is None]
        for task in tasks:
            self._abandon(task)
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- one answer ------------------------------------------------------------------------------------------------

    async def _draw(self, request: ChatRequest) -> Drawn:
        if request.tools and not self._policy.parser.reads_calls:
            raise unusable("tools are given, and calls of them could not be read; set rollout.tool_parser")
        attachment = self.tree.attach(request.messages, request.told_tools)
        attachment, context = self._context(request, attachment)
        sampling = replace(
            self._policy.sampling,
            max_new_tokens=self._room(request, len(context)),
            stop=(*self._policy.sampling.stop, *request.stop),
        )
        self._started += 1
        number = self._started
        attempt = CallAttempt(self._attempt)
        try:
            generation = await self._policy.engines.generate(
                context,
                sampling,
                self._seed(_digest(context, request.seed)),
                self._admission,
                attempt,
                self._policy.experts,
            )
            attempt.turn_over()
            reply = await self._reply(number, request, generation, context)
        except RequestFailed as error:
            attempt.lost("failed_request")
            self.failed = str(error)
            raise Refusal(500, "engine", f"the policy could not be asked: {error}") from error
        except BaseException:
            attempt.lost("client_gone")
            raise
        return Drawn(attachment, request.told_tools, context, generation, reply, attempt)

    def _context(self, request: ChatRequest, found: Attachment) -> tuple[Attachment, NDArray[np.int32]]:
        """What the engine is given: the tokens of the turn that the request continues, and those of what is new."""
        encoder, tools = self._policy.encoder, list(request.tools)
        if found.turn is not None:
            history = request.messages[: len(request.messages) - len(found.new) - 1]
            last = int(found.turn.generation.tokens[-1])
            try:
                seen = encoder.encode_observation(rendered(history), rendered(found.new), tools, last=last)
                return found, np.concatenate([found.turn.tokens, seen])
            except ValueError:  # a template may refuse what follows a turn, and take the conversation as a whole
                found = Attachment(None, request.messages)
        try:
            return found, encoder.encode_conversation(rendered(request.messages), tools)
        except ValueError as error:
            raise unusable(f"the conversation {error}", "invalid") from error

    def _room(self, request: ChatRequest, context: int) -> int:
        """How many tokens the answer may have. Refusal where there is room for none."""
        left = self._policy.sampling.max_new_tokens - self.tree.generated
        room = min(left, self._policy.longest - context, self._limits.max_turn_tokens or left)
        if room < 1:
            self.over_budget = True
            raise unusable(
                f"no room for an answer: the conversation is {context} of {self._policy.longest} tokens long, and "
                f"{self.tree.generated} of {self._policy.sampling.max_new_tokens} tokens have been generated",
                "context_length_exceeded",
            )
        return min(room, request.max_tokens or room)

    async def _reply(
        self, number: int, request: ChatRequest, generation: Generation, context: NDArray[np.int32]
    ) -> Reply:
        tokens, finish = generation.tokens, generation.finish_reason
        text = written(self._policy.encoder, generation, with_special=bool(request.tools))
        begun = begins_to_think(self._policy.encoder, context)
        thinking, text = await self._policy.parser.reasoning(text, begun=begun)
        text, stopped_at = _until(text, request.stop)
        found = Parsed(text)
        if request.tools and request.calls_allowed and finish == "stop":
            found = await self._policy.parser.calls(text, request.tools)
            finish = "length" if found.cut_off else "calls" if found.calls else "stop"
        calls = tuple(ToolCall(c.name, c.arguments, f"call_{number}_{i}") for i, c in enumerate(found.calls))
        if request.one_call:
            calls = calls[:1]
        logprobs: tuple[tuple[str, float], ...] = ()
        if request.logprobs:
            words = [self._policy.encoder.tokenizer.decode([token]) for token in tokens.tolist()]
            logprobs = tuple(zip(words, generation.logprobs.tolist(), strict=True))
        return Reply(
            number=number,
            text=found.text,
            thinking=thinking,
            calls=calls,
            finish=finish,
            stopped_at=stopped_at,
            prompt_tokens=len(context),
            completion_tokens=len(tokens),
            logprobs=logprobs,
        )

    def _keep(self, drawn: Drawn) -> Turn:
        attachment = drawn.attachment
        parent = attachment.turn if attachment.turn in self.tree.turns else None
        turn = Turn(parent, attachment.new, drawn.tools, drawn.context, drawn.generation, drawn.reply.message)
        self.tree.add(turn)
        self.tree.forgotten += attachment.forgotten
        self.finish = "length" if drawn.reply.finish == "length" else "stop"
        return turn

    def _refuse_if_over(self) -> None:
        if self.failed:
            raise Refusal(400, "engine", f"this session has failed: {self.failed}")
        if self._limits.max_turns is not None and len(self._asked) >= self._limits.max_turns:
            self.over_budget = True
            raise unusable(f"the session has had its rollout.max_turns={self._limits.max_turns} answers", "max_turns")

    def _abandon(self, task: asyncio.Task[Drawn]) -> None:
        """End a generation that nobody waits for; the tokens of one that is complete are discarded."""
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            task.result().attempt.lost("client_gone")


def _digest(context: NDArray[np.int32], seed: int | None) -> int:
    """A number for the tokens: calls at the same time draw by different seeds, and in any order by the same."""
    asked = b"" if seed is None else str(seed).encode()
    return int.from_bytes(hashlib.blake2b(context.tobytes() + asked, digest_size=6).digest(), "little")


def _until(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The text up to the first of the request's stops in it, and which that is."""
    places = [(text.find(stop), stop) for stop in stops if stop in text]
    if not places:
        return text, None
    place, stop = min(places)
    return text[:place], stop
