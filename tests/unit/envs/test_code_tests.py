"""Code by its tests: what passes, what does not, and what tries to pass without being right."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.envs.rewards.code_tests import Case, CodeTests, cases_of, code_of
from rlscale.envs.sandbox.program import NONE, REQUIRED

SUM = "a, b = map(int, input().split())\nprint(a + b)"
SUMS = [{"input": "1 2\n", "output": "3\n"}, {"input": "4 5", "output": "9"}]
ADD = "def add(a, b):\n    return a + b"
ADDS = ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]


@pytest.fixture(scope="module")
def mode() -> str:
    """The sandbox where there is one; where the kernel refuses it, that is said, and the tests run without."""
    try:
        CodeTests()
    except UserError as error:
        refused = str(error)
        assert re.match("the sandbox is refused at .*: .*; sandbox=none runs programs", refused)
        return NONE
    return REQUIRED


@pytest.mark.parametrize(
    ("response", "label", "passed"),
    [
        (f"Here:\n```python\n{SUM}\n```", SUMS, 1.0),
        (SUM, json.dumps(SUMS), 1.0),
        ("a, b = input().split()\nprint(3)", {"inputs": ["1 2", "4 5"], "outputs": ["3 ", "9"]}, 0.5),
        ("print(3)\nraise SystemExit(1)", SUMS[:1], 0.0),
        ("import socket, os\nprint(3 if os.path.exists('/etc') else 0)", {"input": "", "output": "4"}, 0.0),
        ("", SUMS[:1], 0.0),
        ("\ud800\0", SUMS[:1], 0.0),
        (f"```\n{ADD}\n```", ADDS, 1.0),
        (ADD, ADDS[0], 1.0),
        ("def add(a, b):\n    return 3", ADDS, 0.5),
        ("import os\nos._exit(0)", ADDS[:1], 0.0),
        ("import sys\nsys.exit(0)", ADDS[:1], 0.0),
        ("import sys\nprint('passed'); sys.stdout.close()\ndef add(a, b): return 4", ADDS[:1], 0.0),
    ],
    ids=range(13),
)
def test_code_is_judged_by_its_tests(response: str, label: Any, passed: float, mode: str) -> None:
    score = CodeTests(partial=True, sandbox=mode, wall_s=20.0)(response, label, {})
    assert (score, score.parts) == (passed, {"passed": passed})


def test_without_partial_all_tests_must_pass_and_time_is_limited(mode: str) -> None:
    strict = CodeTests(sandbox=mode, wall_s=20.0)
    assert [strict(ADD, ADDS, {}), strict("def add(a, b):\n    return 3", ADDS, {})] == [1.0, 0.0]
    assert CodeTests(sandbox=mode, cpu_s=1, wall_s=20.0)("while True: pass", SUMS[:1], {}) == 0.0
    assert CodeTests(sandbox=mode, total_s=0.0, partial=True)(ADD, ADDS, {}) == 0.0


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler; the next test is of that")
def test_c_is_compiled_and_run(mode: str) -> None:
    code = '#include <stdio.h>\nint main(void) { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }'
    c = CodeTests(language="c", sandbox=mode, wall_s=30.0)
    assert c(f"```c\n{code}\n```", SUMS[:1], {}) == 1.0
    assert c("int main(void) { return", SUMS[:1], {}) == 0.0
    with pytest.raises(ValueError, match="the label has statements as tests; for language=c give input and output"):
        c.check_label(ADDS)


def test_a_language_without_its_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"language=c: there is no C compiler \(cc\) on this machine"):
        CodeTests(language="c")
    with pytest.raises(UserError, match="language=cobol: must be python or c"):
        CodeTests(language="cobol")


def test_what_a_label_may_be() -> None:
    assert cases_of({"input": "a", "output": "b"}) == [Case("a", "b")]
    assert cases_of("assert f(1)\nassert f(2)") == ["assert f(1)\nassert f(2)"]
    assert code_of("```\na\n```\n<think>```\nb\n```</think>```py\nc\n```") == "c"
    for label in (None, [], {}, 5, [5], {"inputs": ["a"], "outputs": []}, [{"input": "a"}], "", [""]):
        with pytest.raises(ValueError, match=r"test of the label|the label holds no tests"):
            cases_of(label)
