"""Groups in a Parquet file, one row per sample: written bit by bit as they were trained on, read by any other tool.

Tokens, masks, log-probs and versions are lists of numbers; label, messages, tools and info are JSON text. What has
further axes or another type (routed experts, columns of one's own) is kept as bytes in `arrays`, with type and shape.

What looks into files does without pandas, which would take half a second and 50 MB to import: pyarrow does that for
`read_table`, for `to_numpy` and for arrays made of lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError
from rlscale.config.own_files import replaced
from rlscale.data.sample import Group, Prompt, Sample, Segment
from rlscale.data.stored.sample_overview import SampleOverview, versions_of

_FACTS = b"rlscale"
"""The key of the file's own facts in the metadata of its schema."""
FORMAT = 1
LISTS = {"tokens": np.int32, "loss_mask": np.bool_, "rollout_logprobs": np.float32, "versions": np.int32}
"""Of a sample, one value per token, and the types of the arrays."""
_TEXTS = ("label", "info", "messages", "tools", "sample_info")
"""Columns of JSON text."""
_ROUTED = "routed_experts"
_ROWS = 16
"""Rows that are in memory at a time where a few of many are read."""


def write_groups(path: Path, groups: Sequence[Group], facts: Mapping[str, Any]) -> None:
    """Write groups with facts about them (plain values). A reader sees the whole file or none.

    UserError for a label or an info that JSON cannot hold, OSError when the disk refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = [(group.prompt, sample) for group in groups for sample in group.samples]
    columns: dict[str, Any] = {
        "prompt_index": pa.array([prompt.index for prompt, _ in pairs], pa.int64()),
        "prompt_id": [prompt.id for prompt, _ in pairs],
        "source": [prompt.source for prompt, _ in pairs],
        "prompt": [prompt.text for prompt, _ in pairs],
        "messages": [as_json(list(prompt.messages), "messages", prompt) for prompt, _ in pairs],
        "tools": [as_json(list(prompt.tools), "tools", prompt) for prompt, _ in pairs],
        "label": [as_json(prompt.label, "label", prompt) for prompt, _ in pairs],
        "info": [as_json(prompt.info, "info", prompt) for prompt, _ in pairs],
        "prompt_tokens": _lists([prompt.tokens for prompt, _ in pairs]),
        "sample": pa.array([sample.index for _, sample in pairs], pa.int64()),
        "response": [sample.text for _, sample in pairs],
        "raw_response": [sample.raw_text for _, sample in pairs],
        "finish_reason": [sample.finish_reason for _, sample in pairs],
        "reward": pa.array([float(sample.reward) for _, sample in pairs], pa.float64()),
        "sample_info": [as_json(sample.info, "info of a sample", prompt) for prompt, sample in pairs],
        "prompt_length": pa.array([sample.prompt_length for _, sample in pairs], pa.int64()),
        **{name: _lists([getattr(sample, name) for _, sample in pairs]) for name in LISTS},
        "later_segments": pa.array([[list(one) for one in s.later_segments] for _, s in pairs], _segments_type(pa)),
        "arrays": pa.array([packed(sample) for _, sample in pairs], _arrays_type(pa)),
    }
    metadata = {_FACTS: json.dumps({"format": FORMAT, **facts}).encode()}
    with replaced(path) as file:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file, compression="zstd")


def read_facts(path: Path) -> dict[str, Any]:
    """The facts that a file was written with. UserError for one that rlscale did not write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        facts = json.loads(metadata[_FACTS])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a file of stored rollouts ({_line(error)})") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of rlscale")
    return facts


def read_groups(path: Path) -> list[Group]:
    """The groups of a file, as they were written. UserError for one that is damaged or that rlscale did not write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_facts(path)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read().combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({_line(error)})") from error
    lists = {name: _arrays(table.column(name)) for name in ("prompt_tokens", *LISTS)}
    rows = map(_parsed, table.drop_columns([*lists]).to_pylist())
    return group_rows(
        (
            prompt_of(row, lists["prompt_tokens"][number]),
            sample_of(row, {name: lists[name][number] for name in LISTS}),
        )
        for number, row in enumerate(rows)
    )


def group_rows(rows: Iterable[tuple[Prompt, Sample]]) -> list[Group]:
    """The groups of samples that stand one after another, each with its prompt."""
    groups: list[Group] = []
    for prompt, sample in rows:
        if not groups or groups[-1].prompt.index != prompt.index:
            groups.append(Group(prompt, []))
        groups[-1].samples.append(sample)
    return groups


def read_outline(path: Path) -> list[tuple[int, float]]:
    """Index of the prompt and reward of every row, without its tokens. UserError for a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_facts(path)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(["prompt_index", "reward"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({_line(error)})") from error
    return list(zip(table.column("prompt_index").to_pylist(), table.column("reward").to_pylist(), strict=True))


def read_overview(path: Path) -> list[SampleOverview]:
    """What of every row is known without its tokens. UserError for a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_facts(path)
    names = ["prompt_index", "prompt_id", "source", "reward"]
    try:
        with pq.ParquetFile(path) as file:
            table = file.read([*names, "versions"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({_line(error)})") from error
    columns = (table.column(name).to_pylist() for name in names)
    versions = map(versions_of, _arrays(table.column("versions")))
    return [SampleOverview(*row, *of) for *row, of in zip(*columns, versions, strict=True)]


def read_rows(path: Path, wanted: Sequence[int], *, logprobs: bool = False) -> Iterator[tuple[Prompt, Sample]]:
    """Prompt and sample of some rows, without further arrays, and unless asked for, log-probs; a few in memory at once.

    UserError for a file that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    left_out = {"arrays"} if logprobs else {"arrays", "rollout_logprobs"}
    chosen, start = sorted(set(wanted)), 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in left_out]
            for batch in file.iter_batches(_ROWS, columns=columns):
                inside = [row - start for row in chosen if start <= row < start + len(batch)]
                start += len(batch)
                for row in inside:
                    yield _row(batch.slice(row, 1).to_pylist()[0])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({_line(error)})") from error


def _row(row: dict[str, Any]) -> tuple[Prompt, Sample]:
    tokens = np.array(row["tokens"], np.int32)
    row = _parsed({"rollout_logprobs": np.zeros(len(tokens)), **row, "arrays": []})
    prompt = prompt_of(row, np.array(row["prompt_tokens"], np.int32))
    return prompt, sample_of(row, {name: np.array(row[name], kind) for name, kind in LISTS.items()})


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: json.loads(row[name]) for name in _TEXTS}


def prompt_of(row: Mapping[str, Any], tokens: NDArray[Any]) -> Prompt:
    """The prompt of a row whose JSON is parsed."""
    said = {name: row[name] for name in ("label", "info", "messages", "tools")}
    return Prompt(row["prompt_index"], row["prompt_id"], tokens, text=row["prompt"], source=row["source"], **said)


def sample_of(row: Mapping[str, Any], values: Mapping[str, NDArray[Any]]) -> Sample:
    """The sample of a row whose JSON is parsed; `values` are its `LISTS`."""
    arrays = {
        one["name"]: np.frombuffer(one["data"], np.dtype(one["type"])).reshape(one["shape"]).copy()
        for one in row["arrays"]
    }
    return Sample(
        prompt_index=row["prompt_index"],
        index=row["sample"],
        prompt_length=row["prompt_length"],
        reward=row["reward"],
        finish_reason=row["finish_reason"],
        text=row["response"],
        info=row["sample_info"],
        routed_experts=arrays.pop(_ROUTED, None),
        raw_text=row["raw_response"],
        columns=arrays,
        later_segments=tuple(Segment(*one) for one in row["later_segments"]),
        **values,
    )


def _segments_type(pa: Any) -> Any:
    """Type of the lengths and contexts of a sample's later segments."""
    return pa.list_(pa.list_(pa.int64()))


def _arrays_type(pa: Any) -> Any:
    """Type of a sample's further arrays."""
    fields = {"name": pa.string(), "type": pa.string(), "shape": pa.list_(pa.int64()), "data": pa.large_binary()}
    return pa.list_(pa.struct(fields))


def packed(sample: Sample) -> list[dict[str, Any]]:
    """A sample's further arrays, each as name, type, shape and bytes."""
    arrays = dict(sample.columns)
    if sample.routed_experts is not None:
        arrays[_ROUTED] = sample.routed_experts
    return [
        {"name": name, "type": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}
        for name, array in ((name, np.asarray(value)) for name, value in arrays.items())
    ]


def _lists(arrays: Sequence[NDArray[Any]]) -> Any:
    """One list per array, whose values are not copied one by one."""
    import pyarrow as pa

    offsets = np.zeros(len(arrays) + 1, np.int64)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    values = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def _arrays(column: Any) -> list[NDArray[Any]]:
    """The arrays that `_lists` was given."""
    import pyarrow as pa

    lists = column.combine_chunks()
    values, offsets = lists.values, np.from_dlpack(lists.offsets)
    packed = pa.types.is_boolean(values.type) or values.null_count
    whole = values.to_numpy(zero_copy_only=False) if packed else np.from_dlpack(values)
    return [whole[start:end].copy() for start, end in pairwise(offsets)]


def as_json(value: Any, what: str, prompt: Prompt) -> str:
    """The value as JSON. UserError naming the prompt where JSON cannot hold it."""
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the {what} of prompt {prompt.id} cannot be stored as JSON ({error}); make it plain values, or set "
            "rollout.store=none"
        ) from error


def _plain(value: Any) -> Any:
    """A value of NumPy as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a plain value")


def _line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
