"""The folder that engines start from: the model's own, or one made of it.

An engine stops at the ends that config.json, generation_config.json and the tokenizer of its folder name. With a
tokenizer of the run's own, the model's ids are other tokens: responses would end in the middle of a word.
An engine takes updates in the form of the weights it started with: numbers, or codes and scales of one form. A folder
in another form is written anew; and an architecture that is published under a name of its own would need the code that
lies beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rlscale.data.folders.companions import Companions
from rlscale.data.folders.made_once import made_once
from rlscale.families import known_name
from rlscale.families.config_file import complete, read_config
from rlscale.families.quantisation import SECTION
from rlscale.families.served_form import ServedForm, WeightForm
from rlscale.families.stored_tensors import quantisation_of_folder

MADE = "served"
"""The folder below `run.scratch` of those that are made."""
WriteWeights = Callable[[Path, Path, str, ServedForm], None]
"""Writes a folder's weights for engines: model folder, target, type, form."""


def served_folder(
    companions: Companions, name: str, dtype: str, scratch: Path, write: WriteWeights, form: ServedForm | None = None
) -> Path:
    """The model's folder where an engine can take it as it is; else one made of it and kept.

    That is `<scratch>/served/<name>-<hash>`, with links to the model's weights, and beside them what is exported at the
    end of the run, too. Weights that are quantised, or are to be in `form` (None: as they are trained), are written
    there by `write`. It appears whole or not at all. OSError when the disk refuses.
    """
    form = form or ServedForm()
    model = Path(companions.model_folder)
    final = served_path(companions, name, dtype, scratch, form)
    if final == model:
        return model
    encoded, rewritten = _is_encoded(form), _is_rewritten(model, form)
    config = read_config(model)

    def fill(folder: Path) -> None:
        companions.write(folder, dtype, {SECTION: form.section(complete(config))} if encoded else None)
        if rewritten:
            write(model, folder, dtype, form)
        else:
            _link_weights(model, folder)

    return made_once(final, fill)


def served_path(companions: Companions, name: str, dtype: str, scratch: Path, form: ServedForm | None = None) -> Path:
    """The folder that `served_folder` gives, whether it is there or not."""
    form = form or ServedForm()
    model = Path(companions.model_folder)
    kind = read_config(model).get("model_type")
    known = not isinstance(kind, str) or known_name(kind) == kind
    if companions.tokenizer_folder == companions.model_folder and known and not _is_rewritten(model, form):
        return model
    return (scratch / MADE / f"{name}-{_digest(companions, dtype, form)}").resolve()


def _is_encoded(form: ServedForm) -> bool:
    return form.kind is not WeightForm.as_trained


def _is_rewritten(model: Path, form: ServedForm) -> bool:
    """Whether the weights are written anew."""
    return _is_encoded(form) or quantisation_of_folder(model) is not None


def _link_weights(model: Path, target: Path) -> None:
    for file in model.iterdir():
        if file.name.endswith((".safetensors", ".safetensors.index.json")):
            (target / file.name).symlink_to(file.resolve())


def _digest(companions: Companions, dtype: str, form: ServedForm) -> str:
    """Of everything that would be written, and of which weights are linked."""
    choices = [form.kind.value, form.group, form.grid.value]
    said = hashlib.sha256(json.dumps([asdict(companions), dtype, choices], sort_keys=True).encode())
    for file in companions.files():
        said.update(file.read_bytes())
    for file in sorted(Path(companions.model_folder).glob("*.safetensors")):
        # Also when it was written: a copy of quantised weights holds what they were then, and others are as large.
        said.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return said.hexdigest()[:12]
