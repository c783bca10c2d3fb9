"""Numbers with units: notation, conversion, tolerance, significant figures, and hostile answers."""

from __future__ import annotations

import gc
import importlib.util
import time
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.envs.rewards.quantity import Quantity, measured

INSTALLED = importlib.util.find_spec("pint") is not None
needs_pint = pytest.mark.skipif(not INSTALLED, reason="the extra rlscale[units] is not installed, and refused by name")


@pytest.mark.skipif(INSTALLED, reason="the extra rlscale[units] is installed")
def test_without_pint_the_extra_is_named() -> None:
    with pytest.raises(UserError, match=r"reward=quantity needs pint: pip install 'rlscale\[units\]'"):
        Quantity()


@needs_pint
@pytest.mark.parametrize(
    ("response", "label", "expected"),
    [
        ("9.81 m/s^2", "9.81 m/s^2", 1.0), ("981 cm/s²", "9.81 m/s^2", 1.0), ("9.81 m/s", "9.81 m/s^2", 0.0),
        (r"So \boxed{3.0\times10^{8}\ \text{m/s}}", "3e8 m/s", 1.0), (r"\boxed{3\,\mathrm{m\,s^{-1}}}", "3 m/s", 1.0),
        ("3.00 m s-1", "3 m/s", 1.0), ("25 °C", "298.15 K", 1.0), ("298.15 K", "25 °C", 1.0),
        ("90°", "1.5708 rad", 1.0),
        ("First 3 J. The answer is 4.184 kJ.", "1 kcal", 1.0), ("4.18 J", "1 kcal", 0.0), ("F = 12 N", "12 N", 1.0),
        ("9.81", "9.81 m/s^2", 0.0), ("5 m", "5", 0.0), ("5", "5", 1.0), ("50%", "0.5", 0.0), ("50 %", "50%", 1.0),
        ("6.022\u00d710^23 mol⁻¹", "6.022e23 1/mol", 1.0), ("1.5 kg m^2/s^2", "1.5 J", 1.0), ("1,500 g", "1.5 kg", 1.0),
        ("0.1 mol/L", "0.1 M", 1.0), ("1 µm", "1e-6 m", 1.0), ("2.5 kΩ", "2500 ohm", 1.0),
        ("\u22123.2 eV", "-3.2 eV", 1.0),
        ("3.2 eV", "-3.2 eV", 0.0), ("1 atm", "101325 Pa", 1.0), ("12 kJ/mol", "12 kJ/mol", 1.0), ("5 N-m", "5 J", 1.0),
        ("5 bananas", "5 m", 0.0), ("five m", "5 m", 0.0), ("", "5 m", 0.0), ("m", "5 m", 0.0),
        (r"\boxed{5 m", "5 m", 0.0), ("5 metres per second", "5 m/s", 1.0), ("5 per m", "5 m/s", 0.0),
        ("9.8 meters per second squared", "9.8 m/s^2", 1.0), ("9.8 meters per second", "9.8 m/s^2", 0.0),
        ("3 square meters", "3 m^2", 1.0), ("2000 cubic centimeters", "2 L", 1.0), ("8 meters cubed", "8 m^3", 1.0),
        ("25 degrees Celsius", "298.15 K", 1.0), ("77 degrees fahrenheit", "25 °C", 1.0),
    ],
)  # fmt: skip
def test_a_quantity_is_compared_in_any_unit_of_its_kind(response: str, label: str, expected: float) -> None:
    assert Quantity()(response, label, {}) == expected


@needs_pint
def test_tolerance_figures_and_units_can_be_asked_for() -> None:
    assert [Quantity()(one, "100 m", {}) for one in ("101 m", "99 m", "101.1 m")] == [1.0, 1.0, 0.0]
    assert [Quantity(relative=0)(one, "1 in", {}) for one in ("2.54 cm", "2.55 cm")] == [1.0, 0.0]
    assert [Quantity(absolute=0.5)(one, "0 degC", {}) for one in ("0.4 degC", "0.6 degC")] == [1.0, 0.0]
    figures = Quantity(figures=True)
    assert [figures(one, "3.20 m", {}) for one in ("3.20 m", "320. cm", "0.00320 km", "3.2 m", "3.200 m")] == [
        1.0, 0.0, 1.0, 0.0, 0.0,
    ]  # fmt: skip
    assert [Quantity(bare=True)(one, "5 m", {}) for one in ("5", "5 m", "5 s")] == [1.0, 1.0, 0.0]
    assert [Quantity(exact_unit=True)(one, "5 m", {}) for one in ("5 m", "5 meters", "500 cm")] == [1.0, 1.0, 0.0]
    written = ("0.00120 m", "1200 m", "1.200e3 m", "0 m", "3.20 m", "007 m")
    assert [found.figures for one in written if (found := measured(one))] == [3, 2, 4, 1, 3, 1]


@needs_pint
@pytest.mark.parametrize(
    "response",
    [
        "9e999 m", "2 m**9**9**9", "2 m^999999999", "1 " + "m*" * 100_000, "(" * 100_000, "9" * 100_000,
        "1 __import__('os')",
        "1 m" + "^2" * 20, "\\boxed{" * 50_000, "\ud800", "1 m.__class__", "1 m\n" * 10_000,
    ],
    ids=range(12),
)  # fmt: skip
def test_hostile_quantities_are_wrong_and_quickly_so(response: str) -> None:
    Quantity()("1 m", "1 m", {})
    gc.disable()  # collecting what all other tests of this process left takes a second by itself
    try:
        started = time.process_time()
        assert Quantity()(response, "5 m", {}) == 0.0
        assert time.process_time() - started < 1.0
    finally:
        gc.enable()


@needs_pint
@pytest.mark.parametrize("label", [None, "", "m", "5 bananas", "about 5 m", {"value": 5}, True, float("nan")])
def test_a_label_that_is_no_quantity_is_an_error(label: Any) -> None:
    with pytest.raises(ValueError, match="label"):
        Quantity().check_label(label)
    with pytest.raises(UserError, match=r"relative=1 must be from 0 to 1, and absolute=0\.0 at least 0"):
        Quantity(relative=1)
