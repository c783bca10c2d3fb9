"""config.json: read as plain JSON, checked key by key, completed as transformers completes it, compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlscale.families import FAMILIES, known_name
from rlscale.families.family import EXPERT_COUNTS, Family, FolderError, Head, Key, Kind
from rlscale.families.gated_delta_net import complete_layer_types
from rlscale.families.inner_file import refuse_pipe
from rlscale.families.rotary import complete_scaling
from rlscale.families.sparse_attention import complete_indexers

CONFIG, GENERATION = "config.json", "generation_config.json"
DTYPE_KEYS = ("dtype", "torch_dtype")
"""Where a config has the type of the weights: `torch_dtype` until transformers 4, `dtype` since."""

_FLOAT32_MOST, _FLOAT32_LEAST = 3.4e38, 1.2e-38


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping. FolderError, which names it, for anything else."""
    try:
        refuse_pipe(file)
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"{file} cannot be read ({error.strerror})") from error
    except RecursionError:
        raise FolderError(f"{file} cannot be read (its brackets are nested too deeply)") from None
    except ValueError as error:
        raise FolderError(f"{file} cannot be read (not valid JSON: {error})") from error
    if not isinstance(content, dict):
        raise FolderError(f"{file} is not a mapping")
    return content


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a config, a line each without the file's name; nothing where it says a whole model."""
    kind = config.get("model_type")
    if kind is None:
        yield "model_type is missing, so the architecture is unknown"
        return
    family = FAMILIES.get(known_name(kind)) if isinstance(kind, str) else None
    if family is None:
        yield (
            f"models of model_type={kind} are not supported; supported families: {', '.join(FAMILIES)} "
            "(model_type says what the weights are; changing it does not help)"
        )
        return
    wrong = [*_of_keys(config, family)]
    yield from wrong or _together(complete_known(config, family), config)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what transformers takes for keys that are not given; unchanged where `problems` finds any.

    Rotary positions are in `rope_theta` and `rope_parameters` afterwards, the experts counted in `num_experts`, and the
    sizes of heads in `head_dim`, `qk_head_dim` and `v_head_dim`.
    """
    if any(problems(config)):
        return dict(config)
    return complete_known(config, FAMILIES[known_name(config["model_type"])])


def complete_known(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """`complete` for a config whose keys are valid one by one."""
    given = {key: value for key, value in config.items() if value is not None}
    defaults = {key: about.default for key, about in family.keys.items() if about.default is not None}
    kept = [*(key for key, about in family.keys.items() if about.null_is_none), *family.engine_alone]
    none = {key: None for key in kept if config.get(key, 0) is None}
    whole: dict[str, Any] = {**defaults, **given, **none, "model_type": family.model_type}
    if config.get("num_key_value_heads", 0) is None:
        whole["num_key_value_heads"] = whole["num_attention_heads"]
    whole.setdefault("num_key_value_heads", whole["num_attention_heads"])
    _complete_heads(whole, family)
    if family.delta_net:
        complete_layer_types(whole)
    if family.sparse:
        complete_indexers(whole)
    if family.experts:
        whole["num_experts"] = next(whole[name] for name in EXPERT_COUNTS if name in whole)
        whole.pop("num_local_experts", None)
    # As transformers 5: rope_scaling, where there is one, replaces rope_parameters; in either, its own base wins.
    rope = dict(given.get("rope_scaling") or given.get("rope_parameters") or {})
    whole.pop("rope_scaling", None)
    whole["rope_theta"] = rope.pop("rope_theta", whole["rope_theta"])
    legacy = rope.pop("type", None)
    rope = {"rope_type": legacy or "default", **rope, "rope_theta": whole["rope_theta"]}
    complete_scaling(rope, whole)
    share = rope.get("partial_rotary_factor") or whole.get("partial_rotary_factor") or family.rotary_share
    whole["rope_parameters"] = {**rope, "partial_rotary_factor": share}
    return whole


def _complete_heads(whole: dict[str, Any], family: Family) -> None:
    """Sizes of a head: of what rotary positions turn, of a query or key (`qk_head_dim`), of a value (`v_head_dim`)."""
    if family.latent:
        whole["head_dim"] = whole["qk_rope_head_dim"]
        whole["qk_head_dim"] = whole["qk_nope_head_dim"] + whole["qk_rope_head_dim"]
        return
    if "head_dim" not in whole:
        whole["head_dim"] = family.own_head_dim or whole["hidden_size"] // whole["num_attention_heads"]
    whole["qk_head_dim"] = whole["v_head_dim"] = whole["head_dim"]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], head: Head = Head.language) -> list[str]:
    """Keys in which two configs describe different models, as "rope_theta is 10000.0 there and 1000000.0 here".

    `theirs` is there. A value head is never tied to the embedding, whatever the configs say. Both must be free of
    `problems`.
    """
    here, there = complete(ours), complete(theirs)
    if here["model_type"] != there["model_type"]:
        return [f"model_type is {there['model_type']} there and {here['model_type']} here"]
    keys = [key for key, about in FAMILIES[here["model_type"]].keys.items() if about.defines]
    if head is Head.value:
        keys.remove("tie_word_embeddings")
    here, there = (whole | {"rope_parameters": _rotary(whole)} for whole in (here, there))
    keys.append("rope_parameters")
    return [f"{key} is {there[key]} there and {here[key]} here" for key in keys if not _same(there[key], here[key])]


def _rotary(whole: Mapping[str, Any]) -> dict[str, Any]:
    """What a completed config says of rotary positions besides their base: the scaling, and the share of a head."""
    rope = {key: value for key, value in whole["rope_parameters"].items() if key != "rope_theta"}
    share = rope.pop("partial_rotary_factor")
    if rope["rope_type"] == "default":
        rope = {"rope_type": "default"}
    return rope if share == 1 else {**rope, "partial_rotary_factor": share}


def _same(one: Any, other: Any) -> bool:
    aliases = {"swish": "silu"}
    if isinstance(one, str):
        return aliases.get(one, one) == aliases.get(other, other)
    return list(one) == list(other) if isinstance(one, (list, tuple)) else bool(one == other)


def _of_keys(config: Mapping[str, Any], family: Family) -> Iterator[str]:
    """What is wrong with single keys."""
    missing = [key for key, about in family.keys.items() if about.needed and config.get(key) is None]
    if family.experts and config.get("num_local_experts") is not None:
        missing = [key for key in missing if key != "num_experts"]
    if missing:
        yield f"{', '.join(missing)} must be given as a whole number above 0"
    for key, about in family.keys.items():
        if key in config and key not in missing:
            yield from _of_value(key, config[key], about)
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(rope := config.get(name), dict):
            yield from _of_rope(name, rope)
    if config.get("rope_theta", 0) is None and not any(
        "rope_theta" in (config.get(name) or {}) for name in ("rope_scaling", "rope_parameters")
    ):
        yield "rope_theta=null: must be a number above 0"
    one, other = config.get("num_experts"), config.get("num_local_experts")
    if family.experts and one is not None and other is not None and one != other:
        yield f"num_experts={one} and num_local_experts={other} contradict each other; leave one of them out"


def _of_value(key: str, value: Any, about: Key) -> Iterator[str]:
    if value is None:
        if not about.null:
            yield f"{key}=null: must be {about.kind.value}; leave it out to have transformers' default"
    elif not _is(value, about.kind):
        yield f"{key}={_shown(value)}: must be {about.kind.value}"
    elif about.kind in (Kind.size, Kind.count) and value > about.most:
        yield f"{key}={value}: is too large for any model; must be {about.kind.value}, at most {about.most}"


def _is(value: Any, kind: Kind) -> bool:
    """Whether a value is of a kind."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    match kind:
        case Kind.size:
            return whole and value > 0
        case Kind.count | Kind.token:
            return whole and value >= 0
        case Kind.tokens:
            one = isinstance(value, list)
            return all(_is(item, Kind.token) for item in (value if one else [value])) and value != []
        case Kind.number:
            return (isinstance(value, float) and 0 <= value <= _FLOAT32_MOST) or (whole and value == 0)
        case Kind.positive:
            # JSON has whole numbers of any size; comparing is exact where making a float of one would overflow.
            return (whole or (isinstance(value, float) and math.isfinite(value))) and 0 < value <= _FLOAT32_MOST
        case Kind.fraction:
            return isinstance(value, float) and _FLOAT32_LEAST <= value < 1
        case Kind.flag:
            return isinstance(value, bool)
        case Kind.text:
            return isinstance(value, str)
        case Kind.numbers:
            return isinstance(value, (list, tuple)) and all(_is(item, Kind.count) for item in value)
        case Kind.texts:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case Kind.mapping:
            return isinstance(value, dict)


def _of_rope(name: str, rope: Mapping[str, Any]) -> Iterator[str]:
    if "rope_theta" in rope and not _is(rope["rope_theta"], Kind.positive):
        yield f"{name}.rope_theta={_shown(rope['rope_theta'])}: must be {Kind.positive.value}"
    share = rope.get("partial_rotary_factor")
    if share is not None and not _is(share, Kind.positive):
        yield f"{name}.partial_rotary_factor={_shown(share)}: must be {Kind.positive.value}"
    for key in ("rope_type", "type"):
        if not isinstance(rope.get(key, ""), str):
            yield f"{name}.{key}={_shown(rope[key])}: must be {Kind.text.value}"
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested:
        yield f"{name}.{nested[0]}: positions that differ from layer to layer are not supported"


def _together(whole: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Contradictions between keys that are valid one by one."""
    heads, groups = whole["num_attention_heads"], whole["num_key_value_heads"]
    if heads % groups:
        default = "" if given.get("num_key_value_heads") else " (transformers' default, as it is not given)"
        yield f"num_attention_heads={heads} is not a multiple of num_key_value_heads={groups}{default}"
    if given.get("head_dim") is None and whole["hidden_size"] < heads:
        yield f"hidden_size={whole['hidden_size']} leaves nothing for each of num_attention_heads={heads}"
    elif whole["head_dim"] % 2:
        yield f"head_dim={whole['head_dim']}: must be even, because rotary positions rotate pairs of numbers"
    layers, kinds = whole["num_hidden_layers"], whole.get("layer_types")
    if kinds is not None and len(kinds) != layers:
        yield f"layer_types names {len(kinds)} layers, but num_hidden_layers={layers}"


def _shown(value: Any) -> str:
    """A value in one line, shortened where it is long."""
    try:
        text = json.dumps(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder as it is. FolderError where there is none that can be read."""
    file = folder / CONFIG
    if not file.exists():
        raise FolderError(f"{CONFIG} is missing; is this a Hugging Face model folder?")
    return read_json(file)


def dtype_of(folder: Path) -> str | None:
    """The type that the weights of a folder have by its config.json; None where that says nothing of it.

    Of a model with several parts the text model's.
    """
    try:
        config = read_config(folder)
    except FolderError:
        return None
    of_text = config.get("text_config")
    for part in (config, of_text if isinstance(of_text, dict) else {}):
        for name in DTYPE_KEYS:
            if isinstance(found := part.get(name), str):
                return found.removeprefix("torch.")
    return None


def read_generation(folder: Path) -> dict[str, Any]:
    """generation_config.json of a folder, {} where there is none. FolderError for one whose ends are not token ids."""
    file = folder / GENERATION
    if not file.is_file():
        return {}
    generation = read_json(file)
    ends = generation.get("eos_token_id")
    if ends is not None and not _is(ends, Kind.tokens):
        raise FolderError(f"{GENERATION}: eos_token_id={_shown(ends)}: must be {Kind.tokens.value}")
    return generation


def end_ids(config: Mapping[str, Any]) -> list[int]:
    """The ids in a config's `eos_token_id`: one, several, or none."""
    ids = config.get("eos_token_id")
    return [] if ids is None else [*ids] if isinstance(ids, list) else [ids]
