"""`--bundle`: one zip file with what a report of a fault needs, without keys."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rlscale.config.environment_values import MAYBE_SECRET
from rlscale.config.errors import UserError

_FILES = ("run.json", "recipe.yaml", "resolved.yaml", "summary.json", "metrics.jsonl", "timeline.jsonl")
_MOST = 1 << 18
"""Bytes of the end of each file."""
_MOST_LOGS = 60
_KINDS_OF_KEY = "api|access|private|secret|account|auth|client|signing|encryption|master|subscription"
_OPTIONS = rf"(?:(?:{_KINDS_OF_KEY})[_-]?)?(?:key|token|secret|password|passwd|passphrase|credentials?)"
_DIGITS_AND_LETTERS = r"(?=[^\s\d]*\d)(?=[^\sa-z]*[a-z])"
"""As keys have and words have not."""
_NAMED = (
    rf"(?i)((?:(?:{_KINDS_OF_KEY})[_-]?key|[?&]key|token|secret|pass(?:word|wd|phrase)|credentials?|cookie|signature|\bsig)"
    r"\\*[\"']?\s*[:=]\s*"
)
"""Beginning of a pattern: what is called like a key, and its sign."""
_SECRETS = (
    re.compile(r"\b(?:hf_|sk-|gh[opsur]_|github_pat_|glpat-|xox[abp]-|AKIA|ASIA|AIza|ya29\.)[A-Za-z0-9_-]{10,}"),
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]+\.[\w-]+"),  # a JSON web token
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)", re.DOTALL),  # an encrypted one has headers
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{6,}"),
    re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?\w+ )[\w.~+/=-]{6,}"),
    # The password of an address may hold / and @.
    re.compile(r"(?<=://)(?:[^/\s@:\"'<>]{0,200}:[^\s\"'<>]{1,400}|[^/\s@]{1,400})(?=@)"),
    # A blank as the sign: of options, in the words of .netrc, and elsewhere before what looks like no word.
    re.compile(rf"(?i)((?<!\S)--?{_OPTIONS}[ \t]+)(?!-)[^\s\"',]{{6,}}"),
    re.compile(r"(?i)(\b(?:(?:machine|login|account)\s+\S+|default)\s+password\s+)\S+"),
    re.compile(rf"(?i)(\b(?:pass(?:word|wd|phrase)|secret)(?: is)?[ \t]+){_DIGITS_AND_LETTERS}[^\s\"',}}]{{6,}}"),
    re.compile(rf"(?i)(\b(?:token|credentials?)(?: is)?[ \t]+){_DIGITS_AND_LETTERS}[\w+/=-]{{16,}}"),
    re.compile(_NAMED + r"(\\*[\"']))(?:(?!\2).){6,}(?=\2)"),  # quoted, so blanks and commas belong to it
    re.compile(_NAMED + r"[\"']?)(?!(?:null|None|false|true)\b)[^\s\"',}]{6,}"),
)
HIDDEN = "(hidden)"


class Hiding:
    """Takes keys out of texts: those in this process's environment, and what looks like one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        named = {value for name, value in environment.items() if MAYBE_SECRET.search(name) and len(value) >= 6}
        self._values = sorted((value for value in named if not os.path.exists(value)), key=len, reverse=True)

    def text(self, text: str) -> str:
        """The same with every key replaced."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        for pattern in _SECRETS:
            text = pattern.sub(lambda found: (found[1] if found.re.groups else "") + HIDDEN, text)
        return text

    def variables(self, variables: Mapping[str, str]) -> str:
        """A line for each variable; of those that are called like a key only that they are set."""
        return "".join(
            f"{name}={HIDDEN if MAYBE_SECRET.search(name) else self.text(value)}\n" for name, value in variables.items()
        )


def write_bundle(file: Path, said: Mapping[str, str], variables: Mapping[str, str], run: Path | None) -> list[str]:
    """Write texts by name, the variables, and of a run's folder its small files and logs; names of what is in it.

    UserError where the file cannot be written.
    """
    hiding = Hiding()
    texts: Iterable[tuple[str, str]] = [*said.items(), *(_of_run(run) if run is not None else ())]
    names = []
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts:
                archive.writestr(name, hiding.text(text))
                names.append(name)
            archive.writestr("environment.txt", hiding.variables(variables))
    except OSError as error:
        raise UserError(f"--bundle {file}: cannot be written ({error.strerror})") from error
    return [*names, "environment.txt"]


def _of_run(folder: Path) -> Iterator[tuple[str, str]]:
    logs = sorted((folder / "logs").rglob("*"), key=lambda path: path.name != "error.log")
    files = [folder / name for name in _FILES] + [path for path in logs if path.suffix in (".log", ".txt")][:_MOST_LOGS]
    for path in files:
        if not path.is_dir() and (path.exists() or path.is_symlink()):
            yield f"run/{path.relative_to(folder)}", _end_of(path, folder.resolve())


def _end_of(path: Path, folder: Path) -> str:
    """What is there of a file of the folder, which may be a stranger's: its links could lead to any file of ours."""
    whole = Path(os.path.realpath(path))
    if not whole.is_relative_to(folder):
        return "(left out: a link leads out of the run's folder)\n"
    if not whole.is_file():
        return "(left out: no regular file)\n"
    with open(whole, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MOST))
        text = file.read().decode("utf-8", errors="replace")
    return text if size <= _MOST else f"(the last {_MOST} of {size} bytes)\n{text}"
