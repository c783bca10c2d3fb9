"""The contract of a trainer: the shipped one and that of the example keep it, broken ones fail by name.

In a process of its own with the lines of the example's README. It is forked from one that has imported Megatron, for
importing takes longer than all the rest.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import contract_scenario
from rank_pool import RankPool

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_parts"


def lines() -> list[list[str]]:
    """The README's commands without `python -m rlscale`."""
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    commands = block.replace("\\\n", " ").splitlines()
    assert all(command.startswith("python -m rlscale ") for command in commands)
    return [shlex.split(command.removeprefix("python -m rlscale ")) for command in commands]


def test_the_shipped_trainer_and_the_examples_parts_keep_their_contracts_and_broken_trainers_are_named(
    tmp_path: Path,
) -> None:
    pool = RankPool()
    try:
        (broken,) = pool.run(contract_scenario.broken_trainers, lines(), str(EXAMPLES), str(tmp_path), world_size=1)
    finally:
        pool.close()
    assert broken == {
        "MegatronTrainer": [],
        "ForgetsToLoad": ["copy", "recover", "resume"],
        "CountsInIntegers": ["train metrics"],
        "OtherArguments": ["send_weights"],
        "LeavesATensorOut": ["weights sent"],
    }
