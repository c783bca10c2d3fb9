"""A folder's weights written as numbers of one type, for engines: updates of a trainer are numbers, not codes."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import torch

from rlscale.families.weight_files import INDEX
from rlscale.weights.load import WeightFolder
from rlscale.weights.safetensors_file import SafetensorsFile


def write_dequantised(model: Path, target: Path, dtype: str) -> None:
    """Write the weights of a quantised folder into the folder `target`, a file for each of its files.

    What is quantised is rounded once to `dtype`, everything else stays as it is. One tensor is held at a time.
    UserError for weights that cannot be read, OSError when the disk refuses.
    """
    with WeightFolder(model) as source:
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in source.names():
            by_file[source.file_of(name)].append(name)
        size = 0
        file_of: dict[str, str] = {}
        for file, names in by_file.items():
            written = SafetensorsFile(target / file, room_for=names)
            for name in names:
                tensor = source.read(name)
                written.add(name, tensor.to(getattr(torch, dtype)) if source.is_quantised(name) else tensor)
            written.close()
            size += written.nbytes
            file_of |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": size}, "weight_map": file_of}
    (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
