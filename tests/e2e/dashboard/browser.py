"""Chromium without a window, driven by its own protocol (DevTools): what a user sees, clicks and drags."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--remote-debugging-port=0", "--window-size=1280,1000"),
)


class Browser:
    """One page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []
        """Errors of scripts and what the page's policy refused."""

    async def call(self, method: str, **values: Any) -> Any:
        """A method of the protocol. AssertionError with what the browser says where it refuses."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": values})
        while True:
            told = json.loads((await self._socket.receive(timeout=30)).data)
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(told["params"])[:500])
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    async def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to in the page."""
        found = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str, limit_s: float = 20.0) -> Any:
        """The value once it is true. AssertionError after the limit."""
        end = time.monotonic() + limit_s
        while not (value := await self.value(expression)):
            assert time.monotonic() < end, f"not within {limit_s} s: {expression}"
            await asyncio.sleep(0.05)
        return value

    async def drag(self, selector: str, first: float, last: float) -> None:
        """Over an element from one share of its width to another, at half its height."""
        script = f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect(); "
        left, top, width, height = await self.value(script + "return [b.left, b.top, b.width, b.height]; })()")
        places = [(kind, left + width * at) for kind, at in (("Moved", first), ("Pressed", first))]
        places += [("Moved", left + width * (first + last) / 2), ("Moved", left + width * last)]
        for kind, x in [*places, ("Released", left + width * last)]:
            where = {"x": x, "y": top + height / 2, "button": "left", "clickCount": 1}
            await self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", **where)

    async def wide(self, width: int, height: int = 1000) -> None:
        """A screen of that size, in the pixels of style sheets."""
        mobile = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncIterator[Browser]:
    """A browser with that page; it ends with the block."""
    assert PROGRAM is not None
    profile = scratch / "profile"
    process = subprocess.Popen(
        [PROGRAM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
    )
    try:
        port = await _port(profile / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                browser = Browser(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await browser.call(f"{domain}.enable")
                await browser.call("Page.navigate", url=url)
                yield browser
    finally:
        process.terminate()
        process.wait(10)


async def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 30
    while not file.is_file() or not file.read_text().strip():
        assert process.poll() is None, "the browser ended"
        assert time.monotonic() < end, "the browser does not answer"
        await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
