"""A setting of the correction that cannot act is one line that says why and what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Problems = Callable[..., list[str]]

BYPASS = "algo.correction.bypass=true"
TARGET = "._target_=mine.fn"
UNREAD = "is never read with algo.correction.weight"
CORRECTION = "algo.correction"
CENTERED = "algo.correction.score_centering=4"
REJECTION = "algo.correction.rejection"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([f"{CORRECTION}.level=token"], f"{CORRECTION}.level=token {UNREAD}=none; leave it out, or choose algo/corr"),
        ([f"{CORRECTION}.upper=3"], f"{CORRECTION}.upper=3 {UNREAD}=none"),
        ([f"{CORRECTION}.normalise=true"], f"{CORRECTION}.normalise=true {UNREAD}=none"),
        (
            [f"{CORRECTION}.weight=tis", f"{CORRECTION}.lower=0.5"],
            f"{CORRECTION}.lower=0.5 {UNREAD}=tis; leave it",
        ),
        ([f"{CORRECTION}.weight=tis", f"{CORRECTION}.action=mask"], "choose algo/correction=mis"),
        ([f"{CORRECTION}.weight=icepop", f"{CORRECTION}.action=mask"], f"{CORRECTION}.action=mask {UNREAD}=icepop"),
        (
            [f"{CORRECTION}.weight=custom", f"{CORRECTION}.function{TARGET}", f"{CORRECTION}.level=token"],
            f"{CORRECTION}.level=token {UNREAD}=custom",
        ),
        (
            [f"{CORRECTION}.weight=mis", f"{CORRECTION}.lower=0.5"],
            f"{CORRECTION}.lower=0.5 is never read with {CORRECTION}.action=truncate, which bounds from above alone",
        ),
        (
            [f"{CORRECTION}.weight=icepop", f"{CORRECTION}.lower=3", f"{CORRECTION}.upper=2"],
            f"{CORRECTION}.lower=3 is above {CORRECTION}.upper=2; swap them",
        ),
        (
            [f"{CORRECTION}.weight=tis", f"{CORRECTION}.upper=0.5"],
            f"{CORRECTION}.upper=0.5 is below 1, the ratio wh",
        ),
        (
            [f"{CORRECTION}.weight=icepop", f"{CORRECTION}.lower=1.5"],
            f"{CORRECTION}.lower=1.5 is above 1, the ratio",
        ),
        (
            [f"{CORRECTION}.weight=mis", f"{CORRECTION}.action=mask", f"{CORRECTION}.upper=1"],
            f"{CORRECTION}.upper=1 with a lower bound of 1 leaves no room around 1",
        ),
        *(
            (
                [f"algo={algo}", f"{CORRECTION}.weight={kind}", f"{CORRECTION}.level=token"],
                f"{CORRECTION}.level=token: the loss {algo} has one ratio per segment, which a weight of each token's "
                "own contradicts; use geometric (the default here) or sequence",
            )
            for algo in ("gspo", "gspo_token")
            for kind in ("tis", "icepop", "mis")
        ),
        *(
            ([f"algo/correction={kind}", f"{CORRECTION}.weight=none"], f"algo/correction={kind} with {CORRECTION}.wei")
            for kind in ("tis", "icepop", "mis", "custom")
        ),
        (
            ["algo/correction=opsm", f"{CORRECTION}.opsm_delta=null"],
            f"algo/correction=opsm with {CORRECTION}.opsm_delta=null masks nothing; give a number, or choose "
            "algo/correction=none",
        ),
        (
            ["algo/correction=score_centering", f"{CORRECTION}.score_centering=null"],
            f"algo/correction=score_centering with {CORRECTION}.score_centering=null centers nothing; give a number of",
        ),
        ([BYPASS, CENTERED], f"{CENTERED} never acts with {BYPASS}, whose ratio corrects for the engine already"),
        (
            [CENTERED, "algo.old_logprobs=behaviour", "rollout.max_staleness=2"],
            f"{CENTERED} compares the engine with the weights that are trained",
        ),
        (
            [CENTERED, f"{CORRECTION}.weight=custom", f"{CORRECTION}.function{TARGET}"],
            f"{CENTERED} cannot know what your own weights of {CORRECTION}.function would be for other words; use tis",
        ),
        (
            [CENTERED, f"{CORRECTION}.weight=mis", f"{CORRECTION}.level=sequence"],
            f"{CENTERED} takes the expected score off every token, and {CORRECTION}.weight=mis has one weight",
        ),
        ([CENTERED, f"{CORRECTION}.weight=tis", f"{CORRECTION}.normalise=true"], "needs weights of their own size; le"),
        (
            [CENTERED, f"{CORRECTION}.opsm_delta=0.1"],
            f"{CORRECTION}.opsm_delta leaves samples out by the word",
        ),
        ([CENTERED, f"{REJECTION}.veto=1e-4"], f"{CORRECTION}.rejection leaves samples out by the word that was drawn"),
        (
            [f"{CORRECTION}.score_centering=1000"],
            f"{CORRECTION}.score_centering=1000 is more words than the 14 of the model",
        ),
        (["algo/correction=bypass", f"{CORRECTION}.bypass=false"], "algo.correction.bypass=false bypasses nothing"),
        (
            ["algo/correction=rejection", f"{REJECTION}.level=null", f"{REJECTION}.veto=null"],
            f"algo/correction=rejection with level, bounds and veto of {REJECTION} all null rejects nothing; give a "
            "level and a bound, or choose algo/correction=none",
        ),
        (["algo/correction=rejection", f"{REJECTION}.level=token"], f"{REJECTION}.level=token without bounds rejects"),
        (
            [f"{REJECTION}.level=token", f"{REJECTION}.lower=0"],
            f"{REJECTION}.lower=0 rejects nothing, because no ratio is below 0; raise it, or give {REJECTION}.upper",
        ),
        (
            ["algo/correction=mis", f"{CORRECTION}.action=clip", f"{CORRECTION}.lower=0"],
            f"{CORRECTION}.lower=0 bounds no ratio from below, so that {CORRECTION}.action=clip is truncate; raise it",
        ),
        ([f"{REJECTION}.upper=2"], f"{REJECTION}.upper=2 needs {REJECTION}.level to be token, sequence or geometric"),
        ([f"{REJECTION}.level=token"], f"{REJECTION}.level=token without bounds rejects nothing; give"),
        (
            [f"{REJECTION}.level=token", f"{REJECTION}.lower=2", f"{REJECTION}.upper=0.5"],
            f"{REJECTION}.lower=2 is above {REJECTION}.upper=0.5; swap them",
        ),
        ([f"{REJECTION}.level=token", f"{REJECTION}.upper=0.5"], f"{REJECTION}.upper=0.5 is below 1"),
        *(
            (
                [BYPASS, f"{CORRECTION}.weight={kind}"],
                f"{CORRECTION}.weight={kind} never acts: {CORRECTION}.bypass=true",
            )
            for kind in ("tis", "icepop", "mis")
        ),
        ([BYPASS, f"{CORRECTION}.normalise=true"], f"{CORRECTION}.normalise=true {UNREAD}=none"),
        ([BYPASS, f"{REJECTION}.veto=1e-4"], f"{REJECTION} never acts: {CORRECTION}.bypass=true"),
        ([BYPASS, "algo.old_logprobs=always"], "asks for a pass that algo.correction.bypass=true leaves out"),
    ],
)
def test_a_setting_that_cannot_act_is_one_line(problems: Problems, overrides: list[str], line: str) -> None:
    found = problems(*overrides)
    assert any(line in problem for problem in found), found
    assert not any("\n" in problem for problem in found)


def test_values_that_an_option_leaves_open_are_asked_for(problems: Problems) -> None:
    assert problems("algo/correction=opsm") == [
        "algo.correction.opsm_delta: has no value; give algo.correction.opsm_delta=... (a number or null)"
    ]
    (level,) = problems("algo/correction=rejection")
    assert level.endswith("give algo.correction.rejection.level=... (one of token, sequence, geometric or null)")
