"""How rewards and environments reach a model of `rollout.models`, by its name.

    class Kind:
        def __init__(self, model: str) -> None:
            self._model = ServedModel(model)

        async def __call__(self, response, label, info):
            said = await self._model.chat([{"role": "user", "content": f"Is this kind?\\n{response}"}], max_tokens=1)
            return float(said == "yes")

The run writes down where each model is, in a folder that only its own user can read: rewards may be in processes of
their own, and a router that was started again may have moved. So the address is read anew for every request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest

if TYPE_CHECKING:
    from rlscale.envs.rewards.service_client import Place

FOLDER = "RLSCALE_SERVED_MODELS"
"""Variable with the folder of the addresses: for the process of the rollout, and all that it starts."""

_declared: Collection[str] | None = None


@dataclass(frozen=True)
class Address:
    """Where a model answers."""

    base_url: str
    """Of its router: `/generate` is below it, and what OpenAI's clients call is below `/v1`."""
    api_key: str | None
    """The bearer token that its router asks for; none where it asks for none."""
    folder: str
    """The model's, with tokenizer and chat template; empty where somebody else serves it and no path is given."""


class ServedModel:
    """A model of `rollout.models`. It may be made before the model answers."""

    def __init__(self, name: str) -> None:
        """UserError where no model of that name is served."""
        names = _names()
        if names is None:
            raise UserError(f"{name}: models of rollout.models are served in a run only; give the url of one that runs")
        if name not in names:
            hint = did_you_mean(nearest(name, names)) or f"; it has {', '.join(sorted(names)) or 'none'}"
            raise UserError(f"rollout.models: there is no model {name}{hint}")
        self.name = name
        """In `rollout.models`; also what it is called in requests of OpenAI's protocol."""

    def address(self) -> Address:
        """Where it answers now. RuntimeError before the run has started it."""
        try:
            return Address(**json.loads(_file(Path(os.environ[FOLDER]), self.name).read_text()))
        except (KeyError, OSError, ValueError, TypeError) as error:
            raise RuntimeError(f"the model {self.name} is not served yet") from error

    @property
    def base_url(self) -> str:
        """For a client of OpenAI's: `OpenAI(base_url=model.base_url, api_key=model.api_key)`."""
        return f"{self.address().base_url}/v1"

    @property
    def api_key(self) -> str | None:
        """The key that goes with it."""
        return self.address().api_key

    def place(self, path: str) -> Callable[[], Place]:
        """What says where a path below its address is at the moment."""

        def find() -> Place:
            from rlscale.envs.rewards.service_client import Place  # imports aiohttp

            found = self.address()
            return Place(f"{found.base_url}{path}", found.api_key)

        return find

    async def post(self, path: str, body: Mapping[str, Any], timeout_s: float = 60.0, retries: int = 3) -> Any:
        """The answer of `path` (`/generate`, `/v1/chat/completions`) below its address, retried as a judge's is.

        RewardFailed once no try is left.
        """
        from rlscale.envs.rewards.service_client import ServiceClient  # imports aiohttp

        return await ServiceClient.following(self.place(path), timeout_s=timeout_s, retries=retries).post(body)

    async def chat(self, messages: Sequence[Mapping[str, Any]], **sampling: Any) -> str:
        """The text that it answers to the messages, by its own chat template. RewardFailed as of `post`."""
        answer = await self.post("/v1/chat/completions", {"model": self.name, "messages": list(messages), **sampling})
        return str(answer["choices"][0]["message"]["content"] or "")


@contextmanager
def declared(names: Collection[str]) -> Iterator[None]:
    """Within the block models of these names may be made, though none is served yet: to check what uses them."""
    global _declared
    before, _declared = _declared, names
    try:
        yield
    finally:
        _declared = before


class AddressBook:
    """The folder in which this machine's processes find the models."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        """Make the folder, and tell this process and all that it starts from now on of it."""
        folder.mkdir(0o700, parents=True, exist_ok=True)
        self._folder = folder
        for name in names:
            self._write(name, {})
        os.environ[FOLDER] = str(folder)

    def tell(self, name: str, address: Address) -> None:
        """The model is there from now on."""
        self._write(name, asdict(address))

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        file = _file(self._folder, name)
        new = file.with_suffix(".new")
        new.touch(0o600)
        new.write_text(json.dumps(content))
        new.replace(file)  # at once: others read it at any moment


def _names() -> Collection[str] | None:
    """The models that can be asked for; None outside of a run."""
    if _declared is not None:
        return _declared
    folder = os.environ.get(FOLDER)
    return [file.stem for file in Path(folder).glob("*.json")] if folder else None


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
