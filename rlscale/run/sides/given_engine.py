"""An engine that somebody else started (`engine_urls`): is it there, of the right model, able to do what is asked."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.trainer_config import RoutingReplay
from rlscale.families import FolderError
from rlscale.families.config_file import differences, problems, read_config
from rlscale.rollout.engines.sampling_params import names_words
from rlscale.serve.engine_config import config_of_engine
from rlscale.serve.http import CallError, told
from rlscale.serve.receiver import EngineReceiver

_ASKED_S = 30.0


class GivenEngine:
    """One of them. Its checks raise UserError if it is of no use to the run."""

    def __init__(
        self, receiver: EngineReceiver, api_key: str | None, section: str, note: Callable[[str], None]
    ) -> None:
        """`section`: where the key `engine_urls` is that names it."""
        self._receiver, self._api_key, self._section, self._note = receiver, api_key, section, note
        self._url = receiver.url

    def check_trained_on(self, config: Config, *, apart: bool = True) -> bool:
        """Does it tell what training needs to know of its samples, and can it take weights as the run gives them.

        Whether tokens after new weights are exact. `apart`: requests are kept apart by the weights that they begin
        with, as one takes that cannot empty its cache (`rlscale.rollout.engines.kept_cache`).
        """
        receiver, url = self._receiver, self._url
        replays = config.trainer.routing_replay is RoutingReplay.rollout
        try:
            receiver.weight_version()
            useful = not replays or receiver.tells_routing()
            keep = config.rollout.on_sync.pause
            named = not names_words(config.rollout, config.data) or receiver.names_support()
            exact = keep is None or receiver.keeps_exactly(keep)
            patches = not _sends_deltas(config) or receiver.takes_deltas()
        except CallError as error:
            raise self._silent(error) from error
        if keep is not None and not exact:
            self._look_at_kept_cache(keep, apart)
        if not named:
            raise UserError(
                f"rollout.engine_urls: {url} does not say which words tokens were drawn from; leave it out, "
                "so that the run starts engines that do, or set rollout.top_p=1 rollout.top_k=-1 rollout.min_p=0, "
                "and the same for every source of data=mixture"
            )
        if not patches:
            raise UserError(
                f"weights/transport=delta: {url} does not patch weights; start it by `python -m rlscale engines "
                "serve`, or choose weights/transport=disk"
            )
        if not useful:
            raise UserError(
                f"rollout.engine_urls: {url} does not say which experts it chose; leave rollout.engine_urls out, so "
                "that the run starts engines that do, or set trainer.routing_replay=none"
            )
        return exact

    def _look_at_kept_cache(self, keep: str, apart: bool) -> None:
        """It cannot empty its cache while requests are paused: is that of no harm to what the run does at a sync."""
        url = self._url
        if keep != "in_place":
            raise UserError(
                f"rollout.on_sync={keep}: {url} cannot empty its cache while requests are paused, so tokens would "
                "come from keys and values of old weights; use rollout.on_sync=abort_and_resume, or leave "
                "rollout.engine_urls out, so that the run starts engines that can, or start that engine with "
                "disable_radix_cache"
            )
        if not apart:
            raise UserError(
                f"rollout.on_sync=in_place: {url} cannot empty its cache while requests are paused, and the run began "
                "with engines that can, so that new requests would begin on keys and values of old weights; start it "
                "by `python -m rlscale engines serve`"
            )
        self._note(
            f"rollout.on_sync=in_place: {url} cannot empty its cache while requests are paused, so what a response "
            "has after new weights came is from keys and values of the old ones, and approximate; those tokens are "
            "trained on, and left out of logprob_diff; rollout.on_sync=abort_and_resume is exact"
        )

    def check_architecture(self, folder: str | None) -> None:
        """Is its model one that can hold the weights of the model in this folder, as far as it can be seen from here.

        Of an engine on another machine the canary of the first weight sync tells.
        """
        self._compare_versions()
        try:
            theirs = config_of_engine(self._url, self._api_key)
            ours = read_config(Path(str(folder)))
        except (ValueError, FolderError):
            return
        if wrong := [*problems(theirs)] or differences(ours, theirs):
            raise UserError(
                f"{self._section}.engine_urls: {self._url} serves another model than the run trains: "
                f"{'; '.join(wrong)}; start it with {folder}, or with the model of model.path"
            )

    def check_served(self, path: str | None) -> None:
        """Does it answer, and serve the model of that path, if one is given."""
        try:
            serves = str(told(self._url, "/model_info", self._api_key, timeout=_ASKED_S).get("model_path"))
        except CallError as error:
            raise self._silent(error) from error
        if path and path not in (serves, str(Path(serves).resolve())):
            raise UserError(
                f"{self._section}.engine_urls: {self._url} serves {serves}, and not {self._section}.path={path}; "
                "correct the one or the other, or leave the path out, which then is not looked at"
            )
        self._compare_versions()

    def _compare_versions(self) -> None:
        """Say where its SGLang is not the one that this version of rlscale is tested with."""
        try:
            theirs = told(self._url, "/server_info", self._api_key, timeout=_ASKED_S).get("version")
            ours = version("sglang")
        except (CallError, PackageNotFoundError):
            return
        if theirs != ours:
            self._note(f"{self._url} runs SGLang {theirs}; engines that a run starts here have {ours}")

    def _silent(self, error: CallError) -> UserError:
        key = self._section
        return UserError(
            f"{key}.engine_urls: {self._url} does not answer, or refuses the key of {key}.engine_key_file ({error})"
        )


def _sends_deltas(config: Config) -> bool:
    return str(config.weights.transport.get(TARGET, "")).startswith("rlscale.weights.transports.delta.")
