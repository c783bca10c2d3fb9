"""Names of adapters by version."""

from __future__ import annotations

from rlscale.config.derived.adapter_names import adapter_name, version_of


def test_a_name_says_its_version_and_other_names_say_none() -> None:
    assert [version_of(adapter_name(version)) for version in (0, 7, 123)] == [0, 7, 123]
    assert [version_of(name) for name in (None, "", "7", "policy-", "policy-x", "policy--1", "other-7")] == [None] * 7
