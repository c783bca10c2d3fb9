"""Typing one case: a forked process runs the command line up to the point where a run would start its processes."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.battery import planted, stock, workshop
from tests.battery.case import Case
from tests.battery.left_behind import PLACES, left_behind, left_in_scratch

LIMIT_S = 10.0
"""Seconds of computing within which a command line must be answered: a busy machine must not fail a case."""
_PATIENCE_S = 40.0
"""Seconds on the clock after which it has no answer either way."""
_MEMORY = 6 << 30
"""Bytes that a case may add to the memory of the process that it is forked from."""
_WARM = (
    "math_verify",
    "pyarrow.parquet",
    "transformers",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.qwen3_moe.modeling_qwen3_moe",
    "transformers.utils.chat_template_utils",
    "rlscale.cli",
    "rlscale.data.prompts.arithmetic",
    "rlscale.data.source_trial",
    "rlscale.envs.mathematics",
    "rlscale.envs.rewards.exact",
    "rlscale.run.commands.check_hook",
    "rlscale.run.commands.convert_command",
    "rlscale.run.execute",
    "rlscale.run.commands.sweep",
)
"""Modules that cases need."""
_STARTED = 99
"""Exit code of a case that would have started a run."""

_VERDICTS = {
    "doctor": "^not ready$",
    "plan": "^does not fit: ",
    "checkpoint": r"that both have differ$|^no tensor has the same name in both$"
    r"|: (damaged: |not whole: |has no checksums )",
    "weights": r"that both have differ$|^no tensor has the same name in both$",
    "check-hook": r"^\d+ checks, [1-9]\d* failed, ",
}
"""Commands that say no with exit code 1, and by which words."""


class Outcome(Enum):
    """What came of a case; the first four are as they should be."""

    refused = "refused in a line that names the culprit"
    said = "accepted with a note that names it"
    accepted = "a control, accepted"
    answered = "mutated: refused in a line, or accepted"
    unnamed = "refused, the culprit not named"
    meaningless = "accepted, though it is meaningless"
    overzealous = "a control, refused"
    ran = "planted code was run"
    traceback = "an unexpected error"
    silent = "ended otherwise, without a word"
    late = "no answer within 10 s"
    left = "answered, and left a process or a file behind"


GOOD = (Outcome.refused, Outcome.said, Outcome.accepted, Outcome.answered)


@dataclass(frozen=True)
class Result:
    """A case and what came of it."""

    case: Case
    outcome: Outcome
    seconds: float
    """Of computing."""
    code: int | None
    """Exit code; None for a case that was ended at the limit."""
    output: str


def warm_up(cases: Iterable[Case]) -> None:
    """Import what cases need, and let Hydra compose what many of them share, once: they are forked from here."""
    for name in _WARM:
        importlib.import_module(name)
    # transformers loads these only when they are asked for.
    for name in ("AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig"):
        getattr(sys.modules["transformers"], name)
    from rlscale.config.checks import check
    from rlscale.config.composition import compose as composing
    from rlscale.config.errors import ConfigError, UserError

    check(composing.compose())
    for base in sorted({tuple(case.base) for case in cases}):
        words = [word for word in base if not word.startswith("recipe=")]
        with contextlib.suppress(ConfigError, UserError):
            composing.compose_node(None, words)
    gc.collect()
    gc.freeze()


def prepare(cases: Iterable[Case], folder: Path) -> None:
    """Make the stock that the cases need, in a process of its own: this one is only to fork from."""
    for name in sorted({name for case in cases for name in case.stock}):
        process = os.fork()
        if process == 0:
            code = 1
            try:
                stock.make(name, folder / "stock" / name)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        if os.waitpid(process, 0)[1]:
            raise RuntimeError(f"the stock {name} could not be made")


def attempt_all(cases: Iterable[Case], folder: Path, at_once: int = 2) -> Iterator[Result]:
    """Type every case, in folders under `folder`, `at_once` at a time.

    RuntimeError at the end for what is left in the scratch that they share and is not kept there for others.
    """
    waiting = list(enumerate(cases))[::-1]
    running: list[_Running] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(_Running.start(*waiting.pop(), folder))
        select.select([one.ending for one in running], [], [], 0.25)
        for one in [one for one in running if one.ended()]:
            running.remove(one)
            yield one.result()
    if found := left_in_scratch(folder / "scratch"):
        raise RuntimeError(f"some case has left behind: {', '.join(found)}")


class _Running:
    """A case whose process runs."""

    def __init__(self, number: int, case: Case, folder: Path, process: int) -> None:
        self.number, self.case = number, case
        self.ending = os.pidfd_open(process)
        """Is ready to be read once the process has ended."""
        self._folder, self._process = folder, process
        self._began = time.monotonic()
        self._code: int | None = None
        self._seconds = 0.0
        self._left: list[str] = []

    @classmethod
    def start(cls, number: int, case: Case, folder: Path) -> _Running:
        here = folder / "cases" / f"{number:04d}"
        _set_up(case, here / "work", folder)
        process = os.fork()
        if process == 0:
            _child(case, here)
        return cls(number, case, here, process)

    def ended(self) -> bool:
        """Whether the process has ended, or has just been ended at the limit."""
        done, status, used = os.wait4(self._process, os.WNOHANG)
        if not done and _computed(self._process) < LIMIT_S and time.monotonic() - self._began < _PATIENCE_S:
            return False
        os.close(self.ending)
        if done:
            self._left = left_behind(self._folder, self._process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)  # and what it has started
        if done:
            self._code = os.waitstatus_to_exitcode(status)
        else:
            _, _, used = os.wait4(self._process, 0)
        self._seconds = used.ru_utime + used.ru_stime
        return True

    def result(self) -> Result:
        output = (self._folder / "output").read_bytes().decode("utf-8", "replace")
        ran = (self._folder / "work" / planted.RAN).exists()
        shutil.rmtree(self._folder, ignore_errors=True)
        outcome = Outcome.ran if ran else judged(self.case, self._code, output)
        if self._left:
            outcome = Outcome.left if outcome in GOOD else outcome
            output += "".join(f"left behind: {one}\n" for one in self._left)
        return Result(self.case, outcome, self._seconds, self._code, output)


def _set_up(case: Case, here: Path, folder: Path) -> None:
    here.mkdir(parents=True)
    for name in PLACES:
        (here.parent / name).mkdir()
    for name in case.stock:
        shutil.copytree(folder / "stock" / name, here / name)
    for name, content in case.files.items():
        workshop.write(here, name, content)
    for step in case.edits:
        try:
            workshop.edit(here, step)
        except Exception as error:
            raise ValueError(f"{case.id}: {step} cannot be done: {error!r}") from error
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    if not (here / ".rlscale").exists():
        (here / ".rlscale").symlink_to(scratch)  # what can be made again is made once for all cases


class _Started(BaseException):
    """Processes of a run would start now."""


def _child(case: Case, here: Path) -> NoReturn:
    """Run the command line and exit; never returns."""
    code = 1
    gc.disable()
    try:
        os.setpgid(0, 0)
        out = os.open(here / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        empty = os.open(os.devnull, os.O_RDONLY)
        for descriptor, copy in ((empty, 0), (out, 1), (out, 2)):
            os.dup2(descriptor, copy)
        sys.stdin, sys.stdout, sys.stderr = (_stream(number, mode) for number, mode in enumerate(("r", "w", "w")))
        os.chdir(here / "work")
        os.environ.update({variable: str(here / name) for name, variable in PLACES.items()})
        tempfile.tempdir = None  # found anew
        os.environ.update(case.env)
        _limit_memory()
        code = _typed([word.replace("{here}", str(here / "work")) for word in case.argv])
    except _Started:
        code = _STARTED
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stream(descriptor: int, mode: str) -> IO[Any]:
    return open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)


def _typed(argv: list[str]) -> int:
    """`python -m rlscale ...`, up to Ray, or to the first run of a sweep."""
    from rlscale.cli import main
    from rlscale.dashboard import dashboard_command
    from rlscale.run.commands import sweep
    from rlscale.run.processes import forks
    from rlscale.run.processes.ray_session import RaySession
    from rlscale.serve.supervisor import Supervisor
    from tests.battery.dashboard_answers import read_answers

    def started(*_: object, **__: object) -> NoReturn:
        raise _Started

    # Else SGLang would be imported beside most cases, which end before there is anything to fork from it. The types of
    # what stands in are others, here and below.
    forks.engine_fork_server = lambda scratch: contextlib.nullcontext("")  # type: ignore[assignment]
    RaySession.__enter__ = started  # type: ignore[method-assign]
    sweep._run_all = started  # type: ignore[assignment]
    Supervisor.start_engine = started  # type: ignore[method-assign]
    dashboard_command._serve = read_answers  # type: ignore[assignment]
    return main(argv)


def _computed(process: int) -> float:
    """Seconds of computing of a process so far."""
    with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))


def judged(case: Case, code: int | None, output: str) -> Outcome:
    """What came of a case that ended with this exit code (None: at the limit) and this output."""
    if code is None:
        return Outcome.late
    if "Traceback (most recent call last)" in output or "This is a bug in rlscale" in output:
        return Outcome.traceback
    if case.either:
        lines = re.findall("^(?:error|usage|python -m rlscale): ", output, re.MULTILINE)
        said = code in (0, _STARTED) or (code == 1 and _is_verdict(case, output)) or (code == 2 and lines)
        return Outcome.answered if said else Outcome.silent
    if code in (0, _STARTED):
        if case.said and re.search(f"^note: .*(?:{case.names})", output, re.MULTILINE):
            return Outcome.said
        return Outcome.accepted if case.names is None else Outcome.meaningless
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    if code != case.exit or not lines:
        return Outcome.silent
    if case.names is None:
        return Outcome.overzealous
    return Outcome.refused if re.search(case.names, "\n".join(lines)) else Outcome.unnamed


def _is_verdict(case: Case, output: str) -> bool:
    """Whether exit code 1 is the answer to what was asked, and no error."""
    says = _VERDICTS.get(case.argv[0]) if case.argv else None
    return says is not None and re.search(says, output, re.MULTILINE) is not None
