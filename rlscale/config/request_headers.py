"""Headers by which a request asks an engine for more than tokens and log-probs, 1 or 0 each.

Why they are headers: `rlscale.platform.sglang_headers`.
"""

from __future__ import annotations

ROUTED_EXPERTS_HEADER = "x-request-id-return-routed-experts"
"""Whether the answer says which experts were chosen."""

SAMPLING_SUPPORT_HEADER = "x-request-id-return-sampling-support"
"""Whether the answer says which words each token was drawn from."""
