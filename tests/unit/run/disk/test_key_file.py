"""The file with the key of engines: one that holds none would open them to anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.run.disk.key_file import read_key


def test_a_key_is_read_without_the_white_space_around_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" secret\n")
    assert read_key(str(tmp_path / "key"), "rollout.engine_key_file") == "secret"


@pytest.mark.parametrize(
    ("content", "why"), [(b" \n", "holds no key"), (b"\xff\xfe", "cannot be read"), (None, "cannot")]
)
def test_a_file_without_a_key_is_refused_by_the_name_of_its_setting(
    content: bytes | None, why: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match=rf"^rollout\.engine_key_file=.*/key {why}"):
        read_key(str(tmp_path / "key"), "rollout.engine_key_file")
