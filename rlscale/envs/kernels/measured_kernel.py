"""Compiling a C function, trying it against a reference, and taking its time; all of it in the sandbox."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from rlscale.config.errors import UserError
from rlscale.envs.sandbox.program import Limits, Ran, Sandbox

_MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <math.h>
void kernel(const double *a, const double *b, double *out, long n);
static unsigned long long state = 1;
static double drawn(void) {
  state = state * 6364136223846793005ULL + 1442695040888963407ULL;
  return (double)(state >> 33) / 2147483648.0 - 0.5;
}
int main(void) {
  long n, calls, seed;
  while (scanf("%ld %ld %ld", &n, &calls, &seed) == 3) {
    double *a = malloc(n * sizeof(double)), *b = malloc(n * sizeof(double)), *out = malloc((n + 2) * sizeof(double));
    state = (unsigned long long)seed;
    double sum = 0;
    for (long call = 0; call < calls; call++) {
      for (long i = 0; i < n; i++) { a[i] = drawn(); b[i] = drawn(); }
      for (long i = 0; i < n + 2; i++) out[i] = 12345.0;
      kernel(a, b, out + 1, n);
      for (long i = 1; i <= n; i++) sum += out[i] * (double)(i % 7 + 1);
    }
    for (long i = 1; i <= n && n < 100; i++) printf("%.12g ", out[i]);
    printf("%.12g %d\\n", sum, out[0] == 12345.0 && out[n + 1] == 12345.0);
    free(a); free(b); free(out);
  }
  return 0;
}
"""
"""Reads lines `n calls seed`; prints the values of small arrays, a sum over all calls, and whether only `out` was
written to by the last of them. All of the input is new in every call, so that remembering an answer does not help."""
_IDLE = "void kernel(const double *a, const double *b, double *out, long n) {}"
"""What takes as long as all but the function: drawing the input, and the sum."""
_SMALL = "1 1 1\n2 1 2\n7 2 3\n64 2 4\n"
_TOLERANCE = 1e-6
_TICK_S = 0.01
_FIRST_CALLS = 40
_LONG_ENOUGH_S = 0.2
"""Processor time of the reference alone, from which on the ticks of the clock do not matter much."""
_TIMES = re.compile(r"(\d+)m([\d.]+)s")
_QUOTES = str.maketrans({0x2018: "'", 0x2019: "'"})  # as gcc writes them


class Judged(NamedTuple):
    """What a function is worth."""

    wrong: str
    """What is wrong with it, in words for its author; empty if nothing is."""
    speed: float = 0.0
    """The reference's processor time over its own."""


class Expected(NamedTuple):
    """What the reference does."""

    small: list[list[float]]
    large: list[float]
    calls: int
    """How often it is called with large arrays to take its time."""
    seconds: float
    """Processor time of the reference alone."""
    idle: float
    """Of all the rest."""


class KernelJudge:
    """Judges C functions; `n` is the size of the arrays with which their time is taken.

    The time is the processor time of the process, as the shell that started it tells; it may not start others.
    """

    def __init__(self, n: int, wall_s: float, sandbox: str) -> None:
        """UserError where there is no compiler, or no sandbox."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise UserError("env=kernel_c: there is no C compiler (cc) on this machine")
        self._build = f"{compiler} -std=gnu11 -O2 -w -o k kernel.c main.c -lm && base64 k"
        limits = Limits(wall_s=wall_s, cpu_s=math.ceil(wall_s), output_kb=1024)
        self._compiling, self._running = Sandbox(sandbox, limits), Sandbox(sandbox, replace(limits, processes=3))
        self._n = n

    def judged(self, code: str, reference: str) -> Judged:
        """Whether it gives what the reference gives, and how fast. ValueError if the reference is no such function."""
        expected = _measured(self, reference)
        program, said = self._compiled(code)
        if program is None:
            return Judged(f"It does not compile:\n{said}")
        ran, _ = self._ran(program, _SMALL)
        if not ran.ended_well:
            return Judged("It does not end." if ran.late else "It crashes.")
        found = _lines(ran.output)
        if ran.cut or len(found) != len(expected.small):
            return Judged("It prints something.")
        for given, line, right in zip(_SMALL.splitlines(), found, expected.small, strict=True):
            if wrong := _difference(line, right):
                return Judged(f"For n={given.split()[0]}, {wrong}")
        ran, seconds = self._ran(program, self._large(expected.calls))
        if not ran.ended_well:
            return Judged("It is too slow." if ran.late else "It crashes for a large n.")
        lines = _lines(ran.output)
        if ran.cut or len(lines) != 1 or _difference(lines[0], expected.large):
            return Judged("It is wrong for a large n.")
        return Judged("", expected.seconds / max(seconds - expected.idle, _TICK_S))

    def measure_reference(self, reference: str) -> Expected:
        """What the reference prints and takes. ValueError if it is no such function."""
        program, said = self._compiled(reference)
        if program is None:
            raise ValueError(f"the reference does not compile: {said}")
        nothing, _ = self._compiled(_IDLE)
        assert nothing is not None, "a function without a body compiles"
        small, _ = self._ran(program, _SMALL)
        calls, found = _FIRST_CALLS, None
        while found is None or found.seconds < _LONG_ENOUGH_S:
            large, seconds = self._ran(program, self._large(calls))
            _, idle = self._ran(nothing, self._large(calls))
            if large.late and found is not None and found.seconds > _TICK_S:
                break  # a busy machine: as many calls as end in time have to do
            if not (small.ended_well and large.ended_well):
                raise ValueError(f"the reference does not end well within the time, called {calls} times")
            found = Expected(_lines(small.output), _lines(large.output)[0], calls, seconds - idle, idle)
            calls *= 4
        return found

    def _large(self, calls: int) -> str:
        return f"{self._n} {calls} 5\n"

    def _compiled(self, code: str) -> tuple[str | None, str]:
        """The program, as base64, or what the compiler says."""
        ran = self._compiling.run(["/bin/sh", "-c", self._build], "", {"kernel.c": code, "main.c": _MAIN})
        if ran.ended_well and not ran.cut:
            return ran.output, ""
        return None, ran.errors.translate(_QUOTES).encode("ascii", "replace").decode()[:400]

    def _ran(self, program: str, given: str) -> tuple[Ran, float]:
        """What came of it, and its processor seconds."""
        script = "base64 -d program > k && chmod +x k && ./k 2>/dev/null; code=$?; times >&2; exit $code"
        ran = self._running.run(["/bin/sh", "-c", script], given, {"program": program})
        # The program's own errors are left out, so that it cannot say what the shell says of it: the shell's own times
        # and then those of what it started.
        told = _TIMES.findall(ran.errors)[-2:]
        return ran, sum(60 * int(minutes) + float(seconds) for minutes, seconds in told)


@lru_cache(maxsize=256)
def _measured(judge: KernelJudge, reference: str) -> Expected:
    return judge.measure_reference(reference)


def _lines(output: str) -> list[list[float]]:
    try:
        return [[float(word) for word in line.split()] for line in output.splitlines()]
    except ValueError:  # it printed something of its own
        return []


def _difference(found: list[float], right: list[float]) -> str:
    """What is wrong with the values, the sum and the mark behind them; empty if nothing is."""
    if len(found) != len(right) or found[-1] != 1:
        return "it writes beyond out[0] to out[n - 1]."
    for place, (ours, theirs) in enumerate(zip(found, right, strict=True)):
        if not math.isclose(ours, theirs, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            if place == len(right) - 2:
                return "it is wrong when it is called again."
            return f"out[{place}] is {ours:.6g} instead of {theirs:.6g}."
    return ""
