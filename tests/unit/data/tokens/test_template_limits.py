"""A chat template that does not end, or that wants all memory, is an error that names its file."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import threading
from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import DataConfig
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.tokens import template_limits
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.data.tokens.template_kwargs import variables_of

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}"
TEXT = "{% set a = 'a' * (10 ** 10) %}{{ messages[0].content }}"
DOUBLED = (
    "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}"
    "{{ messages[0].content }}"
)
FOLDED = "{{ 9 ** (9 ** 9) }}{{ messages[0].content }}"
ONLY_WITH_A_WORD = "{% if 'word' in messages[-1].content %}" + LOOPS + "{% endif %}{{ messages[0].content }}"
DEEP = "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}{{ messages[0].content }}"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    character_tokenizer("0123456789+= abdorwxyz", 64).save_pretrained(tmp_path)
    return tmp_path


def encoder(folder: Path, template: str, **settings: object) -> PromptEncoder:
    (folder / "chat_template.jinja").write_text(template)
    return PromptEncoder(folder, DataConfig(**settings), 512)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (LOOPS, r"is not done after 0\.3 s"),
        (FOLDED, "is not done after|wants more than"),
        (TEXT, "wants more than 1 GiB of memory"),
        (DOUBLED, "wants more than 1 GiB of memory|is not done after"),
    ],
)
def test_a_template_without_an_end_is_refused_by_its_file(folder: Path, template: str, what: str) -> None:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # the trial is a fork
    with pytest.raises(UserError, match=rf"^{folder}/chat_template\.jinja: the chat template ({what}).* with one conv"):
        encoder(folder, template)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - used.ru_utime < 5


def test_so_is_one_in_the_way_of_its_variables(folder: Path) -> None:
    with pytest.raises(UserError, match=r"chat_template\.jinja: the chat template (is not done after|wants more than)"):
        encoder(folder, FOLDED, chat_template_kwargs={"name": 1})


def test_and_one_that_has_no_end_for_one_prompt_only(folder: Path) -> None:
    made = encoder(folder, ONLY_WITH_A_WORD)
    assert made.encode(RawPrompt(0, "", "1+1", None, None)) is not None
    with pytest.raises(UserError, match=r"chat_template\.jinja: the chat template is not done after"):
        made.encode(RawPrompt(0, "", "a word", None, None))


def test_a_template_in_another_file_is_named_by_that(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": LOOPS}))
    for file in ("chat_template.jinja", "chat_template.json"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"/tokenizer_config\.json: the chat template is not done after"):
        PromptEncoder(folder, DataConfig(), 512)
    with pytest.raises(UserError, match=r"^model\.chat_template: the template is not done after"):
        PromptEncoder(folder, DataConfig(), 512, LOOPS + " ")


def test_a_template_that_nests_too_deep_is_no_fault_of_ours() -> None:
    assert variables_of(DEEP) is None


def test_afterwards_everything_is_as_it_was(folder: Path) -> None:
    made = encoder(folder, ONLY_WITH_A_WORD)
    heard: list[int] = []
    before, limit = signal.signal(signal.SIGVTALRM, lambda *_: heard.append(1)), resource.getrlimit(resource.RLIMIT_AS)
    try:
        made.encode(RawPrompt(0, "", "1+1", None, None))
        with pytest.raises(UserError, match="is not done after"):
            made.encode(RawPrompt(0, "", "a word", None, None))
        assert resource.getrlimit(resource.RLIMIT_AS) == limit
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
        signal.raise_signal(signal.SIGVTALRM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGVTALRM, before)


def test_other_threads_render_as_before_and_beside_a_loop_memory_is_not_bounded(folder: Path) -> None:
    made = encoder(folder, "{{ messages[0].content }}")
    limits: list[int] = []

    def look(*_: object, **__: object) -> str:
        limits.append(resource.getrlimit(resource.RLIMIT_AS)[0])
        return "1+1"

    made.tokenizer.apply_chat_template = look

    async def inside() -> None:
        made.encode(RawPrompt(0, "", "1+1", None, None))

    thread = threading.Thread(target=made.encode, args=(RawPrompt(0, "", "1+1", None, None),))
    thread.start()
    thread.join()
    asyncio.run(inside())
    assert limits == [resource.getrlimit(resource.RLIMIT_AS)[0]] * 2


def test_where_nobody_can_wait_for_the_trial_a_template_is_not_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a parent ignored SIGCHLD, and where there is no memory for a fork."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        encoder(folder, "{{ messages[0].content }}{# of a parent that waits for none #}")
    finally:
        signal.signal(signal.SIGCHLD, before)

    def none() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(template_limits.os, "fork", none)
    encoder(folder, "{{ messages[0].content }}{# without a fork #}")
