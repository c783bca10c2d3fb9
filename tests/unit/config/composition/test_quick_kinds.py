"""What is remembered of classes is what OmegaConf finds of them."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

import attr
import pytest
from omegaconf import OmegaConf, dictconfig

from rlscale.config.composition.quick_kinds import is_structured, own_answer
from rlscale.config.schema import Config
from rlscale.config.schema.optim_config import OptimConfig

T = typing.TypeVar("T")


@dataclass
class Wide(typing.Generic[T]):
    size: int = 1


@attr.s(auto_attribs=True)
class OfAttrs(typing.Generic[T]):
    size: int = 1


NODES = [OmegaConf.create({"a": 1}), OmegaConf.structured(OptimConfig), OmegaConf.create([1])]
VALUES = [Config, OptimConfig, OptimConfig(), Wide, Wide(), Wide[int], OfAttrs, OfAttrs(), OfAttrs[int]]
OTHERS = [None, 1, "text", {}, [], dict, dict[str, int], typing.Any, int | None, type(None), object()]


@pytest.mark.parametrize("value", [*NODES, *VALUES, *OTHERS], ids=repr)
def test_every_answer_is_omegaconfs_own_the_second_time_too(value: Any) -> None:
    assert is_structured(value) is is_structured(value) is own_answer(value)


def test_omegaconf_asks_it() -> None:
    assert vars(dictconfig)["is_structured_config"] is is_structured
