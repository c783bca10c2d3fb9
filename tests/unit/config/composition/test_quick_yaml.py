"""What libyaml reads is what OmegaConf's own loader reads, and messages are those of the latter."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf, _utils

from rlscale.config.composition.locations import conf_dir, recipes_dir
from rlscale.config.composition.quick_yaml import own_loader, quick_loader


def read(text: str, loader: Any) -> Any:
    """The values, or the error with its place."""
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        return str(error)


def test_libyaml_is_there_and_omegaconf_reads_with_it() -> None:
    assert issubclass(quick_loader(), yaml.CSafeLoader)
    assert _utils.get_yaml_loader is quick_loader
    assert OmegaConf.create("a: 1e3\nb: [on, ~, '${x}']") == {"a": 1000.0, "b": [True, None, "${x}"]}


def test_all_that_ships_is_read_alike() -> None:
    files = sorted([*conf_dir().rglob("*.yaml"), *recipes_dir().rglob("*.yaml")])
    assert len(files) > 100
    own, quick = own_loader(), quick_loader()
    for file in files:
        text = file.read_text()
        assert repr(read(text, quick)) == repr(read(text, own)), file  # 1, 1.0 and True are equal, nan is not


@pytest.mark.parametrize(
    "text",
    [
        "a: 1e3\nb: 1.5e-3\nc: 1_000\nd: 0x1f\ne: 2024-01-01\nf: 12:30\ng: .inf\nh: off\ni: ~\nj: 1.\nk: '1'\n",
        "a: {b: [1, {c: d}], e: f}\ng: |\n  two\n  lines\nh: >\n  folded\n  text\n",
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n",
        "a: ${b}\nb: é\u2028\n? [1, 2]\n: pair\n",
        "",
        "a: 1\na: 2\n",
        "a: [1, 2\n",
        "a: b: c\n",
        "\ta: 1\n",
        "a: *nobody\n",
        "a: !!python/object:os.system x\n",
        "a: '\x07'\n",
    ],
)
def test_texts_of_every_kind_are_read_or_refused_alike(text: str) -> None:
    assert repr(read(text, quick_loader())) == repr(read(text, own_loader()))
