"""How a folder's weights are quantised, by its config.json.

A quantised weight is codes times scales: each scale is that of a rectangle of the weight. What is read: FP8 as DeepSeek
and Qwen publish it (`quant_method` fp8), FP8 and packed whole numbers of compressed-tensors (`float-quantized`,
`pack-quantized`). Every other form is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlscale.families.family import FolderError

GIVE_FLOATS = "give a folder with weights in float32, bfloat16 or float16"
"""What to do about weights that cannot be read."""

SECTION = "quantization_config"
_OTHERS = ("compression_config", "quantization")
"""Keys under which other tools say that the folder's weights are quantised."""


@dataclass(frozen=True)
class Quantisation:
    """How the quantised weights of a folder are stored; its other weights are numbers."""

    bits: int | None
    """Bits of each whole number in packed codes; None for FP8."""
    rows: int
    """Rows of a weight that share a scale; 0: all of them."""
    columns: int
    """Columns of a weight that share a scale; 0: all of them."""

    @property
    def per_word(self) -> int:
        """Numbers in one code."""
        return 1 if self.bits is None else 32 // self.bits

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the scales of a weight of that shape."""
        rows, columns = shape
        return -(-rows // (self.rows or rows)), -(-columns // (self.columns or columns))


def quantisation_of(config: Mapping[str, Any]) -> Quantisation | None:
    """What a config says; None for weights that are numbers. FolderError for a form that is not read."""
    for key in _OTHERS:
        if config.get(key) is not None:
            raise FolderError(f"{key} says that its weights are quantised{_method(config[key])}; {GIVE_FLOATS}")
    section = config.get(SECTION)
    if section is None:
        return None
    kind = section.get("quant_method") if isinstance(section, Mapping) else None
    if kind == "fp8":
        return _of_fp8(section)
    if kind == "compressed-tensors":
        return _of_compressed(section)
    raise FolderError(f"{SECTION} says that its weights are quantised{_method(section)}; {GIVE_FLOATS}")


def _of_fp8(section: Mapping[str, Any]) -> Quantisation:
    """DeepSeek's: a scale for each block of `weight_block_size`, or one for each tensor."""
    if (kind := section.get("fmt", "e4m3")) != "e4m3":
        raise FolderError(f"{SECTION}.fmt={kind} is not supported; {GIVE_FLOATS}")
    return Quantisation(None, *_block(section.get("weight_block_size"), "weight_block_size"))


def _of_compressed(section: Mapping[str, Any]) -> Quantisation:
    """compressed-tensors': the same form for all groups of modules."""
    forms = _forms(section.get("config_groups"))
    if not forms:
        raise FolderError(f"{SECTION}.config_groups does not say how weights are quantised; {GIVE_FLOATS}")
    layout, form = section.get("format"), forms[0]
    bits, kind = form.get("num_bits"), form.get("type", "int")
    packed = layout == "pack-quantized" and kind == "int" and bits in (4, 8)
    if not packed and not (layout == "float-quantized" and kind == "float" and bits == 8):
        raise FolderError(f"{SECTION} of format {layout} with {bits} bits ({kind}) is not read; {GIVE_FLOATS}")
    if section.get("sparsity_config") or section.get("transform_config"):
        raise FolderError(f"{SECTION} with a sparsity_config or transform_config is not read; {GIVE_FLOATS}")
    if not form.get("symmetric", True) or form.get("actorder") not in (None, False, "static", "weight"):
        raise FolderError(f"{SECTION} with zero points (symmetric=false) or actorder=group is not read; {GIVE_FLOATS}")
    blocks = [_rectangle(each) for each in forms]
    alike = all((each.get("num_bits"), each.get("type", "int")) == (bits, kind) for each in forms)
    if not alike or len({*blocks}) > 1:
        raise FolderError(f"{SECTION}.config_groups of different forms are not read; {GIVE_FLOATS}")
    return Quantisation(bits if packed else None, *blocks[0])


def _rectangle(form: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale, by a group's strategy."""
    strategy, columns = form.get("strategy"), form.get("group_size")
    match strategy:
        case "tensor":
            return 0, 0
        case "channel":
            return 1, 0
        case "group" if isinstance(columns, int) and columns > 0:
            return 1, columns
        case "block" if form.get("block_structure") is not None:
            return _block(form["block_structure"], "block_structure")
    raise FolderError(f"{SECTION} with strategy={strategy} and group_size={columns} is not read; {GIVE_FLOATS}")


def _block(size: Any, key: str) -> tuple[int, int]:
    if size is None:
        return 0, 0
    if isinstance(size, list) and len(size) == 2 and all(type(number) is int and number > 0 for number in size):
        return size[0], size[1]
    raise FolderError(f"{SECTION}.{key}={size}: must be two whole numbers above 0")


def _forms(groups: Any) -> list[Mapping[str, Any]]:
    """How each group's weights are quantised; nothing where a group does not say it."""
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        return []
    forms = [group.get("weights") for group in groups.values()]
    return forms if all(isinstance(form, Mapping) for form in forms) else []


def _method(section: Any) -> str:
    method = section.get("quant_method") if isinstance(section, Mapping) else None
    return f" ({method})" if method else ""
