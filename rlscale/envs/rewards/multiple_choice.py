"""Multiple choice: the letter that the response settles on."""

from __future__ import annotations

import re
from typing import Any

from rlscale.config.errors import UserError
from rlscale.envs.rewards.label import label_text
from rlscale.envs.rewards.stated import stated

_AROUND = r"(?:\\boxed\{|\\text\{|\\textbf\{|\\mathrm\{|[\s*_($:\[\"']){0,8}"
_STATED = re.compile(r"(?:\banswer\s+is|\banswer\s*:|\bchoice\s+is|\boption\s+is|####|\\boxed\{)", re.IGNORECASE)


class ChoiceAnswer:
    """1.0 if the response chooses the letter of the label, otherwise 0.0.

    The choice is what the last \\boxed{}, `####` or "the answer is" states, or the response itself where it is nothing
    but a choice ("B", "(b).", "B) Paris"). Two letters ("A or B") choose nothing. `letters`: the options in order. The
    label is a letter, also in brackets, or the number of the option, counted from 0.
    """

    def __init__(self, letters: str = "ABCDEFGHIJ") -> None:
        if not letters.isalpha() or not letters.isascii() or len({*letters.upper()}) != len(letters):
            raise UserError(f"letters={letters}: must be different letters, such as ABCD")
        self._letters = letters.upper()
        one = f"[{self._letters}{self._letters.lower()}]"
        self._first = re.compile(rf"{_AROUND}({one})(?![A-Za-z0-9])")
        self._second = re.compile(
            rf"[\s)*}}.$\]]{{0,8}}(?:or|and|,|/|&)\s*{_AROUND}{one}(?![A-Za-z0-9])", re.IGNORECASE
        )
        self._whole = re.compile(rf"[\s(*\[]*({one})(?:[\s)*\].:]*|[).:]\s[^\n]*)")

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float:
        """1.0 or 0.0. ValueError if the label is no option."""
        return float(self.choice(response) == self._option(label))

    def choice(self, response: str) -> str | None:
        """The letter that the response chooses, in upper case; None where it chooses none or several."""
        text = stated(response, None) or ""
        ends = [found.end() for found in _STATED.finditer(text)]
        for end in reversed(ends):
            if (found := self._first.match(text, end)) is not None:
                return None if self._second.match(text, found.end()) else found[1].upper()
        whole = self._whole.fullmatch(text)
        return whole[1].upper() if whole and not ends else None

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if the label is no option."""
        self._option(label)

    def _option(self, label: Any) -> str:
        if isinstance(label, int) and not isinstance(label, bool):
            if not 0 <= label < len(self._letters):
                raise ValueError(f"the label is option {label}, and there are those from 0 to {len(self._letters) - 1}")
            return self._letters[label]
        text = label_text(label).strip("()[]. ").upper()
        if len(text) != 1 or text not in self._letters:
            raise ValueError(f"the label {label!r} is none of the options {self._letters}")
        return text
