"""Groups in a JSONL file: a line of facts, then a line per sample with the names of `rollout_file`'s columns.

Messages, tools, label and info are plain JSON here, a reward that is not a number is null, and further arrays are
base64. Larger and slower than Parquet, and readable with nothing but a text editor.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError
from rlscale.config.own_files import write_text
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.stored.rollout_file import FORMAT, LISTS, as_json, group_rows, packed, prompt_of, sample_of
from rlscale.data.stored.sample_overview import SampleOverview, versions_of

_FACTS = "rlscale"
"""The key of the file's own facts in its first line."""
_SAMPLES = "samples"
"""The key beside it of the number of lines that follow, by which a file that was cut off is told."""
T = TypeVar("T")


def write_groups(path: Path, groups: Sequence[Group], facts: Mapping[str, Any]) -> None:
    """Write groups with facts about them (plain values). A reader sees the whole file or none.

    UserError for a label or an info that JSON cannot hold, OSError when the disk refuses.
    """
    pairs = [(group.prompt, sample) for group in groups for sample in group.samples]
    lines = [as_json(_row(prompt, sample), "values", prompt) for prompt, sample in pairs]
    head = json.dumps({_FACTS: {"format": FORMAT, **facts}, _SAMPLES: len(lines)})
    write_text(path, "\n".join([head, *lines, ""]))


def read_facts(path: Path) -> dict[str, Any]:
    """The facts that a file was written with. UserError for one that rlscale did not write."""
    facts, _ = _head(path)
    return facts


def read_groups(path: Path) -> list[Group]:
    """The groups of a file, as they were written. UserError for one that is damaged or that rlscale did not write."""
    return group_rows(_rows(path, _sample))


def read_outline(path: Path) -> list[tuple[int, float]]:
    """Index of the prompt and reward of every row. UserError for a file that cannot be read."""
    return list(_rows(path, lambda row: (int(row["prompt_index"]), _reward(row))))


def read_overview(path: Path) -> list[SampleOverview]:
    """What of every row is known without its tokens' values. UserError for a file that cannot be read."""
    return list(_rows(path, _overview))


def read_rows(path: Path, wanted: Sequence[int], *, logprobs: bool = True) -> Iterator[tuple[Prompt, Sample]]:
    """Prompt and sample of some rows, one in memory at a time, log-probs always. UserError for an unreadable file."""
    return _rows(path, _sample, set(wanted))


def _head(path: Path) -> tuple[dict[str, Any], int | None]:
    """The facts, and the number of samples; None in a file of before it was written."""
    try:
        with open(path, encoding="utf-8") as file:
            head = json.loads(file.readline())
        facts, samples = head[_FACTS], head.get(_SAMPLES)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a file of stored rollouts ({error})") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of rlscale")
    return facts, samples


def _rows(path: Path, read: Callable[[Any], T], chosen: Collection[int] | None = None) -> Iterator[T]:
    """What `read` makes of each row, or of the `chosen` ones, counted from 0.

    UserError that names the line of one that is damaged, and for a file without all its samples, at its end.
    """
    _, samples = _head(path)
    count = 0
    try:
        with open(path, encoding="utf-8") as file:
            next(file)
            for line in file:
                if chosen is None or count in chosen:
                    yield read(json.loads(line))
                count += 1
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else error
        raise UserError(f"{path} cannot be read (line {count + 2}: {what})") from error
    if samples not in (None, count):
        raise UserError(f"{path} cannot be read (it was written with {samples} samples, and there are {count})")


def _row(prompt: Prompt, sample: Sample) -> dict[str, Any]:
    return {
        "prompt_index": prompt.index,
        "prompt_id": prompt.id,
        "source": prompt.source,
        "prompt": prompt.text,
        "messages": list(prompt.messages),
        "tools": list(prompt.tools),
        "label": prompt.label,
        "info": prompt.info,
        "prompt_tokens": prompt.tokens,
        "sample": sample.index,
        "response": sample.text,
        "raw_response": sample.raw_text,
        "finish_reason": sample.finish_reason,
        "reward": None if math.isnan(sample.reward) else float(sample.reward),
        "sample_info": sample.info,
        "prompt_length": sample.prompt_length,
        **{name: getattr(sample, name) for name in LISTS},
        "later_segments": [list(one) for one in sample.later_segments],
        "arrays": [{**one, "data": base64.b64encode(one["data"]).decode()} for one in packed(sample)],
    }


def _reward(row: Mapping[str, Any]) -> float:
    return math.nan if row["reward"] is None else float(row["reward"])


def _overview(row: Mapping[str, Any]) -> SampleOverview:
    prompt = int(row["prompt_index"]), str(row["prompt_id"]), str(row["source"])
    return SampleOverview(*prompt, _reward(row), *versions_of(np.array(row["versions"], np.int32)))


def _sample(row: dict[str, Any]) -> tuple[Prompt, Sample]:
    arrays = [{**one, "data": base64.b64decode(one["data"])} for one in row["arrays"]]
    values: dict[str, NDArray[Any]] = {name: np.array(row[name], kind) for name, kind in LISTS.items()}
    prompt = prompt_of(row, np.array(row["prompt_tokens"], np.int32))
    return prompt, sample_of({**row, "arrays": arrays, "reward": _reward(row)}, values)
