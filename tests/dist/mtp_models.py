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

from rlscale.data.batch import Batch
from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.multi_token_prediction import copies
from rlscale.families.tensors import expected_tensors


def make_predicting(folder: Path, family: str, **changes: Any) -> Path:
    """`make_of_family`, with every tensor of the layer, and copies of embedding and head as published folders have."""
    make_of_family(folder, family, **changes)
    config = complete(json.loads((folder / "config.json").read_text()))
    layer = f"model.layers.{config['num_hidden_layers']}."
    tensors = {name: x for name, x in load_file(folder / "model.safetensors").items() if not name.startswith(layer)}
    random = torch.Generator().manual_seed(5)
    for name, (shape, _) in expected_tensors(config, Head.language, mtp=True).items():
        if name.startswith(layer):
            noise = torch.randn(shape, generator=random)
            tensors[name] = 1.0 + 0.1 * noise if "norm" in name else 0.1 * noise
    tensors |= {name: tensors[of_model].clone() for name, of_model in copies(config).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


_KINDS = {"mlp_layer_types": "sparse", "layer_types": "deepseek_sparse_attention", "indexer_types": "full"}
"""Keys that say what kind each layer is, and what the layer is."""


@dataclass
class Expected:
    """Of a step's loss of the layer, in float64."""

    mean: float
    """Negative log-prob of a token, mean over all that are predicted."""
    gradients: dict[str, np.ndarray]
    """Of the weighted sum, by Hugging Face's name, of the tensors that are the layer's own and no expert's."""


def expected_loss(folder: Path, batch: Batch, temperature: float) -> Expected:
    """The formula of `steps.mtp_loss` row by row, with transformers' own decoder layer of the family."""
    from transformers import AutoModelForCausalLM

    def load(**changes: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, experts_implementation="eager", **changes
        )
        return with_configured_norms(model.eval())

    config = json.loads((folder / "config.json").read_text())
    number, eps = config["num_hidden_layers"], config.get("rms_norm_eps", 1e-5)
    # The layer's decoder layer has the names of one more layer of the model.
    kinds = {key: [*config[key], kind] for key, kind in _KINDS.items() if key in config}
    model, longer = load(), load(num_hidden_layers=number + 1, **kinds)
    layer, beginning = longer.model.layers[number], f"model.layers.{number}."
    own = {
        name: tensor.double().requires_grad_()
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.removeprefix(beginning) in ("enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight")
    }
    enorm, hnorm, project, last = (
        own[f"{beginning}{name}.weight"] for name in ("enorm", "hnorm", "eh_proj", "shared_head.norm")
    )

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, eps)

    every, loss = [], torch.zeros((), dtype=torch.float64)
    for row in range(batch.rows):
        at = slice(batch.offsets[row], batch.offsets[row + 1])
        tokens = torch.from_numpy(batch.column("tokens")[at].astype(np.int64))
        with torch.no_grad():
            hidden = model.model(tokens[None]).last_hidden_state[:, :-1]
            embedded = model.model.embed_tokens(tokens[None, 1:])
        x = F.linear(torch.cat([norm(embedded, enorm), norm(hidden, hnorm)], -1), project)
        turned = longer.model.rotary_emb(x, torch.arange(x.shape[1])[None])
        x = layer(x, attention_mask=None, position_embeddings=turned, position_ids=torch.arange(x.shape[1])[None])
        x = norm(x[0] if isinstance(x, tuple) else x, last)  # with sparse attention, its choice comes with it
        logits = F.linear(x[0, :-1], model.lm_head.weight.detach()) / temperature
        nll = F.cross_entropy(logits, tokens[2:], reduction="none")
        mask, weight = (torch.from_numpy(batch.column(name)[at][2:]) for name in ("loss_mask", "loss_weight"))
        every.append(nll[mask].detach())
        loss = loss + (nll * weight.double() * mask).sum()
    loss.backward()
    of_layer = {beginning + name: p for name, p in layer.named_parameters() if "experts." not in name}
    gradients = {name: p.grad.numpy() for name, p in (own | of_layer).items() if p.grad is not None}
    return Expected(float(torch.cat(every).mean()), gradients)
