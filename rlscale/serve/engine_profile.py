"""Traces of what an engine computes: SGLang's own torch profiler, which each of its ranks runs and writes."""

from __future__ import annotations

from pathlib import Path

from rlscale.serve.http import CallError, Unanswered, call


def begin_profile(
    url: str, api_key: str | None, folder: Path, name: str, steps: int, *, gpu: bool, timeout_s: float
) -> None:
    """Record the next `steps` forward passes (prefill or decode) of the engine at `url`.

    CallError where it cannot, Unanswered where it does not say within `timeout_s`: it may begin later.
    With the last each rank writes `<name>-TP-<rank>.trace.json.gz` into `folder`, a path of the engine's machine.
    """
    body = {
        "output_dir": str(folder),
        "profile_id": name,
        "num_steps": steps,
        "activities": ["CPU", "GPU"] if gpu else ["CPU"],
        "with_stack": False,  # of Python: tens of times as much to write
        "record_shapes": False,
    }
    call(url, "/start_profile", api_key, body, timeout=timeout_s)


def end_profile(url: str, api_key: str | None, *, timeout_s: float) -> None:
    """Write what was recorded, where fewer passes were made. Nothing where it is written already.

    Unanswered where the engine does not say within `timeout_s`: it is gone or frozen, or still writes.
    """
    try:
        call(url, "/stop_profile", api_key, {}, timeout=timeout_s)
    except Unanswered:
        raise
    except CallError:  # it does not record any more
        return
