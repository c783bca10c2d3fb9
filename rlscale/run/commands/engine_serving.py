"""`python -m rlscale engines serve`: an engine that outlives runs, for their `rollout.engine_urls`."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlscale.config.checks.options import check_options
from rlscale.config.composition.command_words import help_is_shown
from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.schema.cluster_config import LOOPBACK_HOSTS, Device
from rlscale.config.schema.dtype import DType
from rlscale.config.shown import say
from rlscale.data.folders.model_folder import find_served
from rlscale.families.config_file import dtype_of
from rlscale.platform.ownership import make_own
from rlscale.run.disk.key_file import read_key
from rlscale.run.processes.forks import read_forks
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor

USAGE = (
    "usage: python -m rlscale engines serve model=FOLDER [key=value ...]\n"
    "  Serves a model until Ctrl-C: it tells checksums, verifies and patches weights, and empties its cache while\n"
    "  requests wait. Runs use it by rollout.engine_urls=[URL] or `engines add URL`. Other than engines that a run\n"
    "  starts it has no run.bitwise, adapters, rollout.quantised_activations, speculation, nor the chosen experts for\n"
    "  trainer.routing_replay=rollout; tokenizer and chat template are those of the model's folder.\n"
    "  host, port   where it listens; 127.0.0.1 and 30000, or a free port where that is taken\n"
    "  gpus         GPUs of this machine that it uses, as 0,1; without them it runs on the CPU\n"
    "  dtype        type of the weights, that of runs that use it (model.dtype); what the folder's config.json says\n"
    "  key_file     file with the API key that it asks for (the run's rollout.engine_key_file); none\n"
    "  folder       where its log and its temporary files are; .rlscale/engine\n"
    "  warm         file of a running `python -m rlscale warm`, by which it starts in seconds\n"
    "  sglang.NAME  options of SGLang's server that nothing above decides; a value that is no JSON is text"
)
_SGLANG = "sglang."
_LOOK_EVERY_S = 1.0
_LAST_PORT = 65535
_DTYPES = [one.value for one in DType]
_NUMBERS = {"port": re.compile(r"\d+"), "gpus": re.compile(r"\d+(,\d+)*")}


@dataclass(frozen=True)
class Request:
    """A command line, taken apart."""

    model: str
    host: str = "127.0.0.1"
    port: int = 30000
    gpus: tuple[int, ...] = ()
    dtype: str | None = None
    key_file: str | None = None
    folder: str = ".rlscale/engine"
    warm: str | None = None

    def spec(self, options: Mapping[str, Any]) -> ServerSpec:
        """The engine that is asked for."""
        return ServerSpec(
            "engine",
            str(Path(self.model).resolve()),
            Device.cuda if self.gpus else Device.cpu,
            dtype=self.dtype or self._dtype_of_folder,
            host=self.host,
            options=options,
            tensor_parallel=max(len(self.gpus), 1),
            gpus=self.gpus,
            port=self.port,
        )

    @property
    def _dtype_of_folder(self) -> str:
        """What is in none of the types of a run, as FP8 is not, is computed with in 16 bits."""
        says = dtype_of(Path(self.model))
        return says if says in _DTYPES else DType.bfloat16.value


def serve(arguments: Sequence[str]) -> int:
    """Serve until a signal ends this command. 2 where the engine ends by itself."""
    if help_is_shown(arguments, USAGE):
        return 0
    request, options = read(arguments)
    folder = Path(request.folder)
    for problem in check_options("sglang", "server", options, folder / "cache", []):
        raise UserError(problem)
    key = "" if request.key_file is None else read_key(request.key_file, "engines serve: key_file")
    model = find_served(request.model, "engines serve: model", options)
    forks = None if request.warm is None else read_forks(Path(request.warm)).engines
    scratch = make_own(folder / "scratch", "engines serve: folder")
    supervisor = Supervisor(folder / "logs", scratch, key, request.host, fork_server=forks)
    try:
        url = supervisor.start_engine(replace(request, model=str(model)).spec(options))
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # until here they end this command as any other
            signal.signal(number, lambda *_: ended.set())
        say(f"{url} serves {request.model}; add rollout.engine_urls=[{url}] to runs; Ctrl-C ends this")
        while not ended.wait(_LOOK_EVERY_S):
            if supervisor.dead():
                raise UserError(f"the engine ended by itself; see {folder / 'logs' / 'engine.log'}")
    finally:
        supervisor.stop()
    return 0


def read(arguments: Sequence[str]) -> tuple[Request, dict[str, Any]]:
    """What is asked for, and the options of SGLang. UserError for words that nobody understands."""
    given: dict[str, Any] = {}
    options: dict[str, Any] = {}
    known = list(Request.__dataclass_fields__)
    for word in arguments:
        key, equals, text = word.partition("=")
        if not equals or not text or (not key.startswith(_SGLANG) and key not in known):
            hint = did_you_mean(nearest(key, known)) if equals else ""
            raise UserError(f"engines serve does not know {word!r}{hint}; see python -m rlscale engines serve --help")
        if key.startswith(_SGLANG):
            options[key.removeprefix(_SGLANG)] = _value(text)
        else:
            given[key] = text
    if "model" not in given:
        raise UserError("engines serve: model=FOLDER is missing; see python -m rlscale engines serve --help")
    for key, wanted in (("port", "one number"), ("gpus", "numbers of GPUs, as 0,1")):
        if key in given and not _NUMBERS[key].fullmatch(given[key]):
            raise UserError(f"engines serve: {key}={given[key]} must be {wanted}")
    if "dtype" in given and given["dtype"] not in _DTYPES:
        raise UserError(f"engines serve: dtype={given['dtype']} must be one of {', '.join(_DTYPES)}")
    if "port" in given:
        given["port"] = int(given["port"])
        if not 1 <= given["port"] <= _LAST_PORT:
            raise UserError(f"engines serve: port={given['port']} must be between 1 and {_LAST_PORT}")
    if "gpus" in given:
        given["gpus"] = tuple(map(int, given["gpus"].split(",")))
    request = Request(**given)
    if request.key_file is None and request.host not in LOOPBACK_HOSTS:
        raise UserError(
            f"engines serve: anybody could ask and change an engine on host={request.host}; name a key_file"
        )
    return request, options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
