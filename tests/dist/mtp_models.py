"""Tiny models with the whole layer that predicts a token further, and what plain torch and transformers make of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_of_family, with_configured_norms
from torch import Tensor
from torch.nn import functional as F

from rlscale.data.batches.batch import Batch
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.multi_token_prediction import beginning_of, copies
from rlscale.families.tensors import expected_tensors


def make_predicting(folder: Path, family: str, **changes: Any) -> Path:
    """`make_of_family`, with every tensor of the layer, and copies of embedding and head as published folders have."""
    make_of_family(folder, family, **changes)
    config = complete(json.loads((folder / "config.json").read_text()))
    known, layer = FAMILIES[family], beginning_of(FAMILIES[family], config)
    tensors = {name: x for name, x in load_file(folder / "model.safetensors").items() if not name.startswith(layer)}
    random = torch.Generator().manual_seed(5)
    for name, (shape, _) in expected_tensors(config, Head.language, mtp=True).items():
        if name.startswith(layer):
            noise = torch.randn(shape, generator=random)
            tensors[name] = float(not known.delta_net) + 0.1 * noise if "norm" in name else 0.1 * noise
    if known.kept is None:
        tensors |= {name: tensors[of_model].clone() for name, of_model in copies(config).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


_KINDS = {"mlp_layer_types": "sparse", "layer_types": "deepseek_sparse_attention", "indexer_types": "full"}
"""Keys that say what kind each layer is, and what the layer is; with gated delta nets it has attention."""

OWN = ("enorm", "hnorm", "eh_proj", "shared_head.norm")
"""What the layer has besides a decoder layer."""
OWN_OF_MODULE = ("mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.fc", "mtp.norm")
"""The same where folders have it as a module, in which its decoder layer is `mtp.layers.0`."""


@dataclass
class Expected:
    """Of a step's loss of the layer, in float64."""

    mean: float
    """Negative log-prob of a token, mean over all that are predicted."""
    gradients: dict[str, np.ndarray]
    """Of the weighted sum, by Hugging Face's name, of the tensors that are the layer's own and no expert's."""


class Reference:
    """A folder's model in transformers and float64, and its layer that predicts a token further as one layer more."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        number, module = config["num_hidden_layers"], FAMILIES[config["model_type"]].kept is not None
        self.beginning = "mtp.layers.0." if module else f"model.layers.{number}."
        named = OWN_OF_MODULE if module else [f"{self.beginning}{name}" for name in OWN]
        tensors = load_file(folder / "model.safetensors")
        self.own = {f"{name}.weight": tensors[f"{name}.weight"].double().requires_grad_() for name in named}
        kinds = {key: [*config[key], kind] for key, kind in _KINDS.items() if key in config}
        if module:
            kinds["layer_types"] = [*complete(config)["layer_types"], "full_attention"]
        self._eps, self._less = config.get("rms_norm_eps", 1e-6 if module else 1e-5), float(module)
        self.model = self._load(folder)
        self._longer = self._load(self._renamed(folder, tensors, number), num_hidden_layers=number + 1, **kinds)
        self.layer = self._longer.model.layers[number]

    def _renamed(self, folder: Path, tensors: dict[str, Tensor], number: int) -> Path:
        """The folder with the layer's decoder layer under the names of one more layer of the model."""
        target = folder / "longer"
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text((folder / "config.json").read_text())
        names = {name: name.replace(self.beginning, f"model.layers.{number}.", 1) for name in tensors}
        save_file({names[name]: x for name, x in tensors.items()}, target / "model.safetensors", {"format": "pt"})
        return target

    @staticmethod
    def _load(folder: Path, **changes: Any) -> Any:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, experts_implementation="eager", **changes
        )
        return with_configured_norms(model.eval())

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight + self._less, self._eps)

    def logits(self, tokens: Tensor) -> Tensor:
        """[n] -> [n - 2, words] for each token from the third on."""
        enorm, hnorm, project, last = self.own.values()
        with torch.no_grad():
            hidden = self.model.model(tokens[None]).last_hidden_state[:, :-1]
            embedded = self.model.model.embed_tokens(tokens[None, 1:])
        x = F.linear(torch.cat([self._norm(embedded, enorm), self._norm(hidden, hnorm)], -1), project)
        positions = torch.arange(x.shape[1])[None]
        turned = self._longer.model.rotary_emb(x, positions)
        x = self.layer(x, attention_mask=None, position_embeddings=turned, position_ids=positions)
        x = self._norm(x[0] if isinstance(x, tuple) else x, last)  # with sparse attention, its choice comes with it
        return F.linear(x[0, :-1], self.model.lm_head.weight.detach())


def expected_loss(folder: Path, batch: Batch, temperature: float) -> Expected:
    """The formula of `steps.mtp_loss` row by row, with transformers' own decoder layer of the family."""
    reference = Reference(folder)
    every, loss = [], torch.zeros((), dtype=torch.float64)
    for row in range(batch.rows):
        at = slice(batch.offsets[row], batch.offsets[row + 1])
        tokens = torch.from_numpy(batch.column("tokens")[at].astype(np.int64))
        logits = reference.logits(tokens) / temperature
        nll = F.cross_entropy(logits, tokens[2:], reduction="none")
        mask, weight = (torch.from_numpy(batch.column(name)[at][2:]) for name in ("loss_mask", "loss_weight"))
        every.append(nll[mask].detach())
        loss = loss + (nll * weight.double() * mask).sum()
    loss.backward()
    within = reference.layer.named_parameters()
    of_layer = {reference.beginning + name: p for name, p in within if "experts." not in name}
    gradients = {name: p.grad.numpy() for name, p in (reference.own | of_layer).items() if p.grad is not None}
    return Expected(float(torch.cat(every).mean()), gradients)
