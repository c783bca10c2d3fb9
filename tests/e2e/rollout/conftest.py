"""Fixtures of the rollout's end-to-end tests."""

from __future__ import annotations

import sys
from pathlib import Path

# tests are no package: fake_engine.py is found there
sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "rollout"))
