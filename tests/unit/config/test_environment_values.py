"""Values from the environment: they are noted, and where they are secrets no file of a run holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import differing_keys, recipe_text, write_recipe
from rlscale.config.environment_values import without_secrets
from rlscale.config.errors import ConfigError
from rlscale.config.named_code import code_that_runs

SECRET = "verysecret1234"
JUDGE = "{{_target_: rlscale.envs.rewards.remote.RemoteReward, url: {url}, key_file: /home/me/.ssh/id_rsa}}"


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("SERVICE", f"https://user:{SECRET}@judge.example/score")
    monkeypatch.setenv("RATE", "0.001")
    monkeypatch.setenv("MY_ROOT", "/my/root")


def recipe(folder: Path, values: str) -> str:
    file = folder / "r.yaml"
    file.write_text(f"defaults: [arithmetic, _self_]\n{values}\n")
    return str(file)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("agent: {arguments: {api_key: '${oc.env:SERVICE_TOKEN}'}}", "api_key: ${oc.env:SERVICE_TOKEN}"),
        ("agent: {arguments: {header: 'Bearer ${oc.env:SERVICE_TOKEN}'}}", "header: Bearer ${oc.env:SERVICE_TOKEN}"),
        ("agent: {arguments: {url: '${oc.env:SERVICE}'}}", "url: ${oc.env:SERVICE}"),
        (
            "agent: {arguments: {a: {token: '${oc.env:SERVICE_TOKEN}'}, b: ['${agent.arguments.a.token}']}}",
            "- ${oc.env:SERVICE_TOKEN}",
        ),
    ],
)
def test_no_file_of_a_run_holds_a_secret_of_the_environment(tmp_path: Path, value: str, written: str) -> None:
    """Neither where it stands, nor where another key follows it, and the recipe still gives it."""
    config = compose(recipe(tmp_path, value))
    write_recipe(config, tmp_path)
    for name in ("recipe.yaml", "resolved.yaml"):
        text = (tmp_path / name).read_text()
        assert SECRET not in text
        assert written in text.replace("'", "")
    again = compose(str(tmp_path / "recipe.yaml"))
    assert again.agent == config.agent
    assert again.run.environment.items() >= config.run.environment.items()
    assert differing_keys(again, tmp_path) == []


@pytest.mark.parametrize("name", ["HF_TOKEN", "APIKEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "my-key", "AUTH"])
def test_whole_words_of_a_name_tell_a_secret(name: str) -> None:
    assert without_secrets({"a": "value-of-it"}, {"a": name}, {name: "value-of-it"}) == {"a": f"${{oc.env:{name}}}"}


@pytest.mark.parametrize("key", ["model.tokenizer", "data.prompt_key", "data.label_key", "rollout.max_tokens", "a"])
@pytest.mark.parametrize("name", ["TOKENIZER_DIR", "MONKEY", "AUTHOR", "RAY_AUTH_MODE", "BASE", "COMPASS"])
def test_parts_of_words_tell_none(key: str, name: str) -> None:
    section, _, last = key.rpartition(".")
    values = {section: {last: "/a/folder"}} if section else {last: "/a/folder"}
    assert without_secrets(values, {key: name}, {name: "/a/folder"}) == values


def test_what_is_no_secret_is_written_as_it_is(tmp_path: Path) -> None:
    config = compose(recipe(tmp_path, "optim: {lr: '${oc.env:RATE}'}\nrun: {root: '${oc.env:MY_ROOT}'}"))
    assert "lr: 0.001" in recipe_text(config)
    write_recipe(config, tmp_path)
    assert "root: /my/root" in (tmp_path / "resolved.yaml").read_text()


def test_a_short_secret_is_hidden_where_it_stands_and_nowhere_else() -> None:
    values = {"a": {"token": "ab"}, "b": "ab", "c": "about"}
    hidden = without_secrets(values, {"a.token": "T"}, {"T": "ab"})
    assert hidden == {"a": {"token": "${oc.env:T}"}, "b": "ab", "c": "about"}


def test_values_of_the_environment_are_noted_with_where_they_may_go(tmp_path: Path) -> None:
    values = "agent: {arguments: {token: '${oc.env:SERVICE_TOKEN}', url: 'https://u:pw@judge.example:8000/x?key=1'}}"
    notes = check(compose(recipe(tmp_path, values)))
    line = "agent.arguments.token: is taken from the environment, SERVICE_TOKEN, which may go to https://judge.example:8000"
    assert line in notes
    notes = check(compose(recipe(tmp_path, "run: {root: '${oc.env:MY_ROOT}'}")))
    assert "run.root: is taken from the environment, MY_ROOT" in notes


@pytest.mark.parametrize(
    ("url", "goes"),
    [
        ("https://judge.example/score", "https://judge.example"),
        ("http://127.0.0.1@judge.example/", "http://judge.example"),
        ("http://localhost.judge.example:81/", "http://localhost.judge.example:81"),
        ("HTTP://10.0.0.1/", "http://10.0.0.1"),
        ("http://127.0.0.1:9/", None),
        ("http://[::1]:9/", None),
        ("http://localhost/", None),
    ],
)
def test_a_file_whose_content_goes_to_another_machine_is_noted(tmp_path: Path, url: str, goes: str | None) -> None:
    node = JUDGE.format(url=f"'{url}'")
    for place in ("reward: {function: NODE}", "reward: {function: {_target_: mine.f, parts: {a: {function: NODE}}}}"):
        lines = code_that_runs(compose(recipe(tmp_path, place.replace("NODE", node))))
        assert [one.partition(": ")[2] for one in lines if "key_file" in one] == (
            [] if goes is None else [f"what /home/me/.ssh/id_rsa holds goes to {goes}"]
        )


def test_so_is_the_key_of_engines_elsewhere(tmp_path: Path) -> None:
    engines = "rollout: {engine_urls: ['http://192.0.2.1:30000'], engine_key_file: /home/me/key}"
    assert "rollout.engine_key_file: what /home/me/key holds goes to http://192.0.2.1:30000" in code_that_runs(
        compose(recipe(tmp_path, engines))
    )


def test_what_was_taken_is_set_by_composing_alone() -> None:
    with pytest.raises(ConfigError, match=r"run\.environment: is set by composing; leave it out"):
        compose(None, ["run.environment={a: b}"])


def test_a_target_may_come_from_the_environment_and_is_judged_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARGET", "os.system")
    with pytest.raises(ConfigError, match=r"^buffer\._target_=os\.system: os holds no hooks"):
        compose(None, ["buffer._target_=${oc.env:TARGET}"])
