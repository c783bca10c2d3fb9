"""Functions to be written in C: a few to begin with. Rows of a file with the same keys work as well."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.data.prompts.sources import RawPrompt, Stream

SIGNATURE = "void kernel(const double *a, const double *b, double *out, long n)"
"""What every function is called with: arrays of n values."""
_TASKS = {
    "out[i] = a[i] * b[i]": "for (long i = 0; i < n; i++) out[i] = a[i] * b[i];",
    "out[i] = a[0] + ... + a[i]": (
        "for (long i = 0; i < n; i++) { double s = 0; for (long j = 0; j <= i; j++) s += a[j]; out[i] = s; }"
    ),
    "out[i] = the largest of a[0] to a[i]": (
        "for (long i = 0; i < n; i++) { double m = a[0];"
        " for (long j = 1; j <= i; j++) if (a[j] > m) m = a[j]; out[i] = m; }"
    ),
    "out[i] = the mean of all a": (
        "for (long i = 0; i < n; i++) { double s = 0; for (long j = 0; j < n; j++) s += a[j]; out[i] = s / n; }"
    ),
    "out[i] = how many of b are below a[i]": (
        "for (long i = 0; i < n; i++) { long c = 0; for (long j = 0; j < n; j++) c += b[j] < a[i]; out[i] = c; }"
    ),
    "out[i] = a[i - 1] + a[i] + a[i + 1], without those outside": (
        "for (long i = 0; i < n; i++) { out[i] = 0;"
        " for (long j = i - 1; j <= i + 1; j++) if (j >= 0 && j < n) out[i] += a[j]; }"
    ),
}


class KernelTasks(Stream):
    """What `out` is to hold, for rlscale.envs.kernels.c_kernel.CKernel; `info["reference"]` is plain C that does it."""

    def __init__(self, only: Sequence[int] = (), seed: int = 0) -> None:
        """`only`: the numbers of the tasks, all of them if empty."""
        tasks = list(_TASKS.items())
        self._tasks = [tasks[number] for number in only] or tasks
        super().__init__(len(self._tasks), shuffle=True, seed=seed)

    def item(self, number: int, index: int) -> RawPrompt:
        """Task `number`."""
        said, body = self._tasks[number]
        prompt = f"Write in C, for every i from 0 to n - 1: {said}\n{SIGNATURE}"
        return RawPrompt(index, said, prompt, label="", info={"reference": f"{SIGNATURE} {{\n{body}\n}}\n"})
