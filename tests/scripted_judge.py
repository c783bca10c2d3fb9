"""A judge of pairs behind an OpenAI-compatible address, whose verdicts a test decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def scripted_judge(better: Callable[[str, str], str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address, up to /v1, and the pairs of responses that were shown so far.

    `better` is given both responses and says first, second or tie; with anything else there is no verdict.
    """
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            shown = body["messages"][1]["content"]
            pair = _between(shown, "FIRST RESPONSE"), _between(shown, "SECOND RESPONSE")
            asked.append(pair)
            said = {"choices": [{"message": {"content": f"Better: {better(*pair)}"}}]}
            answer = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _between(shown: str, name: str) -> str:
    return shown.split(f"{name} ", 1)[1].split("\n", 1)[1].split(f"\nEND OF {name}", 1)[0]
