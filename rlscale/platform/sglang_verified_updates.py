"""Weights that an SGLang server verifies before it loads anything of them, on every device.

A flat bucket says its checksum beside its table of contents, a folder has its file of checksums. What says none is
loaded as SGLang comes. A failure is an answer: an exception would end the server.

A flat bucket in shared memory also says its file, which stays mapped here from one version to the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlscale.families.family import FolderError
from rlscale.platform.adapting import adapts_now
from rlscale.platform.mapped_files import MappedFiles
from rlscale.platform.weight_checksums import checksum, damaged_tensors

RUNNER_UPDATER = "sglang.srt.model_executor.model_runner_components.weight_updater"
CHECKSUM, FILE = "checksum", "file"
"""Keys of a flat bucket."""

_MARK = "rlscale_verifies"


def bucket_is_damaged(bucket: dict[str, Any]) -> bool:
    """Whether the bytes of a flat bucket are not those of its checksum; one without any is not."""
    expected = bucket.get(CHECKSUM)
    if expected is None:
        return False
    end = max(entry.end_idx for entry in bucket["metadata"])
    return checksum(bucket["flattened_tensor"][:end].numpy().data) != expected


def adapt_runner_updater(module: Any) -> None:
    """RUNNER_UPDATER: look at checksums first."""
    updater = module.WeightUpdater
    if not adapts_now(updater, _MARK):
        return
    load_bucket, load_folder = updater._update_weights_from_flattened_bucket, updater.update_weights_from_disk
    mapped = MappedFiles()

    def load_verified_bucket(self: Any, flattened_tensor_bucket_dict: dict[str, Any]) -> Any:
        bucket = flattened_tensor_bucket_dict
        if FILE in bucket:
            try:
                bucket = {**bucket, "flattened_tensor": mapped.read(bucket[FILE])}
            except OSError as error:
                return False, f"the bucket's file cannot be read ({error}); nothing was loaded of it"
        if bucket_is_damaged(bucket):
            return False, "the bucket was damaged on its way: its checksum is another one; nothing was loaded of it"
        return load_bucket(self, bucket)

    def load_verified_folder(self: Any, model_path: str, *args: Any, **keywords: Any) -> Any:
        try:
            damaged = damaged_tensors(Path(model_path))
        except (OSError, ValueError, FolderError) as error:
            return False, f"{model_path} cannot be verified ({error}); nothing was loaded"
        if damaged:
            return False, f"{model_path} is damaged: {len(damaged)} tensors, first {damaged[0]}; nothing was loaded"
        return load_folder(self, model_path, *args, **keywords)

    updater._update_weights_from_flattened_bucket = load_verified_bucket
    updater.update_weights_from_disk = load_verified_folder
