"""`data.first`: the same few prompts again and again, whatever the source."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError, UserError
from rlscale.data.configured_source import build_source, training_source
from rlscale.data.prompts.first_prompts import FirstPrompts
from rlscale.data.prompts.overlap import KnowsPrompts
from rlscale.data.prompts.sources import RawPrompt, Stream


def ids(source: FirstPrompts, count: int) -> list[str]:
    return [one.id for one in source.next(count)]


def test_the_first_prompts_of_the_shuffled_order_come_in_every_epoch() -> None:
    data = compose(None, ["data.first=3"]).data
    source = training_source(data)
    assert isinstance(source, FirstPrompts)
    wanted = [one.id for one in build_source(data).next(3)]
    prompts = source.next(7)
    assert [one.id for one in prompts] == [*wanted, *wanted, wanted[0]]
    assert [one.index for one in prompts] == list(range(7))
    assert len(source) == 3


def test_a_source_with_fewer_has_all_of_them() -> None:
    small = compose(None, ["data.first=1000000"]).data
    assert len(training_source(small)) == len(build_source(small))


def test_a_run_goes_on_where_it_was_with_the_same_prompts_only() -> None:
    data = compose(None, ["data.first=3"]).data
    first, second = training_source(data), training_source(data)
    first.next(4)
    second.load_state_dict(first.state_dict())
    assert ids(second, 3) == ids(first, 3)
    others = training_source(compose(None, ["data.first=3", "run.seed=1"]).data)
    with pytest.raises(UserError, match="not the ones that the checkpoint was made with"):
        others.load_state_dict(first.state_dict())


def test_where_it_is_not_read_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"eval.data.first=5 is not read: an evaluation takes eval.prompts"):
        check(compose(None, ["eval.data.first=5"]))


@pytest.mark.parametrize("recipe", [None, "arithmetic_async", "arithmetic_sft", "arithmetic_mixture"])
def test_a_recipe_overfits_as_many_prompts_as_an_iteration_has_groups(recipe: str | None) -> None:
    config = compose(recipe, ["debug=overfit_batch"])
    check(config)
    assert config.data.first == config.rollout.groups_per_iteration == 8
    assert compose(recipe, ["debug=overfit_batch", "rollout.groups_per_iteration=2"]).data.first == 2


class Listed(Stream):
    """Prompts of one text each, with labels that may be anything."""

    def __init__(self, labels: list[Any]) -> None:
        super().__init__(len(labels), shuffle=False, seed=0)
        self.labels = labels

    def item(self, number: int, index: int) -> RawPrompt:
        return RawPrompt(index, f"p{number}", f"question {number}", self.labels[number])


def test_only_the_first_prompts_count_as_trained_on() -> None:
    source = FirstPrompts(Listed([1, 2, 3]), 2)
    assert isinstance(source, KnowsPrompts)
    assert source.holds(["question 0", [{"role": "user", "content": "question 1"}], "question 2"]) == 2


def test_a_changed_label_is_other_data_and_an_object_without_words_is_not() -> None:
    state = FirstPrompts(Listed(["4", object()]), 2).state_dict()
    FirstPrompts(Listed(["4", object()]), 2).load_state_dict(state)
    with pytest.raises(UserError, match="not the ones that the checkpoint was made with"):
        FirstPrompts(Listed(["5", object()]), 2).load_state_dict(state)
