"""Several sources as one: exact shares, the same again from a saved state, and each source told of its own prompts."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, MixtureData, SourceConfig
from rlscale.data.configured_encoder import build_encoder
from rlscale.data.configured_source import build_source
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.prompts.adaptive import Fate
from rlscale.data.prompts.mixture import MixtureSource
from rlscale.data.prompts.sources import RawPrompt, Stream
from rlscale.data.sample import Prompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.run.contracts.source_contract import check_source
from rlscale.trainer.hook_contract import failed


class Numbers(Stream):
    """Items 0 to 9; remembers what it was told."""

    def __init__(self, size: int = 10) -> None:
        super().__init__(size=size, shuffle=False, seed=0)
        self.told: list[tuple[int, str, float]] = []

    def item(self, number: int, index: int) -> RawPrompt:
        return RawPrompt(index, str(number), f"{number}=", str(number))

    def observe(self, prompt: Prompt, rewards: Sequence[float], fate: Fate) -> None:
        self.told.append((prompt.index, prompt.id, sum(rewards)))


def mixture(seed: int = 0, **weights: float) -> MixtureSource:
    return MixtureSource({name: Numbers() for name in weights}, weights, seed)


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_every_stretch_of_prompts_keeps_the_shares(weights: list[float], seed: int) -> None:
    named = {f"s{number}": weight for number, weight in enumerate(weights)}
    drawn = [raw.source for raw in mixture(seed, **named).next(300)]
    for start, length in ((0, 64), (64, 64), (100, 200)):
        counts = Counter(drawn[start : start + length])
        for name, weight in named.items():
            assert abs(counts[name] - length * weight / sum(weights)) < len(weights) + 1


def test_prompts_count_on_and_say_their_source_and_another_seed_begins_otherwise() -> None:
    raws = mixture(a=0.75, b=0.25).next(8)
    assert [raw.index for raw in raws] == list(range(8))
    assert Counter(raw.source for raw in raws) == {"a": 6, "b": 2}
    assert [raw.id for raw in raws if raw.source == "a"] == [f"a/{number}" for number in range(6)]
    orders = {tuple(raw.source for raw in mixture(seed, a=0.5, b=0.3, c=0.2).next(10)) for seed in range(9)}
    assert len(orders) > 1


@settings(max_examples=40, deadline=None)
@given(portions=st.lists(st.integers(1, 7), min_size=1, max_size=6), cut=st.integers(0, 5))
def test_a_saved_mixture_goes_on_in_portions_of_any_size(portions: list[int], cut: int) -> None:
    whole = mixture(a=2, b=1, c=0.5).next(sum(portions))
    source, found = mixture(a=2, b=1, c=0.5), []
    for number, portion in enumerate(portions):
        if number == cut:
            state = pickle.loads(pickle.dumps(source.state_dict()))
            source = mixture(a=2, b=1, c=0.5)
            source.load_state_dict(state)
        found += source.next(portion)
    assert found == whole


def test_a_source_is_told_of_its_own_prompts_by_its_own_indices_also_across_a_save() -> None:
    class Encoder:
        dropped = 0
        limits = ""

        def encode(self, raw: RawPrompt) -> Prompt | None:
            return Prompt(raw.index, raw.id, np.zeros(1, np.int32), None, source=raw.source) if raw.index != 3 else None

    def told(*, saved: bool) -> list[list[tuple[int, str, float]]]:
        source = mixture(a=0.5, b=0.5)
        queue: PromptQueue[Any] = PromptQueue(source, Encoder())
        prompts = queue.take(8)
        for place in (2, 0, 1):
            queue.observe(prompts[place], [1.0, float(place)], "kept")
        state = pickle.loads(pickle.dumps(queue.state_dict()))
        before = [inner.told for inner in source.sources.values() if isinstance(inner, Numbers)]
        if saved:
            source = mixture(a=0.5, b=0.5)
            queue = PromptQueue(source, Encoder())
            queue.load_state_dict(state)
        for place in (4, 3, 7, 6, 5):
            queue.observe(prompts[place], [1.0, float(place)], "kept")
        queue.state_dict()
        after = [inner.told for inner in source.sources.values() if isinstance(inner, Numbers)]
        return [one + two for one, two in zip(before, after, strict=True)] if saved else after

    found = told(saved=False)
    assert found == told(saved=True)
    assert sorted(reward for of in found for _, _, reward in of) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    for of in found:
        assert [(index, name) for index, name, _ in of] == sorted((int(name), name) for _, name, _ in of)


def test_other_sources_than_those_of_the_checkpoint_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.sources: are a, c, but the checkpoint was made with a, b"):
        mixture(a=1, c=1).load_state_dict(mixture(a=1, b=1).state_dict())


def test_a_mixture_keeps_the_contract_of_a_source() -> None:
    assert not failed(check_source(lambda: mixture(a=0.7, b=0.3)))


def test_a_configured_mixture_encodes_each_prompt_by_its_own_source(tmp_path: Path) -> None:
    character_tokenizer("0123456789+=", 64).save_pretrained(tmp_path)
    small = SourceConfig(data=ArithmeticData(max_number=10, apply_chat_template=False), max_response_tokens=2)
    large = SourceConfig(data=ArithmeticData(max_number=99, apply_chat_template=False), weight=3.0)
    config = MixtureData(sources={"small": small, "large": large})
    queue = PromptQueue(build_source(config), build_encoder(tmp_path, config, 16))
    prompts = queue.take(8)
    assert Counter(prompt.source for prompt in prompts) == {"small": 2, "large": 6}
    assert {(prompt.source, prompt.max_response_tokens) for prompt in prompts} == {("small", 2), ("large", None)}
    small.data.apply_chat_template = True
    found = build_encoder(tmp_path, config, 16)
    taken = PromptQueue(build_source(config), found).take(8)
    added = {prompt.source: prompt.text.removeprefix(str(prompt.messages[0]["content"])) for prompt in taken}
    assert added["large"] == ""
    assert added["small"] != ""
