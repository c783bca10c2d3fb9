"""The parsers that options of models name are SGLang's, and are used where somebody asks for them."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.locations import conf_dir
from rlscale.config.errors import ConfigError
from rlscale.config.schema.agent_config import AgentConfig
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.rollout_config import RolloutConfig
from rlscale.rollout.rollout_spec import with_parsers

OPTIONS = {
    file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))
    for file in sorted((conf_dir() / "model").glob("*.yaml"))
    if not file.stem.startswith("tiny") and file.stem != "any"
}
WITHOUT_CALLS = {"glm4_9b", "glm4_32b"}
"""Models whose calls SGLang has no parser for."""

THINKING = {"qwen3", "glm4", "glm5", "deepseek", "kimi"}


def registered(module: str, table: str) -> set[str]:
    """Keys of a registry of SGLang's, from its source: importing it takes seconds and a stand-in for CUDA."""
    spec = importlib.util.find_spec("sglang")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "srt" / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == table:
            assert isinstance(node.value, ast.Dict)
            return {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
    raise AssertionError(f"{module} has no {table}")


def test_every_parser_is_registered_with_sglang() -> None:
    tools = registered("function_call/function_call_parser.py", "ToolCallParserEnum")
    reasoning = registered("parser/reasoning_parser.py", "DetectorMap")
    assert len(tools) > 20
    assert len(reasoning) > 20
    for name, option in OPTIONS.items():
        assert (option.get("tool_parser") is None) is (name in WITHOUT_CALLS), name
        assert option.get("tool_parser") in {None, *tools}, name
        assert option.get("reasoning_parser") in {None, *reasoning}, name
    assert {name.split("_")[0] for name, option in OPTIONS.items() if option.get("reasoning_parser")} == THINKING


MODEL = ModelConfig(name="m", tool_parser="glm47", reasoning_parser="glm45")


@pytest.mark.parametrize(
    ("said", "agent", "used"),
    [
        (None, AgentConfig(), (None, None)),
        (None, AgentConfig(command="python agent.py"), ("glm47", "glm45")),
        (None, AgentConfig(_target_="mine.Agent"), ("glm47", "glm45")),
        ("model", AgentConfig(), ("glm47", "glm45")),
        ("hermes", AgentConfig(command="python agent.py"), ("hermes", "hermes")),
    ],
)
def test_parsers_of_the_model_are_for_agents_and_for_those_who_ask(
    said: str | None, agent: AgentConfig, used: tuple[str | None, str | None]
) -> None:
    rollout = with_parsers(RolloutConfig(tool_parser=said, reasoning_parser=said), MODEL, agent)
    assert (rollout.tool_parser, rollout.reasoning_parser) == used


def test_a_model_that_names_no_parser_of_calls_is_not_asked_for_one() -> None:
    config = compose("calculator", ["rollout.tool_parser=model"])
    with pytest.raises(ConfigError, match=r"rollout\.tool_parser=model: tiny_qwen3 names no parser"):
        check(config)
    notes = check(compose("calculator", ["rollout.reasoning_parser=model"]))
    assert any("so thinking is not told from the rest" in note for note in notes)
