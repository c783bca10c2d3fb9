"""A sample token by token."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from rlscale.config.schema.rollout_config import StoreFormat
from rlscale.observe.report import write_report
from rlscale.observe.token_view import token_texts
from tests.unit.dashboard.written_run import store_rollouts, write_run


def test_a_character_of_several_tokens_stands_at_the_last() -> None:
    pieces = {1: b"a", 2: "é".encode()[:1], 3: "é".encode()[1:], 4: b" b"}

    def decode(ids: object) -> str:
        assert isinstance(ids, list)
        return b"".join(pieces.get(number, b"") for number in ids).decode(errors="replace")

    assert token_texts([1, 2, 3, 4], decode) == ["a", "", "é", " b"]
    assert token_texts([1, 9, 4], decode) == ["a", "⟨9⟩", " b"], "a number without a text is a number"
    many = [1, 2, 3, 4] * 20
    assert "".join(token_texts(many, decode)) == "aé b" * 20


def test_the_report_has_advantage_and_ratio_of_each_token_beside_its_probability(tmp_path: Path) -> None:
    write_run(tmp_path, 3)
    store_rollouts(tmp_path, StoreFormat.parquet)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    told = [json.loads(html.unescape(found)) for found in re.findall(r'data-tokens="([^"]*)"', page)]
    assert len(told) == 4
    assert told[0]["texts"].split("␟") == ["⟨1⟩", "⟨2⟩", "⟨3⟩", "⟨4⟩", "⟨5⟩"]
    assert told[0]["mask"] == [[0, 2], [1, 3]], "what follows each other is said once"
    assert told[0]["probabilities"] == [None, None, 0.5, 0.25, 1.0]
    assert told[0]["ratios"] == [None, None, 1.0, 2.0, 0.75]
    assert [one["advantages"] for one in told] == [[[None, 2], [value, 3]] for value in (-1.0, 1.0, 0.0, 0.0)]
    assert {one["first"] for one in told} == {0}
    assert "const showTokens" in page
