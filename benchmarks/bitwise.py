"""Trainer against engine, bit for bit: how many log-probs are equal, as it is and with `run.bitwise`, and at what cost.

`python benchmarks/bitwise.py [family[:type] ...]`, a minute for each family and type on two cores. A tiny random model
answers 16 requests together, again (from its prefix cache), and three of them alone; the trainer computes the log-probs
of the answers in micro-batches of 256 tokens and of 4,096. `cost` in the place of a family is a model of 19M parameters
with 64 requests at one temperature: CPU seconds of the engine's processes while they answer, and of the trainer's
forward pass over the answers in micro-batches of 4,096.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from machine import describe_machine, load_average

from rlscale.config.composition.compose import compose
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.model_config import CreateModelConfig, DType, ModelConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.packing import plan
from rlscale.data.batches.rank_shard import split
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.platform.device import Platform
from rlscale.platform.ports import free_port
from rlscale.run.assembly import trainer_spec
from rlscale.run.model_folders import ModelFolders
from rlscale.serve.http import CallError, call
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "families"
MIXTURE = {"moe_intermediate_size": 32, "num_experts_per_tok": 4}
CHANGES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**MIXTURE, "num_experts": 8},
    "glm4_moe": {**MIXTURE, "n_routed_experts": 32},
    "deepseek_v3": {**MIXTURE, "n_routed_experts": 32, "n_group": 4, "topk_group": 2},
    "glm4_moe_lite": {**MIXTURE, "n_routed_experts": 32},
    "glm_moe_dsa": {**MIXTURE, "n_routed_experts": 32},
}
"""What makes tiny mixtures like published ones: sizes that are multiples of 32, more than two experts a token."""
FAMILIES = ("qwen2", "qwen3", "llama", "glm4", "qwen3_moe", "glm4_moe", "deepseek_v3", "glm4_moe_lite", "glm_moe_dsa")
COST = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
}

Answers = dict[int, tuple[list[int], list[float]]]
"""By the number of its prompt, tokens and log-probs of an answer."""


@dataclass(frozen=True)
class Case:
    """What is asked of a model in one type."""

    config: dict[str, Any]
    dtype: DType
    requests: int
    longest: int
    tokens: int
    temperatures: tuple[float, ...]
    alone: tuple[int, ...]
    """Requests that are asked by themselves, too."""

    def prompts(self) -> list[list[int]]:
        """Of any length up to the longest."""
        drawn = random.Random(0)
        return [[drawn.randrange(16) for _ in range(drawn.randrange(3, self.longest))] for _ in range(self.requests)]


@dataclass(frozen=True)
class Found:
    """What an engine answered at a temperature, and how."""

    answers: Answers
    repeated: bool
    seconds: float
    """CPU seconds of the engine's processes for the first time."""


def main() -> None:
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()), "load", load_average())
    print("| model | type | computed | rollouts repeat | equal log-probs | largest difference | engine | forward |")
    print("|---" * 8 + "|")
    for asked in sys.argv[1:] or (*FAMILIES, "cost"):
        family, _, dtype = asked.partition(":")
        for one in [DType[dtype]] if dtype else (DType.float32, DType.bfloat16):
            for bitwise in (False, True):
                measure(family, case_of(family, one), bitwise=bitwise)


def case_of(family: str, dtype: DType) -> Case:
    """What is asked of a family's tiny model, or of that for costs."""
    if family == "cost":
        return Case(COST, dtype, 64, 200, 100, (1.0,), (3,))
    config = json.loads((FIXTURES / f"{family}.json").read_text(encoding="utf-8"))
    return Case({**config, **CHANGES.get(family, {})}, dtype, 16, 120, 60, (1.0, 0.7), (0, 3, 7))


def measure(name: str, case: Case, *, bitwise: bool) -> None:
    """A line of the table."""
    with tempfile.TemporaryDirectory(prefix="bitwise-") as place:
        folder = model_folder(name, case, Path(place))
        found = answered(case, folder, Path(place), bitwise)
        context = multiprocessing.get_context("spawn")  # a trainer has its process to itself
        with context.Pool(1, maxtasksperchild=1) as pool:
            compared = [
                pool.apply(differences, (case, folder, one.answers, temperature, bitwise))
                for temperature, one in found.items()
            ]
    different = np.concatenate([each for each, _ in compared])
    print(
        f"| {name} | {case.dtype.value} | {'run.bitwise' if bitwise else 'as it is'} "
        f"| {'yes' if all(one.repeated for one in found.values()) else 'no'} "
        f"| {(different == 0).sum()} of {different.size} | {different.max():.1e} "
        f"| {sum(one.seconds for one in found.values()):.2f} s | {sum(seconds for _, seconds in compared):.2f} s |",
        flush=True,
    )


def model_folder(name: str, case: Case, folder: Path) -> str:
    """A random model in the type."""
    given = {key: value for key, value in case.config.items() if key not in ("architectures", "vocab_size")}
    create = CreateModelConfig({**given, "initializer_range": 0.2}, "0123456789+-*=? ", 0)
    return str(ensure_model_folder(ModelConfig(name=name, create=create, dtype=case.dtype), folder / "model"))


def answered(case: Case, folder: str, place: Path, bitwise: bool) -> dict[float, Found]:
    """What an engine of the model answers at each temperature, together, again and alone."""
    supervisor = Supervisor(place / "logs", place / "scratch", "key")
    everyone, found = list(range(case.requests)), {}
    try:
        url = engine_of(case, folder, supervisor, bitwise)
        ask(case, url, everyone[:2], 1.0)  # what a first request starts is not the engine's cost
        for temperature in case.temperatures:
            flush(url)
            before = computed()
            first = ask(case, url, everyone, temperature)
            seconds = computed() - before
            others = [ask(case, url, chosen, temperature) for chosen in [everyone, *([one] for one in case.alone)]]
            repeated = all(first[one] == answer for other in others for one, answer in other.items())
            found[temperature] = Found(first, repeated, seconds)
        return found
    finally:
        supervisor.stop()


def engine_of(case: Case, folder: str, supervisor: Supervisor, bitwise: bool) -> str:
    """Start an engine of the model; its URL."""
    options = {"max_total_tokens": 32_768, "max_running_requests": 64}
    spec = ServerSpec("engine", folder, Device.cpu, case.dtype.value, options=options, bitwise=bitwise)
    return supervisor.start_engine(spec)


def flush(url: str) -> None:
    """Empty the prefix cache, once the engine has put the requests before away."""
    for _ in range(50):
        try:
            call(url, "/flush_cache", "key", {}, timeout=30)
            return
        except CallError:
            time.sleep(0.2)
    raise SystemExit("the engine does not empty its cache")


def ask(case: Case, url: str, chosen: list[int], temperature: float) -> Answers:
    """The answers to some prompts in one call, each drawn by a seed of its own."""
    prompts = case.prompts()
    params = [
        {"max_new_tokens": case.tokens, "temperature": temperature, "ignore_eos": True, "sampling_seed": one}
        for one in chosen
    ]
    body = {"input_ids": [prompts[one] for one in chosen], "sampling_params": params, "return_logprob": True}
    told = [one["meta_info"]["output_token_logprobs"] for one in call(url, "/generate", "key", body, timeout=500)]
    return {
        one: ([token for _, token, _ in line], [logprob for logprob, _, _ in line])
        for one, line in zip(chosen, told, strict=True)
    }


def computed() -> float:
    """CPU seconds so far of the processes that this one started."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def differences(
    case: Case, folder: str, answers: Answers, temperature: float, bitwise: bool
) -> tuple[np.ndarray, float]:
    """|trainer - engine| of each generated token, in small and in large micro-batches; CPU seconds of the latter."""
    torch.set_num_threads(1)
    trainer = trainer_of(case, folder, temperature, bitwise)
    try:
        batch, found = batch_of(case.prompts(), answers), []
        for most in (256, 4096):
            (shard,) = split(batch, plan(batch.lengths, batch.column("step"), 1, most))
            trainer.logprobs(shard)  # the first time the machine is asked which tiles it has alike
            began = time.process_time()
            own = np.asarray(trainer.logprobs(shard))
            seconds = time.process_time() - began
            mask = shard.batch.column("loss_mask")
            found.append(np.abs(own[mask] - shard.batch.column("rollout_logprobs")[mask]))
        return np.concatenate(found), seconds
    finally:
        trainer.close()


def trainer_of(case: Case, folder: str, temperature: float, bitwise: bool) -> Any:
    """A trainer of the model, started in this process."""
    changes = ["model.create=null", f"model.path={folder}", f"model.dtype={case.dtype.value}"]
    config = compose("arithmetic", [*changes, f"run.bitwise={bitwise}", f"rollout.temperature={temperature}"])
    Platform.of(Device.cpu).install_megatron()
    from rlscale.trainer.megatron.trainer import MegatronTrainer

    trainer = MegatronTrainer(trainer_spec(config, ModelFolders(Path(folder))), 0, 1)
    trainer.start("127.0.0.1", free_port("127.0.0.1"))
    return trainer


def batch_of(prompts: list[list[int]], answers: Answers) -> Batch:
    """One row for each answer."""
    rows = [(prompts[one], *answers[one]) for one in sorted(answers)]
    batch = Batch(np.concatenate([[0], np.cumsum([len(prompt) + len(tokens) for prompt, tokens, _ in rows])]))
    mask = np.concatenate([[False] * len(prompt) + [True] * len(tokens) for prompt, tokens, _ in rows])
    columns = {
        "tokens": np.concatenate([prompt + tokens for prompt, tokens, _ in rows]),
        "loss_mask": mask,
        "rollout_logprobs": np.concatenate([[0.0] * len(prompt) + told for prompt, _, told in rows]),
        "versions": np.where(mask, 0, -1),
        "step": np.zeros(len(rows), int),
        "reward": np.zeros(len(rows)),
        "group": np.arange(len(rows)),
        "sample": np.arange(len(rows)),
    }
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return batch


if __name__ == "__main__":
    main()
