"""A loop that rests while a file lies there: to lend the machine to somebody without ending the run."""

from __future__ import annotations

import time
from pathlib import Path

from rlscale.run.verbs import Verbs


def unless_held(run: Verbs, hold: str = "hold", look_every_s: float = 5.0) -> None:
    """The colocated loop; while there is a file `hold`, no further iteration begins."""
    run.begin()
    for _ in run.iterations():
        groups = run.collect()
        run.pause_generation()
        run.trainer_takes_devices()
        run.train(groups)
        run.sync()
        run.record()
        while Path(hold).exists():
            time.sleep(look_every_s)
        run.engines_take_devices()
        run.go_on()
    run.end()
