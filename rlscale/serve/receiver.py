"""One engine as the trainer and the run see it: it takes weights, gives up its memory, pauses, aborts.

Implements `rlscale.weights.transports.transport.Receiver`. All calls block, have a timeout, look at the engine's answer
and raise CallError with the engine's own words when it did not succeed. They go to the engine itself: the router does
not forward them. After a failed weight update the engine holds a mixture of two versions: send everything again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rlscale.config.expert_routing import ROUTED_EXPERTS_HEADER
from rlscale.serve.http import CallError, call, send


class EngineReceiver:
    """Control calls to the engine at `url`. Not for use by several threads at once."""

    def __init__(self, url: str, api_key: str | None, timeout: float = 300.0) -> None:
        """`timeout` in seconds is for weight updates and memory calls; the short ones get at most 60 s of it."""
        self.url = url.rstrip("/")
        self._api_key = api_key
        self._timeout = timeout
        self._brackets: bool | None = None  # whether updates need begin/end around them; unknown before the first
        self._updating = False
        self._keeps_requests = False  # paused with requests that wait inside, so the cache cannot be flushed

    # -- weights ------------------------------------------------------------------------------------------------------

    def receive_tensors(self, serialized: list[str], load_format: str | None, version: int, last: bool) -> None:
        """One bucket by `/update_weights_from_tensor`: a base64 pickle of [(name, tensor)] per tensor-parallel rank.

        `load_format` is None for such lists, "flattened_bucket" for SGLang's flat form. With `last` the cache of keys
        and values is flushed (but see `pause`) and the engine's weight version becomes `version`. While the engine is
        not paused the call waits until no request runs.
        """
        self._begin()
        rest = json.dumps(self._update_fields(load_format, version, last))
        # base64 needs no escaping, so megabytes of it are not taken through the JSON encoder
        payload = b",".join(b'"' + item.encode() + b'"' for item in serialized)
        body = b'{"serialized_named_tensors":[' + payload + b"]," + rest[1:].encode()
        self._check(
            "/update_weights_from_tensor",
            send(self.url, "/update_weights_from_tensor", self._api_key, body, timeout=self._timeout),
        )
        self._end(last)

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
        self._begin()
        body = {"names": list(names), "dtypes": list(dtypes), "shapes": [list(shape) for shape in shapes]}
        fields = self._update_fields(None, version, last)
        self._call("/update_weights_from_distributed", {**body, **fields, "group_name": group})
        self._end(last)

    def close_group(self, group: str) -> None:
        """Leave that process group."""
        self._call("/destroy_weights_update_group", {"group_name": group})

    def weight_version(self) -> str:
        """The version that the engine reports: the number of the last update, "default" before the first."""
        return str(self._call("/model_info", None)["weight_version"])

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

        "abort": they are answered with the tokens so far and finish reason "abort". The next update empties the cache.
        "in_place": they wait and keep their cached keys and values, which stay those of the old weights.
        "retract": they wait in the queue without them; prefixes shared with others may still come from the cache.

        While requests wait SGLang cannot empty its cache (up to 0.5.19 an update that asks for it ends the server),
        so after the last two an update leaves it as it is: new requests, too, may begin on keys and values of the old
        weights, unless the engine runs with `disable_radix_cache`.
        """
        self._call("/pause_generation", {"mode": mode}, short=True)
        self._keeps_requests = mode != "abort"

    def continue_(self) -> None:
        """Generate again."""
        self._call("/continue_generation", {}, short=True)
        self._keeps_requests = False

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
        timeout = min(self._timeout, 60.0)
        answer = call(self.url, "/generate", self._api_key, body, headers={ROUTED_EXPERTS_HEADER: "1"}, timeout=timeout)
        return "routed_experts" in answer["meta_info"]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _update_fields(self, load_format: str | None, version: int, last: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {"load_format": load_format, "flush_cache": last and not self._keeps_requests}
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

    def _end(self, last: bool) -> None:
        if last and self._updating:
            self._updating = False
            self._call("/end_weight_update", {})

    def _call(self, path: str, body: Any, short: bool = False) -> Any:
        timeout = min(self._timeout, 60.0) if short else self._timeout
        return self._check(path, call(self.url, path, self._api_key, body, timeout=timeout))

    def _check(self, path: str, answer: Any) -> Any:
        """Raise CallError when the engine answered that it did not succeed (some calls do so with status 200)."""
        if isinstance(answer, dict) and answer.get("success") is False:
            raise CallError(f"{self.url}{path}: {answer.get('message', 'no success')}")
        return answer
