"""One engine as the trainer and the run see it: it takes weights, gives up its memory, pauses, aborts.

Can do all that transports need (`rlscale.weights.transports.receivers`). All calls block, have a timeout, look at the
engine's answer and raise CallError with the engine's own words when it did not succeed. They go to the engine itself:
the router does not forward them. After a failed weight update the engine holds a mixture of two versions: send
everything again.

No update is sent while a request runs: SGLang survives that only by luck. An engine that is to keep its requests is
paused from the first bucket to the last; of any other the receiver asks before the first bucket whether it is idle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlscale.config.derived.adapter_names import adapter_name
from rlscale.config.derived.paused_flush import MARK
from rlscale.config.derived.request_headers import ROUTED_EXPERTS_HEADER, SAMPLING_SUPPORT_HEADER
from rlscale.platform.sglang_weight_sums import ACTION, PATH
from rlscale.platform.tensor_sum import TensorSum
from rlscale.serve.delta_endpoint import PATH as DELTAS
from rlscale.serve.http import CallError, call, send, told


class EngineReceiver:
    """Control calls to the engine at `url`. Not for use by several threads at once."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout: float = 300.0,
        keep: str | None = None,
        *,
        to_draft: bool = True,
    ) -> None:
        """`timeout` in seconds is for weight updates and memory calls; the short ones get at most 60 s of it.

        `keep`: requests that run when weights come are kept, paused in this way (`pause`), and go on with the new
        weights. None: there must be none.
        `to_draft`: buckets are for the draft of an engine that speculates, too. A draft of its own would take what it
        finds of the policy under its own names.
        """
        self._to_draft = to_draft
        self.url = url.rstrip("/")
        self._api_key = api_key
        self._timeout = timeout
        self._short_s = min(timeout, 60.0)
        self._keep = keep
        self._within = False  # an update is between its first bucket and its last
        self._flushes: bool | None = None  # whether it empties its cache while paused; unknown before it was asked
        self._brackets: bool | None = None  # whether updates need begin/end around them; unknown before the first
        self._updating = False
        self._paused = False  # perhaps with requests that wait inside
        self.paused_s = 0.0
        """Seconds of the last update in which the engine was kept from generating, the loading of its buckets left out:
        from the call that pauses it, or asks whether it is idle, to the answer to the last one.
        """
        self.loading_s = 0.0
        """Seconds of the last update in which buckets were loaded, from each call to its answer."""
        self._begun = 0.0

    # -- weights ------------------------------------------------------------------------------------------------------

    def receive_tensors(self, serialized: list[str], load_format: str | None, version: int, last: bool) -> None:
        """One bucket by `/update_weights_from_tensor`: a base64 pickle of [(name, tensor)] per tensor-parallel rank.

        `load_format` is None for such lists, "flattened_bucket" for SGLang's flat form. With `last` the cache of keys
        and values is flushed (but see `pause`) and the engine's weight version becomes `version`. Unless the engine is
        paused, the first bucket waits up to 60 s until no request runs.
        """
        draft = {} if self._to_draft else {"disable_draft_model": True}
        rest = json.dumps({**self._update_fields(load_format, version, last), **draft})
        # base64 needs no escaping, so megabytes of it are not taken through the JSON encoder
        payload = b",".join(b'"' + item.encode() + b'"' for item in serialized)
        body = b'{"serialized_named_tensors":[' + payload + b"]," + rest[1:].encode()
        with self._bucket(last):
            self._check(
                "/update_weights_from_tensor",
                send(self.url, "/update_weights_from_tensor", self._api_key, body, timeout=self._timeout),
            )

    def open_group(self, address: str, port: int, rank_offset: int, world_size: int, group: str, backend: str) -> None:
        """Join a process group for broadcasts: the engine's ranks are rank_offset, rank_offset + 1, … of `world_size`,
        the sender is rank 0 at address:port. Returns when all members have joined, so the sender must join meanwhile.
        """
        body = {"master_address": address, "master_port": port, "rank_offset": rank_offset, "world_size": world_size}
        self._call("/init_weights_update_group", {**body, "group_name": group, "backend": backend})

    def receive_broadcast(
        self,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        group: str,
        version: int,
        last: bool,
    ) -> None:
        """One bucket by `/update_weights_from_distributed`: the engine receives a broadcast from rank 0 per tensor, in
        this order; dtypes by torch's names ("float32"). Returns when loaded, so the sender must broadcast meanwhile.
        """
        body = {"names": list(names), "dtypes": list(dtypes), "shapes": [list(shape) for shape in shapes]}
        fields = self._update_fields(None, version, last)
        with self._bucket(last):
            self._call("/update_weights_from_distributed", {**body, **fields, "group_name": group})

    def close_group(self, group: str) -> None:
        """Leave that process group."""
        self._call("/destroy_weights_update_group", {"group_name": group})

    def receive_folder(self, folder: str, version: int) -> None:
        """Load the weights of a folder, under the path that the engine sees, by `/update_weights_from_disk`.

        They are all of one version: cache and requests are treated as with the last bucket of `receive_tensors`.
        """
        with self._bucket(last=True):
            body = {**self._update_fields("safetensors", version, last=True), "model_path": folder}
            self._call("/update_weights_from_disk", body)

    def receive_deltas(self, folder: str, version: int) -> None:
        """Patch the engine's copy of its folder up to `version` and load it; see `rlscale.serve.delta_endpoint`."""
        with self._bucket(last=True):
            body = {**self._update_fields("safetensors", version, last=True), "folder": folder, "version": version}
            self._call(DELTAS, body)

    def takes_deltas(self) -> bool:
        """Whether the engine knows that call: one that rlscale has started does."""
        try:
            call(self.url, DELTAS, self._api_key, timeout=self._short_s)
        except CallError as error:
            if "status 405" in str(error):  # of a call that is made otherwise
                return True
            if "status 404" not in str(error):
                raise
        return False

    def receive_adapter(self, config: Mapping[str, Any], serialized: list[str], version: int) -> None:
        """Load an adapter, in the place of the one before, under the name of its version.

        `config` is peft's. A flat bucket as of `receive_tensors` for each tensor-parallel rank, the same: a rank cuts
        its part. Keys and values are cached for each version apart.
        """
        body = {"lora_name": adapter_name(version), "config_dict": dict(config), "load_format": "flattened_bucket"}
        with self._bucket(last=True):
            self._call("/load_lora_adapter_from_tensors", {**body, "serialized_named_tensors": serialized})
            self._call("/update_weight_version", {"new_version": str(version), "abort_all_requests": False})

    def weight_version(self) -> str:
        """The version that the engine reports: the number of the last update, "default" before the first."""
        info = self._check("/model_info", told(self.url, "/model_info", self._api_key, timeout=self._short_s))
        if "weight_version" not in info:
            raise CallError(f"{self.url}/model_info: the answer names no weight_version, as that of an engine does")
        return str(info["weight_version"])

    def weight_sums(self) -> dict[str, TensorSum]:
        """Type, shape and checksum of every tensor as the engine holds it, by its name in a Hugging Face folder.

        What it keeps as one tensor, it tells as one and in its parts. CallError for an engine that rlscale has not
        started, and for one whose ranks share its tensors.
        """
        try:
            ranks = self._call(PATH, {"action": ACTION})["ranks"]
        except CallError as error:
            if "Unsupported action" not in str(error):
                raise
            raise CallError(
                f"{self.url}: tells no checksums, as it was not started by rlscale; set weights.verify_tensors=0"
            ) from None
        if len(ranks) != 1:
            raise CallError(f"{self.url}: its {len(ranks)} ranks share its tensors, which are told whole by one alone")
        return {name: TensorSum.read(text) for name, text in ranks[0]["checksums"].items()}

    # -- memory, requests ---------------------------------------------------------------------------------------------

    def release_memory(self, tags: Sequence[str] | None = None) -> None:
        """Give GPU memory back: of "kv_cache" and "weights", or of both (None). The engine must be idle.

        Needs `ServerSpec.memory_saver`; on the CPU nothing is given back but the cache is emptied.
        """
        self._call("/release_memory_occupation", {"tags": list(tags)} if tags else {})

    def resume_memory(self, tags: Sequence[str] | None = None) -> None:
        """Take that memory again. The weights are undefined until they were sent."""
        self._call("/resume_memory_occupation", {"tags": list(tags)} if tags else {})

    def flush_cache(self) -> None:
        """Forget all cached keys and values; fails while requests run."""
        self._call(f"/flush_cache?timeout={min(self._timeout, 30.0):g}", {})

    def abort_all(self) -> None:
        """End every request now; each is answered with the tokens it has and finish reason "abort"."""
        self._call("/abort_request", {"rid": "", "abort_all": True}, short=True)

    def abort(self, request_id: str) -> None:
        """End that request (and any whose id starts with it); nothing happens if there is none."""
        self._call("/abort_request", {"rid": request_id}, short=True)

    def pause(self, mode: str = "abort") -> None:
        """Stop generating; new requests wait. What happens to running ones:

        "abort": they are answered with the tokens so far and finish reason "abort". SGLang takes a second for this:
        `abort_all` first, and wait for the answers.
        "in_place": they wait and keep their cached keys and values until an update.
        "retract": they wait in the queue without them; prefixes shared with others may still come from the cache.

        An engine that rlscale has started empties its cache with the update and computes the keys and values of waiting
        requests anew (see rlscale.platform.sglang_paused_flush). Others cannot while requests wait (up to 0.5.19 an
        update that asks for it ends the server), so there an update leaves the cache as it is: new requests, too, may
        begin on keys and values of the old weights, unless the engine runs with `disable_radix_cache`.
        """
        self._call("/pause_generation", {"mode": mode}, short=True)
        self._paused = mode != "abort"

    def continue_(self) -> None:
        """Generate again."""
        self._call("/continue_generation", {}, short=True)
        self._paused = False

    def flushes_while_paused(self) -> bool:
        """Whether the engine can empty its cache while requests are paused in it."""
        if self._flushes is None:
            states = self._server_info().get("internal_states") or [{}]
            self._flushes = all(bool(state.get(MARK)) for state in states)
        return self._flushes

    def keeps_exactly(self, mode: str) -> bool:
        """Whether requests that were paused in this way, and those after them, see nothing of the old weights."""
        return self.flushes_while_paused() or (
            mode == "retract" and bool(self._server_info().get("disable_radix_cache"))
        )

    def health(self, timeout: float = 30.0) -> bool:
        """Whether the engine's server answers within `timeout` seconds; also true while it is paused."""
        try:
            call(self.url, "/health", None, timeout=timeout)
        except CallError:
            return False
        return True

    def tells_routing(self) -> bool:
        """Whether the engine says which experts it sent a token to, asked as a request through the router asks."""
        body = {"input_ids": [0], "sampling_params": {"max_new_tokens": 1, "temperature": 0.0, "sampling_seed": 0}}
        return "routed_experts" in self._meta_info(body, ROUTED_EXPERTS_HEADER)

    def names_support(self) -> bool:
        """Whether the engine says which words it drew a token from, asked as a request through the router asks."""
        params = {"max_new_tokens": 1, "top_k": 2, "sampling_seed": 0}
        body = {"input_ids": [0], "sampling_params": params}
        return "output_token_sampling_mask" in self._meta_info(body, SAMPLING_SUPPORT_HEADER)

    # -- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _bucket(self, last: bool) -> Iterator[None]:
        """Around each bucket: the engine is ready for it, and goes on after the last one."""
        if not self._within:
            if self._keep is not None:
                self.flushes_while_paused()  # asked before the pause, which the last bucket would lengthen by it
            self._begun, self.loading_s = time.monotonic(), 0.0
            if self._keep is not None:
                self.pause(self._keep)
            elif not self._paused:
                self._wait_until_idle()
            self._within = True
        self._begin()
        loading = time.monotonic()
        try:
            yield
        except BaseException:
            self._within = False  # everything will be sent again
            raise
        self.loading_s += time.monotonic() - loading
        if last:
            self._within = False
            self._end()
            if self._keep is not None:
                self.continue_()
            self.paused_s = time.monotonic() - self._begun - self.loading_s

    def _wait_until_idle(self) -> None:
        """Returns once no request runs or waits in the engine. CallError if some still do after a minute."""
        limit = self._short_s
        give_up, pause_s = time.monotonic() + limit, 0.005
        while True:
            try:
                call(self.url, "/flush_cache", self._api_key, {}, timeout=limit)
                return
            except CallError as error:
                if "status 400" not in str(error):
                    raise
                if time.monotonic() > give_up:
                    raise CallError(
                        f"{self.url}: requests still run after {limit:g} s, so no weights were sent; send the engine "
                        "no requests besides those of the run"
                    ) from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.2)

    def _meta_info(self, body: Any, header: str) -> dict[str, Any]:
        has, headers, timeout = ("meta_info", dict), {header: "1"}, self._short_s
        answer = told(self.url, "/generate", self._api_key, body, has=has, headers=headers, timeout=timeout)
        meta_info: dict[str, Any] = answer["meta_info"]
        return meta_info

    def _server_info(self) -> dict[str, Any]:
        info = call(self.url, "/server_info", self._api_key, timeout=self._short_s)
        return info if isinstance(info, dict) else {}

    def _update_fields(self, load_format: str | None, version: int, last: bool) -> dict[str, Any]:
        keeps = self._keep is not None or self._paused
        flush = last and (not keeps or self.flushes_while_paused())
        fields: dict[str, Any] = {"load_format": load_format, "flush_cache": flush}
        return {**fields, "weight_version": str(version)} if last else fields

    def _begin(self) -> None:
        """SGLang from 0.5.23 on wants /begin_weight_update before the first bucket; older ones do not know the call."""
        if self._updating or self._brackets is False:
            return
        try:
            self._call("/begin_weight_update", {}, short=True)
        except CallError as error:
            if self._brackets or "status 404" not in str(error):
                raise
            self._brackets = False
        else:
            self._brackets = self._updating = True

    def _end(self) -> None:
        if self._updating:
            self._updating = False
            self._call("/end_weight_update", {})

    def _call(self, path: str, body: Any, short: bool = False) -> Any:
        timeout = self._short_s if short else self._timeout
        return self._check(path, call(self.url, path, self._api_key, body, timeout=timeout))

    def _check(self, path: str, answer: Any) -> Any:
        """Raise CallError when the engine answered that it did not succeed (some calls do so with status 200)."""
        if isinstance(answer, dict) and answer.get("success") is False:
            said = answer.get("message") or answer.get("error_message") or "no success"
            raise CallError(f"{self.url}{path}: {said}")
        return answer
