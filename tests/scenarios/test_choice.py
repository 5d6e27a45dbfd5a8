"""Which account takes a request: tiers first, then fewest in flight, then longest unused."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from tests.helpers.clock import HandClock
from tests.helpers.pool import key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, PATHS, opening, question

from eggpool.scripted import Behaviour, Script, ScriptedProvider, Steps, WaitFor, error, good
from eggpool.scripted.received import ReceivedRequest
from eggpool.scripted.steps import Reply


def test_tiers(tmp_path: Path) -> None:
    """All traffic goes to the highest routing_priority while any of its accounts can take it, then to the next."""

    async def scenario() -> None:
        async with ScriptedProvider() as at:
            text = "".join(
                provider(name, at, *keys, extra=f"routing_priority = {priority}")
                for name, priority, keys in (("low", 0, ("c",)), ("high", 20, ("a1", "a2")), ("middle", 10, ("b",)))
            )
            clock = HandClock()
            async with running_pool(settings(tmp_path, text), clock) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 4)

                async def used(count: int) -> set[str]:
                    found = set()
                    for _ in range(count):
                        async with pool.post(PATHS[CHAT], opening()) as answer:
                            assert answer.status == 200
                            found.add(answer.headers["x-eggpool-account"])
                        clock.advance(0.01)
                    return found

                assert await used(6) == {"high/a1", "high/a2"}
                at.behave(key_of("a1"), error(500))
                assert await used(6) == {"high/a2"}
                at.behave(key_of("a2"), error(500))
                assert await used(6) == {"middle/b"}
                at.behave(key_of("b"), error(500))
                assert await used(6) == {"low/c"}
                for name in ("a1", "a2", "b"):
                    at.behave(key_of(name), good)
                clock.advance(10)
                assert "high/a1" in await used(6)  # which has been spared for a while

    run(scenario)


def test_burst_spreads(tmp_path: Path) -> None:
    """Requests that come at once spread evenly over the accounts of a tier, by weight."""

    async def scenario() -> None:
        go = asyncio.Event()

        def waits(_request: ReceivedRequest, reply: Reply) -> Steps:
            return (WaitFor(go), *reply.steps())

        heavy = '[[providers.alpha.accounts]]\nname = "c"\napi_key = "test-c-key-0000"\nweight = 2.0\n'
        async with ScriptedProvider({key_of(name): waits for name in "abc"}) as upstream:
            config = settings(tmp_path, provider("alpha", upstream, "a", "b") + heavy)
            async with running_pool(config) as pool:
                asked = [asyncio.create_task(pool.answer(PATHS[CHAT], opening())) for _ in range(20)]
                await upstream.wait_for(lambda there: len(there.work) == 20)
                assert Counter(request.api_key for request in upstream.work) == {
                    key_of("a"): 5,
                    key_of("b"): 5,
                    key_of("c"): 10,
                }
                go.set()
                assert {(await one)[0] for one in asked} == {200}

    run(scenario)


def test_one_after_another(tmp_path: Path) -> None:
    """Requests that come one after another go round, longest unused first."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, dict.fromkeys("abc", good), clock=clock) as (pool, upstream):
            for _ in range(9):
                await pool.answer(PATHS[CHAT], opening())
                clock.advance(0.1)
            assert [request.api_key for request in upstream.work] == [key_of(name) for name in "abcabcabc"]

    run(scenario)


def test_account_that_rests_on_a_guess_comes_last(tmp_path: Path) -> None:
    """An account that failed comes after all others, across tiers, until its rest is over."""

    async def scenario() -> None:
        clock = HandClock()
        accounts: dict[str, Behaviour | Script] = {"a": Behaviour(error(500)), "b": good}
        async with pool_of(tmp_path, accounts, clock=clock) as (pool, upstream):
            for _ in range(4):
                assert (await pool.answer(PATHS[CHAT], opening()))[0] == 200
            assert [request.api_key for request in upstream.work] == [key_of("a"), *[key_of("b")] * 4]
            clock.advance(2)
            await pool.answer(PATHS[CHAT], opening())
            assert upstream.work[-1].api_key == key_of("a")

    run(scenario)


def test_suffix_names_the_provider(tmp_path: Path) -> None:
    """`model/provider` goes to that provider only; the bare name goes to all that have it."""

    async def scenario() -> None:
        async with ScriptedProvider() as at:
            text = provider("first", at, "a", extra="routing_priority = 5") + provider("second", at, "b")
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                for model, account in (
                    ("scripted-large/second", "second/b"),
                    ("scripted-large/first", "first/a"),
                    ("scripted-large", "first/a"),
                ):
                    async with pool.post(PATHS[CHAT], question(model=model)) as answer:
                        assert answer.headers["x-eggpool-account"] == account
                    assert at.work[-1].payload["model"] == "scripted-large"

    run(scenario)


def test_decision_is_booked(tmp_path: Path) -> None:
    """The books say who could have taken a request, who was refused and why, and each try with its end."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): error(500), key_of("b"): good, key_of("c"): good}) as at:
            text = provider("alpha", at, "a", "b") + provider("beta", at, "c", extra='protocols = ["anthropic"]')
            text += "[translation]\nenabled = false\n"
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 3)
                await pool.answer(PATHS[CHAT], opening())
                decision = (await pool.booked(1))[0].record.decision
                assert decision is not None
                told = json.loads(decision)
                assert [account for account, _ in told.pop("best")] == ["alpha/a", "alpha/b"]
                assert told == {"no": {"dialect": 1}, "tried": [["alpha/a", "server_error"], ["alpha/b", None]]}

    run(scenario)
