"""What the doctor says where a machine, or the question whether Ray asks for a token, gets no answer."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.doctor.facts import Facts
from rlscale.doctor.gathering import gather
from rlscale.run.commands import doctor_cluster


class Remote:
    """Answers at once with what the function answers here."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def remote(self, *arguments: Any) -> Any:
        return self.function(*arguments) if self.function is gather else None


def test_a_machine_that_stops_answering_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(asked: Any, timeout: float) -> Any:
        if isinstance(asked, list):
            return asked
        raise GetTimeoutError(f"nothing came in {timeout:g} s")

    monkeypatch.setattr(doctor_cluster, "_at", lambda node, function: Remote(function))
    monkeypatch.setattr(doctor_cluster.ray, "get", get)
    config = compose(None, [])
    with pytest.raises(UserError, match="a machine of the cluster does not answer: nothing came in 120 s"):
        doctor_cluster.facts_of(config, {}, ["a"])
    facts: list[Facts] = [gather(config, {})] * 2
    (link,) = doctor_cluster.links_between(facts, ["a", "b"], nccl=False)
    assert (link.bytes_per_s, link.why) == (None, "nothing came in 30 s")


@pytest.mark.parametrize(
    ("probe", "asks"),
    [
        ("", False),
        (f"raise SystemExit({doctor_cluster._REFUSED})", True),
        ("raise ImportError", None),
        ("import time; time.sleep(60)", None),
    ],
)
def test_only_a_refusal_for_the_token_counts_as_asking_for_one(
    probe: str, asks: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_cluster, "_PROBE", probe)
    monkeypatch.setattr(doctor_cluster, "_PROBE_S", 0.3 if "sleep" in probe else 30.0)
    assert doctor_cluster.asks_for_token("127.0.0.1:1") is asks
