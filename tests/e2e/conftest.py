"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package: shared_server.py is found here

from shared_server import fork_server, shared_server  # noqa: F401  the path comes first; pytest finds them by name
