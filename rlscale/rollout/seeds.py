"""The seed of every request: what is sampled does not depend on when, where or beside what it is generated."""

from __future__ import annotations

import hashlib

TRAINING = "train"
EVALUATION = "eval"


def request_seed(seed: int, prompt: int, sample: int, turn: int = 0, stream: str = TRAINING) -> int:
    """A seed of 31 bits from run seed, prompt index, sample number and turn; the same on every machine.

    `stream` keeps training and evaluation apart.
    """
    key = f"{stream}:{seed}:{prompt}:{sample}:{turn}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little") & 0x7FFFFFFF
