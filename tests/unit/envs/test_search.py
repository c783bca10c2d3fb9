"""Search by BM25 over a corpus of one's own: what is found, played as tools, and what is refused."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.configured_environment import configured_environment
from rlscale.envs.environment import Action, Call
from rlscale.envs.score import Score
from rlscale.envs.search import Search
from rlscale.envs.search_index import opened_index
from rlscale.run.contracts.environment_contract import check_environment
from rlscale.trainer.hook_contract import failed

ROWS = [
    {"id": "cologne", "title": "Cologne", "text": "Cologne lies on the Rhine. Its cathedral took six centuries."},
    {"text": "The Rhine flows from the Alps to the North Sea; the Rhine is 1,233 km long."},
    {"id": 7, "text": "Whales are the largest mammals of the sea."},
    {"id": "twin", "text": "Whales are the largest mammals of the sea."},
]
PROMPT = Prompt(0, "0", np.array([1], np.int32), "6", {})


class Right:
    async def score(self, action: Action, prompt: Prompt) -> Score:
        return Score(float(action.text == prompt.label))


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


def ids(found: list[dict[str, str]] | str) -> list[str]:
    assert not isinstance(found, str), found
    return [one["id"] for one in found]


def test_the_document_that_says_most_of_the_rare_words_comes_first_and_equal_ones_in_their_order(corpus: str) -> None:
    search = Search(corpus).search
    assert ids(search("How long is the Rhine?")) == ["1", "cologne"]
    assert ids(search("cathedral on the Rhine")) == ["cologne", "1"]
    assert ids(search("largest whales", count=1)) == ["7"]
    assert ids(search("LARGEST mammals", count=10)) == ["7", "twin"]
    assert ids(search("cologne cologne"))[0] == "cologne"  # a title is searched as well


def test_what_shares_no_word_is_not_found(corpus: str) -> None:
    for query in ("zebra", "", "the of is", "?!", "a"):
        assert Search(corpus).search(query) == "No document has any of these words."
    assert ids(Search(corpus, stopwords=None).search("the", count=10)) == ["1", "7", "twin", "cologne"]


def test_a_search_shows_how_documents_begin_and_reading_shows_all_of_one(corpus: str) -> None:
    tools = Search(corpus, characters=12)
    assert tools.search("cathedral") == [{"id": "cologne", "title": "Cologne", "text": "Cologne lies..."}]
    assert tools.read("cologne") == f"Cologne\n\n{ROWS[0]['text']}"
    assert tools.read("1") == ROWS[1]["text"]
    for wrong in (lambda: tools.read("Cologne"), lambda: tools.search("sea", count=11)):
        with pytest.raises(ValueError, match=r"there is no document 'Cologne'|count is 11, must be from 1 to 10"):
            wrong()


def test_paragraphs_of_a_text_are_documents(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Rivers\nThe Rhine.\n\n \nThe Danube\nis longer.\n\n\n", encoding="utf-8")
    tools = Search(str(tmp_path / "notes.md"))
    assert tools.search("danube") == [{"id": "1", "text": "The Danube\nis longer."}]


def test_an_episode_searches_reads_and_answers_and_all_share_one_index(corpus: str) -> None:
    make = configured_environment(
        {
            "_target_": "rlscale.envs.tool_environment.ToolEnvironment",
            "tools": {"_target_": "rlscale.envs.search.Search", "corpus": corpus},
        },
        Right(),
    )

    async def main() -> None:
        made = make()
        start = await made.reset(PROMPT, 0)
        assert [tool["function"]["name"] for tool in start.tools] == ["read", "search"]
        searching = '<tool_call>{"name": "search", "arguments": {"query": "cathedral", "count": 2}}</tool_call>'
        first = await made.step(Action(searching, searching, [1]))
        (found,) = json.loads(first.messages[0]["content"])
        assert (found["id"], found["title"], first.done) == ("cologne", "Cologne", False)
        calls = [Call("read", {"id": "cologne"}), Call("read", {"id": "x"})]
        second = await made.step(Action("", "", [1], calls=calls))
        assert "six centuries" in second.messages[0]["content"]
        assert second.messages[1]["content"] == "Error: there is no document 'x'; search gives the ids"
        last = await made.step(Action("6", "6", [1]))
        assert (last.done, last.reward, last.info) == (True, 1.0, {"tool_calls": 3, "tool_errors": 1})

    asyncio.run(main())
    assert failed(check_environment(make, {"prompt": "How many centuries?", "label": "6"})) == []
    assert opened_index(corpus, "english") is opened_index(corpus, "english")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, r"^env\.tools\.corpus=.*a\.jsonl: there is no such file"),
        ("b.jsonl", "", r"^env\.tools\.corpus=.*b\.jsonl: has no documents, it is empty"),
        ("c.txt", " \n\n", r"has no documents, it is empty"),
        ("d.jsonl", '{"text": "a"}\n{"body": "b"}\n', r"d\.jsonl:2: has no text; a document is \{text: "),
        ("e.jsonl", '{"text": "a"}\n{"text', r"e\.jsonl:2: "),
        ("f.jsonl", '{"id": 1, "text": "a"}\n{"text": "b"}\n', r"f\.jsonl:2: the id 1 has been given"),
        ("g.jsonl", '{"title": 3, "text": "a"}\n', r"g\.jsonl:1: its title is 3, must be text"),
        ("h.txt", "the\n\nof", r"h\.txt: none of its documents has a word that can be searched for"),
        ("i.csv", "text\na\n", r"i\.csv: must end in \.jsonl or \.parquet"),
    ],
)
def test_a_corpus_that_cannot_be_searched_is_refused_with_the_place(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Search(str(tmp_path / name))


def test_what_it_needs_is_said(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"env\.tools\.stopwords=klingon: "):
        Search(corpus, stopwords="klingon")
    with pytest.raises(UserError, match=r"env\.tools\.characters=0 must be at least 1"):
        Search(corpus, characters=0)
    monkeypatch.setitem(sys.modules, "bm25s", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"needs bm25s: pip install 'rlscale\[search\]'"):
        Search(corpus, stopwords="german")
