"""What a rank's process is started with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlscale.config.schema.cluster import Device
from rlscale.platform.environment import rank_environment

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS = """
import resource, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(12_000_000)  # 48 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(environment: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="no huge pages here")
def test_large_tensors_of_a_rank_on_the_cpu_cost_few_page_faults() -> None:
    assert page_faults(rank_environment(Device.cpu, 1)) * 4 < page_faults(rank_environment(Device.cuda, 1))


def test_only_a_rank_on_the_cpu_is_told_how_to_allocate() -> None:
    assert rank_environment(Device.cuda, 4) == {"OMP_NUM_THREADS": "4"}
