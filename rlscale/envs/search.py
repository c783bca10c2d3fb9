"""Search over documents of one's own, as tools of an episode (`env=search`)."""

from __future__ import annotations

from rlscale.config.errors import UserError
from rlscale.envs.search_index import opened_index

_MOST = 10


class Search:
    """The policy may search the documents of a file by BM25, and read those that it found.

    `corpus`: rows of JSONL or Parquet with a `text`, and an `id` and a `title` if they have them (an id is the number
    of the row without one); or a .txt or .md file, whose paragraphs are the documents. `stopwords`: the language whose
    most common words are not searched for (`english`, `german`, ..., as bm25s names them), None to search for all.
    `characters`: how much of each document a search shows. Needs the extra `search`.
    """

    def __init__(self, corpus: str, stopwords: str | None = "english", characters: int = 400) -> None:
        """UserError if bm25s is not installed, or the corpus cannot be read or has no documents."""
        if characters < 1:
            raise UserError(f"env.tools.characters={characters} must be at least 1")
        self._index, self._characters = opened_index(corpus, stopwords), characters

    def search(self, query: str, count: int = 3) -> list[dict[str, str]] | str:
        """Search the documents; the best come first, each with its id and how it begins.

        Args:
            query: words that the document should have
            count: how many documents, 1 to 10
        """
        if not 1 <= count <= _MOST:
            raise ValueError(f"count is {count}, must be from 1 to {_MOST}")
        found = self._index.best(query, count)
        if not found:
            return "No document has any of these words."
        return [
            {"id": one.id} | ({"title": one.title} if one.title else {}) | {"text": self._beginning(one.text)}
            for one in found
        ]

    def read(self, id: str) -> str:
        """Read a whole document.

        Args:
            id: as a search gave it
        """
        one = self._index.documents.get(id)
        if one is None:
            raise ValueError(f"there is no document {id[:50]!r}; search gives the ids")
        return f"{one.title}\n\n{one.text}" if one.title else one.text

    def _beginning(self, text: str) -> str:
        return text if len(text) <= self._characters else f"{text[: self._characters]}..."
