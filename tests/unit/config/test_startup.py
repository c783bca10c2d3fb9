"""Composing is quick and imports no torch."""

from __future__ import annotations

import subprocess
import sys
import time

LIMIT_S = 1.5
"""What composing a configuration may take, as a whole process, on an idle machine."""

CODE = """
import sys
from rlscale.cli import main
code = main(["--cfg", "job"])
heavy = [name for name in ("torch", "numpy", "ray", "transformers", "megatron", "sglang") if name in sys.modules]
print("heavy:", heavy, file=sys.stderr)
sys.exit(code)
"""


def test_composing_imports_no_torch_and_is_quick() -> None:
    seconds = []
    while len(seconds) < 3 and not any(cpu < LIMIT_S for _, cpu in seconds):
        started = time.perf_counter()
        before = _children_cpu()
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        seconds.append((time.perf_counter() - started, _children_cpu() - before))
        assert done.stderr.strip().splitlines()[-1] == "heavy: []"
    wall, cpu = min(seconds, key=lambda both: both[1])
    print(f"composing the default recipe: {wall:.2f} s of wall time, {cpu:.2f} s of CPU time")
    # Of a busy machine the wall time says little, the CPU time does.
    assert cpu < LIMIT_S


def _children_cpu() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
