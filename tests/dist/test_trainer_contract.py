"""The contract of a trainer: the shipped one and that of the example keep it, broken ones fail by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_parts"
SCRIPT = """
import json, sys
from rlscale.config.schema.cluster_config import Device
from rlscale.run.components import prepare_imports
prepare_imports(Device.cpu)
from counting_trainer import CountingTrainer
from rlscale.run.contracts import check_trainer
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

kinds = (MegatronTrainer, CountingTrainer, ForgetsToLoad, CountsInIntegers, OtherArguments)
broken = {}
for kind in kinds:
    findings = check_trainer(kind, lambda spec: kind(spec, 0, 1, 0))
    assert len(findings) >= 16
    broken[kind.__name__] = sorted(finding.check for finding in failed(findings))
print(json.dumps(broken))
"""


def test_the_shipped_trainer_and_the_counting_one_keep_the_contract_and_broken_ones_are_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n{SCRIPT}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "MegatronTrainer": [],
        "CountingTrainer": [],
        "ForgetsToLoad": ["resume"],
        "CountsInIntegers": ["train metrics"],
        "OtherArguments": ["sync"],
    }
