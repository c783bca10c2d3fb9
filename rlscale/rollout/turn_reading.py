"""What a turn of the policy says: its thinking, its calls of tools and the rest, as an environment is given them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Call
from rlscale.rollout.endpoint.output_parser import THINK, OutputParser, Parsed
from rlscale.rollout.engines.generation import Generation

_LAST = 16
"""Tokens at the end of a prompt in which the beginning of a thought is looked for."""


def written(encoder: PromptEncoder, generation: Generation, *, with_special: bool) -> str:
    """What was written, without the token that ended it."""
    tokens = generation.tokens
    ended = generation.finish_reason == "stop" and encoder.ends_turn(int(tokens[-1]))
    text, with_all = encoder.decode(tokens[:-1] if ended else tokens)
    return with_all if with_special else text


def begins_to_think(encoder: PromptEncoder, context: NDArray[np.int32]) -> bool:
    """Whether the template has begun the policy's thinking: then the text of the turn lacks that beginning."""
    return encoder.decode(context[-_LAST:])[1].rstrip().endswith(THINK)


async def read_action(
    encoder: PromptEncoder,
    context: NDArray[np.int32],
    generation: Generation,
    parser: OutputParser,
    tools: Sequence[Mapping[str, Any]],
) -> Action:
    """The turn behind `context` (int32 [n]) with thinking and calls apart. RequestFailed where nobody can parse it.

    Calls are looked for where the policy was told of `tools`, also in a turn that was cut at the limit: of such a turn
    none counts, since one may be missing, and that it called is told.
    """
    text, finish = written(encoder, generation, with_special=bool(tools)), generation.finish_reason
    thinking, rest = await parser.reasoning(text, begun=begins_to_think(encoder, context))
    found = await parser.calls(rest, [_function(tool) for tool in tools]) if tools else Parsed(rest)
    unread = found.cut_off or (finish == "length" and bool(found.calls))
    calls = () if unread else tuple(Call(call.name, json.loads(call.arguments)) for call in found.calls)
    return Action(
        text=rest if unread else found.text,
        raw_text=encoder.decode(generation.tokens)[1],
        tokens=generation.tokens.tolist(),
        finish=finish,
        thinking=thinking,
        calls=calls,
        unread_call=unread,
    )


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as engines take it; rows may have that of the function alone."""
    return dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
