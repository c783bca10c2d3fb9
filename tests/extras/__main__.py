"""`python -m tests.extras`: fill the folders of packages ahead of the unit tests that use them."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.extras.extra_packages import extra_folder
from tests.extras.mlflow_package import mlflow_folder

if __name__ == "__main__":
    for fill in (extra_folder, mlflow_folder):
        with suppress(pytest.skip.Exception):  # their tests say why
            fill()
