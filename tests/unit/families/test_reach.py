"""How many tokens attention sees: windows, in the layers that transformers gives one."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from rlscale.families import FAMILIES, reach_of
from rlscale.families.config_file import complete, problems
from rlscale.families.family import Reach
from tests.unit.families.folders import TINY

WINDOWS = {"use_sliding_window": True, "sliding_window": 5}
SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, None),
        ({"sliding_window": 5, "max_window_layers": 0}, None),
        ({**WINDOWS, "max_window_layers": 1}, 5),
        ({**WINDOWS, "max_window_layers": 2}, None),  # of two layers
        ({**WINDOWS, "layer_types": [SLIDING, FULL]}, 5),
        ({**WINDOWS, "layer_types": [FULL, FULL], "max_window_layers": 0}, None),
        ({"use_sliding_window": True, "max_window_layers": 0}, 4096),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, None),
    ],
)
def test_windows_are_where_transformers_has_them(family: str, changes: dict[str, Any], tokens: int | None) -> None:
    config = {**TINY[family], **changes}
    assert list(problems(config)) == []
    assert list(FAMILIES[family].unsupported(complete(config))) == []
    assert reach_of(complete(config)) == (None if tokens is None else Reach(tokens, "sliding_window"))
    theirs = transformers.AutoConfig.for_model(**config)
    assert (theirs.sliding_window if SLIDING in theirs.layer_types else None) == tokens


@pytest.mark.parametrize(
    ("window", "tokens"), [({"sliding_window": 5}, 5), ({}, 4096), ({"sliding_window": None}, None)]
)
def test_all_layers_of_the_mixture_of_experts_have_a_window(window: dict[str, Any], tokens: int | None) -> None:
    config = {**TINY["qwen3_moe"], "use_sliding_window": True, "max_window_layers": 28, **window}
    assert reach_of(complete(config)) == (None if tokens is None else Reach(tokens, "sliding_window"))
    assert transformers.AutoConfig.for_model(**config).sliding_window == tokens


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"layer_types": [SLIDING, FULL]},
            "layer_types with sliding_attention is not supported for qwen2",
        ),
        (  # of which transformers makes no mask
            {"use_sliding_window": True, "sliding_window": None, "layer_types": [SLIDING, FULL]},
            "layer_types with sliding_attention is not supported for qwen2 with sliding_window=null; only full_at",
        ),
        (
            {**WINDOWS, "layer_types": ["chunked_attention", FULL]},
            "layer_types with chunked_attention is not",
        ),
    ],
)
def test_other_kinds_of_layers_are_refused_by_name(changes: dict[str, Any], line: str) -> None:
    (found,) = FAMILIES["qwen2"].unsupported(complete({**TINY["qwen2"], **changes}))
    assert found.startswith(line)
