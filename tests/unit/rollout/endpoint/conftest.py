"""The tests of the endpoint share a scripted policy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package: scripted_policy.py is found here

from scripted_policy import make_encoder

from rlscale.data.tokens.prompt_encoder import PromptEncoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    """Qwen's chat template over a tokenizer of single characters."""
    return make_encoder(tmp_path_factory.mktemp("tokenizer"))
