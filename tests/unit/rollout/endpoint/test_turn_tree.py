"""The tree of turns: where requests attach, and what is trained on in the end. Tokens are numbers, all different."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlscale.data.sample import Prompt, Sample
from rlscale.rollout.endpoint.chat_messages import ChatMessage, ToolCall, canonical, with_own_ids
from rlscale.rollout.endpoint.turn_tree import Attachment, Turn, TurnTree
from rlscale.rollout.engines.generation import Generation

Said = list[ChatMessage]
PROMPT = Prompt(7, "7", np.arange(3, dtype=np.int32), None)


def user(text: str) -> ChatMessage:
    return ChatMessage("user", text)


def assistant(text: str, thinking: str | None = None, *calls: ToolCall) -> ChatMessage:
    return ChatMessage("assistant", text, thinking, calls)


class Talk:
    """A tree that is talked to. Sampled tokens count up from 1000, shown ones from 1,000,000."""

    def __init__(self) -> None:
        self.tree = TurnTree()
        self._sampled, self._shown = itertools.count(1000), itertools.count(1_000_000)
        self.sampled: list[int] = []

    def ask(self, messages: Said, answer: ChatMessage | None = None, tools: str = "[]", length: int = 3) -> Said:
        """The conversation with the policy's answer behind it."""
        found = self.tree.attach(messages, tools)
        seen = self._take(self._shown, 2 * len(found.new))
        context = seen if found.turn is None else np.concatenate([found.turn.tokens, seen])
        tokens = self._take(self._sampled, length)
        self.sampled += tokens.tolist()
        answer = answer or assistant(f"answer {tokens[0]}")
        generation = Generation(tokens, np.full(length, -1.0, np.float32), "stop", np.zeros(length, np.int32))
        self.tree.add(Turn(found.turn, found.new, tools, context, generation, answer))
        return [*messages, answer]

    def sample(self) -> Sample:
        return self.tree.trajectory().sample(PROMPT, 0)

    @staticmethod
    def _take(numbers: Iterable[int], count: int) -> NDArray[np.int32]:
        return np.fromiter(itertools.islice(numbers, count), np.int32)


def trained(sample: Sample) -> list[int]:
    return sorted(sample.tokens[sample.loss_mask].tolist())


def test_a_conversation_that_grows_is_one_segment() -> None:
    talk = Talk()
    said = talk.ask([ChatMessage("system", "be brief"), user("a")])
    for text in "bcdef":
        said = talk.ask([*said, user(text)])
    sample = talk.sample()
    assert len(sample.segments) == 1
    assert trained(sample) == talk.sampled
    assert talk.tree.duplication() == 1.0
    # Shown and sampled alternate: four tokens of two messages, three sampled, two shown, three sampled, ...
    runs = [(trainable, len(list(run))) for trainable, run in itertools.groupby(sample.loss_mask.tolist())]
    assert runs == [(False, 4), *[(True, 3), (False, 2)] * 5, (True, 3)]


def test_an_edited_history_and_a_summary_open_segments_that_begin_with_what_was_rendered_anew() -> None:
    talk = Talk()
    first = talk.ask([user("a")])
    talk.ask([*first, user("b")])
    talk.ask([user("a"), assistant("no, this"), user("b")])
    talk.ask([user("in short: a, b"), user("c")])
    sample = talk.sample()
    assert [segment.context for segment in sample.segments] == [2, 6, 4]
    assert trained(sample) == talk.sampled


def test_what_sequences_begin_with_alike_counts_once_also_where_the_messages_differ_from_the_start() -> None:
    tree, one = TurnTree(), np.ones(1, np.int32)
    for number, context in enumerate(([7], [1, 2, 3, 4, 9], [1, 2], [1, 2, 3, 5])):
        generation = Generation(8 * one, -one.astype(np.float32), "stop", one)
        tree.add(Turn(None, (user(str(number)),), "[]", np.array(context, np.int32), generation, assistant("")))
    assert tree.duplication() == 16 / (16 - 3 - 2)


def test_two_continuations_of_one_answer_share_its_tokens_and_only_the_first_trains_them() -> None:
    talk = Talk()
    first = talk.ask([user("a")])
    for text in ("left", "right", "middle"):
        talk.ask([*first, user(text)])
    sample = talk.sample()
    assert [segment.length for segment in sample.segments] == [10, 10, 10]
    whole = sample.tokens.tolist()
    assert whole[10:15] == whole[20:25] == whole[:5]  # question and answer, again as context
    assert not sample.loss_mask[10:17].any()
    assert trained(sample) == talk.sampled
    assert talk.tree.duplication() == pytest.approx(30 / 20)


def test_other_tools_are_another_conversation() -> None:
    talk = Talk()
    first = talk.ask([user("a")])
    assert talk.tree.attach([*first, user("b")], "[]").turn is not None
    assert talk.tree.attach([*first, user("b")], '[{"type":"function"}]').turn is None


@pytest.mark.parametrize(
    ("stored", "sent", "found", "forgotten"),
    [
        (assistant("yes", "hm"), assistant("yes", "hm"), True, 0),
        (assistant("yes", "hm"), assistant("yes"), True, 1),
        (assistant("yes", "hm"), assistant("yes", "other"), False, 0),
        (assistant("yes"), assistant("yes", ""), True, 0),
        (assistant("yes\n"), assistant("yes"), True, 0),
        (assistant("yes"), assistant("Yes"), False, 0),
        (
            assistant("", None, ToolCall("add", canonical({"b": 1, "a": [2]}), "x")),
            assistant("", None, ToolCall("add", canonical(' {"a": [2],\n "b": 1}'), "y")),
            True,
            0,
        ),
        (
            assistant("", None, ToolCall("add", canonical({"a": 1}))),
            assistant("", None, ToolCall("add", canonical({"a": 2}))),
            False,
            0,
        ),
        (assistant("", None, ToolCall("add", "{}")), assistant("", None, ToolCall("sub", "{}")), False, 0),
        (assistant("x", None, ToolCall("add", "{}")), assistant("x"), False, 0),
    ],
)
def test_messages_match_by_text_thinking_and_calls(
    stored: ChatMessage, sent: ChatMessage, found: bool, forgotten: int
) -> None:
    talk = Talk()
    talk.ask([user("a")], stored)
    attachment = talk.tree.attach([user("a"), sent, user("b")], "[]")
    assert (attachment.turn is not None, attachment.forgotten) == (found, forgotten)
    assert attachment.new == ((user("b"),) if found else (user("a"), sent, user("b")))


def test_of_equal_answers_the_one_whose_thinking_the_request_repeats_is_continued() -> None:
    talk = Talk()
    for thought in ("one", "two"):
        found = Attachment(None, (user("a"),))
        answer = assistant("same", thought)
        context = np.array([1, 2], np.int32)
        generation = Generation(np.array([5], np.int32), np.zeros(1, np.float32), "stop", np.zeros(1, np.int32))
        talk.tree.add(Turn(None, found.new, "[]", context, generation, answer))
    turn = talk.tree.attach([user("a"), assistant("same", "two"), user("b")], "[]").turn
    assert turn is talk.tree.turns[1]
    assert talk.tree.attach([user("a"), assistant("same"), user("b")], "[]").turn is talk.tree.turns[0]


def test_ids_of_calls_are_the_clients_own_affair() -> None:
    def conversation(first: str, second: str) -> tuple[ChatMessage, ...]:
        calls = ToolCall("add", "{}", first), ToolCall("sub", "{}", second)
        results = ChatMessage("tool", "2", call_id=second), ChatMessage("tool", "1", call_id=first)
        return with_own_ids([user("a"), ChatMessage("assistant", "", None, calls), *results])

    assert conversation("x", "y") == conversation("call_1", "call_2")
    answered = conversation("x", "y")[2:]
    assert [(one.call_id, one.name) for one in answered] == [("call00001", "sub"), ("call00000", "add")]


def test_an_answer_that_did_not_arrive_leaves_no_trace() -> None:
    talk = Talk()
    first = talk.ask([user("a")])
    talk.ask([*first, user("lost")])
    talk.ask([*first, user("b")])
    lost, kept = talk.tree.turns[1:]
    assert not talk.tree.remove(talk.tree.turns[0])  # somebody went on from it
    assert talk.tree.remove(lost)
    sample = talk.sample()
    assert len(sample.segments) == 1
    assert trained(sample) == sorted(set(talk.sampled) - set(lost.generation.tokens.tolist()))
    assert sample.tokens[-3:].tolist() == kept.generation.tokens.tolist()


def test_a_turn_that_does_not_continue_its_parents_tokens_is_an_error() -> None:
    talk = Talk()
    talk.ask([user("a")])
    turn = talk.tree.turns[0]
    other = np.concatenate([turn.tokens[::-1], turn.tokens])
    with pytest.raises(AssertionError, match="does not continue its parent's tokens"):
        talk.tree.add(Turn(turn, (user("b"),), "[]", other, turn.generation, turn.answer))


STEP = st.tuples(
    st.sampled_from(["grow", "branch", "edit", "sum up", "new tools", "sub-agent"]),
    st.integers(0, 10),
    st.integers(1, 4),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=14))
def test_whatever_agents_do_every_sampled_token_is_trained_once_and_follows_what_it_followed(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    talk = Talk()
    talks: list[tuple[Said, str]] = [([user("task")], "[]")]
    branched = False
    for number, (kind, which, length, thinks) in enumerate(steps):
        said, tools = talks[which % len(talks)]
        match kind:
            case "branch" if len(said) > 2:
                said = said[:-2]
            case "edit" if len(said) > 1:
                said = [said[0], assistant(f"edited {number}"), *said[2:]]
            case "sum up":
                said = [user(f"so far {number}")]
            case "new tools":
                tools = f"[{number}]"
            case "sub-agent":
                said = [ChatMessage("system", f"you are {number}")]
        branched |= kind != "grow"
        question = [*said, user(f"question {number}")]
        answer = assistant(f"answer {number}", "hm" if thinks else None)
        talks.append((talk.ask(question, answer, tools, length), tools))
    sample = talk.sample()
    assert trained(sample) == talk.sampled
    followed: dict[int, Any] = {}
    for turn in talk.tree.turns:
        before = turn.context.tolist()
        for token in turn.generation.tokens.tolist():
            followed[token] = list(before)
            before.append(token)
    start = 0
    for segment in sample.segments:
        tokens, mask = (column[start : start + segment.length].tolist() for column in (sample.tokens, sample.loss_mask))
        start += segment.length
        assert mask.index(True) == segment.context
        for place, token in enumerate(tokens):
            if mask[place]:
                assert tokens[:place] == followed[token]
    if not branched and all(which % (n + 1) == n for n, (_, which, _, _) in enumerate(steps)):
        assert len(sample.segments) == 1
