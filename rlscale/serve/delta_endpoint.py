"""A call of an engine's server that SGLang lacks: load what deltas in a folder make of the weights it started with.

The engine's copy lies among its temporary files. A copy that is behind, or missing after a restart, catches up.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

PATH = "/update_weights_from_deltas"


def add_to(server: Any, model: str) -> None:
    """Add the call to SGLang's module of its HTTP server. `model`: the folder that the engine starts from."""
    from rlscale.families.family import FolderError
    from rlscale.weights.delta.delta_error import DeltaError
    from rlscale.weights.delta.local_copy import LocalCopy

    reading = asyncio.Lock()
    copy = LocalCopy(Path(tempfile.gettempdir()) / "patched_weights", Path(model))

    async def update_weights_from_deltas(request: Any) -> Any:
        body = await request.json()
        folder, version = Path(body.pop("folder")), int(body.pop("version"))

        async with reading:  # a call whose caller has given up may still be loading what the next one would patch
            try:
                await asyncio.to_thread(copy.catch_up, folder, version)
            except (DeltaError, FolderError, OSError) as error:
                return server.ORJSONResponse({"success": False, "message": str(error)}, status_code=400)
            order = server.UpdateWeightFromDiskReqInput(**body, model_path=str(copy.folder))
            return await server.update_weights_from_disk(order, request)

    update_weights_from_deltas.__annotations__["request"] = server.Request  # by which FastAPI knows what to hand over
    guarded = server.auth_level(server.AuthLevel.ADMIN_OPTIONAL)(update_weights_from_deltas)  # as the other updates
    server.app.post(PATH)(guarded)
