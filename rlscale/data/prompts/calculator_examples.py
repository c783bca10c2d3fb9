"""Examples of arithmetic with a calculator, for a supervised start: some ask for it, some answer in their head."""

from __future__ import annotations

import numpy as np

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, Operation
from rlscale.data.prompts.arithmetic import ArithmeticSource
from rlscale.data.prompts.sources import RawPrompt, Stream


class CalculatorExamples(Stream):
    """Of the training products of `ArithmeticSource`, conversations with `rlscale.envs.calculator.Calculator`.

    Half of the examples are an answer after the calculator's, copied from it. The others are the turn before: `47*38?`,
    which asks for it, in a share `asked`, and otherwise the product at once, which a small model cannot learn. So a
    model trained on them uses the calculator in that share of its answers.
    """

    uniform = True

    def __init__(self, asked: float = 0.4, max_number: int = 100, split_seed: int = 0, seed: int = 0) -> None:
        """UserError for a share outside 0 to 1."""
        if not 0 <= asked <= 1:
            raise UserError(f"asked={asked}: a share of the examples, from 0 to 1")
        problems = ArithmeticData(
            operation=Operation.multiply,
            max_number=max_number,
            split_seed=split_seed,
            reverse_answer=False,
            seed=seed,
        )
        self._problems = ArithmeticSource(problems)
        self._asked, self._seed = asked, seed
        super().__init__(len(self._problems), shuffle=True, seed=seed)

    def item(self, number: int, index: int) -> RawPrompt:
        """An example of problem `number`; which one is drawn by the index, anew in every epoch."""
        problem = self._problems.item(number, index)
        call = f"{problem.id}?"
        kind, asks = np.random.default_rng([self._seed, index]).random(2)
        if kind < 0.5:
            problem.prompt = [
                {"role": "user", "content": problem.prompt},
                {"role": "assistant", "content": call},
                {"role": "tool", "content": problem.label},
            ]
        elif asks < self._asked:
            problem.label = call
        return problem
