"""The contract of a trainer: the shipped one and that of the example keep it, broken ones fail by name.

In one process of its own, with the lines of the example's README: Megatron is imported once, after it was adapted.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_parts"
SCRIPT = """
import json, sys
from rlscale.config.schema.cluster_config import Device
from rlscale.run.components import prepare_imports
prepare_imports(Device.cpu)
from rlscale.config.checks import check
from rlscale.config.compose import compose
from rlscale.run.check_hook import check_hook
from rlscale.run.contracts import check_trainer
from rlscale.run.preflight import preflight_of_sweep
from rlscale.trainer.hook_contract.findings import failed
from rlscale.trainer.megatron.trainer import MegatronTrainer

class ForgetsToLoad(MegatronTrainer):
    def load(self, folder):
        pass

class CountsInIntegers(MegatronTrainer):
    def train_shard(self, *given):
        return {"steps": 1}

class OtherArguments(MegatronTrainer):
    def sync(self):
        return {}

for line in json.loads(sys.argv[1]):
    if line[0] == "check-hook":
        assert check_hook(line[1:]) == 0, line
    else:
        config = compose(overrides=line)
        check(config)
        preflight_of_sweep(config)

kinds = (MegatronTrainer, ForgetsToLoad, CountsInIntegers, OtherArguments)
broken = {}
for kind in kinds:
    findings = check_trainer(kind, lambda spec: kind(spec, 0, 1, 0))
    assert len(findings) >= 16
    broken[kind.__name__] = sorted(finding.check for finding in failed(findings))
print(json.dumps(broken))
"""


def lines() -> list[list[str]]:
    """The README's commands without `python -m rlscale`."""
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    commands = block.replace("\\\n", " ").splitlines()
    assert all(command.startswith("python -m rlscale ") for command in commands)
    return [shlex.split(command.removeprefix("python -m rlscale ")) for command in commands]


def test_the_shipped_trainer_and_the_examples_parts_keep_their_contracts_and_broken_trainers_are_named(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n{SCRIPT}", json.dumps(lines())],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "MegatronTrainer": [],
        "ForgetsToLoad": ["resume"],
        "CountsInIntegers": ["train metrics"],
        "OtherArguments": ["sync"],
    }
