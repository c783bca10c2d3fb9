"""A policy that says what a test wants, through the real client and the real encoder of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rlscale.config.schema.data_config import DataConfig
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.endpoint.agent_session import Limits, Policy, Session
from rlscale.rollout.endpoint.chat_messages import ToolCall, canonical
from rlscale.rollout.endpoint.output_parser import Parsed
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.ledger import Ledger

TEMPLATES = Path(__file__).parents[2] / "data" / "tokens" / "chat_templates"
Say = Callable[[str], str]
"""What is answered to a prompt, as text."""


class ScriptedEngine:
    """A connection behind which an engine says what `say` gives for the text that it was sent.

    A request waits until `hold` is set. `prompts` are the texts in the order of their arrival, `sent` the tokens of the
    answers that were given. Log-probs are -0.5.
    """

    def __init__(self, encoder: PromptEncoder, say: Say) -> None:
        self.encoder, self.say = encoder, say
        self.prompts: list[str] = []
        self.sampling: list[Mapping[str, Any]] = []
        self.sent: list[list[int]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.aborted = asyncio.Event()

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        text = self.encoder.tokenizer.decode(body["input_ids"])
        self.prompts.append(text)
        self.sampling.append(body["sampling_params"])
        tokens = self.encoder.encode_response(self.say(text)).tolist()
        cut = tokens[: body["sampling_params"]["max_new_tokens"]]
        reason: dict[str, Any] = {"type": "stop" if len(cut) == len(tokens) else "length"}
        if not self.hold.is_set():
            waits = [asyncio.create_task(event.wait()) for event in (self.hold, self.aborted)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if self.aborted.is_set():
                self.aborted.clear()
                cut, reason = cut[: len(cut) // 2], {"type": "abort"}
        self.sent.append(cut)
        span = {"version": "0", "start": 0, "end": len(cut)}
        entries = [[-0.5, token, None] for token in cut]
        meta = {"output_token_logprobs": entries, "finish_reason": reason, "weight_versions": [span]}
        return 200, {"meta_info": meta}

    async def get(self, url: str) -> tuple[int, Any]:
        return 404, ""

    async def close(self) -> None:
        pass


class TaggedCalls:
    """Reads <call>name json</call>, as an engine's parser does: what it cannot read is left out."""

    reads_calls = reads = True

    async def reasoning(self, text: str, *, begun: bool = False) -> tuple[str, str]:
        thought, found, rest = text.partition("</think>")
        return (thought.removeprefix("<think>").strip(), rest.strip()) if found else ("", text)

    async def calls(self, text: str, tools: Sequence[dict[str, Any]]) -> Parsed:
        before, found, rest = text.partition("<call>")
        if not found:
            return Parsed(text)
        if "</call>" not in rest:
            return Parsed(text, cut_off=True)
        name, _, arguments = rest.partition("</call>")[0].partition(" ")
        return Parsed(before.strip(), (ToolCall(name, canonical(arguments)),))


def make_encoder(folder: Path, template: str = "qwen2_5", **variables: Any) -> PromptEncoder:
    """Every character is a token; the published chat template of a family."""
    tokenizer = character_tokenizer("\n" + "".join(map(chr, range(32, 127))), 5000)
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
    tokenizer.save_pretrained(folder)
    return PromptEncoder(folder, DataConfig(**variables), 4000)


class Played:
    """A session on a scripted engine, and the account of its tokens."""

    def __init__(
        self,
        encoder: PromptEncoder,
        say: Say,
        tokens: int = 2000,
        longest: int = 5000,
        limits: Limits | None = None,
    ) -> None:
        self.encoder = encoder
        self.engine = ScriptedEngine(encoder, say)
        self.cuts = Cuts()
        self.ledger = Ledger()
        self.attempt = Attempt(lambda: 0, self.ledger)
        self.seeds: list[int] = []
        client = EngineClient("http://engine", connect=lambda key, timeout_s, limit: self.engine)
        sampling = SamplingParams(max_new_tokens=tokens, stop_token_ids=(encoder.end_of_turn.token,))
        self.policy = Policy(Continued(client, self.cuts), encoder, sampling, TaggedCalls(), longest)
        self.session = Session(self.policy, limits or Limits(), self._seed, self.attempt, nullcontext())

    def _seed(self, number: int) -> int:
        self.seeds.append(number)
        return number & 0x7FFFFFFF

    def balanced(self) -> bool:
        """Whether every token that an engine sent is a sampled token of a turn, or has been discarded."""
        kept = self.session.tree.generated
        fates = sum(self.ledger.tokens.fates.values())
        return self.attempt.tokens == kept and self.ledger.tokens.received == kept + fates


def counting() -> Say:
    """Answers that differ: one, two, ... after each other, by how many there have been."""
    said = iter(range(10**6))
    return lambda prompt: f"answer {next(said)}"
