"""Fixtures of the transports' tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package: the file with the fixture is found here

from one_rank import rank  # noqa: F401  the path comes first; pytest finds it by name
