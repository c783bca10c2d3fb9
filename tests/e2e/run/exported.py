"""What a run exports, looked at with plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer, GenerationConfig

QUESTION = [{"role": "user", "content": "47+38="}]
PROMPT, END = "47+38=<|im_start|>", "<|im_end|>"
"""How the small models' template renders the question, and what ends its turns."""


def check_exported(folder: Path, critic: bool = False) -> None:
    """The folder (`hf`, `hf_critic`) holds the model, the tokenizer, the template and the end of turn of its run."""
    resolved: dict[str, Any] = yaml.safe_load((folder.parent / "resolved.yaml").read_text())
    dtype = getattr(torch, (resolved["critic"] if critic else resolved)["model"]["dtype"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert text == PROMPT
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    assert len(tokens) == 7
    assert tokenizer.decode(tokens) == PROMPT
    assert tokenizer.decode([GenerationConfig.from_pretrained(folder).eos_token_id]) == END
    family = AutoModelForTokenClassification if critic else AutoModelForCausalLM
    model = family.from_pretrained(folder)
    assert model.dtype == dtype
    weights, loaded = load_file(folder / "model.safetensors"), model.state_dict()
    if model.config.tie_word_embeddings:
        del loaded["lm_head.weight"]
    assert all(torch.equal(weights[name], loaded[name]) for name in weights.keys() & loaded.keys())
    # Experts, which the file holds one by one, are joined in transformers.
    experts = [
        sum(float(all_of[name].double().sum()) for name in all_of.keys() - other.keys())
        for all_of, other in ((weights, loaded), (loaded, weights))
    ]
    assert experts[0] == pytest.approx(experts[1], rel=1e-9)
    with torch.no_grad():
        assert bool(torch.isfinite(model(torch.tensor([tokens])).logits).all())
