"""A provider that is silent costs a time-out, not the request, while another account could answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.pool import ALL_DIALECTS, key_of, pool_of, run
from tests.scenarios.asking import CHAT, HELD_BACK, MESSAGES, PATHS, RESPONSES, question, text_of

from eggpool.domain import Dialect
from eggpool.scripted import Script, good, hang_after_events, hang_after_headers, hang_before_headers, slow

SHORT = ALL_DIALECTS + "\nheader_timeout_s = 0.1\nfirst_event_timeout_s = 0.1"


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("silent", ["before headers", "after headers", "after what is held back"])
def test_next_account_after_the_time_out(tmp_path: Path, dialect: Dialect, silent: str) -> None:
    """A stream whose headers or first word do not come in time is asked of the next account, and let go."""
    scripts: dict[str, Script] = {
        "before headers": hang_before_headers(),
        "after headers": hang_after_headers(),
        "after what is held back": hang_after_events(HELD_BACK[dialect]),
    }

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": scripts[silent], "b": good}, more=SHORT) as (pool, upstream):
            pool.runtime.dispatcher.local["alpha"] = False  # providers in the own network may think for long
            status, body = await pool.answer(PATHS[dialect], question(dialect, stream=True))
            assert (status, text_of(dialect, body)) == (200, "You said: say three words")
            assert [request.api_key for request in upstream.work] == [key_of("a"), key_of("b")]
            await upstream.wait_for(lambda there: there.work[0].end == "client_left")
            assert [attempt.error_class for attempt in (await pool.booked(1))[0].attempts] == ["timeout", None]

    run(scenario)


@pytest.mark.parametrize(("local", "accounts"), [(False, "a"), (True, "ab")])
def test_the_last_one_is_waited_for(tmp_path: Path, local: bool, accounts: str) -> None:
    """The last account that could answer, and any in the own network, is waited for beyond those time-outs."""

    async def scenario() -> None:
        async with pool_of(tmp_path, dict.fromkeys(accounts, slow(0.3, 0.05)), more=SHORT) as (pool, upstream):
            pool.runtime.dispatcher.local["alpha"] = local
            status, body = await pool.answer(PATHS[CHAT], question(stream=True))
            assert (status, text_of(CHAT, body)) == (200, "You said: say three words")
            assert len(upstream.work) == 1

    run(scenario)


def test_plain_requests_are_waited_for(tmp_path: Path) -> None:
    """A request that is not streamed gets its headers with its answer, so no header time-out ends it."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": slow(0.3), "b": good}, more=SHORT) as (pool, upstream):
            pool.runtime.dispatcher.local["alpha"] = False
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            assert len(upstream.work) == 1

    run(scenario)
