"""What `eval` measures, with which options, and what it refuses before it starts anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import FileData
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.observe import jsonl
from rlscale.rollout.evaluation import EvalPrompts, summarize
from rlscale.run.commands.eval_command import _OWN, _subject, _target, _write, evaluate
from rlscale.run.commands.recomposed import taken_apart


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that measured on a file with a key of its own, with one checkpoint."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1+1=", "label": "2"}\n')
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "iteration_000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(json.dumps({"files": {}}))
    (folder / "run.json").write_text('{"state": "unfinished"}')
    own = ["data@eval.data=jsonl", f"eval.data.path={rows}", "eval.data.prompt_key=question", "eval.prompts=7"]
    write_recipe(compose(None, own), folder)
    return folder


def test_an_unfinished_run_is_measured_by_its_newest_checkpoint_and_a_finished_one_by_its_model(run: Path) -> None:
    config, checkpoint = _subject(run, {}, [])
    assert checkpoint == run / "checkpoints" / "iteration_000004"
    assert config.model.create is not None  # whose tokenizer and shape it has
    assert (config.eval.prompts, config.eval.enabled, config.warm_start) == (7, True, None)
    (run / "hf").mkdir()
    (run / "hf" / "config.json").write_text("{}")
    (run / "run.json").write_text('{"state": "finished"}')
    config, checkpoint = _subject(run, {}, [])
    assert (config.model.path, config.model.create, checkpoint) == (str(run / "hf"), None, None)
    assert _subject(run, {"iteration": "4"}, [])[1] == run / "checkpoints" / "iteration_000004"
    with pytest.raises(UserError, match=r"iteration=3: .* has checkpoints of the iterations 4"):
        _subject(run, {"iteration": "3"}, [])


def test_a_finished_run_is_measured_with_the_tokenizer_and_template_of_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "config.json").write_text("{}")
    (folder / "run.json").write_text('{"state": "finished"}')
    template = tmp_path / "gone.jinja"
    write_recipe(compose(None, [f"model.chat_template={template}", f"model.tokenizer={tmp_path}/gone"]), folder)
    config, _ = _subject(folder, {}, [])
    assert (config.model.chat_template, config.model.tokenizer) == (None, None)
    config, _ = _subject(folder, {}, ["model.chat_template=other.jinja"])
    assert config.model.chat_template is not None
    assert config.model.chat_template.endswith("other.jinja")


def test_another_evaluation_set_and_reward_need_no_word_about_those_of_the_run(run: Path) -> None:
    config, _ = _subject(run, {}, ["data@eval.data=parquet", "eval.data.path=/other.parquet", "reward=math"])
    assert isinstance(config.eval.data, FileData)
    assert (config.eval.data.path, config.eval.data.prompt_key) == ("/other.parquet", "prompt")
    assert config.data == config.eval.data  # nothing is trained on


def test_any_model_is_measured_with_the_options_of_a_recipe(tmp_path: Path) -> None:
    config, checkpoint = _subject(None, {}, [f"model.path={tmp_path}", "eval.temperature=0"])
    assert (config.model.path, config.model.create, checkpoint) == (str(tmp_path), None, None)
    assert config.eval.temperature == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], r"^eval needs run\.output=FOLDER, the folder of a run, or model\.path=FOLDER, a model$"),
        (["iteration=3", "model.path=/m"], r"^iteration=\.\.\. belongs to run\.output=FOLDER"),
        (["run.output=/no/run"], r"^run\.output=/no/run does not contain a run$"),
        (["run.output=/a", "recipe=arithmetic"], r"^recipe=\.\.\. does not go with run\.output="),
        (["run.output=/a", "run.output=/b"], r"^run\.output=/b: give run\.output=\.\.\. once, with a value$"),
        (["to=", "model.path=/m"], r"^to=: give to=\.\.\. once, with a value$"),
        (["-m"], r"^eval does not know '-m'; see python -m rlscale eval --help$"),
        (["model.path=/m", "model.init=/i"], r"^model\.init=/i: eval measures model\.path; give that folder"),
        (["model.path=/m", "rollout.engine_urls=[http://x]"], r"^rollout\.engine_urls: eval starts engines of its own"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        evaluate(arguments)


def test_a_reward_that_is_missing_is_said_before_anything_starts(run: Path) -> None:
    with pytest.raises(UserError, match=r"^reward\.function\._target_=no_such_module\.fn: no module of that name"):
        evaluate([f"run.output={run}", "reward=custom", "reward.function._target_=no_such_module.fn"])
    assert not (run / "eval").exists()


def test_a_folder_that_is_in_use_is_not_written_over(run: Path) -> None:
    with pytest.raises(UserError, match=rf"^to={run} is not empty; choose another folder$"):
        _target(str(run), None, compose(None))


def test_every_sample_and_the_numbers_are_written(tmp_path: Path) -> None:
    prompt = Prompt(0, "5", np.array([1], np.int32), "2", text="1+1=")
    samples = [
        Sample.from_response(prompt, index, np.array([3, 4], np.int32), None, 0, text=text)
        for index, text in enumerate(("2", "3"))
    ]
    samples[0].reward, samples[1].reward = 1.0, 0.0
    config = compose(None, ["eval.samples_per_prompt=2", "eval.pass_k=[1,2]"])
    result = summarize(config.eval, [Group(prompt, samples)], EvalPrompts([prompt], 0, 0), 0, 10)
    _write(tmp_path, config, "/a/model", result)
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["model"], written["pass_at_k"]) == ("/a/model", {"1": 0.5, "2": 1.0})
    records = jsonl.read(tmp_path / "samples.jsonl")
    assert [(one["prompt"], one["response"], one["reward"], one["solved"]) for one in records] == [
        ("1+1=", "2", 1.0, True),
        ("1+1=", "3", 0.0, False),
    ]


def test_own_words_and_overrides_are_told_apart() -> None:
    assert taken_apart("eval", ["run.output=a=b", "eval.prompts=3", "to=x"], _OWN) == (
        {"run.output": "a=b", "to": "x"},
        ["eval.prompts=3"],
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["agent.command=python a.py"],
            "runs python a.py; so says .*add 'agent.command=python a.py', or",
        ),
        (["rollout.filter._target_=theirs.keep"], r"rollout\.filter: runs theirs\.keep of .*theirs\.py; so says"),
        (
            ["reward=code", "reward.function.sandbox=none"],
            r"reward\.function\.sandbox=none: runs what the policy writes",
        ),
        (["rollout.sglang.trust_remote_code=true"], r"add rollout\.sglang\.trust_remote_code=true, or --trust-run"),
        (["cluster.ray_address=192.0.2.1:6379"], r"cluster\.ray_address=192\.0\.2\.1:6379: joins that Ray"),
    ],
)
def test_what_a_runs_own_recipe_runs_is_refused_until_the_command_line_says_so(
    run: Path, overrides: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    Path("theirs.py").write_text("open('ran', 'w').close()\n")
    config = compose(None, overrides)
    write_recipe(config, run)
    if config.cluster.ray_address is not None:  # which no run writes, but somebody else may
        with (run / "recipe.yaml").open("a") as file:
            file.write(f"cluster: {{ray_address: '{config.cluster.ray_address}'}}\n")
    with pytest.raises(UserError, match=said):
        evaluate([f"run.output={run}"])
    assert not Path("ran").exists()
    _subject(run, {}, [], trust=True)
    _subject(run, {}, overrides)


def test_a_custom_loss_is_not_run_by_an_evaluation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    Path("theirs.py").write_text("")
    write_recipe(compose(None, ["algo/loss=custom", "algo.loss.function._target_=theirs.loss"]), run)
    _subject(run, {}, [])


def test_code_is_listed_before_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("print('it runs', flush=True)\nraise RuntimeError('stop here')\n")
    Path("e.yaml").write_text("defaults: [arithmetic, _self_]\nreward: {function: {_target_: evil.score}}\n")
    (tmp_path / "m").mkdir()
    tiny = compose().model.create
    assert tiny is not None
    (tmp_path / "m" / "config.json").write_text(json.dumps({**tiny.architecture, "vocab_size": 32}))
    with pytest.raises(UserError, match="stop here"):
        evaluate(["recipe=./e.yaml", "model.path=./m"])
    out = capsys.readouterr().out
    assert out.index(f"note: reward.function: runs evil.score of {tmp_path / 'evil.py'}") < out.index("it runs")
