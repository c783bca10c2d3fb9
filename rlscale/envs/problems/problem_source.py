"""Prompts made by a package of environments, whose difficulty follows the policy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.prompts.adaptive import Fate
from rlscale.data.prompts.difficulty import Difficulty
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.sample import Prompt
from rlscale.envs.problems.problem_maker import Problem, digest_of
from rlscale.envs.workers.object_process import ObjectProcessDied, ObjectProcessFailed, shared_process

_LIMIT_S = 120.0


class ProblemSource:
    """An endless stream of problems of the kinds in `names` (all of them where it is empty), one kind after the other.

    A problem follows from its kind, its level and its seed, and its seed from `seed`, the position in the stream and
    the split: seeds of `train` are even, those of `held_out` odd. They are made in a process of its own.

    `level`: where every kind begins, or at its highest level if that is lower; null asks as the package does by
    default, without levels, as kinds that have none are always asked. With `adaptive`, each kind has a difficulty of
    its own that rises and falls (rlscale.data.prompts.difficulty.Difficulty, to which `rise`, `fall` and `window`
    belong), and a share `easier` of the prompts is drawn from the levels below it. The level is the
    prompt's `info["difficulty"]`, which becomes a metric.
    """

    def __init__(
        self,
        maker: Mapping[str, Any],
        names: Sequence[str] = (),
        level: int | None = 0,
        adaptive: bool = True,
        highest: int | None = None,
        easier: float = 0.2,
        rise: float = 0.8,
        fall: float = 0.3,
        window: int = 16,
        split: str = "train",
        size: int = 1024,
        seed: int = 0,
    ) -> None:
        """`maker`: `_target_` of a rlscale.envs.problems.problem_maker.ProblemMaker and its arguments. `highest`: the
        level above which none rises. `size`: prompts that count as an epoch. UserError for what cannot be."""
        if split not in ("train", "held_out"):
            raise UserError(f"data.source.split={split}: choose train or held_out")
        if not 0 <= easier <= 1 or size < 1:
            raise UserError(f"data.source: easier={easier} must be from 0 to 1, and size={size} at least 1")
        self._process = shared_process(maker, "data.source.maker")
        self._odd, self._size, self._seed, self._easier = split == "held_out", size, seed, easier
        highest_of = self._asked_highest(list(names))
        self._names, self._level = list(highest_of), level
        self._adaptive = adaptive and level is not None
        self._position = 0
        self._difficulties: dict[str, Difficulty] = {}
        if level is not None:
            tops = [most for most in highest_of.values() if most is not None]
            if tops and not 0 <= level <= max(tops):
                raise UserError(f"data.source.level={level}: choose from 0 to {max(tops)}")
            for name, most in highest_of.items():
                if most is None and not names:
                    continue
                if most is None:
                    raise UserError(f"data.source: {name} has no levels; set data.source.level=null")
                top = most if highest is None else min(most, highest)
                self._difficulties[name] = Difficulty(0, top, min(level, top), rise, fall, window)

    def next(self, n: int) -> list[RawPrompt]:
        """The next n problems. UserError if one cannot be made."""
        asked = [self._problem_at(index) for index in range(self._position, self._position + n)]
        made = [self._made(*one) for one in asked]
        prompts = [
            RawPrompt(
                index=self._position + place,
                id=f"{name}/{level}/{seed}",
                prompt=problem.prompt,
                label=problem.answer,
                info={"problem": name, "seed": seed, "digest": digest_of(problem)}
                | ({} if level is None else {"difficulty": level}),
            )
            for place, ((name, level, seed), problem) in enumerate(zip(asked, made, strict=True))
        ]
        self._position += n
        return prompts

    def __len__(self) -> int:
        return self._size

    def observe(self, prompt: Prompt, rewards: Sequence[float], fate: Fate) -> None:
        """Raise or lower the level of the prompt's kind."""
        one = self._difficulties.get(prompt.info.get("problem", ""))
        if self._adaptive and one is not None and "difficulty" in prompt.info:
            one.observe(prompt.info["difficulty"], rewards)

    def state_dict(self) -> dict[str, Any]:
        """The position, and the levels."""
        levels = {name: one.state_dict() for name, one in self._difficulties.items()}
        return {"position": self._position, "difficulties": levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the saved position. Kinds that were not there then begin at their level."""
        self._position = int(state["position"])
        for name, saved in state["difficulties"].items():
            if name in self._difficulties:
                self._difficulties[name].load_state_dict(saved)

    def _made(self, name: str, level: int | None, seed: int) -> Problem:
        """A problem; where the process ends meanwhile, as by want of memory, once more in another one."""
        try:
            try:
                made: Problem = self._process.call("make", [(name, level, seed)], _LIMIT_S)[0]
            except ObjectProcessDied:
                made = self._process.call("make", [(name, level, seed)], _LIMIT_S)[0]
        except ObjectProcessFailed as error:
            raise UserError(f"data.source: {error}") from None
        return made

    def _problem_at(self, index: int) -> tuple[str, int | None, int]:
        name = self._names[index % len(self._names)]
        drawn = hashlib.blake2b(f"{self._seed} {index}".encode(), digest_size=4).digest()
        seed = int.from_bytes(drawn, "little") // 4 * 2 + self._odd  # below 2 ** 31
        if name not in self._difficulties:
            return name, None, seed
        easier = self._easier if self._adaptive else 0.0
        return name, self._difficulties[name].drawn(easier, (self._seed, index)), seed

    def _asked_highest(self, names: list[str]) -> dict[str, int | None]:
        try:
            found: dict[str, int | None] = self._process.call("highest_levels", [(names,)], _LIMIT_S)[0]
        except ObjectProcessFailed as error:
            raise UserError(f"data.source: {error}") from None
        return found
