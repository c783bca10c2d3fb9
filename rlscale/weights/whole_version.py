"""One version of a model's weights as a folder that any engine loads: safetensors, checksums, config and tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlscale.families.weight_files import SUMS
from rlscale.weights.bucket import Bucket
from rlscale.weights.folder_aside import FolderAside
from rlscale.weights.safetensors_folder import SafetensorsFolder

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")


class WholeVersion:
    """A version while it is written, bucket after bucket. OSError when the disk refuses."""

    def __init__(self, target: Path, beside: Path | None) -> None:
        """`beside`: a model folder; what lies there beside the weights is copied."""
        self._aside = FolderAside(target)
        try:
            if beside is not None:
                copy_beside(beside, self._aside.path)
            self._files = SafetensorsFolder(self._aside.path, indexed=True)
        except BaseException:
            self._aside.discard()
            raise

    def add(self, bucket: Bucket) -> None:
        """Write the tensors of a bucket."""
        self._files.add_all(bucket.named)

    def publish(self) -> Path:
        """Give the folder its name, now that all weights are in it."""
        self._files.close()
        return self._aside.publish()

    def discard(self) -> None:
        """Remove it, unless it was published."""
        try:
            self._files.abandon()
        finally:
            self._aside.discard()


def copy_beside(model: Path, target: Path) -> None:
    """Copy the files of a model folder that hold no weights and are not hidden: config, tokenizer, template."""
    for file in model.iterdir():
        if file.is_file() and not file.name.startswith(".") and not file.name.endswith((*_WEIGHTS, SUMS)):
            shutil.copyfile(file, target / file.name)
