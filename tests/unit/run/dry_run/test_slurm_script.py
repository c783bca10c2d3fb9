"""The script for sbatch, run to its end between commands that write down what they were asked."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.run.dry_run.job_script import slurm_job

SCRIPTS = {
    "scontrol": "printf 'n0\\nn1\\nn2\\nn3\\n'",
    "sleep": "/bin/sleep 0.5",
    "srun": 'echo "srun $* token=$(wc -c < "$RAY_AUTH_TOKEN_PATH") $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >> "$SAID"',
    "python": """[[ "$*" == *status* ]] && printf " 1 node_%s\\n" a b c d && exit
        echo "python $*" >> "$SAID"; /bin/sleep 1""",
}
"""Stand-ins for Slurm's commands and for Python, which starts Ray and the run."""


def test_the_script_brings_up_ray_on_every_machine_and_then_runs_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, folder, said = tmp_path / "the bin", tmp_path / "dry run", tmp_path / "said"
    for path in (commands, folder):
        path.mkdir()
    for name, text in SCRIPTS.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setattr("sys.executable", str(commands / "python"))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "job.sbatch"
    words = ["model=qwen3_30b", "parallel=moe_8gpu", "cluster=multinode_disaggregated", "rollout.engines=16"]
    script.write_text(slurm_job(compose(None, words), folder))
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "SAID": str(said)}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[0-3]"}
    subprocess.run(["bash", str(script)], env=environment, check=True, timeout=30)
    lines = said.read_text().splitlines()
    ray = f"{commands}/python -m ray.scripts.scripts start"
    head, others, run = sorted(lines, key=lambda line: ("--head" not in line, "srun" not in line))
    assert head.startswith(f"srun --nodes=1 --ntasks=1 --nodelist=n0 --overlap {ray} --head --port=20007 --num-gpus=8")
    assert others.startswith(f"srun --nodes=3 --ntasks=3 --nodelist=n1,n2,n3 --overlap {ray} --address=n0:20007")
    assert head.endswith("token=64 600"), "a key of 32 bytes that only this user reads"
    assert run.startswith(f"python -m rlscale recipe={folder}/recipe.yaml run.root={tmp_path}/outputs")
    assert run.endswith("cluster.ray_address=auto")
    assert list(folder.iterdir()) == [], "the token goes with the job"


def test_a_blank_and_a_percent_sign_in_a_folders_name_reach_slurm_as_they_are(tmp_path: Path) -> None:
    lines = slurm_job(compose(None, ["run.recipe=my runs"]), Path("/data/50% out folder")).splitlines()
    assert "#SBATCH --output='/data/50%% out folder/slurm-%j.log'" in lines
    assert "#SBATCH --job-name='rlscale-my runs'" in lines
