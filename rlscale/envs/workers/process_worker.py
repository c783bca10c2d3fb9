"""The program of a reward process: `python -m rlscale.envs.workers.process_worker FD` (see processes.py)."""

from __future__ import annotations

import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """Build the reward from the first message, then answer every call with its outcome (see calling.py)."""
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    try:
        path, function = connection.recv()
        sys.path[:] = path
        from rlscale.envs.reward import RewardCall, reward_of
        from rlscale.envs.workers.calling import outcome_of
        from rlscale.platform.no_terminal import refuse_breakpoints

        refuse_breakpoints()
        try:
            reward = reward_of(function)
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))
            return
        connection.send((True, None))
        while True:
            connection.send(tuple(outcome_of(reward, RewardCall(*next_call(connection)))))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def next_call(connection: Connection) -> Any:
    """Where a process is that has nothing to do, by its stack (see platform/stacks.py)."""
    return connection.recv()


def end_with_parent(parent: int) -> None:
    """End this process when its parent is gone: what hangs would not notice that its socket is closed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
