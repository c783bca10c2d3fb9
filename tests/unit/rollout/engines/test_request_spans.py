"""When each request was with which engine."""

from __future__ import annotations

import time

from rlscale.rollout.engines.request_spans import MOST, RequestSpans


def test_what_an_engine_tells_of_a_request_lies_inside_it() -> None:
    spans, sent = RequestSpans(wanted=True), time.time() - 2.0
    told = {"queue": "0.5", "request_received_ts": sent - 0.1, "forward_entry_time": sent + 0.5}
    told |= {"prefill_finished_time": sent + 1.0, "engine": "127.0.0.1:7", "completion_tokens": 4, "prompt_tokens": 9}
    spans.answered(sent, told)
    (found,), more = spans.take()
    assert (found.engine, found.start, found.tokens, found.prompt_tokens, more) == ("127.0.0.1:7", sent, 4, 9, 0)
    assert found.phases == (("queue", sent, sent + 0.5), ("prefill", sent + 0.5, sent + 1.0))
    assert sent + 2.0 <= found.end <= time.time()
    assert spans.take() == ([], 0)


def test_no_more_are_remembered_than_a_trace_can_show_and_none_where_nobody_asks() -> None:
    spans = RequestSpans(wanted=True)
    for _ in range(MOST + 3):
        spans.answered(0.0, {})
    found, more = spans.take()
    assert (len(found), more) == (MOST, 3)
    quiet = RequestSpans()
    quiet.answered(0.0, {})
    assert quiet.take() == ([], 0)
