"""`python -m rlscale checkpoint verify`: whether files of checkpoints and exported weights are what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.shown import say
from rlscale.families.config_file import CONFIG
from rlscale.families.family import FolderError
from rlscale.families.inner_file import inner_file
from rlscale.families.origin import CHECKPOINT
from rlscale.families.weight_files import ADAPTER, weight_files
from rlscale.families.weight_files import SUMS as SUMS_OF_WEIGHTS
from rlscale.platform.weight_checksums import damaged_tensors, sums_beside
from rlscale.run.disk.checkpoint import MANIFEST, CheckpointStore, fault_of, is_sealed, sums_of
from rlscale.run.disk.run_folder import read_mark
from rlscale.trainer.checksums import SUMS, damaged, read_sums

USAGE = (
    "usage: python -m rlscale checkpoint verify FOLDER\n"
    "  FOLDER  a run (its checkpoints and exported weights), a checkpoint, its trainer part (as `import` writes), or\n"
    "          a Hugging Face folder that was exported\n"
    "reads every file of a checkpoint; of a Hugging Face folder the tensors of its weights and of its adapter, not\n"
    "config.json, tokenizer and code. It prints a line for each, and ends with 0 where all are what was written, or\n"
    "with 1."
)


def verify(arguments: Sequence[str]) -> int:
    """Read the checkpoints at a place; one line each. UserError where there is none."""
    if len(arguments) != 1:
        raise UserError(f"checkpoint verify takes one folder, {len(arguments)} given; see --help")
    place = Path(arguments[0])
    if not place.is_dir():
        raise UserError(f"{place}: there is no such folder")
    faults = 0
    for checkpoint in _checkpoints(place):
        fault, told = _looked_at(checkpoint)
        faults += fault
        say(f"{checkpoint}: {told}")
    return 1 if faults else 0


def _checkpoints(place: Path) -> list[Path]:
    if read_mark(place) is not None:
        exported = sorted(file.parent for file in place.glob(f"*/{SUMS_OF_WEIGHTS}"))
        with_adapters = [folder for one in exported for folder in _with_adapter(one)]
        found = [*CheckpointStore(place / "checkpoints", keep=1).all(), *with_adapters]
        if not found:
            raise UserError(f"{place}: this run has no checkpoint yet")
        return found
    if not any((place / name).is_file() for name in (MANIFEST, SUMS, SUMS_OF_WEIGHTS)):
        if (place / CONFIG).is_file():
            raise UserError(f"{place}: a model's folder without checksums (no {SUMS_OF_WEIGHTS})")
        raise UserError(f"{place}: neither a run nor a checkpoint (no {MANIFEST}, no {SUMS})")
    return _with_adapter(place)


def _with_adapter(folder: Path) -> list[Path]:
    """A folder, and that of the adapter which was exported with it."""
    adapter = folder / ADAPTER
    return [folder, adapter] if (adapter / SUMS_OF_WEIGHTS).is_file() else [folder]


def _looked_at(checkpoint: Path) -> tuple[bool, str]:
    """Whether something is wrong with a checkpoint, and what to say of it."""
    if (checkpoint / SUMS_OF_WEIGHTS).is_file():
        return _weights_looked_at(checkpoint)
    of_trainer = not (checkpoint / MANIFEST).is_file() and (checkpoint / SUMS).is_file()
    if not of_trainer and (fault := fault_of(checkpoint)) is not None:
        return True, f"not whole: {fault}"
    try:
        sums = read_sums(checkpoint) if of_trainer else sums_of(checkpoint)
    except UserError as error:
        return True, str(error)
    if not sums:
        return True, "has no checksums (an older version wrote it): its files cannot be looked at"
    if wrong := sorted(damaged(checkpoint, sums)):
        return True, f"damaged: {', '.join(wrong)} is not what was written (its checksum differs, or it cannot be read)"
    size = sum(inner_file(checkpoint, name).stat().st_size for name in sums)
    more = _unnamed(checkpoint, {*sums, MANIFEST, SUMS, CHECKPOINT})
    beside = f"; beside them {', '.join(more)}, which no checksum is known of" if more else ""
    unsealed = not of_trainer and not is_sealed(checkpoint)
    older = f"; {MANIFEST} has no checksum of its own (an older version wrote it)" if unsealed else ""
    files = "1 file" if len(sums) == 1 else f"{len(sums)} files"
    return False, f"whole, {files} of {size:,} bytes{beside}{older}"


def _weights_looked_at(folder: Path) -> tuple[bool, str]:
    """The same of a Hugging Face folder or an adapter's: of its tensors alone."""
    try:
        wrong, tensors = damaged_tensors(folder), len(sums_beside(folder))
        size = sum(file.stat().st_size for file in weight_files(folder))
    except (FolderError, OSError) as error:
        return True, f"damaged: {error}"
    if wrong:
        more = f" and {len(wrong) - 1} more tensors are" if len(wrong) > 1 else " is"
        return True, f"damaged: {wrong[0]}{more} not what was written (the checksum differs)"
    return False, f"whole, {tensors} tensors in files of {size:,} bytes"


def _unnamed(checkpoint: Path, known: set[str]) -> list[str]:
    found = (str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())
    return sorted(name for name in found if name not in known)
