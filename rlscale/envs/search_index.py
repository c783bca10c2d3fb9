"""The documents of a file, and which of them fit a query by BM25."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError
from rlscale.data.prompts.rows import open_rows

_PARAGRAPHS = re.compile(r"\n\s*\n")
_AS_TEXT = (".txt", ".md")


@dataclass(frozen=True)
class Document:
    """What is found and shown."""

    id: str
    title: str
    """Empty where it has none."""
    text: str


class SearchIndex:
    """BM25 (Lucene's form) over words of two letters or more, in lower case, without `stopwords`."""

    def __init__(self, documents: Sequence[Document], stopwords: str | None, key: str) -> None:
        """UserError that begins with `key` where the stop words are unknown or no document has a word."""
        import bm25s  # the extra `search`, which opened_index asks for by name

        self._bm25s, self._stopwords = bm25s, stopwords
        self.documents = {one.id: one for one in documents}
        try:
            words = self._words([f"{one.title} {one.text}" for one in documents])
        except ValueError as error:
            raise UserError(f"env.tools.stopwords={stopwords}: {error}") from error
        if not any(words):
            raise UserError(f"{key}: none of its documents has a word that can be searched for")
        self._ordered, self._ranking = list(documents), bm25s.BM25()
        self._ranking.index(words, show_progress=False)

    def best(self, query: str, count: int) -> list[Document]:
        """Up to `count` documents that share a word with the query, the best first, the earlier of two equal ones."""
        (words,) = self._words([query])
        if not words:
            return []
        scores: NDArray[np.float32] = self._ranking.get_scores(words)
        least = np.partition(scores, -count)[-count] if count < len(scores) else 0.0
        (numbers,) = np.nonzero((scores >= least) & (scores > 0))
        best = numbers[np.argsort(-scores[numbers], kind="stable")][:count]
        return [self._ordered[number] for number in best]

    def _words(self, texts: list[str]) -> list[list[str]]:
        split = self._bm25s.tokenize(
            texts, stopwords=self._stopwords, return_ids=False, show_progress=False, allow_empty=False
        )
        return [[word for word in words if word] for words in split]


@lru_cache(maxsize=4)
def opened_index(corpus: str, stopwords: str | None) -> SearchIndex:
    """The index of a file, made once for all episodes of a process. UserError where it cannot be made."""
    if find_spec("bm25s") is None:
        raise UserError("env=search needs bm25s: pip install 'rlscale[search]'")
    key = f"env.tools.corpus={corpus}"
    documents = _read(Path(corpus).expanduser(), key)
    if not documents:
        raise UserError(f"{key}: has no documents, it is empty")
    return SearchIndex(documents, stopwords, key)


def _read(path: Path, key: str) -> list[Document]:
    """Its documents; a text's are its paragraphs. UserError for a row that is none, or an id that comes twice."""
    if path.suffix in _AS_TEXT and path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{key}: cannot be read as UTF-8 ({error})") from error
        paragraphs = filter(None, (part.strip() for part in _PARAGRAPHS.split(text)))
        return [Document(str(number), "", part) for number, part in enumerate(paragraphs)]
    if path.is_file() and path.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{key}: must end in .jsonl or .parquet (rows with a text), .txt or .md (paragraphs)")
    rows = open_rows(path, "env.tools.corpus")
    found: dict[str, Document] = {}
    for number, row in enumerate(rows.read(range(len(rows)))):
        try:
            one = _document(row, number)
        except ValueError as error:
            raise UserError(f"{rows.place(number)}: {error}") from error
        if one.id in found:
            raise UserError(f"{rows.place(number)}: the id {one.id} has been given to a document before")
        found[one.id] = one
    return list(found.values())


def _document(row: dict[str, Any] | ValueError, number: int) -> Document:
    """ValueError for a row without a text."""
    if isinstance(row, ValueError):
        raise row
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("has no text; a document is {text: ...}, with an id and a title if it has them")
    if not isinstance(title, str | None):
        raise ValueError(f"its title is {title!r}, must be text")
    return Document(str(row.get("id", number)), title or "", text)
