"""Orders by which engines join and leave: written and read, and read from nobody else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.run.disk.membership_orders import FOLDER, EngineOrders, Told, checked_url

URL = "http://10.0.0.7:30000"


def test_an_order_takes_the_place_of_the_one_before_and_an_answer_is_to_one_alone(tmp_path: Path) -> None:
    orders = EngineOrders(tmp_path)
    assert list(orders.orders()) == []
    first = orders.give(URL + "/", wanted=True)
    orders.answer(first, Told(URL, "serving"))
    assert orders.told(first) == [Told(URL, "serving")]
    second = orders.give(URL, wanted=False)
    assert list(orders.orders()) == [second]
    assert orders.told(second) == [], "the answer was to the first"
    assert (second.url, second.wanted) == (URL, False)
    assert oct((tmp_path / FOLDER).stat().st_mode & 0o777) == "0o700"
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / FOLDER).iterdir() if "told" not in path.name} == {0}


@pytest.mark.parametrize(
    "url",
    [
        "10.0.0.7:30000",
        "http://10.0.0.7",
        "ftp://10.0.0.7:1",
        "http://a:b@c:1",
        "http://c:1/x",
        "http://c:1?x",
        "http://c:x",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is not the address of an engine; write it as http://host:port"):
        checked_url(url)


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_orders_that_somebody_else_may_have_written_are_not_read(what: str, tmp_path: Path) -> None:
    orders = EngineOrders(tmp_path)
    orders.give(URL, wanted=True)
    (file,) = (tmp_path / FOLDER).glob("*.json")
    if what == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        os.chmod(file if what == "file" else tmp_path / FOLDER, 0o770)
    with pytest.raises((UserError, OSError)):
        list(orders.orders())


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"url": URL, "wanted": 1, "id": "x"}), "[" * 5000])
def test_what_is_no_order_is_one_line(text: str, tmp_path: Path) -> None:
    EngineOrders(tmp_path).give(URL, wanted=True)
    (file,) = (tmp_path / FOLDER).glob("*.json")
    file.write_text(text)
    with pytest.raises(UserError, match="remove it"):
        list(EngineOrders(tmp_path).orders())


def test_an_order_takes_the_place_of_one_for_the_same_engine_by_another_name(tmp_path: Path) -> None:
    orders = EngineOrders(tmp_path)
    orders.give("http://localhost:7", wanted=True)
    other = orders.give("http://127.0.0.1:8", wanted=True)
    last = orders.give("http://127.0.0.1:7", wanted=False)
    assert sorted(order.id for order in orders.orders()) == sorted([other.id, last.id])


def test_orders_that_can_be_read_come_before_the_error_of_one_that_cannot(tmp_path: Path) -> None:
    orders = EngineOrders(tmp_path)
    (tmp_path / FOLDER).mkdir(mode=0o700)
    (tmp_path / FOLDER / "0.json").write_text("{")
    given = orders.give(URL, wanted=True)
    read = orders.orders()
    assert next(read) == given
    with pytest.raises(UserError, match="remove it"):
        next(read)
