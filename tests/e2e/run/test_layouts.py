"""Other shapes of the same run: disaggregated, two engines, two ranks, data from a file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from rlscale.cli import main
from rlscale.observe.timeline import DRIVER, ENGINES, read_timeline
from tests.e2e.run.command import SHORT, metrics, only_run, run, summary

pytestmark = pytest.mark.timeout(300)


def test_disaggregated_one_step_off_generates_while_it_trains(short, tmp_path: Path):
    ended = run(
        tmp_path, *short, "cluster.placement=disaggregated", "rollout.max_staleness=1", "rollout.stale=wait",
        "run.iterations=4", "rollout.groups_per_iteration=16",
    )  # fmt: skip
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    assert max(line["staleness_max"] for line in metrics(folder)) == 1
    assert summary(folder)["canary_diff_max"] < 1e-4
    spans = read_timeline(folder)
    training = [span for span in spans if span.lane == DRIVER and span.name == "train"]
    generating = [span for span in spans if span.lane == ENGINES]
    overlap = sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in training for b in generating)
    assert overlap > 0.05


def test_two_tensor_parallel_ranks_agree_with_the_engine(short, tmp_path: Path):
    ended = run(tmp_path, *short, "parallel.tensor=2")
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    assert (folder / "logs" / "rank-1.log").exists()
    assert 0 < summary(folder)["logprob_diff_max"] < 1e-4
    assert 0 < summary(folder)["canary_diff_max"] < 1e-4


def test_engines_have_the_adapter_merged_after_each_sync_and_so_has_the_export(short, tmp_path: Path):
    trained = ["algo/kl=loss", "algo.entropy_coef=1", "optim.lr=0.02"]  # random weights earn no reward to learn from
    ended = run(
        tmp_path,
        *short,
        "model.lora={rank: 4, alpha: 64}",
        *trained,
        "weights.verify_every=1",
        "weights.verify_tensors=1",
    )
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    assert 0 < summary(folder)["logprob_diff_max"] < 1e-4
    assert 0 < summary(folder)["canary_diff_max"] < 1e-4
    first, second = metrics(folder)
    assert first["kl"] < 1e-6 < second["kl"], "the second iteration's engine or reference has the first one's weights"
    adapter = json.loads((folder / "hf" / "adapter" / "adapter_config.json").read_text())
    merged, base = (
        load_file(Path(path) / "model.safetensors") for path in (folder / "hf", adapter["base_model_name_or_path"])
    )
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, base[name])}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in changed} == set(adapter["target_modules"])


def test_engines_hold_the_adapter_itself_and_go_on_with_the_next_in_the_middle_of_a_response(ready, tmp_path: Path):
    trained = ["algo/kl=loss", "algo.entropy_coef=1", "optim.lr=0.02", "parallel.tensor=2"]
    apart = ["cluster.placement=disaggregated", "rollout.max_staleness=1", "rollout.on_sync=in_place"]
    lora = ["model.lora={rank: 4, alpha: 64}", "weights.lora=adapter", "weights.verify_every=1"]
    ended = run(tmp_path, *SHORT, *ready, *trained, *apart, *lora)
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    assert 0 < summary(folder)["logprob_diff_max"] < 1e-4
    assert 0 < summary(folder)["canary_diff_max"] < 1e-4
    adapter = folder / "hf" / "adapter" / "adapter_model.safetensors"
    size = sum(tensor.nbytes for tensor in load_file(adapter).values())
    assert [line["sync_bytes"] for line in metrics(folder)] == [size, size]
    assert metrics(folder)[0]["ratio_max"] == pytest.approx(1, abs=1e-4)


KNOWN_KEY = "known-to-this-test-only-0123456789"
RUN_WITH_A_KNOWN_KEY = f"""
import secrets, sys
from rlscale.cli import main
secrets.token_urlsafe = lambda size=None: "{KNOWN_KEY}"
sys.exit(main())
"""


def test_two_engines_and_two_data_parallel_ranks_whose_keys_are_nowhere_and_whose_files_are_its_users(tmp_path: Path):
    """Two engines of its own serve the run; its API key and its Ray's token are in no log, file, process list,
    environment or bundle. Under a umask of 077 nobody else may read anything of it."""
    overrides = [*SHORT, "rollout.engines=2", "parallel.data=2", "run.iterations=3"]
    log, program = tmp_path / "command.log", tmp_path / "program.py"
    program.write_text(RUN_WITH_A_KNOWN_KEY)
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, str(program), *overrides], cwd=tmp_path, stdout=output, stderr=output, umask=0o077
        )
    seen, keys = 0, {KNOWN_KEY}
    while process.poll() is None:
        for token in (tmp_path / ".rlscale" / "ray").glob("*/auth_token"):
            with suppress(FileNotFoundError):
                keys |= {token.read_text()} - {""}
                places = (tmp_path / ".rlscale", token.parent, token)
                assert [oct(place.stat().st_mode & 0o777) for place in places] == ["0o700", "0o700", "0o600"]
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                shown = [*child.cmdline(), *child.environ().values()]
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            seen += any(text.startswith("rlscale engine-") for text in shown)
            assert not any(key in text for text in shown for key in keys), child
        time.sleep(0.5)
    assert process.returncode == 0, log.read_text()
    assert seen > 1
    assert len(keys) == 2
    folder = only_run(tmp_path)
    served = ["Prefill batch" in (folder / "logs" / f"engine-{n}.log").read_text() for n in (0, 1)]
    assert served == [True, True]
    assert summary(folder)["status"] == "finished"
    assert main(["doctor", "--bundle", str(tmp_path / "bundle.zip"), f"run.output={folder}", *overrides]) in (0, 1)
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        bundle.extractall(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "run" / "logs" / "rank-0.log").stat().st_size > 0
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size < 1 << 24]
    assert [path for path in files if any(key.encode() in path.read_bytes() for key in keys)] == [program]
    assert [
        path for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077 and not path.is_symlink()
    ] == []


def test_problems_from_a_file_with_the_mathematics_reward(short, tmp_path: Path):
    rows = [{"q": f"{a}+{b}=", "a": str(a + b)} for a in range(5) for b in range(5)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["data=jsonl", "data.path=sums.jsonl", "data.prompt_key=q", "data.label_key=a", "reward=math"]
    ended = run(tmp_path, *short, *given, "eval.enabled=false", "run.iterations=1")
    assert ended.code == 0, ended.text
    assert metrics(only_run(tmp_path))[0]["samples"] == 16


@pytest.mark.parametrize(("form", "trained_so"), [("fp8_block", False), ("int4", True)])
def test_quantised_engines_agree_with_what_their_codes_are_worth(form: str, trained_so: bool, tmp_path: Path):
    """And with the weights that are trained, of which two ranks hold halves, only if those are rounded in training."""
    wide = "model.create.architecture.num_key_value_heads=4"  # whole blocks of 128 rows
    given = [f"rollout.weights={form}", f"trainer.fake_quant={trained_so}", "parallel.tensor=2"]
    ended = run(tmp_path, *SHORT, wide, *given)
    assert ended.code == 0, ended.text
    folder = only_run(tmp_path)
    assert 0 < summary(folder)["canary_diff_max"] < 1e-4
    if trained_so:
        assert 0 < summary(folder)["logprob_diff_max"] < 1e-4
    else:
        assert summary(folder)["logprob_diff_max"] > 1e-2
