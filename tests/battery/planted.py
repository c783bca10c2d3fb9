"""Cases in which somebody else's folder holds code: a file of a run, or of a model, is a pickle that makes a file.

The files are those that commands read, named below (not logs, reports and what trackers write), and the commands those
that end by themselves or where a run would start its processes (not `dashboard` and what only composes a
configuration). Each is typed for each file. Whether it refuses the file or never looks at it, nothing may run.
Sizes and checksums are made to fit what is planted, as whoever plants it would. What ranks and engines read is not part
of it: their readers have tests of their own.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

from tests.battery.case import Case
from tests.unit.payload import Payload

RAN = "ran"
"""The file that the planted code makes, in the folder of the case."""
_NEWEST = "run/checkpoints/iteration_000002"
_OF_RUN = (
    *("run/run.json", "run/recipe.yaml", "run/resolved.yaml", "run/metrics.jsonl", "run/summary.json"),
    *(f"{_NEWEST}/{name}" for name in ("manifest.json", "rollout.state", "rollout.pkl")),
    *(f"{_NEWEST}/trainer/{name}" for name in (".metadata", "common.pt", "__0_0.distcp", "metadata.json")),
    *("run/checkpoints/groups/000002-000001.groups", "run/rollouts/iteration_000001.parquet"),
)
OF_MODEL = (
    *("model/config.json", "model/tokenizer.json", "model/tokenizer_config.json", "model/model.safetensors"),
    *("model/generation_config.json", "model/chat_template.jinja", "model/pytorch_model.bin", "model/modeling.py"),
)
_ON_RUN = (
    *("warm_start=null run.output=run", "export run.output=run", "eval run.output=run", "rescore run.output=run"),
    *("checkpoint verify run", "checkpoint compare run run", "weights checksum run"),
    "doctor warm_start=null run.output=run --bundle b.zip",
)
_MODEL = "model.path=model model.create=null model.name=m data=arithmetic rollout.max_prompt_tokens=64"
ON_MODEL = (
    *(f"warm_start=null {_MODEL}", f"warm_start=null {_MODEL} model.init=model", f"check warm_start=null {_MODEL}"),
    *("import model.path=model model.create=null model.name=m to=new", "weights checksum model", f"eval {_MODEL}"),
)
"""None of them is refused where nothing is planted."""


def planted() -> Iterator[Case]:
    """A case for each file and command."""
    for stock, files, commands in (("run", _OF_RUN, _ON_RUN), ("model", OF_MODEL, ON_MODEL)):
        for file in files:
            for command in commands:
                yield Case(
                    surface=f"planted code: {stock}",
                    name=f"{file}: {command}",
                    argv=command.split(),
                    base=[],
                    names=None,
                    stock=[stock],
                    edits=[{"plant": file}],
                    either=True,
                )


def plant(folder: Path, name: str) -> None:
    """Put code into a file, in the form that careless readers of its kind would run."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ran = folder / RAN
    if path.suffix == ".yaml":
        path.write_text(f"!!python/object/apply:os.mknod ['{ran}']\n")
    elif path.suffix == ".jinja":
        path.write_text("{{ cycler.__init__.__globals__.os.mknod('ran') }}{{ ''.__class__.__mro__ }}")
    elif path.suffix == ".py":
        path.write_text(f"open({str(ran)!r}, 'w')\n")
    else:
        path.write_bytes(pickle.dumps(Payload(ran)))
    _sum_anew(path)


def _sum_anew(path: Path) -> None:
    """Let the checkpoint's manifest say of the file what is there now."""
    from rlscale.run.disk.checkpoint import sealed
    from rlscale.trainer.checksums import checksum

    for above in path.parents:
        manifest = above / "manifest.json"
        if manifest.is_file() and manifest != path:
            content = json.loads(manifest.read_text())
            entry = {"size": path.stat().st_size, "xxh3_128": checksum(path)}
            content["files"][str(path.relative_to(above))] = entry
            manifest.write_text(json.dumps(sealed({name: content[name] for name in content if name != "checksum"})))
            return
