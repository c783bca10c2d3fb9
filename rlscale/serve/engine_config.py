"""The model's config as an engine sees it: its own folder's, with what it was told to read otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.config.schema.dtype import DType
from rlscale.families import FolderError
from rlscale.families.config_file import differences, problems, read_config
from rlscale.serve.http import CallError, told


def config_of_engine(url: str, api_key: str | None, timeout: float = 30.0) -> dict[str, Any]:
    """The config that the engine at `url` computes with.

    ValueError where it does not say, or its folder cannot be read from here (it may be another machine's).
    """
    try:
        folder = Path(str(told(url, "/model_info", api_key, has=("model_path", str), timeout=timeout)["model_path"]))
        words = told(url, "/server_info", api_key, timeout=timeout).get("json_model_override_args") or "{}"
        overrides = json.loads(words) if isinstance(words, str) else dict(words)
    except (CallError, TypeError) as error:
        raise ValueError(f"the engine does not say of which model it is ({error})") from error
    try:
        config = read_config(folder)
    except FolderError as error:
        raise ValueError(f"its folder {folder} cannot be read from here ({error})") from error
    return {**config, **overrides}


def why_they_differ(url: str, api_key: str | None, ours: Mapping[str, Any], dtype: str) -> str:
    """What an engine whose log-probs are not the trainer's has otherwise, in words.

    Its type of weights, where the trainer's is `dtype`, its config, or else its weights.
    """
    theirs_dtype = _dtype_of_engine(url, api_key)
    if theirs_dtype is not None and theirs_dtype != dtype:
        return (
            f"the engine computes in {theirs_dtype} and the trainer in {dtype}; start the engine with dtype={dtype} "
            "(`engines serve`, or SGLang's --dtype)"
        )
    try:
        theirs = config_of_engine(url, api_key)
    except ValueError as error:
        return f"either the engine's config or its weights are not the trainer's: {error}"
    wrong = [*problems(theirs)] or differences(ours, theirs)
    if wrong:
        return f"the engine computes with another config than the trainer: {'; '.join(wrong)}"
    return "the configs of both agree, so the engine does not have the trainer's weights"


def _dtype_of_engine(url: str, api_key: str | None, timeout: float = 30.0) -> str | None:
    """The type that an engine was started with, by its name; None where it does not say one."""
    try:
        says = told(url, "/server_info", api_key, timeout=timeout).get("dtype")
    except CallError:
        return None
    name = str(says).removeprefix("torch.")
    return name if name in {one.value for one in DType} else None
