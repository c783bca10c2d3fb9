"""Makes what this job needs below `made/`: a tokenizer, a small model with random weights, and the data.

`python prepare.py` takes seconds and downloads nothing. Nothing here is rlscale's: in your job these are your own.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

MADE = Path(__file__).parent / "made"

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTIONS = ("What is {a} plus {b}?", "Add {a} and {b}.", "I have {a} apples and get {b}. How many are that?")
DEMONSTRATIONS, PROBLEMS, HELD_OUT = 1500, 6000, 300


def question(a: int, b: int) -> dict[str, str]:
    """The user's message; which of the forms is asked depends on the numbers."""
    return {"role": "user", "content": QUESTIONS[(3 * a + b) % len(QUESTIONS)].format(a=a, b=b)}


def worked(a: int, b: int) -> dict[str, str]:
    """The assistant's message: first the units, then the tens with what is carried, then the answer."""
    units = a % 10 + b % 10
    tens = f"{a // 10}+{b // 10}+{units // 10}={a // 10 + b // 10 + units // 10}"
    return {"role": "assistant", "content": f"<think>{a % 10}+{b % 10}={units},{tens}</think>{a + b}"}


def write_data() -> None:
    """Demonstrations to learn the form from, problems to practise on, and others to be measured on: all differ."""
    pairs = [(a, b) for a in range(100) for b in range(100)]
    random.Random(0).shuffle(pairs)
    shown, rest = pairs[:DEMONSTRATIONS], pairs[DEMONSTRATIONS:]
    practised, held_out = rest[:PROBLEMS], rest[PROBLEMS : PROBLEMS + HELD_OUT]
    rows: dict[str, list[dict[str, Any]]] = {
        "demonstrations": [{"messages": [question(a, b), worked(a, b)]} for a, b in shown],
        "problems": [{"messages": [question(a, b)], "answer": a + b} for a, b in practised],
        "held_out": [{"messages": [question(a, b)], "answer": a + b} for a, b in held_out],
    }
    for name, lines in rows.items():
        (MADE / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on the questions, in which every digit and sign stays a token of its own."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|[+=,]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((question(a, b)["content"] for a in range(100) for b in range(100)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>", chat_template=TEMPLATE, model_max_length=128
    )


def model(words: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of about a million parameters."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.06,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def main() -> None:
    """Make everything."""
    MADE.mkdir(exist_ok=True)
    write_data()
    words = tokenizer()
    words.save_pretrained(MADE / "model")
    model(words).save_pretrained(MADE / "model")


if __name__ == "__main__":
    main()
