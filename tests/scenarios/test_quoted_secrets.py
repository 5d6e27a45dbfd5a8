"""A provider that quotes an account's key shows it to nobody: not to the client, not to the books."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.pool import key_of, pool_of, run
from tests.scenarios.asking import CHAT, PATHS, question

from eggpool.scripted import Behaviour, drop_when_reused, error, good, reply

SECRET = key_of("a")
QUOTING = {
    "an error's words": error(401, message=f"Incorrect API key provided: {SECRET}."),
    "a header": error(401, message="no", headers={"x-request-id": f"req-{SECRET}", "x-hint": f"key={SECRET}"}),
    "a header of a good reply": reply(
        200, b'{"choices":[{"message":{"content":"hi"}}]}', {"content-type": "application/json", "x-request-id": SECRET}
    ),
}


@pytest.mark.parametrize("quoting", QUOTING)
def test_a_quoted_key(quoting: str, tmp_path: Path) -> None:
    """The key is masked in the answer's body and headers and in every table of the books, details kept or not."""

    async def scenario() -> None:
        keep = "[security]\npersist_redacted_error_detail = true\n"
        async with pool_of(tmp_path, {"a": Behaviour(then=QUOTING[quoting])}, extra=keep) as (pool, _):
            async with pool.post(PATHS[CHAT], question()) as answer:
                body = await answer.read()
                assert SECRET.encode() not in body
                assert SECRET not in str(answer.headers)
            await pool.booked(1)
            for everything in ("SELECT * FROM requests", "SELECT * FROM attempts", "SELECT * FROM events"):
                assert SECRET not in str(await pool.rows(everything))

    run(scenario)


def test_one_fresh_try(tmp_path: Path) -> None:
    """However many kept connections turn out to be closed, a request is sent at most twice, the second time afresh."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(then=good)}) as (pool, upstream):
            for _ in range(3):
                assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            upstream.behave(SECRET, drop_when_reused())
            before = len(upstream.work)
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            assert len(upstream.work) - before <= 2
            assert upstream.work[-1].place_on_connection == 1
            assert pool.runtime.pool.rests == {}

    run(scenario)
