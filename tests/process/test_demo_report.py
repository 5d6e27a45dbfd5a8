"""The demonstration's own check: it finds each kind of fault in answers and books, and nothing where all is right."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from eggpool import pricing
from eggpool.demo.report import account_table, faults, request_table, verdict
from eggpool.demo.traffic import Asked, Told, questions, read_answer
from eggpool.domain import AccountLabel, AttemptRecord, Outcome, RequestRecord, UsageSource
from eggpool.scripted import chat_reply, chat_stream_events, messages_reply, messages_stream_events
from eggpool.store.stats import RequestRow

HEALTHY = AccountLabel("demo/healthy")
LIMITED = AccountLabel("demo/limited")


def answered(asked: Asked) -> Told:
    """The right answer."""
    return Told(asked, 200, asked.number, asked.expected.text, whole=True)


def booked(asked: Asked) -> RequestRow:
    """What the books have of it; the first request was refused by an account that had run into its limit."""
    kind, usage = asked.kind, asked.expected.usage
    common: dict[str, Any] = {"request_id": asked.number, "model": kind.model.id, "dialect": kind.dialect}
    attempts = [AttemptRecord(number=1, account=HEALTHY, started_at_ms=0, status=200, **common)]
    if asked.number == 1:
        refused = AttemptRecord(number=1, account=LIMITED, started_at_ms=0, status=429, error_class="rate", **common)
        attempts = [refused, replace(attempts[0], number=2)]
    record = RequestRecord(
        id=asked.number,
        client="default",
        client_address="127.0.0.1",
        dialect=kind.dialect,
        path=f"/v1{kind.path}",
        model_asked=kind.model.id,
        streamed=kind.streamed,
        outcome=Outcome.COMPLETED,
        status=200,
        started_at_ms=0,
        ended_at_ms=1,
        total_us=1000,
        attempts=len(attempts),
        account=HEALTHY,
        model_served=kind.model.id,
        usage=usage,
        usage_source=UsageSource.REPORTED,
        cost=pricing.cost(usage, kind.model.price, UsageSource.REPORTED),
        first_byte_us=1500,
    )
    return RequestRow(record, tuple(attempts), clamped=False)


ASKED = questions(1)
TOLD = [answered(asked) for asked in ASKED]
ROWS = {asked.number: booked(asked) for asked in ASKED}
RECEIVED = 5


def test_nothing_is_wrong() -> None:
    """Right answers and right books have no fault, and the verdict says so."""
    assert list(faults(TOLD, ROWS, RECEIVED)) == []
    assert verdict(TOLD, []).startswith("All 4 requests were answered rightly")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"error": "the answer cannot be read"}, "Request 2 (chat stream) failed: the answer cannot be read"),
        ({"status": 502}, "the status 502"),
        ({"text": "You said: something else"}, "not answered in the provider's words"),
        ({"whole": False}, "no end"),
    ],
)
def test_wrong_answers(change: dict[str, Any], words: str) -> None:
    """A wrong answer is told, in one sentence that names the request."""
    told = [TOLD[0], replace(TOLD[1], **change), *TOLD[2:]]
    (fault,) = faults(told, ROWS, RECEIVED)
    assert words in fault
    assert fault in verdict(told, [fault])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outcome": Outcome.ERROR}, "outcome error instead of completed"),
        ({"path": "/v1/other"}, "path /v1/other"),
        ({"model_served": "other"}, "model other"),
        ({"streamed": False}, "streamed False"),
        ({"usage": replace(ASKED[1].expected.usage, input_tokens=99)}, "input tokens 99"),
        ({"usage": replace(ASKED[1].expected.usage, output_tokens=99)}, "output tokens 99"),
        ({"cost": pricing.cost(ASKED[1].expected.usage, None)}, "cost"),
        ({"attempts": 3}, "tries 3 instead of 1"),
    ],
)
def test_wrong_books(change: dict[str, Any], words: str) -> None:
    """A request that is booked wrongly is told, with what is booked and what is right."""
    row = replace(ROWS[2], record=replace(ROWS[2].record, **change))
    (fault,) = faults(TOLD, ROWS | {2: row}, RECEIVED)
    assert fault.startswith("Request 2 (chat stream) is booked wrongly: ")
    assert words in fault


def test_missing_and_foreign_requests() -> None:
    """A request that is not in the books is told, and so is one that was never sent."""
    missing = {number: row for number, row in ROWS.items() if number != 3}
    assert list(faults(TOLD, missing, RECEIVED - 1)) == [
        "Request 3 (messages) is not in the books.",
        "4 requests were sent, and the books have 3.",
    ]
    assert "not booked" in request_table(TOLD, missing)
    foreign = ROWS | {9: ROWS[2]}
    assert list(faults(TOLD, foreign, RECEIVED + 1)) == ["4 requests were sent, and the books have 5."]


def test_tries_and_failover() -> None:
    """Tries that the provider did not see are told, and so is that nothing had to move on."""
    assert list(faults(TOLD, ROWS, 4)) == ["The provider got 4 requests, and the books have 5 tries."]
    calm = replace(ROWS[1], record=replace(ROWS[1].record, attempts=1), attempts=ROWS[1].attempts[1:])
    (fault,) = faults(TOLD, ROWS | {1: calm}, 4)
    assert fault.startswith("No request went on to a second account")


def test_tables() -> None:
    """The tables show each request and each account on a line that fits a terminal."""
    lines = request_table(TOLD, ROWS).splitlines()
    assert lines[1].endswith("limited: rate")
    assert len(lines) == 5
    accounts = account_table(["healthy", "limited"], ROWS).splitlines()
    assert accounts[1].split()[:3] == ["healthy", "4", "0"]
    assert accounts[2].split()[:3] == ["limited", "0", "1"]
    assert max(map(len, lines + accounts)) <= 80


def test_reads_answers() -> None:
    """An answer of each kind is read as what the provider says; a stream without its last event is not whole."""
    chat, chat_stream, messages, messages_stream = (asked.body for asked in ASKED)
    bodies = (
        chat_reply(chat),
        b"".join(chat_stream_events(chat_stream)),
        messages_reply(messages),
        b"".join(messages_stream_events(messages_stream)),
    )
    for asked, body in zip(ASKED, bodies, strict=True):
        assert read_answer(asked.kind, body) == (asked.expected.text, True)
        if asked.kind.streamed:
            cut = body[: body.rstrip().rindex(b"\n\n") + 2]
            assert read_answer(asked.kind, cut) == (asked.expected.text, False)
