"""What of a configuration is code, and whose may be run."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
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
SCORE = "def score(response, label, info):\n    return 1.0\n"
INDIRECT = """
import ctypes, functools, os
from subprocess import run
from mpmath import quad
from rlscale.envs.workers.processes import started
libc = ctypes.CDLL(None)
system = libc.system
bound = functools.partial(run, shell=True)
again = functools.lru_cache(os.makedirs)
"""
OWN_FORMS = """
import functools
from rlscale.algo.scores import group_mean
def score(response, label, info, scale=1):
    return 1.0
class Score:
    def __call__(self, response, label, info):
        return 1.0
    @classmethod
    def of(cls, response, label, info):
        return 1.0
class Inner:
    class Deep(Score):
        pass
scored = functools.partial(score, scale=2)
kept = functools.lru_cache(score)
scorer = Score()
bound = scorer.__call__
theirs = functools.partial(group_mean)
"""


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
            "reward.function={_target_: rlscale.envs.rewards.weighted.WeightedSum, "
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
        ("rlscale.data.target.import_target", "this part of rlscale has no hooks"),
        (
            "rlscale.serve.engine_launcher.EngineProcesses",
            "of rlscale.serve.engine_launcher is no hook or component; name Sg",
        ),
        ("rlscale.data.target.importlib.import_module", "this part of rlscale has no hooks"),
        ("rlscale.data.prompts.prompt_files.Path", "this part of rlscale has no hooks"),
        ("rlscale.envs.sandbox.kernel._libc.system", "this part of rlscale has no hooks"),
        ("indirect.run", "is of subprocess, which holds no hooks"),
        ("indirect.os.system", "is not a part of indirect"),
        ("indirect.libc.system", "system is reached through a CDLL of indirect"),
        ("indirect.system", "is of ctypes, which holds no hooks"),
        ("indirect.bound", "is of subprocess, which holds no hooks"),
        ("indirect.again", "is of os, which holds no hooks"),
        ("indirect.started", "is of rlscale.envs.workers.processes, which has no hooks"),
        ("indirect.quad", "is code of the installed package mpmath; add --allow-code=mpmath if you trust it"),
    ],
)
def test_what_a_module_only_imports_is_not_its_hook(
    folder: Path, path: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "indirect.py").write_text(INDIRECT)
    monkeypatch.syspath_prepend(folder)
    with allowing_code([]), pytest.raises(UserError, match=said):
        import_target(path, path)


@pytest.mark.parametrize(
    "name", ["score", "Score", "Score.of", "scored", "kept", "scorer", "scorer.of", "bound", "theirs", "Inner.Deep"]
)
def test_whatever_is_ones_own_and_can_be_called_may_be_named(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "own_forms.py").write_text(OWN_FORMS)
    monkeypatch.syspath_prepend(folder)
    with allowing_code([]):
        assert callable(import_target(f"own_forms.{name}", name))


@pytest.mark.parametrize(
    "target",
    [
        "test.support.script_helper.make_script",
        "test.support.os_helper.rmtree",
        "_testcapi.run_in_subinterp",
        "_testinternalcapi.get_configs",
        "_ctypes_test.unpack_bitfields",
        "idlelib.run.main",
        "turtledemo.__main__.main",
        "__hello__.main",
        "_xxsubinterpreters.run_string",
    ],
)
def test_what_a_python_comes_with_is_no_hook_whether_or_not_it_is_listed_as_its_own(
    folder: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with allowing_code([target.partition(".")[0]]):
        assert "holds no hooks" in str(refusal_of(target))
    (folder / "victim").mkdir()
    assert main(["check", f"buffer._target_={target}", "buffer.path=./victim"]) == 2
    assert f"buffer._target_={target}: {target.partition('.')[0]} holds no hooks" in capsys.readouterr().err
    assert (folder / "victim").is_dir()
    with pytest.raises(UserError, match="holds no hooks"):
        import_target(target, target)


def test_a_module_of_ones_own_may_be_called_as_one_that_a_python_comes_with(folder: Path) -> None:
    (folder / "test.py").write_text(SCORE)
    sys.modules.pop("test", None)
    assert refusal_of("test.score") is None


def test_an_installed_package_is_one_wherever_its_folder_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below the current folder, and that of another Python on PYTHONPATH."""
    place = folder / "venv" / "lib" / "site-packages"
    place.mkdir(parents=True)
    (place / "theirs.py").write_text(SCORE)
    monkeypatch.syspath_prepend(place)
    assert "add --allow-code=theirs if you trust it" in str(refusal_of("theirs.score"))


def test_a_package_in_development_mode_is_ones_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it was installed so: by a line in a .pth file, or by a finder of its own."""
    (folder / "src").mkdir()
    (folder / "src" / "developed.py").write_text(SCORE)

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return spec_from_file_location(name, folder / "src" / "developed.py") if name == "developed" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert refusal_of("developed.score") is None
    assert code_that_runs(compose(overrides=["reward.function={_target_: developed.score}"])) == [
        f"reward.function: runs developed.score of {folder / 'src' / 'developed.py'}"
    ]


def test_what_is_imported_already_decides_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name in the current folder would not be read any more."""
    import mpmath

    (folder / "mpmath.py").write_text("")
    assert mpmath.__file__
    assert "add --allow-code=mpmath" in str(refusal_of("mpmath.quad"))


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
            f"reward.function={{_target_: rlscale.envs.rewards.weighted.WeightedSum, parts: {{a: {code}}}}}",
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
