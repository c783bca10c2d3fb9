"""The matrix of layouts as measured: `python benchmarks/layouts.py`, some minutes on two cores.

Every layout trains a tiny model for 4 optimizer steps on 2 or 4 ranks over gloo, and is compared with one rank. The
layouts, models and bounds are those of tests/dist/test_layouts.py; docs/trainer_evidence.md holds a printed table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests" / "dist"
HEAD = "| model | algorithm | layout | ranks | loss | grad-norm | gradients | log-probs | weights |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Layouts of the trainer against one rank.")
    parser.add_argument("--only", default="", help="only layouts whose name contains this")
    only = parser.parse_args().only
    sys.path.insert(0, str(TESTS))  # the ranks import its modules by their names
    from layout_matrix import FOUR_RANKS, MORE_ON_FOUR_RANKS, SIXTEEN_BITS, TWO_RANKS, measure, run
    from rank_pool import RankPool
    from tiny_models import make_models

    pool, known = RankPool(), {}
    with tempfile.TemporaryDirectory(prefix="rlscale-layouts-") as folder:
        models = make_models(Path(folder))
        print(HEAD, "|---" * HEAD.count(" | ") + "|---|", sep="\n", flush=True)
        try:
            everything = (*TWO_RANKS, *FOUR_RANKS, *MORE_ON_FOUR_RANKS, *SIXTEEN_BITS)
            for layout in (layout for layout in everything if only in layout.name):
                key = layout.baseline.name
                if key not in known:
                    (known[key],) = run(layout.baseline, pool, models)
                print(_row(layout, measure(layout, pool, models, known[key])), flush=True)
        finally:
            pool.close()


def _row(layout: Any, difference: Any) -> str:
    numbers = (getattr(difference, name) for name in ("loss", "grad_norm", "gradients", "logprobs", "weights"))
    texts = (layout.model, layout.algorithm, layout.sizes, str(layout.ranks), *(f"{number:.1e}" for number in numbers))
    return f"| {' | '.join(texts)} |"


if __name__ == "__main__":
    main()
