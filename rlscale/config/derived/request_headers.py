"""Headers of requests: by some they ask an engine for more than tokens and log-probs, 1 or 0 each.

Why those are headers: `rlscale.platform.sglang_headers`.
"""

from __future__ import annotations

ROUTED_EXPERTS_HEADER = "x-request-id-return-routed-experts"
"""Whether the answer says which experts were chosen."""

SAMPLING_SUPPORT_HEADER = "x-request-id-return-sampling-support"
"""Whether the answer says which words each token was drawn from."""

TRAJECTORY_HEADER = "x-smg-routing-key"
"""The router's own: requests with the same value go to the same engine (`rlscale.config.derived.sticky_routing`)."""

ENGINE_HEADER = "X-Rlscale-Engine"
"""Of an answer: host and port of the engine that it is by."""
