"""The example of all of reinforcement learning in one file runs, and learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "grpo_in_one_file.py"


def test_the_example_in_one_file_learns(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "25"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    rewards = [float(line.split()[3]) for line in done.stdout.splitlines()]
    assert rewards[0] < 0.1
    assert rewards[-1] > 0.3  # a guess gets 0.03


def test_the_example_in_one_file_fits_on_three_screens() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 160
