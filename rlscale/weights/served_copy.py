"""A folder's weights written for engines: as numbers of one type, or as codes and scales, whatever the folder has.

Updates come in that form, and an engine that holds codes would take numbers for codes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from rlscale.families.served_form import ServedForm
from rlscale.families.weight_files import INDEX
from rlscale.weights.encode import encoding_of
from rlscale.weights.load import WeightFolder
from rlscale.weights.safetensors_file import SafetensorsFile

_PARTS = 3
"""Tensors that one weight may become: codes, scales, shape."""


def write_served(model: Path, target: Path, dtype: str, form: ServedForm) -> None:
    """Write the weights of a model folder into the folder `target`, a file for each of its files.

    What is quantised, in the folder or in `form`, is rounded once to `dtype`, as a trainer does that reads it, and then
    encoded; everything else stays as it is. One tensor is held at a time.
    UserError for weights that cannot be read, OSError when the disk refuses.
    """
    with WeightFolder(model) as source:
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in source.names():
            by_file[source.file_of(name)].append(name)
        size = 0
        file_of: dict[str, str] = {}
        for file, names in by_file.items():
            room = [f"{name}_scale_inv" for name in names] * _PARTS
            written = SafetensorsFile(target / file, room_for=room)
            for name in names:
                for stored, tensor in _as_served(source, name, dtype, form):
                    written.add(stored, tensor)
                    file_of[stored] = file
            written.close()
            size += written.nbytes
    index = {"metadata": {"total_size": size}, "weight_map": file_of}
    (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _as_served(source: WeightFolder, name: str, dtype: str, form: ServedForm) -> Iterator[tuple[str, Tensor]]:
    """What the copy holds of a tensor of the model."""
    tensor = source.read(name)
    if source.is_quantised(name) or form.quantises(name):
        tensor = tensor.to(getattr(torch, dtype))
    yield from encoding_of(form).named(name, tensor) if form.quantises(name) else [(name, tensor)]
