"""Columns of one's own: registered once, brought by samples, checked."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.config.derived.needs import COLUMNS
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Field, Fields, Maker, Scope
from rlscale.data.sample import Group, Prompt, Sample

TOLD = FIELDS.register(Field("test_told", np.float32, Scope.token))
FIELDS.register(Field("test_level", "int64", Scope.sample, fill=-7))
FIELDS.register(Field("test_pair", np.float32, Scope.token, axes=1))


def group(columns: list[dict]) -> Group:
    """Samples of one prompt token and as many tokens of response as their number from 1."""
    prompt = Prompt(5, "5", np.array([1], np.int32), "")
    samples = []
    for number, own in enumerate(columns):
        sample = Sample.from_response(prompt, number, np.arange(number + 1, dtype=np.int32), None, 0)
        sample.columns = own
        samples.append(sample)
    return Group(prompt, samples)


def brought() -> list[dict]:
    return [
        {"test_told": np.array([0.0, 1.0]), "test_level": 3, "test_pair": np.array([[0, 0], [1, 2]])},
        {"test_told": np.array([0.0, 2.0, 4.0]), "test_level": 4, "test_pair": np.array([[0, 0], [3, 4], [5, 6]])},
    ]


def test_columns_of_samples_are_columns_of_the_batch_in_the_registered_types() -> None:
    batch = Batch.from_groups([group(brought())])
    assert batch.column("test_told").tolist() == [0, 1, 0, 2, 4]
    assert batch.column("test_told").dtype == np.float32
    assert batch.column("test_level").tolist() == [3, 4]
    assert batch.select([1]).column("test_pair").tolist() == [[0, 0], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ([{"test_level": 1}, {}], ValueError, "1 of 2 samples bring the column 'test_level': either all must, or none"),
        ([{"test_lvl": 1}, {"test_lvl": 1}], KeyError, "'test_lvl' is not a batch field in this process; register it"),
        ([{"reward": 1.0}, {"reward": 1.0}], ValueError, "'reward' in `columns`, which every batch has already"),
        ([{"version": 1}, {"version": 1}], ValueError, "'version', of which the whole batch has one value"),
        (
            [{"test_told": np.zeros(2)}, {"test_told": np.zeros(2)}],
            ValueError,
            r"a sample of prompt 5 brings 'test_told' of shape \(2,\) for its 3 tokens",
        ),
        (
            [{"test_pair": np.zeros(2)}, {"test_pair": np.zeros(3)}],
            ValueError,
            r"'test_pair' \(token\) has shape \(5,\), expected \(5,\) and 1 axes of its own",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: list[dict], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Batch.from_groups([group(columns)])


def test_a_field_is_registered_once_and_never_as_another() -> None:
    own = Fields([])
    field = own.register(Field("nan_filled", float, Scope.token, fill=float("nan")))
    own.register(Field("nan_filled", "float64", Scope.token, fill=float("nan")))
    assert own["nan_filled"] is field
    with pytest.raises(ValueError, match="there is another batch field 'nan_filled' already"):
        own.register(Field("nan_filled", float, Scope.sample))
    with pytest.raises(ValueError, match="cannot be called 'not a name'"):
        own.register(Field("not a name", float, Scope.token))
    assert list(own) == ["nan_filled"]


def test_the_registry_and_the_configuration_name_the_same_models() -> None:
    """The configuration, which is read without NumPy, has its own table of the columns that models compute."""
    by_models = {name: field.made_by.name for name, field in FIELDS.items() if field.made_by.is_model}
    assert by_models == COLUMNS
    assert TOLD.made_by is Maker.hook
