"""The doctor asks machines of a Ray cluster through tasks there, and how fast two of them reach each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from shared_ray import JOINING

ASK = """
import json, os, sys
from pathlib import Path
from rlscale.config.composition.compose import compose
from rlscale.run.commands.doctor_cluster import answers, asks_for_token, facts_of, links_between
from rlscale.run.processes.ray_session import RaySession, node_ids
config = compose(None, [sys.argv[1], "model.init=nowhere"])
with RaySession(config.cluster, Path(".rlscale")):
    nodes = node_ids(1, 0) * 2  # the one machine as two
    facts = facts_of(config, {"torch": "1"}, nodes)
    (link,) = links_between(facts, nodes, nccl=False)
assert answers(config.cluster.ray_address, os.environ) is True, "with the token, by the same probe"
assert asks_for_token(config.cluster.ray_address) is True
print(json.dumps([[one.name for one in facts], facts[1].unreadable, facts[1].clock_error_s, vars(link)]))
"""


def test_machines_are_asked_through_ray_and_data_gets_from_one_to_the_other(shared_ray: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, shared_ray],
        cwd=tmp_path,
        env={**os.environ, **JOINING},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    names, unreadable, clock_error, link = json.loads(done.stdout.splitlines()[-1])
    assert [name.rpartition(" ")[2] for name in names] == ["(0)", "(1)"]
    assert "nowhere: is neither a Hugging Face folder" in unreadable[0], "it is asked about the run's own files"
    assert clock_error < 10
    assert (link["backend"], link["why"]) == ("gloo", "")
    assert 1e6 < link["bytes_per_s"] < 1e12
