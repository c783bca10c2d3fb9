"""The files of a run as a run writes them, for a page to show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rlscale.config.schema.rollout_config import Store, StoreFormat
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.stored.stored_rollouts import FOLDER, RolloutStore
from rlscale.data.stored.trained_tokens import TrainedTokens
from rlscale.observe.load_log import EngineLoadLog
from rlscale.observe.metrics import MetricsLog
from rlscale.observe.timeline import Timeline


def write_run(folder: Path, iterations: int, reward: float = 0.0) -> None:
    """The files that a run has written after so many iterations."""
    log, timeline, loads = MetricsLog(folder), Timeline(folder), EngineLoadLog(folder)
    for i in range(1, iterations + 1):
        seconds = {"seconds_loop": 2.0, "seconds_generate": 1.5, "seconds_train": 0.4, "prompts/ready": 0.0}
        tokens = {
            "prompts/drawn": 8.0 * i,
            "prompts/trained": 8.0 * i,
            "staleness_tokens/0": 10.0,
            "staleness_tokens/1": 30.0,
        }
        restarts = {"engine_restarts/127.0.0.1:1": 2.0} if i > 1 else {}
        log.log(i, {"reward": reward + i / 100, "loss": None, **seconds, **tokens, **restarts})
        timeline.add("generate", "driver", 1000.0 + 2 * i, 1001.5 + 2 * i)
        timeline.add("train", "driver", 1001.5 + 2 * i, 1002.0 + 2 * i)
        timeline.add("generate", "engines", 1000.0 + 2 * i, 1001.4 + 2 * i)
        loads.log(i, {"http://127.0.0.1:1": {"running": 4.0 + i, "waiting": 0.0, "usage": 0.25}})
    for file in (log, timeline, loads):
        file.close()
    (folder / "run.json").write_text(json.dumps({"recipe": "arithmetic", "state": "unfinished"}))
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "rank-0.log").write_text("first\n<b>last</b>\n")


def store_rollouts(folder: Path, form: StoreFormat, iteration: int = 3) -> None:
    """Two groups of two samples; the policy of version 5 is trained on what 4 and 5 generated."""
    groups = []
    for index, rewards in ((7, (0.0, 1.0)), (8, (0.5, 0.5))):
        prompt = Prompt(index, f"p{index}", np.array([1, 2], np.int32), "4", text="2+2=")
        logprobs = np.log(np.array([0.5, 0.25, 1.0], np.float32))
        samples = [
            Sample.from_response(prompt, i, np.array([3, 4, 5], np.int32), logprobs, 4 + i, text="four")
            for i in range(2)
        ]
        for sample, reward in zip(samples, rewards, strict=True):
            sample.reward = reward
        groups.append(Group(prompt, samples))
    store = RolloutStore(folder / FOLDER, Store.all, 8, 1.0, "", form)
    store.write(iteration, 5, groups)
    advantages = np.repeat(np.array([-1.0, 1.0, 0.0, 0.0], np.float32), 5)
    trained = np.log(np.tile(np.array([1.0, 1.0, 0.5, 0.5, 0.75], np.float32), 4))
    store.write_trained(iteration, groups, TrainedTokens(advantages, trained))
