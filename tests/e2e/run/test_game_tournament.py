"""Games of several turns whose players are compared by a model elsewhere: `env=text_game reward=tournament`."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.run.command import SHORT, metrics, run, summary

JUDGE = "reward.group_function.judge"


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible model that finds the longer of two responses better."""

    asked = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked += 1
        text = body["messages"][-1]["content"]
        first, second = (
            re.search(rf"{name} RESPONSE (\w+)\n(.*)\nEND OF {name} RESPONSE \1", text, re.DOTALL)[2]
            for name in ("FIRST", "SECOND")
        )
        better = "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"
        answer = {"choices": [{"message": {"role": "assistant", "content": f"Better: {better}"}}]}
        sent = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def judge_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_games_are_played_to_their_end_and_their_players_compared(
    tmp_path: Path, shared: list[str], judge_url: str
) -> None:
    shutil.copy(Path(__file__).with_name("own_games.py"), tmp_path)
    game = ["data=textarena", "data.source.maker._target_=own_games.Digits", "env=text_game"]
    rubric = "'The longer one is better.'"
    judged = ["reward=tournament", f"{JUDGE}.url={judge_url}", f"{JUDGE}.model=judge", f"{JUDGE}.rubric={rubric}"]
    room = ["rollout.max_turn_tokens=6", "rollout.max_response_tokens=40"]
    quiet = ["eval.enabled=false", "checkpoint.every=0", "run.output=run"]
    ended = run(tmp_path, "recipe=arithmetic", *SHORT, *quiet, *game, *judged, *room, *shared)
    assert ended.code == 0, ended.text
    lines = metrics(tmp_path / "run")
    assert len(lines) == 2
    for line in lines:
        assert line["turns"] == line["turns_max"] == 3
        assert 0 < line["observed_share"] < 1
        assert line["failed_rewards"] == 0
        # All points are shared out, so that the mean is one half; what the game gave comes on top of it.
        assert line["reward_part/group"] == pytest.approx(0.5)
        assert 0.5 < line["reward"] <= 1.5
        assert line["reward_std"] > 0
    assert Judge.asked == 2 * 4 * 6 * 2  # iterations, groups, pairs of four, orders
    assert 0 < summary(tmp_path / "run")["logprob_diff_max"] < 1e-4
