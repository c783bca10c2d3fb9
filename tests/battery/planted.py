"""Cases in which somebody else's folder holds code, or what never ends, where a run or a model has a file.

Code is a pickle that makes a file, or whatever else a careless reader of that kind of file would run. The files are
those that commands read, named below (not logs, reports and what trackers write), and the commands those that end by
themselves or where a run, an engine or the dashboard's server would start (not what only composes a configuration; of
the dashboard, what it answers about a run is asked). Each is typed for each file. Whether it refuses the file or never
looks at it, nothing may run, and nothing may wait. Sizes and checksums are made to fit what is planted, as whoever
plants it would. What ranks and engines read is not part of it: their readers have tests of their own.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.battery.case import Case
from tests.unit.payload import Payload, class_changing_index

RAN = "ran"
"""The file that the planted code makes, in the folder of the case."""
_NEWEST = "run/checkpoints/iteration_000002"
_TRAINER = f"{_NEWEST}/trainer"
_OF_RUN = (
    *("run/run.json", "run/recipe.yaml", "run/resolved.yaml", "run/metrics.jsonl", "run/summary.json"),
    *(f"{_NEWEST}/{name}" for name in ("manifest.json", "rollout.state", "rollout.pkl")),
    *(f"{_TRAINER}/{name}" for name in (".metadata", "common.pt", "__0_0.distcp", "metadata.json")),
    *("run/checkpoints/groups/000002-000001.groups", "run/rollouts/iteration_000001.parquet"),
)
OF_MODEL = (
    *("model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "model/model.safetensors"),
    *("model/generation_config.json", "model/chat_template.jinja", "model/pytorch_model.bin", "model/modeling.py"),
)
_ON_RUN = (
    *("warm_start=null run.output=run", "export run.output=run", "eval run.output=run", "rescore run.output=run"),
    *("checkpoint verify run", "checkpoint compare run run", "weights checksum run", "weights compare run run"),
    *("doctor warm_start=null run.output=run --bundle b.zip", "dashboard run"),
)
_MODEL = "model.path=model model.create=null model.name=m data=arithmetic rollout.max_prompt_tokens=64"
ON_MODEL = (
    *(f"warm_start=null {_MODEL}", f"warm_start=null {_MODEL} model.init=model", f"check warm_start=null {_MODEL}"),
    *("import model.path=model model.create=null model.name=m to=new", "weights checksum model", f"eval {_MODEL}"),
    *("weights compare model model", f"plan warm_start=null {_MODEL}", "engines serve model=model"),
    f"simulate warm_start=null {_MODEL} simulator.iterations=1 simulator.warm_up=0 simulator.advice=false",
)
"""None of them is refused where nothing is planted."""
_HOW = {
    "run": {
        **dict.fromkeys(_OF_RUN, ("code", "pipe")),
        **{file: ("code", "pipe", "link out") for file in _OF_RUN if file.startswith(_NEWEST)},
        f"{_TRAINER}/.metadata": ("code", "code on the second read", "pipe", "link out"),
        f"{_TRAINER}/common.pt": ("code", "torchscript", "pipe", "link out"),
        f"{_TRAINER}/__0_0.distcp": ("code", "torchscript", "pipe", "link out"),
        f"{_TRAINER}/further": ("pipe", "link out"),
    },
    "model": {
        **dict.fromkeys(OF_MODEL, ("code", "pipe")),
        "model/model.safetensors": ("code", "pipe", "pickles in its place"),
    },
}
"""By stock, in which ways a file is planted."""


def planted() -> Iterator[Case]:
    """A case for each file, each way to plant it, and each command."""
    for stock, commands in (("run", _ON_RUN), ("model", ON_MODEL)):
        for file, ways in _HOW[stock].items():
            for way in ways:
                for command in commands:
                    yield Case(
                        surface=f"planted {way}: {stock}",
                        name=f"{file}: {command}",
                        argv=command.split(),
                        base=[],
                        names=None,
                        stock=[stock],
                        edits=[{"plant": {file: way}}],
                        either=True,
                    )


def plant(folder: Path, what: dict[str, str]) -> None:
    """Put something into a file, in one of the ways of `_HOW`."""
    for name, way in what.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _WAYS[way](path, folder / RAN)
        _sum_anew(path)


def _code(path: Path, ran: Path) -> None:
    """In the form that careless readers of its kind would run."""
    if path.suffix == ".yaml":
        path.write_text(f"!!python/object/apply:os.mknod ['{ran}']\n")
    elif path.suffix == ".jinja":
        path.write_text("{{ cycler.__init__.__globals__.os.mknod('ran') }}{{ ''.__class__.__mro__ }}")
    elif path.suffix == ".py":
        path.write_text(f"open({str(ran)!r}, 'w')\n")
    else:
        path.write_bytes(pickle.dumps(Payload(ran)))


def _torchscript(path: Path, ran: Path) -> None:
    """An object that is a program, and an index by which it is one of the checkpoint's."""
    import torch
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

    from tests.unit.torchscript_archive import torchscript

    content, plain = torchscript(ran), io.BytesIO()
    ran.unlink(missing_ok=True)
    torch.save({}, plain)
    for name in ("common.pt", "__0_0.distcp"):
        (path.parent / name).write_bytes(plain.getvalue())
    path.write_bytes(content)
    place = _StorageInfo("__0_0.distcp", 0, (path.parent / "__0_0.distcp").stat().st_size)
    index = Metadata({"random": BytesStorageMetadata()}, storage_data={MetadataIndex("random"): place})
    (path.parent / ".metadata").write_bytes(pickle.dumps(index))
    for name in ("common.pt", "__0_0.distcp", ".metadata"):
        _sum_anew(path.parent / name)


def _pipe(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link_out(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


def _pickles(path: Path, ran: Path) -> None:
    path.unlink()
    path.with_name("pytorch_model.bin").write_bytes(pickle.dumps(Payload(ran)))


_WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "code": _code,
    "code on the second read": lambda path, ran: path.write_bytes(class_changing_index(ran)),
    "torchscript": _torchscript,
    "pipe": _pipe,
    "link out": _link_out,
    "pickles in its place": _pickles,
}


def _sum_anew(path: Path) -> None:
    """Let the checkpoint's manifest say of the file what is there now."""
    from rlscale.run.disk.checkpoint import sealed
    from rlscale.trainer.checksums import checksum

    for above in path.parents:
        manifest = above / "manifest.json"
        if manifest.is_file() and manifest != path and path.exists():
            content = json.loads(manifest.read_text())
            entry = {"size": path.stat().st_size, "xxh3_128": checksum(path) if path.is_file() else "0" * 32}
            content["files"][str(path.relative_to(above))] = entry
            manifest.write_text(json.dumps(sealed({name: content[name] for name in content if name != "checksum"})))
            return
