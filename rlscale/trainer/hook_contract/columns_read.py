"""A note of the columns by models that a hook read, and what the configuration must therefore say."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rlscale.config.derived.needs import COLUMNS
from rlscale.trainer.hook_contract.findings import Finding, Status, failed
from rlscale.trainer.hook_contract.inputs import Given
from rlscale.trainer.hooks import HookKind


def columns_read(kind: HookKind, given: Given, reads: Collection[str] | None, findings: Sequence[Finding]) -> Finding:
    """The `algo.<kind>.reads` that a run needs, next to those that were given, if any were.

    A hook that did not return may read more.
    """
    returned = all(finding.check != "call" for finding in failed(findings))
    read = [name for name in COLUMNS if name in given.touched]
    missing = [name for name in read if reads is not None and name not in reads]
    unread = [name for name in COLUMNS if returned and reads is not None and name in reads and name not in read]
    found = f"it read {', '.join(read) or 'none'}"
    found += f", of which {', '.join(missing)} {'was' if len(missing) == 1 else 'were'} not given" if missing else ""
    found += f", and not {', '.join(unread)}" if unread else ""
    key = f"algo.{kind}.reads"
    needed = f"{key}=[{','.join(read)}]" if read else f"no {key}"
    found += f"; a run needs {'' if returned else 'at least '}{needed}"
    return Finding("columns", Status.noted, "those by models that it reads are named in the configuration", found)
