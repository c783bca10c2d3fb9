"""Bounds on a chat template: a model's folder may be a stranger's, and its template is a program that needs not end.

transformers renders it in Jinja's sandbox, in which it can change nothing, and can loop and multiply as long as it
likes. So each is tried first, on short conversations, in a fork of this process, which the kernel ends wherever it is.
After that, what the main thread renders is bounded as far as Python itself sees to it: between two operations of the
template, not inside of one. Other threads, in which a run that has started renders, cannot be interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rlscale.config.errors import UserError

SECONDS = 5.0
"""Processor time for one conversation, and for all of those that a template is tried on; ordinary templates take less
than a thousandth of a second for each."""
MEMORY = 1 << 30
"""Bytes that one conversation may add to the process."""
_AGAIN_S = 0.25
"""After which the alarm rings again: where Python only notes an exception, as in the end of an object, it was lost."""
_USER, _ANSWER = {"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}
_TRIED = (
    [_USER],
    [_USER, _ANSWER],
    [_USER, _ANSWER, _USER],
    [{"role": "system", "content": "Count."}, _USER, _ANSWER, _USER],
)
"""Conversations that a template is tried on."""
_WAITS_S, _LOOKS_S = 120.0, 0.002
_LARGE = 3
"""Exit code of a trial that wanted too much memory; a signal ends one that takes too long."""

_CODES: dict[tuple[str, str], int] = {}
"""Exit codes of trials, by the template and its variables: a command builds several encoders with the same."""


class TemplateUnbounded(UserError):
    """A chat template that takes too long or too much memory."""


class _TimeUp(BaseException):
    """No Exception, which templates' errors are caught as."""


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """The messages by the tokenizer's chat template. TemplateUnbounded, or whatever the template raises."""
    with _bounded(tokenizer):
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **variables)
    return text


def try_template(tokenizer: Any, variables: Mapping[str, Any]) -> None:
    """TemplateUnbounded for a tokenizer whose chat template takes too long or too much memory for a few messages.

    Only in the main thread and before anything runs beside, as commands begin: the trial is a fork.
    """
    if not tokenizer.chat_template or not _is_main() or _has_loop():
        return
    tried = str(tokenizer.chat_template), str(variables)
    if tried not in _CODES:
        _CODES[tried] = _trial(tokenizer, variables)
    if code := _CODES[tried]:
        raise _refusal(tokenizer, large=code == _LARGE)


def _trial(tokenizer: Any, variables: Mapping[str, Any]) -> int:
    """The exit code of a fork that renders; 0 where there can be none, or somebody else waits for all children."""
    try:
        process = os.fork()
        if process == 0:
            _be_trial(tokenizer, variables)
        give_up = time.monotonic() + _WAITS_S
        while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
            if time.monotonic() > give_up:  # it neither computes nor ends: nothing that a template could do
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return 0
            time.sleep(_LOOKS_S)
        code = os.waitstatus_to_exitcode(ended[1])
    except (OSError, ChildProcessError):
        return 0
    return code if code in (_LARGE, -signal.SIGVTALRM) else 0  # of another end the template is not known to be guilty


def _be_trial(tokenizer: Any, variables: Mapping[str, Any]) -> NoReturn:
    """In the fork. What the template raises is told when a prompt is rendered."""
    code = 0
    try:
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)  # ends the process, inside of an operation too
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        with _memory():
            for messages in _TRIED:
                for opened in (True, False):
                    code = max(code, _tried(tokenizer, messages, opened, variables))
    finally:
        os._exit(code)


def _tried(tokenizer: Any, messages: list[dict[str, str]], opened: bool, variables: Mapping[str, Any]) -> int:
    try:
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened, **variables)
    except MemoryError:
        return _LARGE
    except Exception:
        return 0
    return 0


@contextmanager
def _bounded(tokenizer: Any) -> Iterator[None]:
    if not _is_main():
        yield
        return
    large = False
    try:
        with _memory(), _time():
            yield
        return
    except _TimeUp:
        pass
    except MemoryError:
        large = True
    raise _refusal(tokenizer, large=large)


@contextmanager
def _time() -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, _ring)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, _AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if before is not None:
            signal.signal(signal.SIGVTALRM, before)


def _ring(number: int, frame: FrameType | None) -> None:
    raise _TimeUp


@contextmanager
def _memory() -> Iterator[None]:
    """The limit is the whole process's, so there is none once other things run beside."""
    if _has_loop():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [one for one in (soft, hard, _held() + MEMORY) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _held() -> int:
    """Bytes of addresses that this process has."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refusal(tokenizer: Any, *, large: bool) -> TemplateUnbounded:
    what = f"wants more than {MEMORY >> 30} GiB of memory" if large else f"is not done after {SECONDS:g} s"
    return TemplateUnbounded(f"{_named(tokenizer)} {what} with one conversation; give another as model.chat_template")


def _named(tokenizer: Any) -> str:
    """The template with its file, as far as it is one of the tokenizer's folder."""
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        file = Path(tokenizer.name_or_path) / name
        with suppress(OSError, ValueError):
            text = file.read_text(encoding="utf-8")
            said = text if file.suffix == ".jinja" else json.loads(text).get("chat_template")
            if said == tokenizer.chat_template or not isinstance(tokenizer.chat_template, str):
                return f"{file}: the chat template"
    return "model.chat_template: the template"
