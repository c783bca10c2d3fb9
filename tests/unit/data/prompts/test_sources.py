"""Prompt sources: order, resume, the arithmetic split, and what is said about bad files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, CustomData, FileData, Operation
from rlscale.data.configured_source import build_source
from rlscale.data.prompts.arithmetic import ArithmeticSource
from rlscale.data.prompts.sources import RawPrompt


def ids(prompts: list[RawPrompt]) -> list[str]:
    return [prompt.id for prompt in prompts]


def problem(prompt: RawPrompt) -> tuple[int, ...]:
    return tuple(sorted(int(part) for part in prompt.id.split("+")))


def test_training_and_held_out_sums_never_meet_even_commuted() -> None:
    train, held = (build_source(ArithmeticData(split=split)) for split in ("train", "held_out"))
    trained = {problem(p) for p in train.next(len(train))}
    held_out = {problem(p) for p in held.next(len(held))}
    assert not trained & held_out
    assert len(trained) + len(held_out) == 100 * 101 // 2
    assert len(train) + len(held) == 100 * 100
    assert len(held) / 10_000 == pytest.approx(0.1, abs=0.02)


def test_the_split_does_not_depend_on_the_order_seed_but_on_the_split_seed() -> None:
    def held(seed: int, split_seed: int) -> set[str]:
        source = build_source(ArithmeticData(split="held_out", seed=seed, split_seed=split_seed))
        return set(ids(source.next(len(source))))

    assert held(0, 0) == held(1, 0)
    assert held(0, 0) != held(0, 1)


@pytest.mark.parametrize(("reverse", "label"), [(True, "58"), (False, "85")])
def test_a_sum_is_asked_as_text_and_labelled_with_its_digits(reverse: bool, label: str) -> None:
    source = build_source(ArithmeticData(reverse_answer=reverse, held_out_share=0.0))
    prompt = next(p for p in source.next(len(source)) if p.id == "47+38")
    assert (prompt.prompt, prompt.label) == ("47+38=", label)


def test_products_are_of_the_pairs_of_the_same_split() -> None:
    sums, products = (
        build_source(ArithmeticData(operation=operation, split="held_out", reverse_answer=False, max_number=20))
        for operation in Operation
    )
    product = products.next(1)[0]
    a, b = map(int, product.id.split("*"))
    assert (product.prompt, product.label, product.info) == (f"{a}*{b}=", str(a * b), {"product": a * b})
    asked = {p.id.replace("*", "+") for p in [product, *products.next(len(products) - 1)]}
    assert asked == {p.id for p in sums.next(len(sums))}
    with pytest.raises(UserError, match="not the ones that the checkpoint was made with"):
        sums.load_state_dict(products.state_dict())


def test_an_epoch_holds_every_problem_once_and_each_epoch_has_its_own_order() -> None:
    source = build_source(ArithmeticData(max_number=5))
    first, second = (ids(source.next(len(source))) for _ in range(2))
    assert sorted(first) == sorted(second)
    assert len(set(first)) == len(first)
    assert first != second


def test_a_resumed_source_goes_on_with_the_next_prompt() -> None:
    source, resumed = (build_source(ArithmeticData(max_number=5)) for _ in range(2))
    source.next(30)
    state = json.loads(json.dumps(source.state_dict()))
    resumed.load_state_dict(state)
    expected = source.next(20)
    assert [(p.index, p.id) for p in resumed.next(20)] == [(p.index, p.id) for p in expected]
    assert expected[0].index == 30


def test_a_state_of_other_data_is_refused() -> None:
    state = build_source(ArithmeticData(max_number=5)).state_dict()
    with pytest.raises(UserError, match=r"has 8\d prompts, but the checkpoint was made with"):
        build_source(ArithmeticData(max_number=10)).load_state_dict(state)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ArithmeticData(split="test"), "data.split=test: choose train or held_out"),
        (ArithmeticData(max_number=0), "data.max_number=0"),
        (ArithmeticData(split="held_out", held_out_share=0.0), "change data.held_out_share=0.0"),
    ],
)
def test_impossible_arithmetic_is_refused(config: ArithmeticData, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_source(config)


def jsonl(folder: Path, *lines: str) -> str:
    file = folder / "data.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def test_jsonl_rows_become_prompts_with_label_and_the_other_keys(tmp_path: Path) -> None:
    path = jsonl(tmp_path, '{"q": "1+1", "a": 2, "level": 3}', "", '{"q": [{"role": "user", "content": "x"}], "a": 4}')
    source = build_source(FileData(path=path, prompt_key="q", label_key="a", shuffle=False))
    first, second = source.next(2)
    assert (first.prompt, first.label, first.info, first.id) == ("1+1", 2, {"level": 3}, "0")
    assert second.prompt == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("[10:20]", range(10, 20)), ("[:3]", range(3)), ("[-2:]", range(98, 100)), ("[90:]", range(90, 100))],
)
def test_a_slice_takes_those_rows(tmp_path: Path, wanted: str, expected: range) -> None:
    path = jsonl(tmp_path, *(json.dumps({"prompt": "p", "label": i}) for i in range(100)))
    source = build_source(FileData(path=f"{path}@{wanted}", shuffle=False))
    assert [p.label for p in source.next(len(source))] == list(expected)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"prompt": "a", "label": 1}', '{"prompt": "b",'], r"data.jsonl:2: not valid JSON"),
        (['{"prompt": "a", "label": 1}', "", "[1]"], r"data.jsonl:3: is a list, not a JSON object"),
        (
            ['{"question": "a", "label": 1}'],
            r"data.jsonl:1: no key 'prompt', only label, question; set data.prompt_key",
        ),
        (['{"prompt": "a", "answer": 1}'], r"data.jsonl:1: no key 'label', only answer, prompt; set data.label_key"),
        (['{"prompt": 7, "label": 1}'], r"data.jsonl:1: 'prompt' is a number, neither a string nor a list of messages"),
        ([], r"data.jsonl: no prompts, it is empty"),
    ],
)
def test_a_bad_jsonl_file_is_refused_with_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_source(FileData(path=jsonl(tmp_path, *lines)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.jsonl", "data.path=nowhere.jsonl: there is no such file"),
        ("{folder}/data.txt", "must end in .jsonl or .parquet"),
        ("{folder}/data.jsonl@[5:]", "no prompts, the slice contains none of its 1 rows"),
        ("{folder}/data.jsonl@[x]", "a slice is written"),
    ],
)
def test_a_bad_path_is_refused(tmp_path: Path, path: str, message: str) -> None:
    jsonl(tmp_path, '{"prompt": "a", "label": 1}')
    (tmp_path / "data.txt").touch()
    with pytest.raises(UserError, match=message):
        build_source(FileData(path=path.format(folder=tmp_path)))


def test_parquet_rows_become_prompts(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": f"m{i}"}] for i in range(4)]
    pq.write_table(pa.table({"prompt": messages, "label": ["a", "b", "c", "d"]}), tmp_path / "d.parquet")
    source = build_source(FileData(path=f"{tmp_path}/d.parquet@[1:3]", shuffle=False))
    assert [(p.prompt, p.label) for p in source.next(2)] == [(messages[1], "b"), (messages[2], "c")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prompt": [1, 2], "label": [1, 2]}, "'prompt' is a number, neither a string nor a list of messages"),
        ({"prompt": ["a", None], "label": [1, 2]}, "row 1: 'prompt' is null"),
        ({"text": ["a"], "label": [1]}, "no key 'prompt', only label, text; set data.prompt_key"),
    ],
)
def test_a_bad_parquet_file_is_refused(tmp_path: Path, table: dict, message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "d.parquet")
    with pytest.raises(UserError, match=message):
        build_source(FileData(path=f"{tmp_path}/d.parquet"))


class Countdown:
    """A source of one's own."""

    def __init__(self, start: int) -> None:
        self.position, self.start = 0, start

    def next(self, n: int) -> list[RawPrompt]:
        self.position += n
        return [RawPrompt(i, str(i), str(self.start - i)) for i in range(self.position - n, self.position)]

    def __len__(self) -> int:
        return self.start

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Endless:
    """Not a source: it cannot be saved."""

    def next(self, n: int) -> list[RawPrompt]:
        return []


def test_a_source_of_ones_own_is_built_from_its_target() -> None:
    source = build_source(CustomData(source={"_target_": f"{__name__}.Countdown", "start": 9}))
    assert [p.prompt for p in source.next(3)] == ["9", "8", "7"]


def test_a_custom_source_with_a_wrong_argument_or_without_the_protocol_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"data.source.strat is not an argument of .*; did you mean data.source.start\?"
    ):
        build_source(CustomData(source={"_target_": f"{__name__}.Countdown", "strat": 9}))
    with pytest.raises(
        UserError,
        match=r"test_sources\.Endless does not follow .*PromptSource: __len__ is missing; state_dict is missing",
    ):
        build_source(CustomData(source={"_target_": f"{__name__}.Endless"}))
    with pytest.raises(UserError, match="builtins holds no hooks"):
        build_source(CustomData(source={"_target_": "builtins.dict"}))


def test_order_is_drawn_from_the_seed() -> None:
    def order(seed: int) -> list[str]:
        return ids(build_source(ArithmeticData(seed=seed)).next(50))

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_sums_know_which_prompts_are_theirs() -> None:
    train = build_source(ArithmeticData(max_number=50))
    assert isinstance(train, ArithmeticSource)
    held_out = [prompt.prompt for prompt in build_source(ArithmeticData(max_number=50, split="held_out")).next(100)]
    own = [prompt.prompt for prompt in train.next(30)]
    assert train.holds([*held_out, *own, [{"role": "user", "content": own[0]}], "1+1", "what?", "9999999+1="]) == 31


def test_a_class_without_the_methods_of_a_source_is_not_built_to_find_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_source.py").write_text(
        "class Touches:\n    def __init__(self):\n        open('ran', 'w').close()\n"
    )
    with pytest.raises(UserError, match=r"no_source\.Touches does not follow .*PromptSource: next is missing"):
        build_source(CustomData(source={"_target_": "no_source.Touches"}))
    assert not (tmp_path / "ran").exists()
