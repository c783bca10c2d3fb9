"""A trained model as a Hugging Face folder: the policy's is what SGLang serves, the critic's a token classifier."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from rlscale.trainer.megatron.safetensors_file import SafetensorsFile
from rlscale.weights.load import INDEX
from rlscale.weights.source import WeightSource

_LEFT_OUT = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", INDEX)
"""Endings of the source folder's files that hold weights; everything else (config, tokenizer, template) is copied."""


_FILE_BYTES = 4 * 2**30
"""A file is closed before it passes this."""

_CLASSIFIERS = {"qwen3": "Qwen3ForTokenClassification", "qwen3_moe": "Qwen3MoeForTokenClassification"}
"""The class of transformers that reads a critic, by Hugging Face's model_type."""


def critic_config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """What the config.json of a critic says otherwise than that of the model it started from."""
    return {
        "architectures": [_CLASSIFIERS[str(hf["model_type"])]],
        "id2label": {"0": "value"},  # from it transformers takes the number of labels
        "label2id": {"value": 0},
        "num_labels": 1,
        "tie_word_embeddings": False,
        "classifier_dropout": 0.0,
    }


def export_folder(
    source: WeightSource, model_folder: str, target: str | Path, changes: Mapping[str, Any] | None = None
) -> None:
    """Write the weights and the model folder's other files; the target appears whole or not at all. Collective.

    config.json is copied as it is but for `changes`: transformers leaves out keys that SGLang reads when it writes one.
    OSError when the disk refuses, on every rank.
    """
    target = Path(target)
    writes = dist.get_rank() == 0
    failure: list[OSError | None] = [None]
    partial = None
    try:
        if writes:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        failure = [error]
    files = _Files(partial) if partial is not None else None
    for bucket in source.buckets(0):  # every rank to the end, whatever happens to the disk
        if files is None or failure[0] is not None:
            continue
        try:
            for name, tensor in bucket.named:
                files.add(name, tensor)
        except OSError as error:
            failure = [error]
    if partial is not None and files is not None and failure[0] is None:
        try:
            files.close()
            _complete(partial, Path(model_folder), target, files, changes)
        except OSError as error:
            failure = [error]
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise failure[0]


class _Files:
    """The safetensors files of a folder, one after the other. OSError when the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: SafetensorsFile | None = None
        self.file_of: dict[str, str] = {}
        """The name of the file that holds each tensor."""
        self.names: list[str] = []
        self.nbytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor into the open file, or into the next if that is full."""
        file = self._open
        if file is None or file.nbytes + tensor.nbytes > _FILE_BYTES or not file.has_room(name):
            self.close()
            self.names.append(f"model-{len(self.names) + 1:05d}.safetensors")
            self._open = file = SafetensorsFile(self._folder / self.names[-1])
        file.add(name, tensor)
        self.file_of[name] = self.names[-1]
        self.nbytes += tensor.nbytes

    def close(self) -> None:
        """Close the open file."""
        if self._open is not None:
            self._open.close()


def _complete(
    partial: Path, model_folder: Path, target: Path, files: _Files, changes: Mapping[str, Any] | None
) -> None:
    """Add index and the other files, then put the folder in its place."""
    if len(files.names) == 1:
        (partial / files.names[0]).rename(partial / "model.safetensors")
    else:
        index = {"metadata": {"total_size": files.nbytes}, "weight_map": files.file_of}
        (partial / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in model_folder.iterdir():
        if file.is_file() and not file.name.endswith(_LEFT_OUT):
            shutil.copy(file, partial / file.name)
    if changes:
        config = json.loads((partial / "config.json").read_text(encoding="utf-8")) | changes
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    partial.chmod(0o755)
    if target.exists():
        shutil.rmtree(target)
    os.replace(partial, target)
