"""Tiny random models in Hugging Face form, with weights far enough from zero to show errors."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

from rlscale.families import FAMILIES

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "dtype": "float32",
}
DEEP = 4
"""Layers of deep models: two stages of two chunks each have one."""
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


_FIXTURES = Path(__file__).parents[1] / "fixtures" / "families"


def make_model(folder: Path, kind: str, critic: bool = False, seed: int = 0, **sizes: Any) -> Path:
    """Write a model of kind tied or (deep_)moe, or a dense one; with `critic` one with a value head."""
    from transformers import Qwen3Config, Qwen3MoeConfig

    options = {**SIZES, "tie_word_embeddings": kind == "tied", **sizes}
    config = Qwen3MoeConfig(**options, **EXPERTS) if kind.endswith("moe") else Qwen3Config(**options)
    return _write(folder, config, critic, seed)


def make_of_family(folder: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """Write a model of a family as its fixture describes it, with the vocabulary of this folder's batches."""
    from transformers import AutoConfig

    fixture = json.loads((_FIXTURES / f"{family}.json").read_text())
    given = {**fixture, "vocab_size": SIZES["vocab_size"], **changes}
    config = AutoConfig.for_model(**{key: copy(value) for key, value in given.items() if key != "architectures"})
    _write(folder, config, critic=False, seed=seed)
    # transformers leaves out keys that SGLang reads; a published folder has them.
    if FAMILIES[family].kept or given.get("num_nextn_predict_layers"):
        _add_prediction_layer(folder, given, FAMILIES[family].kept)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, **written}, indent=2))
    return folder


def _add_prediction_layer(folder: Path, config: dict[str, Any], beginning: str | None) -> None:
    """A layer that predicts further tokens, which transformers leaves out: some tensors of the kind it has."""
    import torch
    from safetensors.torch import load_file, save_file

    layer, hidden = beginning or f"model.layers.{config['num_hidden_layers']}.", config["hidden_size"]
    more = {"eh_proj.weight": (hidden, 2 * hidden), "enorm.weight": (hidden,), "shared_head.norm.weight": (hidden,)}
    tensors = load_file(folder / "model.safetensors")
    tensors |= {layer + name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in more.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write(folder: Path, config: Any, critic: bool, seed: int) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    family: Any = AutoModelForCausalLM
    if critic:
        family, config.num_labels = AutoModelForTokenClassification, 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = family.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif name.endswith("A_log"):
                    parameter.copy_(torch.linspace(-3.0, 0.0, len(parameter)))  # matrices that last, unlike new ones
                elif name.endswith("_proj.bias"):
                    parameter.add_(0.3 * torch.randn_like(parameter))
                elif "bias" in name:
                    parameter.add_(0.3)
                else:
                    parameter.mul_(4)
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.add_(0.02 * torch.randn_like(buffer))
    model.float().eval().save_pretrained(folder)
    return folder


def with_configured_norms(model: Any) -> Any:
    """The model with `rms_norm_eps` in the norms of latent attention, as in SGLang; transformers has 1e-6 there."""
    for name, module in model.named_modules():
        if name.endswith(("q_a_layernorm", "kv_a_layernorm")):
            module.variance_epsilon = model.config.rms_norm_eps
    return model


def make_models(folder: Path) -> dict[str, Path]:
    """Tiny models by kind: dense, tied, moe, and of four layers deep (dense) and deep_moe; a critic of each
    (`critic_dense`, ...), and other weights of two of them (`other_dense`, `other_moe`).
    """
    deep = {"num_hidden_layers": DEEP}
    sizes: dict[str, dict[str, int]] = {"dense": {}, "tied": {}, "moe": {}, "deep": deep, "deep_moe": deep}
    made = {}
    for kind, own in sizes.items():
        made[kind] = make_model(folder / kind, kind, **own)
        made[f"critic_{kind}"] = make_model(folder / f"critic_{kind}", kind, critic=True, seed=1, **own)
    return made | {f"other_{kind}": make_model(folder / f"other_{kind}", kind, seed=2) for kind in ("dense", "moe")}
