"""What supervised training has no use for is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Problems = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "algo.whiten=true",
            "algo.whiten=true: supervised training (algo/loss=sft) has no use for it; set algo.whiten=false",
        ),
        ("algo.distil_coef=1", "algo.distil_coef=1: supervised training"),
        ("algo.entropy_coef=0.5", "algo.entropy_coef=0.5: supervised training"),
        ("algo.old_logprobs=always", "set algo.old_logprobs=auto"),
        ("algo.old_logprobs=behaviour", "set algo.old_logprobs=auto"),
        ("algo.overlong.penalty=1", "set algo.overlong.penalty=0"),
        ("algo.overlong.cache_tokens=1", "set algo.overlong.cache_tokens=null"),
        ("algo.refill.drop_equal=true", "set algo.refill.drop_equal=false"),
        ("algo.correction.weight=tis", "algo.correction.weight=tis: supervised training"),
        ("algo.correction.bypass=true", "algo.correction.bypass=true: supervised training"),
        ("algo.correction.rejection.veto=0.1", "algo.correction.rejection.veto=0.1: supervised training"),
        (
            "algo/score=raw",
            "algo/score=raw: supervised training (algo/loss=sft) has no use for it; set algo/score=none",
        ),
        ("algo/advantage=broadcast", "set algo/advantage=none"),
        ("algo.kl.coef=1", "set algo.kl.coef=0"),
        (
            "rollout.temperature=0.5",
            "rollout.temperature=0.5: supervised training (algo/loss=sft) has no use for it (evaluation reads "
            "eval.temperature); set rollout.temperature=1",
        ),
        ("rollout.top_p=0.5", "rollout.top_p=0.5: supervised training"),
        ("rollout.top_k=5", "rollout.top_k=5: supervised training"),
        ("rollout.stop_token_ids=[5]", "has no use for it (evaluation reads eval.stop_token_ids)"),
        ("critic.clip=1", "critic.clip=1 is never read: algo=sft has no critic"),
        ("teacher.path=a/b", "teacher.path=a/b is never read by supervised training (algo/loss=sft); leave it out"),
    ],
)
def test_supervised_training_has_no_use_for_it(problems: Problems, override: str, line: str) -> None:
    overrides = ["algo=sft", "rollout.samples_per_group=1", override]
    found = [problem for problem in problems(*overrides) if not problem.startswith("algo.distil_coef=1 needs")]
    assert len(found) == 1, found
    assert line in found[0]
