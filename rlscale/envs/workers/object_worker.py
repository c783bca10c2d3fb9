"""The program of a process that holds one object: `python -m rlscale.envs.workers.object_worker FD`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from rlscale.envs.workers.process_worker import end_with_parent, next_call


def main() -> None:
    """Build the object from the first message, then answer every call with what it gives or why it does not."""
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    built: Any = None
    try:
        sys.path[:], node, key = connection.recv()
        while True:
            method, calls = next_call(connection)
            try:
                if built is None:
                    built = _built(node, key, method)
                answer: tuple[str, Any] = "", [getattr(built, method)(*arguments) for arguments in calls]
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"[:1000], None
            connection.send(answer)
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return
    finally:
        # A package may have left threads behind that would keep the process.
        os._exit(0)


def _built(node: Mapping[str, Any], key: str, method: str) -> Any:
    """The object of a node. UserError, and nothing is built, where its class lacks the method that is called."""
    from rlscale.config.errors import UserError
    from rlscale.data.target import build_target, resolve_target

    target = resolve_target(node, key)
    if not callable(getattr(target, method, None)) and not hasattr(target, "__getattr__"):
        raise UserError(f"{key}: {node['_target_']} has no method {method}; name a class that has")
    return build_target(node, key)


if __name__ == "__main__":
    main()
