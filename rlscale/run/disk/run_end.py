"""How far a run came, in words."""

from __future__ import annotations

from rlscale.config.schema.run_config import RunSection
from rlscale.run.disk import checkpoint


def why_ended(run: RunSection, status: str, state: checkpoint.Progress) -> str:
    """What ended training, or how far it came."""
    if state.iteration >= run.iterations:
        return f"all {run.iterations} iterations"
    done = f"after {state.iteration} of {run.iterations} iterations"
    if status != "finished":
        return f"{done}; the same command continues" if status == "stopped" else done
    losses = state.recent_losses
    if run.stop_loss is None or not losses:
        return done
    mean = sum(losses) / len(losses)
    return f"early, {done}: mean loss of the last {len(losses)} {mean:.3g} < run.stop_loss={run.stop_loss:g}"
