"""Limits that several numbers share: how far each may go before it can only be a slip, and why there is an end."""

from __future__ import annotations

from rlscale.config.schema.about import Limit

WEIGHT = Limit(1000, "a term of the loss that weighs more drowns all others")
RATIO = Limit(1e6, "no ratio between similar policies comes near it")
GATE = Limit(1000, "the gate becomes a step", least=0.001)
TOKENS = Limit(1e7, "no model has that many positions")
STEPS = Limit(100_000, "no batch can be divided into that many steps")
COUNT = Limit(1e9, "no run gets that far")
DEVICES = Limit(100_000, "no cluster has that many devices")
CPU_PROCESSES = Limit(1024, "each is a process of its own that fills a core")
CORES = Limit(1024, "no machine has that many cores")
YEAR = Limit(31_536_000, "that is a year; set it to how long you are willing to wait", least=0.001)
PATIENCE = Limit(10_000, "no run needs that many")
SEED = Limit(2**32 - 1, "seeds have 32 bits")
IN_EVALUATION = Limit(1e7, "an evaluation's samples are held in memory")
TEMPERATURE = Limit(
    100,
    "logits are divided by it: smaller ones are greedy (eval.temperature=0 is), larger ones pure chance",
    least=0.01,
)
LEARNING_RATE = Limit(1, "Adam moves every weight by up to the learning rate in each step")
IN_MEMORY = Limit(1e6, "the samples of an iteration are held in memory")
LOGPROBS = Limit(1000, "no log-prob differs by that much")
