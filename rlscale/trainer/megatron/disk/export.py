"""A trained model as a Hugging Face folder: the policy's is what SGLang serves, the critic's a token classifier."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.data.folders.companions import Companions
from rlscale.families import FAMILIES
from rlscale.families.weight_files import ADAPTER
from rlscale.trainer.megatron.disk.adapter_folder import AdapterFolder
from rlscale.weights.bucket import WeightSource
from rlscale.weights.folder_aside import sync_folder
from rlscale.weights.safetensors_folder import SafetensorsFolder


def critic_config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """What the config.json of a critic says otherwise than that of the model it started from."""
    value_class = FAMILIES[str(hf["model_type"])].value_class
    assert value_class is not None, "configurations with such a critic are refused"
    return {
        "architectures": [value_class],
        "id2label": {"0": "value"},  # from it transformers takes the number of labels
        "label2id": {"value": 0},
        "num_labels": 1,
        "tie_word_embeddings": False,
        "classifier_dropout": 0.0,
    }


def export_folder(
    source: WeightSource,
    companions: Companions,
    target: str | Path,
    changes: Mapping[str, Any] | None = None,
    kept: Iterable[tuple[str, Tensor]] = (),
    adapter: AdapterFolder | None = None,
) -> None:
    """Write the weights and what lies beside them; the target appears whole or not at all. Collective.

    No more than a bucket of weights is held. What was there before stays until `put_in_place` takes it away.
    config.json names the type of the weights that were written, and has the `changes`. `kept`: what is written besides
    the source's tensors, by rank 0. `adapter`: written into a subfolder of that name.
    On every rank OSError when the disk refuses, UserError for a tensor of `kept` that is not what was written or
    has a type that is not written here.
    """
    target = Path(target)
    failure: list[OSError | UserError | None] = [None]
    partial = None
    try:
        partial = _folder_beside(target) if dist.get_rank() == 0 else None
    except OSError as error:
        failure = [error]
    files = SafetensorsFolder(partial, indexed=False) if partial is not None else None
    for bucket in source.buckets(0):  # every rank to the end, whatever happens to the disk
        if files is not None and failure[0] is None:
            try:
                files.add_all(bucket.named)
            except (OSError, UserError) as error:
                failure = [error]
        del bucket  # before the next one is made
    if partial is not None and files is not None and failure[0] is None:
        try:
            files.add_all(kept)
            files.close()
            companions.write(partial, files.dtype, changes)
            if adapter is not None:
                adapter.write(partial / ADAPTER)
            put_in_place(partial, target)
        except (OSError, UserError) as error:
            failure = [error]
    if files is not None and failure[0] is not None:
        files.abandon()
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise failure[0]


def _folder_beside(target: Path) -> Path:
    """A new folder for what is to become the target. OSError when the disk refuses."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}-{secrets.token_hex(6)}")
    partial.mkdir()  # with the rights that the user's umask leaves, as tempfile's have not
    return partial


def put_in_place(partial: Path, target: Path) -> None:
    """Give a complete folder its name, in the place of an older one where there is one. OSError when the disk refuses.

    At every moment, also after a loss of power, the one or the other is there under the name; or, between two
    renamings, the older one under the name with `.replaced` behind it.
    """
    for file in (file for file in partial.rglob("*") if file.is_file()):
        with open(file, "rb") as written:
            os.fsync(written.fileno())
    for folder in (*(folder for folder in partial.rglob("*") if folder.is_dir()), partial):
        sync_folder(folder)
    older = None
    try:
        os.replace(partial, target)  # an empty folder is replaced as well
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        older = _free_name(target)
        os.replace(target, older)
        try:
            os.replace(partial, target)
        except OSError:
            os.replace(older, target)
            raise
    sync_folder(target.parent)
    if older is not None:
        shutil.rmtree(older, ignore_errors=True)


def _free_name(target: Path) -> Path:
    """A name beside the target for what it replaces; what an interrupted export has left is not ours to remove."""
    number, name = 1, target.with_name(f"{target.name}.replaced")
    while name.exists():
        number += 1
        name = target.with_name(f"{target.name}.replaced-{number}")
    return name
