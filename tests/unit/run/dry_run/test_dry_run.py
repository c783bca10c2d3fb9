"""`--dry-run`: what would start, written down, on whatever machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from rlscale.cli import main
from rlscale.config.composition.compose import compose
from rlscale.config.foreign_code import allowing_code
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.run.dry_run.job_script import kubernetes_job, slurm_job
from rlscale.run.dry_run.started_folders import StartedFolders
from rlscale.run.processes.actor_settings import rank_settings
from rlscale.run.processes.placement import lay_out_run
from rlscale.run.sides.engines import Engines

NODES = [
    "model=qwen3_30b",
    "parallel=moe_8gpu",
    "cluster=multinode_disaggregated",
    "rollout.engines=16",
    "warm_start=null",
]


def dry(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Path, list[dict[str, Any]]]:
    """The folder that a dry run wrote, and the processes in it."""
    assert main(["--dry-run", *words]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1].rpartition(" are in ")[2])
    return folder, yaml.safe_load((folder / "processes.yaml").read_text())["processes"]


def named(processes: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [process for process in processes if process["name"] == name]
    return found


def published(folder: Path) -> Path:
    """A model's folder, as one that was downloaded."""
    return ensure_model_folder(compose(None, []).model, folder)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_the_default_recipe_is_written_down_and_nothing_is_started(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, processes = dry(capsys)
    assert folder.parent == elsewhere / "outputs" / "arithmetic"
    assert sorted(file.name for file in folder.iterdir()) == ["processes.yaml", "recipe.yaml", "resolved.yaml"]
    assert not (elsewhere / ".rlscale" / "models").exists()
    assert [one["name"] for one in processes][:4] == [
        "driver",
        "Ray",
        "fork server of engines",
        "fork server of workers",
    ]
    engine = named(processes, "engine-0")
    options = engine["standard_input"]["options"]
    assert engine["command"] == [sys.executable, "-m", "rlscale.serve.engine_main"]
    assert options["attention_backend"] == "torch_native"
    assert options["model_path"].startswith(str(elsewhere / ".rlscale" / "models" / "tiny_qwen3-"))
    router = named(processes, "router")["standard_input"]["options"]
    assert (router["policy"], router["host"]) == ("round_robin", "127.0.0.1")


def test_ranks_are_those_that_the_run_would_start(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parallel.tensor=2", "trainer.threads=1"]
    _, processes = dry(capsys, *words)
    config = compose(None, words)
    for one in rank_settings(config, lay_out_run(config), Path("logs")):
        process = named(processes, f"rank {one.rank}")
        assert process["command"] == [f"ray::TrainerActor rank-{one.rank}"]
        assert process["environment"] == one.environment
        assert process["runs"] == config.trainer._target_


def test_engines_that_evaluate_are_started_as_the_policys_are(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What starts them is `Engines`, unless it is told otherwise."""
    words = ["cluster.placement=disaggregated", "rollout.max_staleness=1", "eval.engines=1", "model=tiny_qwen3_moe"]
    _, processes = dry(capsys, *words, "trainer.routing_replay=rollout", "rollout.models.judge.follows_policy=true")
    of = {name: named(processes, name)["standard_input"]["options"] for name in ("engine-0", "eval: engine-0")}
    assert Engines.trained_on
    assert of["eval: engine-0"] == of["engine-0"]
    assert of["engine-0"]["enable_return_routed_experts"]
    judge = named(processes, "models/judge: engine-0")["standard_input"]["options"]
    assert not judge["enable_return_routed_experts"]


@pytest.fixture(scope="module")
def cluster_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of four machines wrote on one that has no GPU, into a folder with a blank in its name."""
    place = tmp_path_factory.mktemp("laptop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HF_HOME", str(place / "hub"))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for _ in range(2):  # a dry run does not stand in the way of another
            words = ["run.output=out folder", "--slurm", "--kubernetes=registry/rlscale:1"]
            assert main(["--dry-run", *NODES, *words]) == 0
    return place / "out folder" / "dry_run"


def test_a_cluster_is_laid_out_on_a_laptop(cluster_run: Path) -> None:
    processes = yaml.safe_load((cluster_run / "processes.yaml").read_text())["processes"]
    ranks = [one for one in processes if one["name"].startswith("rank ")]
    assert [(one["machine"], one["gpus"]) for one in ranks] == [(n, [g]) for n in (0, 1) for g in range(8)]
    engines = [one for one in processes if one["name"].startswith("engine-")]
    assert [(one["machine"], one["gpus"]) for one in engines] == [(n, [g]) for n in (2, 3) for g in range(8)]
    assert engines[0]["standard_input"]["options"]["model_path"] == "Qwen/Qwen3-30B-A3B"
    launchers = [one for one in processes if one["name"].startswith("launcher ")]
    assert {one["machine"]: one["reserves_gpus"] for one in launchers} == {0: 8, 2: 8, 3: 8}
    assert named(processes, "router")["standard_input"]["options"]["host"] == "127.0.0.1"


def test_the_slurm_script_is_bash_and_asks_for_the_runs_machines(cluster_run: Path) -> None:
    script = cluster_run / "job.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    asked = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked[:4] == ["job-name=rlscale-arithmetic", "nodes=4", "ntasks-per-node=1", "gpus-per-node=8"]
    assert f"output='{cluster_run}/slurm-%j.log'" in asked
    last = text.splitlines()[-1]
    assert f"'recipe={cluster_run}/recipe.yaml'" in last
    assert f"'run.output={cluster_run.parent}'" in last
    assert last.endswith("cluster.ray_address=auto")
    assert "RAY_AUTH_MODE=token" in text


def test_a_job_on_one_machine_starts_no_cluster(tmp_path: Path) -> None:
    text = slurm_job(compose(None, []), tmp_path)
    assert "if [ no = yes ]" in text
    assert "cluster.ray_address" not in text
    assert "gpus-per-node" not in text


def test_what_the_pods_of_a_kubernetes_job_lack_of_the_environment_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("SERVICE_TOKEN", "verysecret1234")
    given = ["run.output=out", "--kubernetes=image", "+agent.arguments.api_key=${oc.env:SERVICE_TOKEN}"]
    assert main(["--dry-run", *NODES, *given]) == 0
    said = "note: rayjob.yaml gives its containers no ${oc.env:SERVICE_TOKEN}, which its recipe reads; add them"
    assert said in capsys.readouterr().out.splitlines()


def test_the_kubernetes_job_holds_the_recipe_and_one_pod_for_each_machine(cluster_run: Path) -> None:
    recipe, job = yaml.safe_load_all((cluster_run / "rayjob.yaml").read_text())
    assert yaml.safe_load(recipe["data"]["recipe.yaml"]) == yaml.safe_load((cluster_run / "recipe.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"].startswith("python -m rlscale recipe=/recipe/recipe.yaml cluster.ray_address=auto")
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (3, 3, 3)
    for pod in (cluster["headGroupSpec"], workers):
        (container,) = pod["template"]["spec"]["containers"]
        assert container["image"] == "registry/rlscale:1"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        volumes = {one["name"] for one in pod["template"]["spec"]["volumes"]}
        assert {one["name"] for one in container["volumeMounts"]} == volumes


def test_what_would_end_the_run_is_said_and_nothing_is_written(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dry-run", "reward=custom", "reward.function._target_=no_such_module.fn"]) == 2
    assert "no_such_module" in capsys.readouterr().err
    assert not (elsewhere / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--slurm"], "error: --slurm and --kubernetes belong to --dry-run: python -m rlscale --dry-run --slurm ..."),
        (["--dry-run", "-m"], "error: --dry-run goes with neither --multirun nor --cfg: leave one of them out"),
        (
            ["--dry-run", "--kubernetes", "recipe=kernel_c"],
            "error: --kubernetes=recipe=kernel_c: name the image that has rlscale installed, --kubernetes=IMAGE",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], line: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize(
    ("words", "draft"),
    [
        (["model.tokenizer=nobody/tokenizer"], None),
        (["rollout.speculation.algorithm=standalone", "rollout.speculation.draft=nobody/draft"], "nobody/draft"),
    ],
)
def test_what_is_not_here_is_named_and_not_downloaded(
    words: list[str],
    draft: str | None,
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name))
    path = published(elsewhere / "made")
    words = [*words, f"model.path={path}", "model.create=null", "warm_start=null", "cluster=node8"]
    _, processes = dry(capsys, *words, "rollout.engines=8", "trainer.threads=null")
    options = named(processes, "engine-0")["standard_input"]["options"]
    assert asked == []
    assert (options["model_path"], options.get("speculative_draft_model_path")) == (str(path), draft)


def test_a_run_in_one_process_starts_nothing_besides_its_engines(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, processes = dry(capsys, "run.in_process=true", "warm_start=null")
    assert [one["name"] for one in processes] == ["driver", "fork server of engines", "router", "engine-0"]
    assert named(processes, "driver")["holds"] == ["rank 0", "rollout", "launcher 0"]


def test_a_name_whose_folder_was_downloaded_is_looked_at_without_the_hub(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def nowhere(*host: Any, **_: Any) -> None:
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", nowhere)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(elsewhere / "hub" / "hub"))
    repository = elsewhere / "hub" / "hub" / "models--nobody--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(published(elsewhere / "made"), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    words = ["model.path=nobody/model", "model.create=null", "warm_start=null", "trainer.threads=null"]
    _, processes = dry(capsys, *words)
    assert asked == []
    assert named(processes, "engine-0")["standard_input"]["options"]["model_path"] == str(snapshot)
    assert not constants.HF_HUB_OFFLINE


def test_a_stand_in_for_a_folder_is_replaced_where_it_is_a_folder_only(elsewhere: Path) -> None:
    folders = StartedFolders(compose(None, []), "", elsewhere, {"/tmp/a": "/kept/model"})
    told = {"path": "/tmp/a", "file": "/tmp/a/config.json", "other": ["/tmp/ab", "said /tmp/a", 3, None]}
    assert folders.shown(told) == {"path": "/kept/model", "file": "/kept/model/config.json", "other": told["other"]}


def test_code_that_the_command_line_allows_is_allowed_in_everything_that_is_written(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, processes = dry(capsys, "--allow-code=mpmath")
    assert named(processes, "driver")["command"][-1] == "--allow-code=mpmath"
    config = compose(None, [])
    with allowing_code(["mpmath"]):
        assert "run.progress=plain --allow-code=mpmath\n" in slurm_job(config, elsewhere)
        assert 'run.progress=plain --allow-code=mpmath"' in kubernetes_job(config, "image")


def test_whose_code_runs_is_said_before_it_is_built(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "loud.py").write_text("print('imported')\ndef score(response, label, info):\n    return 1.0\n")
    assert main(["--dry-run", "reward.function={_target_: loud.score}"]) == 0
    out = capsys.readouterr().out
    assert out.index("runs loud.score of") < out.index("imported")
