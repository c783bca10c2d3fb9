"""What every rank imports, imported once: the ranks of a pool are forked from a process that has done nothing else."""

from __future__ import annotations

import gc
import importlib
import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import torch

from rlscale.platform import megatron_cpu

megatron_cpu.install()
for name in (
    "rlscale.trainer.megatron.trainer",  # which imports Megatron
    "transformers.models.auto.modeling_auto",
    "driven",
    "checkpoint_scenarios",
    "optimizer_scenarios",
    "state_scenarios",
):
    importlib.import_module(name)
importlib.import_module("training_data").default_config()  # so that no rank composes it again
torch.set_num_threads(1)
# Ranks look for cycles after every function that they run: among what is imported there are none that matter, and
# walking through that takes 0.4 s each time, most of what a small function costs.
gc.collect()
gc.freeze()
