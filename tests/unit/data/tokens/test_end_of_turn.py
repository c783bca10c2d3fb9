"""What ends a response follows from the chat template, and engines stop where supervised training ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import DataConfig
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.tokens.end_of_turn import appended_tokens, find_end_of_turn
from rlscale.data.tokens.prompt_encoder import PromptEncoder

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} "
    "{{ eos_token }}{% endif %}{% endfor %}"
)
PHI = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|>\n{% endfor %}{{ eos_token }}"
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
)
NO_END = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}### assistant:\n"
TEXT_END = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n### End\n{% endfor %}"
ORDINARY_END = "{% for m in messages %}{{ m.role }}: {{ m.content }};\n{% endfor %}"
ALWAYS_BEGUN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
ONLY_BEGUN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}<|im_start|>assistant\n"
OWN_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + CHATML
ENDS_ONCE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}<|eot_id|>"
USER_ONLY = "{{ messages[0].content }}="
STRICT = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}"

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def make_tokenizer(
    template: str | None, eos: str | None = "</s>", *, appends_eos: bool = False
) -> PreTrainedTokenizerFast:
    """A token for every printable character, and the special tokens of several families."""
    characters = ["\n", *map(chr, range(32, 127))]
    ids = {token: number for number, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if appends_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token=eos, chat_template=template, model_max_length=512
    )


def test_what_is_put_behind_a_text_is_found_whatever_the_tokenizer_can_read() -> None:
    ids = {"<s>": 0, "</s>": 1, "é": 2}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    assert appended_tokens(plain) == 0
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s> </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    ended = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    assert appended_tokens(ended) == 2


def make_encoder(folder: Path, tokenizer: PreTrainedTokenizerFast, *, templated: bool = True) -> PromptEncoder:
    tokenizer.save_pretrained(folder)
    return PromptEncoder(folder, DataConfig(apply_chat_template=templated), 200)


WRITTEN = "written by the chat template"


@pytest.mark.parametrize(
    ("template", "text", "before", "origin"),
    [
        (CHATML, "<|im_end|>", "", WRITTEN),
        (LLAMA_3, "<|eot_id|>", "", WRITTEN),
        (MISTRAL, "</s>", " ", WRITTEN),
        (PHI, "<|im_end|>", "", WRITTEN),
        (THINKING, "<|im_end|>", "", WRITTEN),
        (ORDINARY_END, ";", "", WRITTEN),
        (ALWAYS_BEGUN, "<|im_end|>", "", WRITTEN),
        (OWN_SYSTEM, "<|im_end|>", "", WRITTEN),
        (ENDS_ONCE, "<|eot_id|>", "\n", WRITTEN),
        (ONLY_BEGUN, "</s>", "", "the tokenizer's eos_token: the chat template writes no end of an assistant's turn"),
        (NO_END, "</s>", "", "the tokenizer's eos_token: the chat template writes no end of an assistant's turn"),
        (USER_ONLY, "</s>", "", "the tokenizer's eos_token: the chat template does not render an assistant's turn"),
        (STRICT, "</s>", "", "the tokenizer's eos_token: the chat template does not render an assistant's turn"),
    ],
    ids=str.split(
        "chatml llama_3 mistral phi thinking ordinary_token always_begun own_system ends_once only_begun no_end "
        "user_only strict"
    ),
)
def test_the_end_of_turn_is_the_templates_and_only_without_one_the_tokenizers_eos(
    template: str, text: str, before: str, origin: str
) -> None:
    tokenizer = make_tokenizer(template)
    found = find_end_of_turn(tokenizer, templated=True)
    assert (found.text, found.before, found.origin) == (text, before, origin)
    assert tokenizer.convert_ids_to_tokens(found.token) == text


def test_it_is_said_which_end_was_chosen() -> None:
    assert str(find_end_of_turn(make_tokenizer(LLAMA_3), True)) == (
        "end of turn: '<|eot_id|>' (token 6), written by the chat template"
    )
    assert str(find_end_of_turn(make_tokenizer(MISTRAL), True)) == (
        "end of turn: '</s>' (token 1) after ' ', written by the chat template"
    )
    assert str(find_end_of_turn(make_tokenizer(CHATML), False, "eval.data")) == (
        "end of turn: '</s>' (token 1), the tokenizer's eos_token (eval.data.apply_chat_template=false)"
    )


@pytest.mark.parametrize(
    ("template", "templated", "line"),
    [
        (
            None,
            False,
            "nothing ends a response: data.apply_chat_template=false, and the tokenizer has no eos_token; give",
        ),
        (NO_END, True, "nothing ends a response: the chat template writes no end of an assistant's turn, and the"),
        (USER_ONLY, True, "nothing ends a response: the chat template does not render an assistant's turn, and the"),
    ],
)
def test_a_tokenizer_without_eos_is_one_line_where_the_template_ends_no_turn(
    template: str | None, templated: bool, line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        make_encoder(tmp_path, make_tokenizer(template, eos=None), templated=templated)
    assert str(error.value).startswith(line)


def test_a_tokenizer_without_eos_is_fine_where_the_template_ends_a_turn(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, make_tokenizer(CHATML, eos=None))
    assert encoder.encode_response("8").tolist()[-1] == SPECIAL.index("<|im_end|>")


def test_an_end_of_several_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends an assistant's turn with '### End', which is 7 tokens"):
        make_encoder(tmp_path, make_tokenizer(TEXT_END))


@pytest.mark.parametrize("template", [CHATML, LLAMA_3, MISTRAL, PHI], ids=["chatml", "llama 3", "mistral", "phi"])
def test_prompt_and_learned_response_are_what_the_template_renders(template: str, tmp_path: Path) -> None:
    """Up to the end of turn; what templates write after it is the next turn's."""
    tokenizer = make_tokenizer(template)
    encoder = make_encoder(tmp_path, tokenizer)
    prompt = encoder.encode(RawPrompt(0, "a", "3+5"))
    assert prompt is not None
    response = encoder.encode_response(" 8" if template is MISTRAL else "8")
    turns = [{"role": "user", "content": "3+5"}, {"role": "assistant", "content": "8"}]
    whole = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False).input_ids
    joined = [*prompt.tokens.tolist(), *response.tolist()]
    if template is PHI:  # its generation prompt does not begin the assistant's turn
        assert joined[-2:] == [*tokenizer("8").input_ids, SPECIAL.index("<|im_end|>")]
    else:
        assert whole[: len(joined)] == joined


def test_a_label_that_holds_its_end_of_turn_gets_no_second_one(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, make_tokenizer(CHATML))
    assert encoder.encode_response("8<|im_end|>").tolist() == encoder.encode_response("8").tolist()


def test_an_end_that_is_an_ordinary_token_is_not_part_of_the_answer(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, make_tokenizer(ORDINARY_END))
    response = encoder.encode_response("8")
    assert encoder.decode(response) == ("8", "8;")
    assert encoder.decode(response[:-1]) == ("8", "8")  # cut off at the limit
    assert encoder.decode(np.array([*response[:-1], *response], np.int32)) == ("88", "88;")


def test_a_tokenizer_that_appends_eos_makes_no_prompt_that_ends_in_it(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(CHATML, appends_eos=True)
    assert tokenizer("3+5=").input_ids[-1] == SPECIAL.index("</s>")
    encoder = make_encoder(tmp_path, tokenizer, templated=False)
    prompt = encoder.encode(RawPrompt(0, "a", "3+5="))
    assert prompt is not None
    assert tokenizer.decode(prompt.tokens) == "<s>3+5="  # what it puts before a text stays
    own = encoder.encode(RawPrompt(0, "a", "3+5=</s>"))
    assert own is not None
    assert tokenizer.decode(own.tokens) == "<s>3+5=</s>"  # an eos that the prompt itself ends in stays, too
    templated = make_encoder(tmp_path, tokenizer).encode(RawPrompt(0, "a", "3+5="))
    assert templated is not None
    assert tokenizer.decode(templated.tokens).endswith("<|im_end|>\n<|im_start|>assistant\n")
