"""Stored rollouts as the report's conversations: what is told apart, how much is shown, and that none of it can run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rlscale.config.schema.rollout_config import Store
from rlscale.data.sample import Group, Prompt, Sample, Segment
from rlscale.data.stored.stored_rollouts import RolloutStore
from rlscale.data.stored.trained_tokens import TrainedTokens, write_trained
from rlscale.observe.conversations import (
    HEAD,
    MOST_GROUPS,
    MOST_ITERATIONS,
    MOST_TOKENS,
    TAIL,
    Piece,
    read_conversations,
)
from rlscale.observe.report import write_report
from tests.unit.observe.test_report import parse

HOSTILE = '</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>" onload="alert(3)'


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token per byte: a character may take several."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def stored(
    folder: Path, tokenizer: Path, *parts: tuple[str, int], rewards: tuple[float, ...] = (1.0,), **given: Any
) -> None:
    """A store of one iteration whose samples are made of these texts and their versions; -1 for what was shown."""
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    ids = [np.array(encode(text).ids, np.int32) for text, _ in parts]
    versions = np.repeat(np.array([version for _, version in parts], np.int32), [len(one) for one in ids])
    prompts, groups, iteration = given.pop("prompts", 1), [], given.pop("iteration", 1)
    named = str(given.pop("named", tokenizer))
    about = {name: given.pop(name) for name in ("label", "tools", "source") if name in given}
    for index in range(prompts):
        prompt = Prompt(index, f"p{index}", ids[0], text=parts[0][0], **{"label": None, **about})
        samples = [
            Sample(index, n, np.concatenate(ids), len(ids[0]), versions >= 0, np.zeros(len(versions), np.float32),
                   versions, reward, "stop", **given)
            for n, reward in enumerate(rewards)
        ]  # fmt: skip
        groups.append(Group(prompt, samples))
    RolloutStore(folder / "rollouts", Store.all, 1, 1.0, named).write(iteration, 0, groups)


def damaged(folder: Path) -> Path:
    """A folder whose tokenizer cannot be read."""
    (folder / "tokenizer.json").write_text("{")
    return folder


def test_tokens_are_told_apart_by_kind_and_version_also_within_a_character(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    stored(tmp_path, tokenizer_folder, ("was?", -1), ("größer", 3), ("mehr", -1), ("ja", 4))
    (one,) = read_conversations(tmp_path).shown
    assert one.segments == [
        [Piece("was?", 4, False, -1), Piece("größer", 8, True, 3), Piece("mehr", 4, False, -1), Piece("ja", 2, True, 4)]
    ]
    # The weights changed between the two bytes of the ö: it is in the span that completed it.
    one.sample.versions[7:12] = 4
    group = Group(one.prompt, [one.sample])
    RolloutStore(tmp_path / "rollouts", Store.all, 1, 1.0, str(tokenizer_folder)).write(1, 0, [group])
    (again,) = read_conversations(tmp_path).shown
    assert again.segments[0][1:3] == [Piece("gr", 3, True, 3), Piece("ößer", 5, True, 4)]
    page, _ = parse(tmp_path)
    assert '<span class="even"><b title="3 tokens">v3</b>gr</span>' in page
    assert '<span class="odd"><b title="5 tokens">v4</b>ößer</span>' in page
    assert "Turn 1 · 8 tokens · weights v3 to v4" in page
    assert "Turn 2 · 2 tokens · weights v4" in page
    assert "Shown · 4 tokens, masked" in page


def test_segments_rewards_of_parts_and_turns_and_tools_are_shown(tmp_path: Path, tokenizer_folder: Path) -> None:
    info = {"reward_parts": {"format": 0.25}, "turn_rewards": [0.5, 0.75], "calls": 2}
    tools = [{"type": "function", "function": {"name": "add", "description": "Adds."}}]
    parts = (("1+1", -1), ("two", 0), ("now", -1), ("2", 1))
    stored(
        tmp_path, tokenizer_folder, *parts, info=info, label=2, tools=tools, source="sums",
        later_segments=(Segment(4, 3),),
    )  # fmt: skip
    _, parsed = parse(tmp_path)
    text = "".join(parsed.text)
    told = ("Segment 1", "Segment 2", "reward of format0.25", "calls2", "label2", "Tools: add")
    for part in (*told, "prompt p0 of sums", "2 turns", "4 of 10 tokens trained on", "weights v0 to v1"):
        assert part in text
    assert "weights v0 · reward 0.5" in text
    assert "weights v1 · reward 0.75" in text


def test_nothing_in_a_conversation_can_run_as_script(tmp_path: Path, tokenizer_folder: Path) -> None:
    tools = [{"type": "function", "function": {"name": HOSTILE, "parameters": {HOSTILE: HOSTILE}}}]
    info = {"reward_parts": {HOSTILE: 1.0}, HOSTILE: HOSTILE}
    call = '<tool_call>{"name": "' + HOSTILE + '"}</tool_call>'
    parts = ((HOSTILE, -1), (call, 0), (HOSTILE, -1), (HOSTILE, 1))
    stored(tmp_path, tokenizer_folder, *parts, tools=tools, info=info, label=HOSTILE, source=HOSTILE)
    page, parsed = parse(tmp_path)
    clean, other = tmp_path / "clean", tmp_path / "other"
    stored(
        clean, tokenizer_folder, *((("x"), version) for _, version in parts), tools=[{"name": "x"}], info={}, label=1
    )
    _, harmless = parse(clean)
    assert parsed.tags == harmless.tags  # the text made no element of its own
    assert page.count("<script") == page.count("</script") == 1
    # Quotes cannot end an attribute, nor text begin a tag: outside of tags all of it is text.
    assert not re.search(r"<[^>]*\son(?:load|error)\s*=", page)
    assert HOSTILE in "".join(parsed.text)
    # Neither where the tokenizer cannot be read and the stored texts are shown.
    stored(other, tokenizer_folder, *parts, text=HOSTILE, raw_text=HOSTILE, named=damaged(tmp_path))
    page = write_report(other).read_text()
    assert page.count("<script") == page.count("</script") == 1


def test_the_page_stays_small_however_much_is_stored(tmp_path: Path, tokenizer_folder: Path) -> None:
    parts = (("?", -1), ("long " * 1300, 0))
    stored(tmp_path, tokenizer_folder, *parts, prompts=MOST_GROUPS + 1, rewards=(0.5, 0.0, 1.0))
    file = tmp_path / "rollouts" / "iteration_000001.parquet"
    for iteration in range(2, MOST_ITERATIONS + 3):
        shutil.copy(file, file.with_name(f"iteration_{iteration:06d}.parquet"))
    found = read_conversations(tmp_path)
    assert found.iterations == (MOST_ITERATIONS, MOST_ITERATIONS + 2)
    assert {one.iteration for one in found.shown} >= {1, MOST_ITERATIONS + 2}
    assert len(found.shown) == MOST_ITERATIONS * MOST_GROUPS * 2
    # Of each group the worst and the best sample.
    assert {one.sample.reward for one in found.shown} == {0.0, 1.0}
    assert {one.left_out for one in found.shown} == {6_501 - MOST_TOKENS}
    assert len(write_report(tmp_path).read_text()) < 600_000


def test_a_long_prompt_is_abridged_and_the_answers_behind_it_are_shown(tmp_path: Path, tokenizer_folder: Path) -> None:
    prompt = "a" * HEAD + "b" * 2 * MOST_TOKENS + "c" * TAIL
    parts = ((prompt, -1), ("yes", 2), (prompt, -1), ("größer", 2), (prompt, -1), ("no", 3))
    stored(tmp_path, tokenizer_folder, *parts)
    (one,) = read_conversations(tmp_path).shown
    between = f" … {2 * MOST_TOKENS:,} tokens … "
    (pieces,) = one.segments
    assert {piece.text for piece in pieces[::2]} == {"a" * HEAD + between + "c" * TAIL}
    assert {piece.tokens for piece in pieces[::2]} == {len(prompt)}
    assert [piece.text for piece in pieces[1::2]] == ["yes", "größer", "no"]
    assert one.left_out == 0


def test_without_the_tokenizer_the_stored_texts_are_shown_and_a_damaged_file_is_told(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    stored(tmp_path, tokenizer_folder, ("was?", -1), ("ja", 0), text="ja", raw_text="ja<end>", named=damaged(tmp_path))
    page, _ = parse(tmp_path)
    assert "Tokens are not told apart, as the run&#x27;s tokenizer cannot be read" in page
    assert "ja&lt;end&gt;" in page
    file = tmp_path / "rollouts" / "iteration_000001.parquet"
    file.write_bytes(file.read_bytes()[:-3])
    page, _ = parse(tmp_path)
    assert "is not a file of stored rollouts" in page


def test_what_tokens_were_trained_with_is_left_out_where_it_is_of_other_samples(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    stored(tmp_path, tokenizer_folder, ("was?", -1), ("ja", 0), rewards=(0.0, 1.0))
    file, numbers = tmp_path / "rollouts" / "iteration_000001.trained.npz", np.ones(12, np.float32)
    for lengths, told in (([6, 6], [[None] * 4 + [1.0] * 2] * 2), ([3, 6], [None, [None] * 4 + [1.0] * 2])):
        write_trained(file, lengths, TrainedTokens(numbers[: sum(lengths)], numbers[: sum(lengths)]))
        found = read_conversations(tmp_path)
        assert [one.token_view["advantages"] for one in found.shown] == told
        assert [one.token_view["ratios"] is None for one in found.shown] == [one is None for one in told]
        write_report(tmp_path)
