"""The state in a checkpoint: every value comes back as it was, and nothing in the bytes is run."""

from __future__ import annotations

import datetime
import math
import pickle
import struct
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_values

from rlscale.config.errors import UserError
from rlscale.data.prompts.adaptive import Observation
from rlscale.data.sample import Group, Prompt, Sample, Segment
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.state_encoding import Encoder, Malformed, NotPlain, decode, saved_and_read
from rlscale.run.disk.rollout_state import read_rollout_state, write_rollout_state
from rlscale.trainer.checksums import running_checksum
from tests.unit.payload import Payload
from tests.unit.run.same_values import assert_same


def prompt() -> Prompt:
    info = {"level": 3, "when": datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC), "price": Decimal("1.10")}
    return Prompt(
        2**40, "row", np.arange(3, dtype=np.int32), {"answer": ["4", None]}, info, messages=({"role": "user"},)
    )


def sample() -> Sample:
    tokens = np.arange(6, dtype=np.int32)
    mask = tokens > 2
    columns = {"weight": np.float32(0.5).reshape(()), "choice": np.array(["a", "längst"])}
    experts = np.asfortranarray(np.arange(24, dtype=np.int16).reshape(6, 2, 2))
    floats = np.full(6, -0.0, np.float32)
    return Sample(
        7, 0, tokens, 3, mask, floats, tokens, math.nan, "stop", "é\ud800", {}, experts, "", columns, (Segment(2, 1),)
    )


def test_prompts_samples_groups_and_what_was_under_way_come_back_as_they_were() -> None:
    part = Generation(np.arange(2, dtype=np.int32), np.zeros(2, np.float32), "abort", np.full(2, 7, np.int32))
    state = {
        "buffer": {"groups": [Group(prompt(), [sample(), sample()])], "dropped": 0},
        "pending": [{"prompt": prompt(), "samples": {3: sample()}, "attempts": {0: (1, [part])}}],
        "observations": [Observation(prompt(), (0.5,), "kept"), tuple(Observation(prompt(), (), "failed"))],
        "random": np.random.default_rng(3).bit_generator.state,
        "empty": [np.zeros((0, 4), np.int32), {}, (), set(), frozenset({1, "two"})],
        "number": [np.float64(0.1), np.int64(-1), 2**63, -(2**200), True, 1.5, float("inf"), b"\x00"],
    }
    assert_same(state, saved_and_read(state))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.dates()
    | st.datetimes()
    | numpy_values.arrays(
        numpy_values.scalar_dtypes(), numpy_values.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3)
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(plain)
def test_any_plain_value_comes_back_as_it_was(value: Any) -> None:
    assert_same(value, saved_and_read(value))


@pytest.mark.parametrize(
    "value",
    [
        np.str_(""),
        np.bytes_(b""),
        datetime.timedelta(days=-3, microseconds=7),
        datetime.time(3, 4, 5, 6),
        pandas.Timestamp("2026-01-02 03:04:05.000000007"),
        pandas.Timedelta("2 days 00:00:00.000000009"),
    ],
)
def test_what_parquet_and_numpy_give_comes_back(value: Any) -> None:
    read = saved_and_read({"info": [value]})["info"][0]
    assert (type(read), read) == (type(value), value)


def nested(levels: int) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = (value,)
    return value


class Own:
    """A class of somebody's own."""


cycle: list[Any] = []
cycle.append(cycle)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"source": {"cursor": [1, Own()]}}, r"state\['source'\]\['cursor'\]\[1\] is a .*Own"),
        ({"fates": Counter(trained=1)}, r"state\['fates'\] is a collections.Counter"),
        ({"info": np.array([object()])}, r"state\['info'\] is a numpy.ndarray"),
        (nested(300), "nested too deeply, or holds itself"),
        (cycle, "nested too deeply, or holds itself"),
        ({"groups": [Group(prompt(), [Own()])]}, r"state\['groups'\]\[0\].samples\[0\] is a .*Own"),  # type: ignore[list-item]
    ],
)
def test_what_cannot_be_saved_is_named_with_its_place(value: Any, where: str, tmp_path: Path) -> None:
    with pytest.raises(NotPlain, match=where):
        saved_and_read(value)
    with pytest.raises(UserError, match=where):
        write_rollout_state(tmp_path / "state", value)


@pytest.mark.parametrize("magic", [b"rlscale2", b"rlscale3"])
def test_a_pickle_in_place_of_the_state_is_refused_and_never_run(magic: bytes, tmp_path: Path) -> None:
    content = pickle.dumps(Payload(tmp_path / "ran"))
    pickle.loads(content)
    (tmp_path / "ran").unlink()  # it would have
    digest = running_checksum(content).digest()
    headers = {
        b"rlscale2": struct.pack("<8sQ16s", magic, len(content), digest),
        b"rlscale3": struct.pack("<8sQQ16s", magic, len(content), len(content), digest),
    }
    file = tmp_path / "rollout.state"
    file.write_bytes(headers[magic] + content)
    with pytest.raises(UserError, match="another version of rlscale"):
        read_rollout_state(file)
    assert not (tmp_path / "ran").exists()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=20))
def test_bytes_that_nobody_wrote_are_refused(tree: bytes, arrays: bytes) -> None:
    with pytest.raises(Malformed):
        decode(memoryview(tree), memoryview(arrays))


def test_bytes_that_are_nested_without_end_are_refused_and_do_not_exhaust_the_stack() -> None:
    tree = msgpack.packb([])
    for _ in range(20_000):
        tree = msgpack.packb(msgpack.ExtType(10, tree[-100_000:]))
        if len(tree) > 90_000:
            break
    with pytest.raises(Malformed, match="nested too deeply"):
        decode(memoryview(tree), memoryview(b""))


@pytest.mark.parametrize("dtype", ["O", "V8", "i4,i4", "nonsense"])
@pytest.mark.parametrize("code", [0, 1])
def test_an_array_of_objects_is_not_made_of_bytes(dtype: str, code: int) -> None:
    own = msgpack.unpackb(Encoder(len).encode(0), strict_map_key=False)[0]
    inner = [[dtype, [1], 0], [dtype, bytes(8)]][code]
    tree = msgpack.packb([own, msgpack.ExtType(code, msgpack.packb(inner))])
    with pytest.raises(Malformed):
        decode(memoryview(tree), memoryview(bytes(8)))
