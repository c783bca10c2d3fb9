"""The folder that engines start from: the model's own, or with another tokenizer one that says what ends a response.

An engine stops at the ends that config.json, generation_config.json and the tokenizer of its folder name. With a
tokenizer of the run's own, the model's ids are other tokens: responses would end in the middle of a word.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path

from rlscale.data.companions import Companions


def served_folder(companions: Companions, name: str, dtype: str, scratch: Path) -> Path:
    """The model's folder where its tokenizer is the run's; else `<scratch>/served/<name>-<hash>`, made once and kept.

    That holds links to the model's weights, and beside them what is exported at the end of the run, too. It appears
    whole or not at all. OSError when the disk refuses.
    """
    model = Path(companions.model_folder)
    if companions.tokenizer_folder == companions.model_folder:
        return model
    final = (scratch / "served" / f"{name}-{_digest(companions, dtype)}").resolve()
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}-{secrets.token_hex(6)}")
    temporary.mkdir()  # with the rights that the user's umask leaves, as tempfile's have not
    try:
        companions.write(temporary, dtype)
        for file in model.iterdir():
            if file.name.endswith((".safetensors", ".safetensors.index.json")):
                (temporary / file.name).symlink_to(file.resolve())
        os.replace(temporary, final)
    except OSError:
        if not final.is_dir():  # another run made the same one meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _digest(companions: Companions, dtype: str) -> str:
    """Of everything that would be written, and of which weights are linked."""
    said = hashlib.sha256(json.dumps([asdict(companions), dtype], sort_keys=True).encode())
    for file in companions.files():
        said.update(file.read_bytes())
    for file in sorted(Path(companions.model_folder).glob("*.safetensors")):
        said.update(f"{file.name} {file.stat().st_size}".encode())
    return said.hexdigest()[:12]
