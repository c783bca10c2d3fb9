"""The accounts of prompts and tokens."""

from __future__ import annotations

import pytest
from made_groups import group_of

from rlscale.rollout.ledger import Ledger, LedgerError

GROUP = group_of(0, [1, 1, 1], [1, 1])  # 5 tokens
OTHER = group_of(1, [1], [1, 1])  # 3 tokens


def spent() -> Ledger:
    """Everything that may happen to a group, once; 20 tokens and 4 prompts."""
    ledger = Ledger()
    ledger.prompts.received = 4
    ledger.received(20)
    ledger.trained(GROUP, masked=2)
    ledger.filtered(OTHER, "varied_rewards")
    ledger.stale(OTHER)
    ledger.failed("reward")
    ledger.discarded(9, "failed_reward")
    ledger.discarded(0, "cut_off")
    return ledger


def test_every_fate_is_an_entry_and_the_accounts_balance() -> None:
    ledger = spent()
    assert dict(ledger.prompts.fates) == {"trained": 1, "filtered_varied_rewards": 1, "stale": 1, "failed_reward": 1}
    assert dict(ledger.tokens.fates) == {
        "trained": 3,
        "masked": 2,
        "discarded_filtered_varied_rewards": 3,
        "discarded_stale": 3,
        "discarded_failed_reward": 9,
    }
    ledger.prompts.check("drawn", {"ready": 0})
    ledger.tokens.check("received", {"ready": 0})


def test_what_is_missing_or_there_twice_is_an_error_with_all_entries() -> None:
    ledger = spent()
    with pytest.raises(LedgerError) as error:
        ledger.prompts.check("drawn", {"ready": 1})
    assert str(error.value).startswith(
        "prompts: 4 drawn, but failed_reward 1 + filtered_varied_rewards 1 + stale 1 + trained 1 + ready 1 = 5; "
    )
    ledger.received(1)
    with pytest.raises(LedgerError, match=r"tokens: 21 received, but .* = 20"):
        ledger.tokens.check("received", {"under_way": 0})


def test_a_batch_that_was_not_trained_on_is_taken_back() -> None:
    ledger = spent()
    ledger.untrained(GROUP, masked=2)
    ledger.prompts.check("drawn", {"ready": 1})
    ledger.tokens.check("received", {"ready": 5})


def test_metrics_name_the_account_and_the_fate() -> None:
    assert Ledger().tokens.metrics("received", {"ready": 7}) == {
        "tokens/received": 0,
        "tokens/trained": 0,
        "tokens/masked": 0,
        "tokens/ready": 7,
    }


def test_a_saved_ledger_goes_on() -> None:
    other = Ledger()
    other.load_state_dict(spent().state_dict())
    assert other.state_dict() == spent().state_dict()
    other.trained(GROUP, 0)
    assert other.prompts.fates["trained"] == 2
