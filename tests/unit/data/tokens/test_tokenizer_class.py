"""A usual folder's tokenizer is the one that transformers' AutoTokenizer makes of it, without the import of that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import load_tokenizer
from rlscale.data.tokens.tokenizer_class import known_class
from rlscale.families import FAMILIES
from tests.unit.forked import printed_without

WRITTEN = [(family.model_type, written) for family in FAMILIES.values() for written in family.tokenizer_classes]
TEXTS = ("12+3=15", "<|im_start|>1<|im_end|>", " 1  +\n2", "é7", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of characters and byte-level merges, in a folder of a model."""
    made = character_tokenizer("0123456789+=Ġ", 64)
    merged = json.loads(made.backend_tokenizer.to_str())
    merged["model"]["vocab"] |= {"12": 17, "Ġ1": 18}
    merged["model"]["merges"] = [["1", "2"], ["Ġ", "1"]]
    made.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(merged))
    describe(tmp_path, "qwen3", "Qwen2Tokenizer")
    return tmp_path


def describe(folder: Path, model_type: str | None, written: str, **more: object) -> None:
    """Say whose the folder's tokenizer is; that of no model has no config of one beside it."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": written, **more}))
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    else:
        (folder / "config.json").unlink()


@pytest.mark.parametrize(("model_type", "written"), [*WRITTEN, (None, "TokenizersBackend")])
def test_it_is_the_same_as_that_of_auto_tokenizer(folder: Path, model_type: str | None, written: str) -> None:
    describe(folder, model_type, written)
    assert known_class(folder) is not None
    from transformers import AutoTokenizer  # which imports torch's compiler: not by every process of pytest

    known, auto = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(known) is type(auto)
    assert known.backend_tokenizer.to_str() == auto.backend_tokenizer.to_str()
    assert vars(known).keys() == vars(auto).keys()
    assert repr(known) == repr(auto)
    assert (known.init_kwargs, known.chat_template) == (auto.init_kwargs, auto.chat_template)
    assert known(list(TEXTS)) == auto(list(TEXTS))


def test_what_is_unusual_is_left_to_auto_tokenizer(folder: Path) -> None:
    assert known_class(folder) == "Qwen2Tokenizer"
    for described in (("gemma2", "Qwen2Tokenizer"), ("qwen3", "MyTokenizer")):
        describe(folder, *described)
        assert known_class(folder) is None
    describe(folder, "qwen3", "Qwen2Tokenizer", auto_map={"AutoTokenizer": [None, "mine.MyTokenizer"]})
    assert known_class(folder) is None
    describe(folder, None, "TokenizersBackend")
    assert known_class(folder) is None, "auto_map is still there"
    describe(folder, "mistral", "TokenizersBackend")
    assert known_class(folder) is None
    (folder / "config.json").write_text("[]")
    assert known_class(folder) is None
    (folder / "config.json").unlink()
    assert known_class(folder) is None


def test_a_usual_tokenizer_is_read_without_the_auto_classes_and_torchs_compiler(folder: Path) -> None:
    loader = "from rlscale.data.tokens.prompt_encoder import load_tokenizer"
    read = f"{loader}; print(load_tokenizer({str(folder)!r})('12').input_ids)"
    imported = "import sys; print([m for m in ('torch._dynamo', 'transformers.models.auto') if m in sys.modules])"
    # torch imports its compiler when it is asked for the attribute, which this process may have been already.
    forget = "import torch; vars(torch).pop('_dynamo', None)"
    printed = printed_without(("rlscale", "torch._dynamo", "transformers"), f"{forget}; {read}; {imported}")
    assert printed.splitlines() == ["[5, 6]", "[]"]  # of Qwen2, where every digit is a token
