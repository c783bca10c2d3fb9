"""What every rank imports, imported once: the ranks of a pool are forked from a process that has done nothing else."""

from __future__ import annotations

import importlib
import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import torch

from rlscale.platform import megatron_cpu

megatron_cpu.install()
importlib.import_module("rlscale.trainer.megatron.trainer")  # which imports Megatron
torch.set_num_threads(1)
