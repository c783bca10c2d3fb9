"""What writing down every group as it finishes costs: CPU seconds, bytes and the longest single write.

    python benchmarks/group_journal.py [groups] [samples of a group] [tokens of a response]

A group that is written holds up the rollout's event loop for as long as the write takes.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.group_records import GroupWriter, read_groups


def made(index: int, samples: int, tokens: int) -> Group:
    """A group as the rollout makes it."""
    prompt = Prompt(index=index, id=str(index), tokens=np.arange(200, dtype=np.int32), label="42", text="x" * 800)
    response, logprobs = np.arange(tokens, dtype=np.int32), np.zeros(tokens, np.float32)
    text = "word " * (4 * tokens // 5)
    return Group(
        prompt, [Sample.from_response(prompt, one, response, logprobs, version=3, text=text) for one in range(samples)]
    )


def cpu_s() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Write, read, print."""
    groups, samples, tokens = (int(word) for word in (*sys.argv[1:], *("1000", "8", "1024")[len(sys.argv) - 1 :]))
    ready = [made(index, samples, tokens) for index in range(min(groups, 50))]
    with tempfile.TemporaryDirectory() as folder:
        path, longest = Path(folder) / "bench.groups", 0.0
        began, writer = cpu_s(), GroupWriter(path)
        for index in range(groups):
            at = time.perf_counter()
            writer.write(ready[index % len(ready)])
            longest = max(longest, time.perf_counter() - at)
        writer.close()
        written, size = cpu_s() - began, path.stat().st_size
        began = cpu_s()
        assert len(read_groups(path)[0]) == groups
        read = cpu_s() - began
    print(f"{groups} groups of {samples} samples of {tokens} tokens: {size / 1e6:.1f} MB")
    print(f"write {written:.2f} CPU s, read {read:.2f} CPU s, the longest write {longest * 1e3:.1f} ms on the clock")


if __name__ == "__main__":
    main()
