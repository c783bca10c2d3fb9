"""Good folders that the cases damage: small models, and a run with two checkpoints. Made once, copied for each case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DENSE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "vocab_size": 272,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "bos_token_id": None,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
RUN = ["warm_start=null", "run.output=run"]
"""The command line that made the stored run."""


def make(name: str, folder: Path) -> None:
    """Make one of the stored folders at `folder`."""
    _STOCK[name](folder)


def _model(folder: Path, **changes: Any) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    kind = changes.pop("model_type", "qwen3")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**DENSE, **changes}, dtype="float32"))
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=3, do_sample=True)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> Any:
    """One token per byte: knows every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def _run(folder: Path, state: str = "unfinished") -> None:
    """A run of the default recipe without its warm start, with checkpoints of the iterations 1 and 2."""
    from rlscale.config.composition.compose import compose
    from rlscale.config.composition.written_recipe import write_recipe
    from rlscale.config.keys import config_hash
    from rlscale.run.disk.checkpoint import CheckpointStore, Progress
    from rlscale.run.disk.run_folder import RunFolder

    config = compose(None, RUN)
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.logs.mkdir()
    run.mark(recipe=config.run.recipe, config_hash=config_hash(config), state=state)
    write_recipe(config, folder)
    (folder / "metrics.jsonl").write_text('{"iteration": 1, "loss": 0.5}\n{"iteration": 2, "loss": 0.4}\n')
    (folder / "summary.json").write_text(json.dumps({"status": "stopped"}))
    store = CheckpointStore(run.checkpoints, keep=2)
    for iteration in (1, 2):
        begun = store.begin(Progress(iteration, iteration, iteration), config_hash(config), {"position": iteration})
        _trainer_files(begun.trainer)
        store.complete(begun)


def _trainer_files(folder: Path) -> None:
    """What a trainer's rank leaves behind, by name and kind; its content is read only by ranks."""
    folder.mkdir()
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    (folder / ".metadata").write_bytes(b"\x80\x04" + bytes(200))
    (folder / "common.pt").write_bytes(b"PK\x03\x04" + bytes(500))
    (folder / "__0_0.distcp").write_bytes(bytes(range(256)) * 16)


_STOCK: dict[str, Callable[[Path], None]] = {
    "model": _model,
    "tied": lambda folder: _model(folder, tie_word_embeddings=True),
    "moe": lambda folder: _model(folder, model_type="qwen3_moe", **EXPERTS),
    "other": lambda folder: _model(folder, rope_theta=500000.0),
    "small": lambda folder: _model(folder, hidden_size=16),
    "run": _run,
    "finished": lambda folder: _run(folder, "finished"),
}
