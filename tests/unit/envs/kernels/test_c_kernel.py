"""C functions: what is wrong is said and worth nothing, what is right half, what is fast more."""

from __future__ import annotations

import asyncio
import re
import shutil

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Step
from rlscale.envs.kernels.c_kernel import CKernel
from rlscale.envs.kernels.kernel_tasks import SIGNATURE, KernelTasks
from rlscale.envs.kernels.measured_kernel import KernelJudge
from rlscale.envs.sandbox.program import NONE, REQUIRED

REFERENCE = KernelTasks([1]).next(1)[0].info["reference"]
"""Running sums, each from the beginning."""
FAST = f"{SIGNATURE} {{ double s = 0; for (long i = 0; i < n; i++) {{ s += a[i]; out[i] = s; }} }}"


@pytest.fixture(scope="module")
def mode() -> str:
    """The sandbox where there is one, otherwise none: what a kernel refuses is tested beside the sandbox."""
    try:
        KernelJudge(1000, 20.0, REQUIRED)
    except UserError:
        return NONE
    return REQUIRED


@pytest.fixture(scope="module")
def judge(mode: str) -> KernelJudge:
    """That of the environments of these tests, which has measured the reference once."""
    return CKernel(n=1000, sandbox=mode, wall_s=20.0)._judge


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("foo bar", "It does not compile:\nkernel.c"),
        ("", r"For n=1, out\[0\] is 12345 instead of"),
        ("for (long i = 0; i <= n; i++) out[i] = a[0];", r"For n=1, it writes beyond out\[0\] to out\[n - 1\]"),
        ("*(volatile int *)0 = 1;", "It crashes"),
        ("exit(0);", "It prints something|It does not compile"),
        ("static int k; double s = k++ > 0; for (long i = 0; i < n; i++) { s += a[i]; out[i] = s; }", "For n=2"),
    ],
    ids=["not C", "does nothing", "writes beyond", "crashes", "leaves", "right once"],
)
def test_what_is_wrong_is_said(body: str, said: str, judge: KernelJudge) -> None:
    judged = judge.judged(f"#include <stdlib.h>\n{SIGNATURE} {{ {body} }}", REFERENCE)
    assert judged.speed == 0
    assert re.search(said, judged.wrong)


def test_another_process_cannot_do_the_work_unseen(judge: KernelJudge, mode: str) -> None:
    if mode == NONE:
        pytest.skip("without a sandbox, processes are not counted")
    code = f"#include <unistd.h>\n#include <stdlib.h>\n{FAST[:-1]} if (fork() < 0) abort(); }}"
    assert judge.judged(code, REFERENCE).wrong == "It crashes."


def test_its_time_cannot_be_told_by_itself_nor_saved_by_remembering(judge: KernelJudge) -> None:
    body = REFERENCE[REFERENCE.index("{") + 1 : REFERENCE.rindex("}")]
    forged = f'#include <stdio.h>\n{SIGNATURE} {{ fputs("0m0.000s 0m0.000s\\n", stderr); {body} }}'
    assert 0.3 < judge.judged(forged, REFERENCE).speed < 2
    remembers = f"static long c = 0; long k = c++; if (n > 100 && k > 0) {{ out[k % n] = 0; return; }} {body}"
    assert judge.judged(f"{SIGNATURE} {{ {remembers} }}", REFERENCE).wrong == "It is wrong for a large n."


def test_a_reward_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(UserError, match=r"most=1\.0 must be above 1"):
        CKernel(most=1.0)


def test_a_reference_that_is_none_is_an_error(judge: KernelJudge) -> None:
    with pytest.raises(ValueError, match="the reference does not compile"):
        judge.judged(FAST, "int main")


def played(environment: CKernel, *texts: str) -> list[Step]:
    async def play() -> list[Step]:
        await environment.reset(Prompt(0, "0", np.zeros(1, np.int32), "", {"reference": REFERENCE}), 0)
        return [await environment.step(Action(text, text, [])) for text in texts]

    return asyncio.run(play())


def test_turns_gain_what_they_add_and_the_best_counts(mode: str) -> None:
    environment = CKernel(turns=4, n=1000, sandbox=mode, most=1000.0, wall_s=20.0)
    wrong, right, worse, fast = played(
        environment, "int x;", f"```c\n{REFERENCE}\n```", "no", f"<think>hm</think>```\n{FAST}\n```"
    )
    assert (wrong.reward, worse.reward) == (0, 0)
    assert right.reward == pytest.approx(0.5, abs=0.01)
    assert 0 < fast.reward < 0.5
    assert [step.done for step in (wrong, right, worse, fast)] == [False, False, False, True]
    assert fast.info["reward_parts"]["correct"] == 1.0
    assert fast.info["reward_parts"]["speed"] > 3
    assert "times as fast as plain C" in right.messages[0]["content"]


def test_the_episode_ends_with_what_cannot_be_better(mode: str) -> None:
    [step] = played(CKernel(n=1000, most=2.0, sandbox=mode, wall_s=20.0), FAST)
    assert (step.reward, step.done) == (1.0, True)


def test_without_a_compiler_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"there is no C compiler \(cc\) on this machine"):
        KernelJudge(1000, 1.0, NONE)
