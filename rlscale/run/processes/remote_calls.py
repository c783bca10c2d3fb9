"""Waiting for remote calls: with a deadline that says who waits for whom, and with an ear for the stop signal."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exception
from typing import Any, TypeVar

from ray.exceptions import ActorUnschedulableError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from rlscale.config.errors import UserError
from rlscale.run.processes.actor_host import ActorHost, RayActors
from rlscale.run.processes.call_errors import cause_of, is_of_memory, is_of_the_machine, last_line
from rlscale.run.processes.error_log import ErrorLog
from rlscale.run.processes.hang_limits import HangLimits
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.run.processes.watched import actor_of
from rlscale.serve.pulse import Patience

POLL_S = 0.25
_STACKS = "hang"
"""Folder of the run's logs for the stacks of its processes when a deadline has passed."""
_NAMED = 4
"""How many processes that do the same are named."""
_FROZEN_AT_STOP_S = 3.0
"""How long a process that is waited for may be silent once somebody waits for the end of the run."""
_OTHERS_S = 1.0
"""How long after a failure other calls are waited for, whose errors may be what caused it."""

_Given = TypeVar("_Given")

_DIED = (RayActorError, OutOfMemoryError, ActorUnschedulableError)
"""What Ray says where the process of a call died; the second where Ray ended it, as its machine had no memory left, the
third where it did not start, as its machine was gone by then."""
_READ_ON = re.compile(r"\. (?:See|The same command) ")
"""Where an error begins to say what to do about it."""


class ProcessLost(RunFailed):
    """A process that was waited for is dead, frozen or late, ran out of memory, or lost its peers.

    Another one in its place may do what it did not.
    """

    def __init__(
        self, message: str, refs: Sequence[Any], *, from_within: bool = False, of_memory: bool = False
    ) -> None:
        """`refs`: the calls that were waited for. `from_within`: the call itself may have done it, and do it again.

        `of_memory`: it raised for want of memory, and its process lives.
        """
        super().__init__(message)
        self.refs, self.from_within, self.of_memory = refs, from_within, of_memory

    @property
    def brief(self) -> str:
        """What happened, without where to read on."""
        return _READ_ON.split(str(self), maxsplit=1)[0]


class Calls:
    """Waits for remote calls on behalf of the driver."""

    def __init__(
        self,
        stop: StopSignal,
        timeout_s: float,
        logs: str,
        frozen_s: float,
        host: ActorHost | None = None,
        hang_factor: float | None = None,
    ) -> None:
        """`frozen_s`: how long a process that is waited for may be frozen (SIGSTOP) before the run ends.

        `host`: who has what is called; by default Ray. `hang_factor`: see `HangLimits`; None: only `timeout_s` counts.
        """
        self._stop = stop
        self._frozen_s = frozen_s
        self.host: ActorHost = RayActors() if host is None else host
        """Starts what is called."""
        self.processes = self.host.processes()
        """Of the actors that are waited for."""
        self._timeout_s, self._limit = timeout_s, "cluster.call_timeout_s"
        self.hang_limits = HangLimits(hang_factor, frozen_s)
        """Of calls that do the same each time."""
        self._logs = logs
        self.errors = ErrorLog(logs)
        self.failed = False
        """Whether the run is ending of a failure."""

    @property
    def stopping(self) -> bool:
        """Whether the user wants the run to end."""
        return self._stop.requested

    @property
    def hurried(self) -> bool:
        """Whether somebody waits for the end: not where the job of the run ends soon, which leaves time."""
        return self._stop.asked

    @property
    def patience_s(self) -> float:
        """How long a process may be silent before nobody waits for it any more."""
        return _FROZEN_AT_STOP_S if self.hurried else self._frozen_s

    def check_stop(self) -> None:
        """Raises StopRequested once the user wants the run to end."""
        self._stop.check()

    @contextmanager
    def shortened(self, timeout_s: float, why: str) -> Iterator[None]:
        """Within the block wait no longer than this; `why` is said of a call that takes longer."""
        before = self._timeout_s, self._limit
        if timeout_s < self._timeout_s:
            self._timeout_s, self._limit = timeout_s, why
        try:
            yield
        finally:
            self._timeout_s, self._limit = before

    def wait(
        self,
        refs: Sequence[Any],
        what: str,
        *,
        timeout_s: float | None = None,
        limit: str | None = None,
        meanwhile: Callable[[], None] | None = None,
        heed_stop: bool = False,
        measured: bool | str = False,
    ) -> list[Any]:
        """The results of `refs`, in order.

        `limit` names the key that `timeout_s` comes from. `meanwhile` runs between polls (it may heal engines). With
        `heed_stop`, a stop signal ends the wait with StopRequested. `measured` calls of one name, `what`, do the same
        each time, so that one that takes many times as long hangs (`HangLimits`); those of a kind that is named may
        have to wait for others, and only hang once somebody waits for the end. Raises RunFailed when a call raises,
        ProcessLost when it dies, is not back after `timeout_s` seconds, or the process that has it is frozen, and
        RayDied when Ray is dead.
        """
        timeout_s, limit = timeout_s or self._timeout_s, limit or self._limit
        pending, patience = list(refs), Patience(self.host.clock)
        while pending:
            self.host.check()
            done, pending = self.host.wait(pending, POLL_S)
            for ref in done:  # an error surfaces at once, not after the slowest of the others
                self._result(ref, what, refs)
            if heed_stop:
                self._stop.check()
            if meanwhile is not None:
                meanwhile()
            self._refuse_frozen(pending, what, refs)
            hangs = self._hangs(what, measured)
            if hangs is not None and hangs[0] < timeout_s:
                timeout_s, limit = hangs[0], f"cluster.hang_factor, {hangs[1]}"
            if patience.look(True) > timeout_s and pending:
                raise self._late(f"{what} did not finish within {timeout_s:.0f} s ({limit})", pending, refs)
        if measured:
            self.hang_limits.took(_kind(what, measured), patience.seconds)
        return [self._result(ref, what, refs) for ref in refs]

    def one(self, ref: Any, what: str, **options: Any) -> Any:
        """The result of a single call; see `wait`."""
        return self.wait([ref], what, **options)[0]

    def until(self, condition: Callable[[], bool], what: str, meanwhile: Callable[[], None], ref: Any) -> None:
        """Wait until the condition holds: `meanwhile`, run between polls, brings it about once the call `ref` is back.

        StopRequested on a stop signal; RunFailed after `cluster.call_timeout_s`, and when who has the call is frozen.
        """
        patience = Patience(self.host.clock)
        while not condition():
            self._stop.check()
            self.host.check()
            meanwhile()
            self._refuse_frozen([ref], what, [ref])
            if patience.look(True) > self._timeout_s:
                late = f"{what} did not finish within {self._timeout_s:.0f} s (cluster.call_timeout_s)"
                raise RunFailed(f"{late}. {self.what_they_do()}")
            self.host.sleep(POLL_S)

    def _hangs(self, what: str, measured: bool | str) -> tuple[float, str] | None:
        """When such a call hangs, and why then."""
        if not measured or (isinstance(measured, str) and not self.hurried):
            return None
        return self.hang_limits.of(_kind(what, measured), stopping=self.hurried)

    def aside(self, do: Callable[[], _Given], what: str, timeout_s: float) -> _Given:
        """What `do` gives, which asks somebody else than the run's own processes and may wait for him without end.

        It is done in a thread, which is left where nobody waits for it any more: StopRequested on a stop signal,
        UserError, `what` did not answer, after `timeout_s`.
        """
        done: Future[_Given] = Future()

        def work() -> None:
            try:
                done.set_result(do())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=work, name=what, daemon=True).start()
        patience = Patience(self.host.clock)
        while not wait_for([done], POLL_S).done:
            self._stop.check()
            if patience.look(True) > timeout_s:
                raise UserError(f"{what} did not answer within {timeout_s:g} s")
        return done.result()

    def _late(self, said: str, pending: Sequence[Any], refs: Sequence[Any]) -> ProcessLost:
        """What is lost where those of the calls `refs` that are `pending` are not back in time."""
        late = [number for number, ref in enumerate(refs) if ref in pending]
        who = f"rank {late[0]}" if len(late) == 1 and len(refs) > 1 else f"{late} of {len(refs)}"
        others = f": waiting for {who}, the others are done" if len(refs) > 1 else ""
        return ProcessLost(f"{said}{others}. {self.what_they_do()}", refs, from_within=True)

    def what_they_do(self) -> str:
        """For a message: the function that each process is in; their whole stacks are written down."""
        folder = Path(self._logs) / _STACKS
        try:
            told = sorted(self.processes.write_stacks(folder).items())
        except OSError:  # a full disk must not hide what the deadline was about
            told = []
        if not told:  # all wait for something to do, or nothing could be written
            return f"See {folder if folder.is_dir() else self._logs}"
        return f"{'; '.join(_by_what(told))}. See {folder}"

    def _refuse_frozen(self, pending: Sequence[Any], what: str, refs: Sequence[Any]) -> None:
        """ProcessLost where one of the `pending` among the calls `refs` waits for a process that was stopped."""
        asked = {actor for actor in map(actor_of, pending) if actor}
        frozen = self.processes.frozen(asked, self.patience_s)
        if frozen is not None:
            # Somebody who ends the run does not want to wait for the stacks.
            told = f"See {self._logs}" if self.stopping else self.what_they_do()
            raise ProcessLost(f"{what}: {frozen}. The same command resumes the run. {told}", refs)

    def _result(self, ref: Any, what: str, refs: Sequence[Any]) -> Any:
        """The result of `ref`, one of the calls `refs`. UserError or RunFailed for an error.

        One that nobody expects is written down whole, with those of the other calls.
        """
        try:
            return self.host.get(ref)
        except RayTaskError as error:
            cause = cause_of(error)
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from error
            if self._write_down(what, refs):
                raise self._died(what, refs) from error  # this one raised because it had to do with that one
            message = f"{what} failed: {type(cause).__name__}: {last_line(cause)}. See {self.errors.path}"
            if is_of_the_machine(cause):
                raise ProcessLost(message, refs, from_within=True, of_memory=is_of_memory(cause)) from error
            raise RunFailed(message) from error
        except _DIED as error:
            self._write_down(what, refs)
            raise self._died(what, refs) from error
        except RayError as error:
            self._write_down(what, refs)
            raise RunFailed(f"{what}: {last_line(error)}. See {self.errors.path}") from error
        except UserError:  # of a call in this process, as what follows
            raise
        except Exception as error:
            self._write_down(what, refs)
            reason = f"{type(error).__name__}: {last_line(error)}"
            raise RunFailed(f"{what} failed: {reason}. See {self.errors.path}") from error

    def _died(self, what: str, refs: Sequence[Any]) -> ProcessLost:
        self.host.check()  # else it is not the process that was lost
        log = f"See {self.errors.path}, and its own log beside it"
        return ProcessLost(f"{what}: the process died. {log}; the same command resumes the run", refs)

    def _write_down(self, what: str, refs: Sequence[Any]) -> bool:
        """Append the errors of all calls that are back to error.log, with their tracebacks.

        Whether the process of one of them died.
        """
        done, _ = self.host.wait(refs, _OTHERS_S)
        died = False
        for number, ref in enumerate(refs):
            if ref not in done:
                continue
            try:
                self.host.get(ref)
            except Exception as error:
                died = died or isinstance(error, _DIED)
                if not isinstance(cause_of(error), UserError):
                    text = str(error) if isinstance(error, RayError) else "".join(format_exception(error))
                    self.errors.write(f"{what}{f', rank {number}' if len(refs) > 1 else ''}", text)
        return died


def _kind(what: str, measured: bool | str) -> str:
    return measured if isinstance(measured, str) else what


def _by_what(told: Sequence[tuple[str, str]]) -> list[str]:
    """What processes do, with the names of those that do it, each said once: `rank 0, rank 1 are in loss (mine.py:3)`.

    Of many that do the same only some are named.
    """
    groups: dict[str, list[str]] = {}
    for name, what in told:
        groups.setdefault(what, []).append(name)
    said = []
    for what, names in groups.items():
        more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
        said.append(f"{', '.join([*names[:_NAMED], *more])} {'is' if len(names) == 1 else 'are'} in {what}")
    return said
