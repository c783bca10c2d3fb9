"""The program of the router's own process: sglang-router with its arguments as JSON on standard input.

The object is {"options": {RouterArgs name: value}, "api_key": str}; see `engine_main` for why not on the command line.
"""

from __future__ import annotations

import json
import sys

from rlscale.platform.stacks import tell_stacks
from rlscale.serve.secret import Secret


def main() -> None:
    """Run the router until it is ended."""
    tell_stacks()
    order = json.loads(sys.stdin.buffer.read())
    from sglang_router.router import Router
    from sglang_router.router_args import RouterArgs

    Router.from_args(RouterArgs(**order["options"], api_key=Secret(order["api_key"]))).start()


if __name__ == "__main__":
    main()
