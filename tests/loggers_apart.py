"""Catching what tests log without looking through every logger six times for each of them.

Pytest looks for loggers that pass nothing on to the root, twice before each phase of a test: with all that these tests
import there are some thousand loggers, and it took 3 % of the time of all tests. Here it is looked once for each test.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import pytest
from _pytest.logging import catching_logs

_every_time = catching_logs.__enter__
_apart: list[logging.Logger] = []
"""Loggers that passed nothing on when the test began."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Look for them, around all that the setup of a test is."""
    loggers = logging.getLogger().manager.loggerDict.values()
    _apart[:] = [one for one in loggers if isinstance(one, logging.Logger) and not one.propagate]
    return (yield)


def _enter(self: catching_logs[Any]) -> Any:
    if self.level is not None:
        return _every_time(self)
    for logger in (logging.getLogger(), *_apart):
        logger.addHandler(self.handler)
        self.attached_loggers.append(logger)
    return self.handler


catching_logs.__enter__ = _enter  # type: ignore[method-assign]  # it is that of all tests
