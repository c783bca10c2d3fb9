"""Which models of the hub a run waits for."""

from __future__ import annotations

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.derived.hub_names import not_downloaded

DRAFT = ["rollout.speculation.algorithm=standalone", "rollout.speculation.draft=nobody/draft"]


@pytest.mark.parametrize("words", [["rollout.replay=stored"], ["rollout.engine_urls=[http://127.0.0.1:1]"]])
def test_a_draft_is_wanted_where_the_run_starts_engines_only(words: list[str]) -> None:
    assert not_downloaded(compose(None, DRAFT)) == ["rollout.speculation.draft=nobody/draft"]
    assert not_downloaded(compose(None, [*DRAFT, *words])) == []
