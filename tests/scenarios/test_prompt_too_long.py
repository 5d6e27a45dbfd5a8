"""A prompt that is too long for one account is tried where the window is known to be larger, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.pool import key_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MODEL, PATHS, WORDS, question, text_of

from eggpool.domain import Limits, ListedModel
from eggpool.scripted import Behaviour, ScriptedProvider, error, good

TOO_LONG = error(400, message="This model's maximum context length is exceeded: the prompt is too long.")


def windows(tokens: int | None) -> tuple[ListedModel, ...]:
    """A model list with that context window."""
    return (ListedModel(id=MODEL, limits=Limits(context=tokens)),)


def test_the_larger_window_is_tried(tmp_path: Path) -> None:
    """The request goes to the account with the larger window, past one with a smaller and one with an unknown one."""

    async def scenario() -> None:
        async with (
            ScriptedProvider({key_of("a"): Behaviour(TOO_LONG)}, models=windows(1000)) as small,
            ScriptedProvider({key_of("b"): good}, models=windows(500)) as smaller,
            ScriptedProvider({key_of("c"): good}, models=windows(None)) as unknown,
            ScriptedProvider({key_of("d"): good}, models=windows(2000)) as large,
        ):
            providers = provider("one", small, "a", extra="routing_priority = 9") + provider("two", smaller, "b")
            providers += provider("three", unknown, "c") + provider("four", large, "d")
            async with running_pool(settings(tmp_path, providers)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 4)
                status, body = await pool.answer(PATHS[CHAT], question())
                assert (status, text_of(CHAT, body)) == (200, f"You said: {WORDS}")
                (row,) = await pool.booked(1)
                tried = [(attempt.account, attempt.error_class) for attempt in row.attempts]
                assert tried == [("one/a", "prompt_too_long"), ("four/d", None)]
                assert pool.runtime.pool.rests == {}

    run(scenario)


def test_no_larger_window(tmp_path: Path) -> None:
    """Where no larger window is known, the provider's own words come back at once, and no account suffers."""

    async def scenario() -> None:
        async with (
            ScriptedProvider({key_of("a"): TOO_LONG, key_of("b"): TOO_LONG}, models=windows(1000)) as one,
            running_pool(settings(tmp_path, provider("one", one, "a", "b"))) as pool,
        ):
            status, body = await pool.answer(PATHS[CHAT], question())
            assert status == 400
            assert b"the prompt is too long" in body
            (row,) = await pool.booked(1)
            assert len(row.attempts) == 1
            assert pool.runtime.pool.rests == {}

    run(scenario)
