"""Checks of several machines together: the same software, clocks that agree, data that gets through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlscale.config.schema import Config
from rlscale.doctor.facts import Facts, Link
from rlscale.doctor.finding import Finding, ok, problem, warning

_CLOCKS_S = 1.0
"""Seconds by which clocks may differ: a timeline of several machines is drawn by them."""
_SLOW = {"gloo": 100e6, "nccl": 5e9}
"""Bytes per second below which a link is slow for what it carries."""


def same_software(config: Config, facts: Sequence[Facts]) -> Iterator[Finding]:
    """One version of each package, and of Python, on all machines."""
    first = facts[0]
    for other in facts[1:]:
        differ = [name for name, have in first.packages.items() if other.packages.get(name) != have]
        differ += ["Python"] if first.python != other.python else []
        if differ:
            what = f"{first.name} and {other.name} have different versions of {', '.join(sorted(differ)[:4])}"
            yield problem(what, "install the same on both")
            return
    yield ok("the same on all machines")


def clocks(config: Config, facts: Sequence[Facts]) -> Iterator[Finding]:
    """Clocks that agree."""
    late = max(facts, key=lambda one: abs(one.clock_offset_s) - one.clock_error_s)
    if abs(late.clock_offset_s) - late.clock_error_s > _CLOCKS_S:
        yield warning(f"that of {late.name} differs by {late.clock_offset_s:+.1f} s", "run a time service (chrony)")
    else:
        yield ok(f"within {max(abs(one.clock_offset_s) + one.clock_error_s for one in facts):.2f} s")


def links(found: Sequence[Link]) -> Iterator[Finding]:
    """Every machine reaches the others, and how fast."""
    for link in found:
        way = f"{link.sender} to {link.receiver} by {link.backend}"
        if link.bytes_per_s is None:
            yield problem(
                f"{way}: nothing came ({link.why})",
                f"open the ports between them, or name the interface: {link.backend.upper()}_SOCKET_IFNAME",
            )
        elif link.bytes_per_s < _SLOW[link.backend]:
            yield warning(
                f"{way}: {_rate(link)}, which is slow", f"name the fast interface: {link.backend.upper()}_SOCKET_IFNAME"
            )
        else:
            yield ok(f"{way}: {_rate(link)}")


def _rate(link: Link) -> str:
    return f"{(link.bytes_per_s or 0.0) / 1e9:.2f} GB/s"
