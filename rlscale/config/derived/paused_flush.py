"""By what an engine says that it empties its cache in a pause (`rlscale.platform.sglang_paused_flush`)."""

from __future__ import annotations

MARK = "rlscale_flushes_while_paused"
"""Key in the internal states of `/server_info` of an engine that does."""
