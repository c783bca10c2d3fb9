"""The weights that a model starts from are of its own architecture, in a folder or in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.families import FolderError
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.origin import ARCHITECTURE, CHECKPOINT, architecture_text, check_origin
from tests.unit.families.folders import DENSE

HERE = complete(DENSE)


def checkpoint(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / CHECKPOINT).write_text("{}")
    (folder / ARCHITECTURE).write_text(architecture_text(complete({**DENSE, **changes})))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_theta": 1e6}, "rope_theta is 1000000.0 there and 10000.0 here"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05 there and 1e-06 here"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True there and False here"),
        ({"vocab_size": 24}, "vocab_size is 24 there and 20 here"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(
    changes: dict[str, object], said: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    for folder in (make({**DENSE, **changes}), checkpoint(tmp_path / "checkpoint", **changes)):
        with pytest.raises(
            FolderError, match=f"holds a different model: {said}; give weights of the same architecture"
        ):
            check_origin(folder, HERE, Head.language)


def test_weights_of_the_same_model_pass(make: Callable[..., Path], tmp_path: Path) -> None:
    check_origin(make(), HERE, Head.language)
    check_origin(checkpoint(tmp_path / "checkpoint"), HERE, Head.language)
    check_origin(make({**DENSE, "tie_word_embeddings": True}), HERE, Head.value)


def test_a_checkpoint_that_does_not_say_whose_it_is_can_be_told(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint")
    (folder / ARCHITECTURE).unlink()
    with pytest.raises(FolderError, match=rf"copy that model's config\.json there as {ARCHITECTURE}"):
        check_origin(folder, HERE, Head.language)
    check_origin(folder, HERE, Head.language, needed=False)


def test_a_folder_of_neither_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="neither a Hugging Face folder"):
        check_origin(tmp_path, HERE, Head.language)
