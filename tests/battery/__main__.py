"""`make battery`: type every stored case and print the table of what came of them; `make fuzz`: mutated ones."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.battery.attempt import GOOD, Outcome, Result, attempt_all, prepare, warm_up
from tests.battery.case import Case, load
from tests.battery.http_requests import SERVERS, Answered
from tests.battery.mutations import mutated
from tests.battery.planted import planted


def main() -> int:
    """Returns 0 if every case came out as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.battery", description=__doc__)
    parser.add_argument("--only", help="cases whose `surface: name` this regular expression finds", default="")
    parser.add_argument("--part", type=int, help="a seeded one in so many, of each surface", default=1)
    parser.add_argument("--seed", type=int, help="of --part", default=0)
    parser.add_argument("--mutated", type=int, help="so many mutated cases and planted code instead", default=0)
    parser.add_argument("--requests", type=int, help="so many HTTP requests to each endpoint, too", default=0)
    parser.add_argument("--show", action="store_true", help="the whole output of what came out otherwise")
    parser.add_argument("--all", action="store_true", help="show the others, too")
    parser.add_argument("--json", type=Path, help="a file for every case's outcome")
    options = parser.parse_args()
    chosen = part(load(), options.part, options.seed)
    if options.mutated:
        chosen = [*planted(), *mutated(load(), options.mutated, options.seed)]
    cases = [case for case in chosen if re.search(options.only, case.id)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="battery-") as folder:
        results = []
        for result in attempts(cases, Path(folder)):
            results.append(result)
            if result.outcome not in GOOD or options.all:
                print(told(result, whole=options.show), flush=True)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps({result.case.id: result.outcome.name for result in results}, indent=1))
    print(f"\n{len(results)} cases in {time.monotonic() - began:.0f} s")
    answered = list(_to_endpoints(options.requests, options.seed)) if options.requests else []
    return 0 if all(result.outcome in GOOD for result in results) and all(one.good for one in answered) else 1


def _to_endpoints(count: int, seed: int) -> Iterator[Answered]:
    """HTTP requests to every endpoint, and what came of them: a line for each endpoint and each bad answer."""
    for name, to in SERVERS.items():
        answered = asyncio.run(to(count, seed))
        for one in answered:
            if not one.good:
                print(f"{name}: {one.path}: {one.status} {one.text[:200]!r} to {one.sent[:300]!r}")
        done = sum(one.status is not None and one.status < 300 for one in answered)
        refused = sum(one.good for one in answered) - done
        print(f"{name}: {len(answered)} requests, {done} answered, {refused} refused with 4xx")
        yield from answered


def attempts(cases: Sequence[Case], folder: Path) -> Iterator[Result]:
    """Type the cases; `folder` is empty and may be thrown away afterwards."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="offline")
    warm_up(cases)
    prepare(cases, folder)
    yield from attempt_all(cases, folder)


def part(cases: Sequence[Case], divisor: int, seed: int) -> list[Case]:
    """One in `divisor` of every surface, drawn by the seed, at least one of each."""
    if divisor == 1:
        return list(cases)
    surfaces: dict[tuple[str, bool], list[Case]] = {}
    for case in cases:
        surfaces.setdefault((case.surface, case.names is None), []).append(case)
    draw = random.Random(seed)
    return [case for own in surfaces.values() for case in draw.sample(own, max(1, round(len(own) / divisor)))]


def told(result: Result, *, whole: bool = False) -> str:
    """One case and its answer, in a line or in full."""
    lines = result.output.strip().splitlines()
    # Of a traceback its last line says most, of a refusal its first.
    answer = (lines[-1] if result.outcome is Outcome.traceback else lines[0]) if lines else "(nothing)"
    typed = " ".join(result.case.argv)
    text = f"{result.outcome.value}: {result.case.id} ({result.seconds:.1f} s, exit {result.code})\n    {typed[:300]}\n"
    shown = "\n".join(f"    | {line[:400]}" for line in (lines[:60] if whole else [answer]))
    return text + shown


def table(results: Sequence[Result]) -> str:
    """Rows: surfaces; columns: outcomes. Markdown, as docs/reliability.md holds it."""
    counts = Counter((result.case.surface, result.outcome) for result in results)
    rows = [["surface", "cases", *(outcome.value for outcome in Outcome)]]
    for surface in dict.fromkeys(result.case.surface for result in results):
        own = [counts[surface, outcome] for outcome in Outcome]
        rows.append([surface, str(sum(own)), *map(str, own)])
    sums = [sum(result.outcome is outcome for result in results) for outcome in Outcome]
    rows.append(["**all**", str(len(results)), *map(str, sums)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(rows[0]) - 1), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
