"""Following a file that somebody else writes, and looking at a long one without reading it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from rlscale.observe.tail import Tail, end_lines, sampled_lines


def test_new_lines_are_read_once_and_half_ones_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tail = Tail(path)
    assert (tail.read(), tail.share) == ([], 1.0), "it is not there yet"
    path.write_bytes(b"one\ntw")
    assert (tail.read(), tail.read()) == ([b"one"], [])
    assert tail.share < 1
    with path.open("ab") as file:
        file.write(b"o\nthree\r with \x0b signs\n")
    assert (tail.read(), tail.share) == ([b"two", b"three\r with \x0b signs"], 1.0)


def test_a_file_is_read_in_pieces_whatever_its_lines_are_long(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * 100 + b"\n" + b"b\n" * 50)
    tail, found = Tail(path), list[bytes]()
    while lines := tail.read(16):
        found += lines
    assert found == [b"a" * 100, *[b"b"] * 50]


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)
    tail.read()
    path.write_bytes(b"1\n")
    assert (tail.read(), tail.generation) == ([b"1"], 1)
    other = tmp_path / "other"
    other.write_bytes(b"uno\ndue\ntre\n")
    other.replace(path)
    assert (tail.read(), tail.generation) == ([b"uno", b"due", b"tre"], 2)


def test_a_sample_of_a_long_file_is_even_whole_and_has_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%05d\n" % number for number in range(1000)))
    found = [int(line) for line in sampled_lines(path, 10)]
    assert (found[0], found[-1]) == (0, 999)
    assert found == sorted(found)
    assert max(b - a for a, b in itertools.pairwise(found)) <= 101


def test_the_last_lines_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\nsecond\nthird\nhalf")
    assert end_lines(path, 2) == [b"second", b"third"]
    assert end_lines(path, 9, most=14) == [b"third"]
    assert end_lines(tmp_path / "none", 2) == []


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    os.mkfifo(path)
    assert (Tail(path).read(), sampled_lines(path, 3), end_lines(path, 3)) == ([], [], [])
