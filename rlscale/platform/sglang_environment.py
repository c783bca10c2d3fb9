"""Environment variables of an SGLang server on a machine without a GPU. Imports neither SGLang nor torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rlscale.families import FAMILIES

MODEL_MODULES = {family.language_class: family.sglang_module for family in FAMILIES.values()}
"""Architecture -> module under sglang/srt/models that serves it. The 200 others are not imported then (1.5 s)."""


def cpu_environment(architecture: str | None = None) -> dict[str, str]:
    """Environment variables of a CPU server's own process; `architecture` is the first of the model's HF config.

    They are the same for all architectures of `MODEL_MODULES` and for None: one process can be forked to serve any.
    """
    variables = {
        "SGLANG_USE_CPU_ENGINE": "1",
        "TORCHDYNAMO_DISABLE": "1",  # the sampler is wrapped in torch.compile, which would look for a C++ compiler
        "TOKENIZERS_PARALLELISM": "false",
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",  # with these two a server whose scheduler died would sleep 5 s
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
    }
    if architecture is None or architecture in MODEL_MODULES:
        folder = _package_folder() / "srt" / "models"
        unused = {path.stem for path in folder.glob("*.py")} - {*MODEL_MODULES.values()}
        variables["SGLANG_DISABLED_MODEL_ARCHS"] = ",".join(sorted(unused))
    return variables


def _package_folder() -> Path:
    spec = importlib.util.find_spec("sglang")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("sglang is not installed")
    return Path(spec.origin).parent
