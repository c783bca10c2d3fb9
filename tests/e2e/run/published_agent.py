"""smolagents' own agent at work on a row, as the command of a run: nothing of it is changed but its long prompts."""

from __future__ import annotations

import json
import os
import sys

from smolagents import OpenAIModel, ToolCallingAgent, tool
from smolagents.agents import EMPTY_PROMPT_TEMPLATES
from smolagents.monitoring import LogLevel


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: one of them
        b: the other one
    """
    return a + b


def main() -> None:
    """Let it try, and print how much of its answer is digits: what a model that has learned nothing differs in."""
    task = json.loads(sys.stdin.readline())
    model = OpenAIModel("policy", api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
    last = {"pre_messages": "0", "post_messages": "="}
    brief = {**EMPTY_PROMPT_TEMPLATES, "system_prompt": "0", "final_answer": last}
    agent = ToolCallingAgent([add], model, prompt_templates=brief, max_steps=2, verbosity_level=LogLevel.OFF)
    answer = str(agent.run(task["messages"][-1]["content"]))
    print(json.dumps({"reward": sum(map(str.isdigit, answer)) / max(len(answer), 1)}))


if __name__ == "__main__":
    main()
