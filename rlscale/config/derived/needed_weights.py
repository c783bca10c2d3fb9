"""Which weights a request is to be generated with: an engine that is behind refuses it before it has sampled a token.

The request says so in headers, for the reason of `rlscale.config.derived.request_headers`. An engine that rlscale has
not started does not read them; what any engine answers is looked at in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OLDEST_HEADER = "x-request-id-oldest-weights"
"""The oldest version that will do."""
NEWEST_HEADER = "x-request-id-newest-weights"
"""The newest one that will do; without it any will that is not older."""
FIELDS = {OLDEST_HEADER: "oldest_weights", NEWEST_HEADER: "newest_weights"}
"""The field of a request that each header sets in the engine."""
_LONGEST = 18
"""Digits of a version; what is longer is a name."""


@dataclass(frozen=True)
class NeededWeights:
    """At least a version, or exactly one. Below 0: those that an engine started with, of which it says no number."""

    version: int
    exactly: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What a request for them says."""
        if self.version < 0:
            return {}
        text = str(self.version)
        return {OLDEST_HEADER: text, **({NEWEST_HEADER: text} if self.exactly else {})}


def fields_of(headers: Mapping[str, str]) -> dict[str, int]:
    """The fields that the headers of a request set. ValueError for one that is no whole number."""
    return {field: int(headers[header]) for header, field in FIELDS.items() if header in headers}


def refusal(field: str, version: int, held: str) -> str | None:
    """Why an engine that holds the version `held` refuses a request with a field of FIELDS; None where it does not."""
    known = int(held) if held.isdecimal() and len(held) <= _LONGEST else -1
    if known < version if field == FIELDS[OLDEST_HEADER] else known > version:
        return f"the engine holds weight version {held}, and the request wants {version}"
    return None
