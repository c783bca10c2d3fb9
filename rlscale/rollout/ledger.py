"""Two accounts, of prompts and of tokens: what came in is at every moment somewhere, or its fate is known.

    prompts drawn   = trained + filtered (by reason) + failed (by reason) + stale + too long + bad + ready + under way
    tokens received = trained + masked + discarded (by reason) + ready + under way

The entries of a fate are written when it befalls; what is ready or under way is counted anew, from the groups
themselves, whenever an account is drawn up. So a group that is lost, or counted twice, shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlscale.data.sample import Group


class LedgerError(RuntimeError):
    """An account does not balance: prompts or tokens were lost, or used twice."""


def tokens_of(group: Group) -> int:
    """Tokens of a group that an engine generated."""
    return sum(sample.response_length for sample in group.samples)


@dataclass
class Account:
    """What came in, and what became of it by name of the fate."""

    name: str
    received: int = 0
    fates: Counter[str] = field(default_factory=Counter)

    def metrics(self, verb: str, held: Mapping[str, int]) -> dict[str, int]:
        """Its entries, and what is held at present."""
        entries = {verb: self.received, **self.fates, **held}
        return {f"{self.name}/{entry}": number for entry, number in entries.items()}

    def check(self, verb: str, held: Mapping[str, int]) -> None:
        """LedgerError if what came in is not what has a fate or is held."""
        accounted = sum(self.fates.values()) + sum(held.values())
        if accounted != self.received:
            entries = " + ".join(f"{name} {number}" for name, number in [*sorted(self.fates.items()), *held.items()])
            raise LedgerError(
                f"{self.name}: {self.received} {verb}, but {entries} = {accounted}; this is an error in the rollout, "
                "please report it"
            )

    def state_dict(self) -> dict[str, Any]:
        """All entries."""
        return {"received": self.received, "fates": dict(self.fates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with saved entries."""
        self.received, self.fates = int(state["received"]), Counter(state["fates"])


class Ledger:
    """Both accounts. Whoever decides on a group or a token writes it down here."""

    def __init__(self) -> None:
        self.prompts = Account("prompts", fates=Counter(trained=0))
        self.tokens = Account("tokens", fates=Counter(trained=0, masked=0))

    def trained(self, group: Group, masked: int) -> None:
        """A batch took the group; `masked` of its tokens are not trained on."""
        self.prompts.fates["trained"] += 1
        self.tokens.fates["trained"] += tokens_of(group) - masked
        self.tokens.fates["masked"] += masked

    def untrained(self, group: Group, masked: int) -> None:
        """Take back what `trained` wrote: the group's batch was not trained on."""
        self.prompts.fates["trained"] -= 1
        self.tokens.fates["trained"] -= tokens_of(group) - masked
        self.tokens.fates["masked"] -= masked

    def filtered(self, group: Group, reason: str) -> None:
        """A filter rejected the group and another takes its place."""
        self.prompts.fates[f"filtered_{reason}"] += 1
        self.tokens.fates[f"discarded_filtered_{reason}"] += tokens_of(group)

    def failed(self, reason: str) -> None:
        """The prompt's group was given up; its samples are discarded one by one."""
        self.prompts.fates[f"failed_{reason}"] += 1

    def stale(self, group: Group) -> None:
        """The group was thrown away because its tokens are over the bound."""
        self.prompts.fates["stale"] += 1
        self.discarded(tokens_of(group), "stale")

    def received(self, tokens: int) -> None:
        """An engine's answer came with tokens."""
        self.tokens.received += tokens

    def discarded(self, tokens: int, reason: str) -> None:
        """Tokens that were received are of no use."""
        if tokens:
            self.tokens.fates[f"discarded_{reason}"] += tokens

    def state_dict(self) -> dict[str, Any]:
        """Both accounts."""
        return {"prompts": self.prompts.state_dict(), "tokens": self.tokens.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with saved accounts."""
        self.prompts.load_state_dict(state["prompts"])
        self.tokens.load_state_dict(state["tokens"])
