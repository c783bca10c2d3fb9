"""Chat templates as models are published with them, each with a tokenizer like its own; shared by several tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlscale.config.schema.data_config import DataConfig
from rlscale.data.tokens.prompt_encoder import PromptEncoder

TEMPLATES = Path(__file__).parent / "chat_templates"


@dataclass(frozen=True)
class Published:
    """What a model folder says besides its template."""

    eos: str
    added: tuple[str, ...]
    ends: str
    """The token that must be found to end a response."""
    stops: tuple[str, ...] = ()
    """Further tokens at which its generation config stops."""
    variables: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    """What a response begins with, as the template writes it into the history."""
    bos: str | None = None
    template: str = ""
    """The file of the template, where it is not named as the family is."""
    thought: str = ""
    """How a model that thinks writes a thought, behind the prompt, before what it says."""

    def written(self, text: str, thought: str) -> str:
        """What the model writes to say a text, after a thought or none."""
        begun = self.thought and "<think>" not in self.thought  # the prompt ends in the beginning of a thought
        return (self.thought.format(thought) if thought or begun else "") + self.before + text


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>")
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
)  # fmt: skip
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<think>", "</think>")
KIMI = ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>")
_GLM_STOPS = ("<|user|>", "<|observation|>")
_DEEPSEEK_END = "<｜end▁of▁sentence｜>"
FAMILIES = {
    "qwen2_5": Published("<|im_end|>", CHATML, "<|im_end|>"),
    "qwen3": Published("<|im_end|>", CHATML, "<|im_end|>", thought="<think>\n{}\n</think>\n\n"),
    "qwen3_instruct": Published("<|im_end|>", CHATML, "<|im_end|>"),
    "qwen3_next_thinking": Published("<|im_end|>", CHATML, "<|im_end|>", thought="{}\n</think>\n\n"),
    "llama3_1": Published("<|end_of_text|>", LLAMA, "<|eot_id|>", ("<|eom_id|>",), bos="<|begin_of_text|>"),
    "glm4_5": Published("<|endoftext|>", GLM, "<|user|>", _GLM_STOPS, {"enable_thinking": False}, before="\n"),
    "glm4_5_thinking": Published(
        "<|endoftext|>", GLM, "<|user|>", _GLM_STOPS, before="\n", template="glm4_5", thought="\n<think>{}</think>"
    ),
    "glm4_7": Published("<|endoftext|>", GLM, "<|user|>", _GLM_STOPS, {"enable_thinking": False}),
    "glm4_7_thinking": Published("<|endoftext|>", GLM, "<|user|>", _GLM_STOPS, template="glm4_7", thought="{}</think>"),
    "deepseek_v3_1": Published(_DEEPSEEK_END, DEEPSEEK, _DEEPSEEK_END, bos=DEEPSEEK[0]),
    "deepseek_v3_1_thinking": Published(
        _DEEPSEEK_END,
        DEEPSEEK,
        _DEEPSEEK_END,
        variables={"thinking": True},
        bos=DEEPSEEK[0],
        template="deepseek_v3_1",
        thought="{}</think>",
    ),
    "deepseek_r1": Published(_DEEPSEEK_END, DEEPSEEK, _DEEPSEEK_END, bos=DEEPSEEK[0], thought="{}\n</think>\n\n"),
    "kimi_k2": Published("<|im_end|>", KIMI, "<|im_end|>"),
    "plain": Published("</s>", ("<user>", "<assistant>", "<tool>"), "</s>"),
}
WHOLE = [name for name, published in FAMILIES.items() if not published.thought or name == "qwen3"]
"""Those that keep an answer without a thought in the history as it followed the prompt. The others' prompts begin a
thought (or, GLM-4.5's, leave it to the model), of which the history has nothing, or an empty one."""


_TAGS = ("<think>", "</think>")
"""Tokens that are not special: text without special tokens has them."""
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How the tokenizers of all these families cut text into words: line breaks never join what follows them."""


def _tokenizer(published: Published) -> PreTrainedTokenizerFast:
    """Bytes with merges within words and over white space, and the model's own special tokens."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([published.eos, *published.added, *published.stops]))
    special = [token for token in special if token not in _TAGS]
    words = ['the user said hello to an assistant\n\n and it\n said  12 34 again {"a": 1}\n'] * 5
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(words, trainer)
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in _TAGS if tag in published.added])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=published.eos, bos_token=published.bos)


def published_encoder(name: str, folder: Path) -> PromptEncoder:
    """The encoder of a family, whose tokenizer is written into the folder."""
    published = FAMILIES[name]
    tokenizer = _tokenizer(published)
    tokenizer.chat_template = (TEMPLATES / f"{published.template or name}.jinja").read_text()
    tokenizer.save_pretrained(folder)
    stops = tokenizer.convert_tokens_to_ids([published.eos, *published.stops])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return PromptEncoder(folder, DataConfig(chat_template_kwargs=published.variables), 10_000)


# Words whose white space lies inside: templates strip the outside of messages, which no model wrote that way.
TEXTS = st.text(st.sampled_from('ab 12\n{}"é'), min_size=1, max_size=12).map(str.strip).filter(bool)


def thoughts_of(name: str) -> st.SearchStrategy[str]:
    """What the family's model thinks before an answer: mostly something where it thinks."""
    return st.just("") | TEXTS if FAMILIES[name].thought else st.just("")


def published_encoders(factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    """The encoder of every family by its name."""
    return {name: published_encoder(name, factory.mktemp(name)) for name in FAMILIES}
