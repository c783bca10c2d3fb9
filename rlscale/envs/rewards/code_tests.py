"""Code by its tests, run in the sandbox."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlscale.config.errors import UserError
from rlscale.envs.sandbox.program import REQUIRED, Limits, Sandbox
from rlscale.envs.score import Score

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_ASSERTS = """
import json, sys
def _run(tests):
    space = {"__name__": "solution"}
    exec(compile(open("solution.py").read(), "solution.py", "exec"), space)
    for test in tests["asserts"]:
        exec(compile(test, "test", "exec"), space)
    sys.__stdout__.write("\\n" + tests["word"] + "\\n")
_run(json.loads(sys.stdin.readline()))
"""
"""The tests come through the input, so that what is run cannot leave before them and have passed."""


class Case(NamedTuple):
    """What a program is given, and what it must print."""

    given: str
    expected: str


class CodeTests:
    """1.0 if the code of the response passes all tests of its label, otherwise 0.0; parts: `passed`, the share.

    The code is the last fenced block of the response, or all of it. The label holds the tests: a list of
    `{input, output}`, which are standard input and output; the same as `{inputs: [...], outputs: [...]}`; a list of
    statements such as "assert add(1, 2) == 3", which follow the code (Python only); or one of these as JSON text.
    Output is compared line by line without the white space at their ends.

    `language`: python or c. `partial`: the score is the share of tests passed. `wall_s`, `cpu_s`, `memory_mb`: for each
    test; past `total_s` the tests that remain count as not passed. `sandbox`: required, or none (see Sandbox).
    """

    def __init__(
        self,
        language: str = "python",
        partial: bool = False,
        wall_s: float = 5.0,
        cpu_s: int = 5,
        memory_mb: int = 512,
        total_s: float = 30.0,
        sandbox: str = REQUIRED,
    ) -> None:
        """UserError where the language or the sandbox cannot be had."""
        self._partial, self._total_s, self._language = partial, total_s, language
        python = os.path.realpath(sys.executable)
        if language == "python":
            self._command, self._file = [python, "-I", "-S", "solution.py"], "solution.py"
        elif language == "c":
            compiler = shutil.which("cc")
            if compiler is None:
                raise UserError("reward.function.language=c: there is no C compiler (cc) on this machine")
            build = f"{compiler} -std=gnu11 -O2 -w -o solution solution.c -lm && exec ./solution"
            self._command, self._file = ["/bin/sh", "-c", build], "solution.c"
        else:
            raise UserError(f"reward.function.language={language}: must be python or c")
        self._asserting = [python, "-I", "-S", "asserts.py"]
        self._sandbox = Sandbox(
            sandbox, Limits(wall_s=wall_s, cpu_s=cpu_s, memory_mb=memory_mb, output_kb=1024), [sys.base_prefix]
        )

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> Score:
        """From 0.0 to 1.0. ValueError if the label holds no tests; OSError if the sandbox cannot be had."""
        tests = self._tests(label)
        code = code_of(response)
        deadline = time.monotonic() + self._total_s
        passed = 0
        for test in tests:
            if time.monotonic() >= deadline:
                break
            if self._passes(code, test):
                passed += 1
            elif not self._partial:
                break
        share = passed / len(tests)
        return Score(share if self._partial else float(passed == len(tests)), {"passed": share})

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label holds no tests."""
        self._tests(label)

    def _passes(self, code: str, test: Case | str) -> bool:
        if isinstance(test, Case):
            ran = self._sandbox.run(self._command, test.given, {self._file: code})
            return ran.ended_well and not ran.cut and _lines(ran.output) == _lines(test.expected)
        word = secrets.token_hex(16)
        given = json.dumps({"asserts": [test], "word": word})
        ran = self._sandbox.run(self._asserting, given, {"asserts.py": _ASSERTS, "solution.py": code})
        return ran.ended_well and ran.output.endswith(f"\n{word}\n")

    def _tests(self, label: Any) -> Sequence[Case | str]:
        tests = cases_of(label)
        if self._language != "python" and any(isinstance(test, str) for test in tests):
            raise ValueError(f"the label has statements as tests; for language={self._language} give input and output")
        return tests


def code_of(response: str) -> str:
    """The last fenced block behind the thoughts, or all that is there."""
    text = response.rpartition("</think>")[2]
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


def cases_of(label: Any) -> list[Case | str]:
    """The tests that a label holds, see CodeTests. ValueError if it holds none."""
    if isinstance(label, str):
        try:
            label = json.loads(label)
        except ValueError:
            label = [label]
    if isinstance(label, Mapping):
        label = [dict(zip(("input", "output"), pair, strict=True)) for pair in _pairs(label)]
    if not isinstance(label, Sequence) or isinstance(label, str) or not label:
        raise ValueError("the label holds no tests; it must be a list of {input, output} or of statements")
    return [_test(one) for one in label]


def _pairs(label: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    if "input" in label and "output" in label:
        return [(label["input"], label["output"])]
    given, expected = label.get("inputs"), label.get("outputs")
    if not isinstance(given, Sequence) or not isinstance(expected, Sequence) or len(given) != len(expected):
        raise ValueError("the label holds no tests: it needs as many inputs as outputs")
    return list(zip(given, expected, strict=True))


def _test(one: Any) -> Case | str:
    if isinstance(one, str) and one.strip():
        return one
    if isinstance(one, Mapping) and isinstance(one.get("input"), str) and isinstance(one.get("output"), str):
        return Case(one["input"], one["output"])
    raise ValueError("a test of the label is neither {input, output}, both text, nor a statement")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
