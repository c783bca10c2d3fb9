"""A model's adapters as a folder in peft's form: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.config.schema.lora_config import LoraConfig
from rlscale.families.family import FolderError
from rlscale.families.linears import adapted_linears, linear_names
from rlscale.families.weight_files import SUMS
from rlscale.platform.weight_checksums import damaged_tensors
from rlscale.trainer.megatron.model.adapter_tensors import peft_name, peft_tensors, put_peft_tensors
from rlscale.trainer.megatron.model.model import Model
from rlscale.weights.adapter_file import read_adapter_file
from rlscale.weights.safetensors_file import SafetensorsFile

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "use_rslora": (False,),
    "fan_in_fan_out": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "modules_to_save": ([],),
    "layer_replication": ([],),
    "target_parameters": ([],),
    "trainable_token_indices": ([],),
    "lora_bias": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # others change the model below
    "alora_invocation_tokens": ([],),
    "use_qalora": (False,),
}
"""Keys of peft's that would make it another computation, and the values with which they do not, besides none."""


@dataclass(frozen=True)
class AdapterFolder:
    """What is written: whole matrices, and the config that belongs to them."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @staticmethod
    def of(model: Model, base: str) -> AdapterFolder:
        """Of a model with adapters on the model in the folder `base`. Collective."""
        assert model.adapters is not None
        tensors = peft_tensors(model.adapters, model.groups)
        return AdapterFolder(peft_config(model.adapters.lora, model.weights.config, base), tensors)

    def write(self, folder: Path) -> None:
        """Make the folder and write both files, and the checksums of the tensors. OSError when the disk refuses."""
        folder.mkdir()
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        file = SafetensorsFile(folder / TENSORS, room_for=self.tensors.keys())
        for name, tensor in self.tensors.items():
            file.add(name, tensor)
        file.close()
        (folder / SUMS).write_text(json.dumps(file.checksums, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def peft_config(lora: LoraConfig, config: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The content of adapter_config.json. `config`: the model's, completed."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": target_modules(lora, config),
    }


def target_modules(lora: LoraConfig, config: Mapping[str, Any]) -> list[str]:
    """The last parts of names (q_proj) where these pick the linears that have adapters and no others, else names."""
    picked = {*adapted_linears(config, lora.targets)}
    every = (*linear_names(config, experts=False), *linear_names(config, experts=True))
    last = {name.rpartition(".")[2] for name in picked}
    by_last = {name for name in every if name.rpartition(".")[2] in last}
    return sorted(last if by_last == picked else picked)


def load_adapter_folder(model: Model, folder: str) -> None:
    """Start the adapters with those of a folder, on every rank. UserError if they are of another kind or do not fit."""
    assert model.adapters is not None
    config, tensors = _read(Path(folder))
    lora = model.adapters.lora
    for key, value, name in (("r", lora.rank, "rank"), ("lora_alpha", lora.alpha, "alpha")):
        if config.get(key) != value:
            raise UserError(f"model.lora.path={folder}: has {key}={config.get(key)}; set model.lora.{name} to it")
    for key, fine in _PLAIN.items():
        if config.get(key) is not None and config[key] not in fine:
            raise UserError(f"model.lora.path={folder}: {key}={config[key]} is not supported; only plain LoRA is")
    ours = {*adapted_linears(model.weights.config, lora.targets)}
    theirs = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    for some, where in ((theirs - ours, "in this run"), (ours - theirs, "in that folder")):
        if some:
            raise UserError(
                f"model.lora.path={folder}: {min(some)} has no adapter {where}; set model.lora.targets to what that "
                "adapter was made with"
            )
    if unknown := tensors.keys() - {peft_name(linear, matrix) for linear in ours for matrix in "ab"}:
        raise UserError(
            f"model.lora.path={folder}: {min(unknown)} is not of plain LoRA, the only form that is supported"
        )
    refuse_damaged(Path(folder))
    if wrong := put_peft_tensors(model.adapters, model.groups, tensors):
        raise UserError(f"model.lora.path={folder}: {wrong[0]} is not of this model: it is missing or of another shape")


def refuse_damaged(folder: Path) -> None:
    """UserError for a tensor that is not what was written, as far as there are checksums (other tools write none)."""
    try:
        wrong = damaged_tensors(folder)
    except (FolderError, OSError) as error:
        raise UserError(f"model.lora.path={folder}: {error}") from error
    if wrong:
        raise UserError(
            f"model.lora.path={folder}: {wrong[0]} is not what was written (its checksum differs); export the adapter "
            f"again, or remove its {SUMS} if it was changed on purpose"
        )


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("peft_type") != "LORA":
            raise UserError(f"model.lora.path={folder}: is of type {config.get('peft_type')}, not LORA")
        return config, read_adapter_file(folder / TENSORS)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"model.lora.path={folder} cannot be read ({error}); give a folder with {CONFIG}, {TENSORS}"
        ) from error
