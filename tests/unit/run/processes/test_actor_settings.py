"""What ranks are started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.processes.actor_settings import rank_settings
from rlscale.run.processes.placement import lay_out_run


@pytest.mark.parametrize(
    ("words", "interface"),
    [
        ([], "lo"),
        (["rollout.engines_at_most=8", "rollout.engine_key_file=engine.key"], None),
        (["rollout.engine_urls=[http://10.0.0.7:30000]"], None),
    ],
)
def test_ranks_of_one_machine_talk_on_loopback_unless_engines_of_others_are_there_or_may_join(
    words: list[str], interface: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    config = compose(None, words)
    (rank,) = rank_settings(config, lay_out_run(config), Path("logs"))
    assert rank.environment.get("GLOO_SOCKET_IFNAME") == interface
