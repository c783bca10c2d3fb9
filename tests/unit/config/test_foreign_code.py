"""What of a configuration is code, and whose may be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.foreign_code import allowed_code, allowing_code, refusal_of
from rlscale.config.named_code import code_that_runs
from rlscale.data.target import build_target, import_target

RUNS = "touch ran"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (f"reward.function={{_target_: subprocess.Popen, args: [sh, -c, {RUNS}]}}", "subprocess holds no hooks"),
        ("reward.function={_target_: os.system}", "os holds no hooks"),
        ("reward.function={_target_: builtins.exec}", "builtins holds no hooks"),
        ("buffer._target_=subprocess.Popen", "subprocess holds no hooks"),
        ("env._target_=hydra.utils.instantiate", "hydra holds no hooks"),
        (
            f"reward.function={{_target_: rlscale.serve.process.GuardedProcess, command: [sh, -c, {RUNS}]}}",
            "this part of rlscale has no hooks",
        ),
        ("tracker.known={x: {_target_: subprocess.Popen}} tracker.kinds=[x]", "subprocess holds no hooks"),
        (
            "reward.function={_target_: rlscale.envs.rewards.weighted.WeightedReward, "
            "parts: {a: {function: {_target_: os.system}}}}",
            "os holds no hooks",
        ),
        ("buffer._target_=__main__.main", "__main__ holds no hooks"),
        ("reward.function={_target_: mpmath.quad}", "add --allow-code=mpmath if you trust it"),
    ],
)
def test_what_is_no_hook_is_refused_before_it_is_called(
    folder: Path, node: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command that composes, in one line that names the key."""
    words = [node] if "tracker" not in node else node.replace("}} ", "}}\n").split("\n")
    for command in ([], ["check"]):
        assert main([*command, *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "_target_=" in error
        assert "Traceback" not in error
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("subprocess.Popen", "subprocess holds no hooks"),
        ("__main__.main", "__main__ holds no hooks"),
        ("rlscale.data.target.import_target", "is of rlscale.data.target, which has no hooks"),
        ("rlscale.serve.engine_launcher.EngineProcesses", "is of rlscale.serve.engine_process, which has no hooks"),
        ("rlscale.data.target.importlib.import_module", "importlib is not a part of rlscale.data.target"),
        ("rlscale.data.prompts.prompt_files.Path", "is of pathlib, which holds no hooks"),
        ("indirect.run", "is of subprocess, which holds no hooks"),
        ("indirect.os.system", "is not a part of indirect"),
    ],
)
def test_what_a_module_only_imports_is_not_its_hook(
    folder: Path, path: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "indirect.py").write_text("import os\nfrom subprocess import run\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UserError, match=said):
        import_target(path, path)


def test_a_class_whose_instances_cannot_be_called_is_not_built_to_find_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "builds.py").write_text("class Touches:\n    def __init__(self):\n        open('ran', 'w').close()\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UserError, match=r"instances of builds\.Touches cannot be called"):
        build_target({"_target_": "builds.Touches"}, "reward.function", 3)
    assert not (folder / "ran").exists()


def test_code_of_the_current_folder_is_run_and_listed_with_its_place(folder: Path) -> None:
    (folder / "my_reward.py").write_text("def score(response, label, info):\n    return 1.0\n")
    notes = check(compose(overrides=["reward.function={_target_: my_reward.score}"]))
    assert f"reward.function: runs my_reward.score of {folder / 'my_reward.py'}" in notes


def test_commands_and_code_in_model_folders_are_listed(folder: Path) -> None:
    notes = check(compose(overrides=["agent.command=python agent.py", "rollout.sglang.trust_remote_code=true"]))
    assert "agent.command: runs python agent.py" in notes
    command = "rlscale.rollout.endpoint.command_agent.CommandAgent"
    notes = check(compose(overrides=[f"agent._target_={command}", "agent.arguments={command: python agent.py}"]))
    assert "agent.arguments.command: runs python agent.py" in notes
    notes = check(compose(overrides=["reward=code", "reward.function.sandbox=none"]))
    assert "reward.function.sandbox=none: runs what the policy writes, with your rights" in notes
    notes = check(compose(overrides=["rollout.sglang.trust_remote_code=true"]))
    assert "rollout.sglang.trust_remote_code: engines run the code in the model's folder" in notes
    group = "rollout.engine_groups.large"
    notes = check(compose(overrides=[f"{group}.sglang.trust_remote_code=true"]))
    assert f"{group}.sglang.trust_remote_code: engines run the code in the model's folder" in notes
    judge = "rollout.models.judge"
    notes = check(compose(overrides=[f"{judge}.path=/m", f"{judge}.sglang.trust_remote_code=true"]))
    assert f"{judge}.sglang.trust_remote_code: engines run the code in the model's folder" in notes


def test_a_sandbox_that_is_off_is_listed_wherever_a_reward_stands() -> None:
    """Also where the run's own reward runs nothing: a source's, an evaluation set's, a part of a sum of rewards."""
    code = "{function: {_target_: rlscale.envs.rewards.code_tests.CodeTests, sandbox: none}}"
    config = compose(
        overrides=[
            "data=mixture",
            "data@data.sources.one.data=arithmetic",
            *("reward@data.sources.one.reward=code", "data.sources.one.reward.function.sandbox=none"),
            "data@eval.sets.held.data=arithmetic",
            *("reward@eval.sets.held.reward=code", "eval.sets.held.reward.function.sandbox=none"),
            f"reward.function={{_target_: rlscale.envs.rewards.weighted.WeightedReward, parts: {{a: {code}}}}}",
        ]
    )
    places = ["reward.function.parts.a", "data.sources.one.reward", "eval.sets.held.reward"]
    assert {line for line in code_that_runs(config) if "with your rights" in line} == {
        f"{place}.function.sandbox=none: runs what the policy writes, with your rights" for place in places
    }


def test_engines_are_passed_no_names_of_code(folder: Path) -> None:
    hooks = "[{name: a, target_modules: ['*'], hook_factory: 'subprocess:Popen', config: [touch, ran]}]"
    with pytest.raises(ConfigError, match=r"rollout\.sglang\.forward_hooks: names code that every engine would run"):
        check(compose(overrides=[f"rollout.sglang.forward_hooks={hooks}"]))
    with pytest.raises(ConfigError, match=r"rollout\.sglang\.sidecar: names code that every engine would run"):
        check(compose(overrides=["rollout.sglang.sidecar=timeit"]))
    with pytest.raises(ConfigError, match=r"rollout\.router\.mcp_config_path: names code that the router would run"):
        check(compose(overrides=["rollout.router.mcp_config_path=servers.yaml"]))


@pytest.mark.parametrize("option", ["load_format=pt", "load_format=npcache", "speculative_draft_load_format=pt"])
def test_engines_are_not_told_to_read_pickles(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.sglang\.{option}: engines would read weights that may hold code"):
        check(compose(overrides=[f"rollout.sglang.{option}"]))
    check(compose(overrides=["rollout.sglang.load_format=dummy"]))


@pytest.mark.parametrize("option", ["control_plane_api_keys=[[a, b, c, admin]]", "service_discovery=true"])
def test_the_router_is_told_of_nobody_else_who_may_change_what_it_does(option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(
        ConfigError, match=rf"rollout\.router\.{name}: lets others than this run change what the router"
    ):
        check(compose(overrides=[f"rollout.router.{option}"]))


@pytest.mark.parametrize(
    "option",
    ["grpc_port=1234", "kv_events_config='{}'", "load_publish_endpoint='tcp://*:5557'", "gated_launch_port=1234"],
)
def test_engines_are_passed_nothing_for_which_they_would_listen_without_a_key(option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"rollout\.sglang\.{name}: engines would listen for it and ask nobody"):
        check(compose(overrides=[f"rollout.sglang.{option}"]))


def test_a_package_whose_files_are_links_is_an_installed_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, site = folder / "store", folder / "site"
    for place in (store, site / "linked"):
        place.mkdir(parents=True)
    (store / "__init__.py").write_text("")
    (site / "linked" / "__init__.py").symlink_to(store / "__init__.py")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr("rlscale.config.foreign_code._installed", lambda: {site})
    assert "add --allow-code=linked" in str(refusal_of("linked.run"))


def test_nothing_is_listed_where_all_code_is_rlscales() -> None:
    assert not [note for note in check(compose()) if ": runs " in note]


def test_an_installed_package_is_run_where_the_command_line_allows_it() -> None:
    words = ["reward.function={_target_: mpmath.quad}"]
    with pytest.raises(ConfigError, match=r"reward\.function\._target_=mpmath\.quad: is code of the installed package"):
        compose(overrides=words)
    with allowing_code(["mpmath"]):
        compose(overrides=words)
        assert allowed_code() == ["--allow-code=mpmath"]
        assert refusal_of("sympy.sqrt") is not None
        assert refusal_of("subprocess.Popen") is not None
    assert allowed_code() == []


@pytest.mark.parametrize("word", ["--allow-code", "--allow-code=", "--allow-code=a.b"])
def test_the_option_names_a_package(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--cfg", "job"]) == 2
    assert "name an installed package, --allow-code=package" in capsys.readouterr().err
