"""Cases that nobody thought of: stored ones with a word, a value or some bytes of a file changed by a seed.

Whether such a case still means something is not known, so it may be refused or accepted; but it must be answered: in
time, in one or more error lines and exit code 2 where it is refused, and never by a traceback.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tests.battery.case import Case

_PIECES = (
    *("=", "==", ",", "[", "]", "{", "}", "${", "${a}", "$", "'", '"', "\\", "~", "+", "++", "@", ":", "#", "%", "*"),
    *("\x00", "\n", "\t", "\x1b[2J", "ä", "\u202e", "😀", "\ud800", " ", "../", "/", "-", "--", "null", "nan", "1e999"),
    *("-1", "0", "9" * 400, "a" * 5000, "[" * 500, "true", "???", "_target_", "!!python/object:os.system", "&a", "*a"),
)


def mutated(cases: Sequence[Case], count: int, seed: int) -> Iterator[Case]:
    """That many cases, the same for a seed."""
    usable = [case for case in cases if case.argv and "warm" not in case.argv]  # which would serve until it is ended
    draw = random.Random(seed)
    for number in range(count):
        base = draw.choice(usable)
        changed = _files(base, draw) if (base.files or base.stock) and draw.random() < 0.5 else _words(base, draw)
        yield replace(changed, surface=f"mutated: {base.surface}", name=f"{number}: {base.name}", either=True)


def _words(case: Case, draw: random.Random) -> Case:
    words = list(case.argv)
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(words))
        what = draw.randrange(5)
        if what == 0 and len(words) > 1:
            del words[at]
        elif what == 1:
            words.insert(at, draw.choice(words))
        elif what == 2 and words[at]:
            place = draw.randrange(len(words[at]))
            words[at] = words[at][:place] + words[at][place + 1 :]
        else:
            place = draw.randrange(len(words[at]) + 1)
            words[at] = words[at][:place] + draw.choice(_PIECES) + words[at][place:]
    # No command line holds these: the kernel ends a word at the one, and cannot encode the other.
    return replace(case, argv=[word.replace("\x00", "").replace("\ud800", "") for word in words])


def _files(case: Case, draw: random.Random) -> Case:
    """Bytes of one of its files, whichever that is once they are there."""
    return replace(case, edits=[*case.edits, {"scramble": draw.randrange(2**32)}])
