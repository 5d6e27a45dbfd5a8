"""A conversation stays where its prompt is cached, moves when it must, and what that saves is counted."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import RunningPool, after_a_crash, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, MODEL, PATHS, RESPONSES

from eggpool.domain import AccountLabel, Dialect, Usage
from eggpool.engine import keeping
from eggpool.routing.affinity import Tally
from eggpool.scripted import Behaviour, ScriptedProvider, WaitFor, error, good, rate_limited, say

A, B = AccountLabel("alpha/a"), AccountLabel("alpha/b")
FOUR = dict.fromkeys("abcd", good)
SESSION = "0b1c2d3e-1111-4222-8333-444455556666"


class Talk:
    """One conversation that grows by a turn with each question."""

    def __init__(self, dialect: Dialect = CHAT, begins: str = "hello", fields: dict[str, Any] | None = None) -> None:
        self.dialect = dialect
        self.begins = begins
        self.fields = fields or {}
        self.headers: dict[str, str] = {}
        self.turns: list[dict[str, str]] = []

    def next(self) -> bytes:
        """The body of the next question."""
        words = self.begins if not self.turns else f"and then, number {len(self.turns)}"
        if self.turns:
            self.turns.append({"role": "assistant", "content": f"answer {len(self.turns)}"})
        self.turns.append({"role": "user", "content": words})
        name = "input" if self.dialect is RESPONSES else "messages"
        asked: dict[str, Any] = {"model": MODEL, name: self.turns, **self.fields}
        if self.dialect is MESSAGES:
            asked["max_tokens"] = 100
        return json.dumps(asked).encode()

    async def ask(self, pool: RunningPool, **headers: str) -> str:
        """The account that answers the next question, or the status of the refusal."""
        given = {name.replace("_", "-"): value for name, value in headers.items()} | self.headers
        async with pool.post(PATHS[self.dialect], self.next(), **given) as reply:
            await reply.read()
            return str(reply.headers["x-eggpool-account"]) if reply.status == 200 else str(reply.status)


def talk(kind: str, name: str = SESSION) -> Talk:
    """A conversation of one kind of agent."""
    made = Talk()
    if kind == "claude code":
        made = Talk(MESSAGES)
        made.headers = {"x-claude-code-session-id": name}
    elif kind == "claude code, by its metadata":
        made = Talk(MESSAGES, fields={"metadata": {"user_id": f"user_abc_account_def_session_{name}"}})
    elif kind == "codex":
        made = Talk(RESPONSES, fields={"prompt_cache_key": name})
    elif kind == "opencode":
        made.headers = {"x-session-affinity": name}
    elif kind == "no name":
        made = Talk(begins=f"no name but {name}")
    return made


KINDS = ["claude code", "claude code, by its metadata", "codex", "opencode", "no name"]


def tally(pool: RunningPool) -> tuple[int, int, int, int]:
    """How often conversations began, stayed, moved and escaped."""
    counted = pool.runtime.pool.affinity.tally()
    return counted.begun, counted.hits, counted.moves, counted.escapes


@pytest.mark.parametrize("kind", KINDS)
def test_a_growing_conversation_stays(tmp_path: Path, kind: str) -> None:
    """All its turns go to one account, while other conversations go to the others."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, FOUR, clock=clock) as (pool, _):
            one, other = talk(kind), talk(kind, SESSION.replace("0b1c", "9f9f"))
            used: tuple[set[str], set[str]] = (set(), set())
            for _ in range(6):
                used[0].add(await one.ask(pool))
                used[1].add(await other.ask(pool))
                clock.advance(30)
            assert [len(found) for found in used] == [1, 1]
            assert used[0] != used[1]
            assert tally(pool) == (2, 10, 0, 0)

    run(scenario)


def test_across_tiers_while_warm(tmp_path: Path) -> None:
    """A warm conversation stays with the lower tier that it fell back to; a cool one goes by the tiers again."""

    async def scenario() -> None:
        clock = HandClock()
        async with ScriptedProvider({key_of("a"): Behaviour(rate_limited(10)), key_of("b"): good}) as at:
            text = provider("high", at, "a", extra="routing_priority = 9") + provider("low", at, "b")
            async with running_pool(settings(tmp_path, text, "[routing]\naffinity_ttl_s = 300"), clock) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                one = talk("opencode")
                assert await one.ask(pool) == "low/b"
                clock.advance(60)
                assert await talk("no name").ask(pool) == "high/a"
                assert await one.ask(pool) == "low/b"
                clock.advance(299)
                assert await one.ask(pool) == "low/b"
                clock.advance(301)
                assert await one.ask(pool) == "high/a"
                assert tally(pool) == (3, 2, 0, 0)

    run(scenario)


@pytest.mark.parametrize("fault", ["rests", "fails"])
def test_it_moves_and_stays_there(tmp_path: Path, fault: str) -> None:
    """When its account cannot serve it, the conversation goes on elsewhere, and does not come back while it is warm."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": good, "b": good}, clock=clock) as (pool, upstream):
            one = talk("claude code")
            assert [await one.ask(pool) for _ in range(2)] == [A, A]
            upstream.behave(key_of("a"), Behaviour(rate_limited(5) if fault == "rests" else error(500)))
            assert await one.ask(pool) == B
            clock.advance(60)
            assert [await one.ask(pool) for _ in range(3)] == [B] * 3
            assert tally(pool) == (1, 4, 1, 0)
            assert pool.runtime.pool.affinity.tally(A).moves == 1

    run(scenario)


def test_it_escapes_an_account_that_is_too_far_ahead(tmp_path: Path) -> None:
    """A warm conversation leaves an account that is much worse than the best, and only then."""

    async def scenario() -> None:
        clock = HandClock()
        week = '\n[[providers.alpha.windows]]\nname = "weekly"\nkind = "block"\nlength = "7d"\npercent = true\n'
        async with ScriptedProvider({key_of(name): good for name in "ab"}) as at:
            config = settings(tmp_path, provider("alpha", at, "a", "b", extra=ALL) + week)
            async with running_pool(config, clock) as pool:
                one, live = talk("claude code"), pool.runtime.pool
                assert await one.ask(pool) == A
                live.set_used(B, "weekly", 0.10)
                live.set_used(A, "weekly", 0.38)
                assert await one.ask(pool) == A
                live.set_used(A, "weekly", 0.42)
                async with pool.post(PATHS[MESSAGES], one.next(), **one.headers, **WHY) as reply:
                    assert reply.headers["x-eggpool-account"] == B
                    told = json.loads(reply.headers["x-eggpool-decision"])
                    assert (told["bound"], told["to"]) == ("escaped", A)
                assert await one.ask(pool) == B
                assert tally(pool) == (1, 2, 0, 1)

    run(scenario)


ALL = 'protocols = ["openai", "anthropic", "responses"]'
WHY = {"x-eggpool-decision": "1"}


def test_subagents_spread(tmp_path: Path) -> None:
    """The subagents of one session share no prompt: each is a conversation of its own, and stays where it began."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, FOUR, clock=clock) as (pool, _):
            agents = {f"agent-{number}": Talk(MESSAGES, f"task {number}") for number in range(4)}
            used = []
            for _ in range(3):
                found = {}
                for name, agent in agents.items():
                    agent.headers = {"x-claude-code-session-id": SESSION, "x-claude-code-agent-id": name}
                    found[name] = await agent.ask(pool)
                    clock.advance(1)
                used.append(found)
            assert len(set(used[0].values())) == 4
            assert used[0] == used[1] == used[2]

    run(scenario)


def test_two_clients_with_one_name(tmp_path: Path) -> None:
    """Two clients that call their conversations the same do not land on each other's account."""

    async def scenario() -> None:
        other_key = "ep_test-other-key-00000"
        hashed = hashlib.sha256(other_key.encode()).hexdigest()
        extra = f'[[clients]]\nname = "laptop"\nkey_hash = "sha256:{hashed}"\n'
        clock = HandClock()
        async with pool_of(tmp_path, {"a": good, "b": good}, extra=extra, clock=clock) as (pool, _):
            mine, theirs = talk("opencode"), talk("opencode")
            theirs.headers["authorization"] = f"Bearer {other_key}"
            used = []
            for _ in range(3):
                used.append((await mine.ask(pool), await theirs.ask(pool)))
                clock.advance(1)
            assert used == [(A, B)] * 3
            query = f"/api/explain?model={MODEL}&conversation={SESSION}"
            for headers, expected in (({}, A), ({"authorization": f"Bearer {other_key}"}, B)):
                async with pool.get(query, **headers) as reply:
                    told = json.loads(await reply.read())
                assert (told["would_go_to"], told["bound_to"], told["binding"]) == (expected, expected, "kept")

    run(scenario)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no name"])
def test_a_dry_run_finds_it_by_its_name(tmp_path: Path, kind: str) -> None:
    """Wherever a client writes the name of a conversation, by that name people find out where it is bound to."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": good, "b": good}, clock=clock) as (pool, _):
            one = talk(kind)
            assert await one.ask(pool) == A
            clock.advance(1)
            async with pool.get(f"/api/explain?model={MODEL}&conversation={SESSION}") as reply:
                told = json.loads(await reply.read())
            assert (told["would_go_to"], told["binding"]) == (A, "kept")

    run(scenario)


@pytest.mark.parametrize("ends", ["well", "in a crash"])
def test_it_survives_a_restart(tmp_path: Path, ends: str) -> None:
    """The next process goes on where the conversation was, while it is warm."""

    async def scenario() -> None:
        clock = HandClock()
        async with ScriptedProvider({key_of(name): good for name in "abcd"}) as at:
            config = settings(tmp_path, provider("alpha", at, *"abcd"))
            talks = [talk("opencode", f"{number}{SESSION}") for number in range(6)]
            async with running_pool(config, clock) as pool:
                before = []
                for one in talks:
                    before.append(await one.ask(pool))
                    clock.advance(1)
                if ends == "in a crash":
                    keeping.keep(pool.runtime.pool, pool.runtime.ledger)
                    while not await pool.runtime.database.settle(1.0):
                        pass
                    config = after_a_crash(config, tmp_path / "crashed")
            clock.advance(30)
            async with running_pool(config, clock) as pool:
                assert [await one.ask(pool) for one in reversed(talks)] == before[::-1]
                assert tally(pool) == (0, 6, 0, 0)
            clock.advance(301)
            async with running_pool(config, clock) as pool:
                await talks[0].ask(pool)
                assert tally(pool) == (1, 0, 0, 0)

    run(scenario)


def test_what_it_saves_is_counted(tmp_path: Path) -> None:
    """Tokens that were read from a cache, and the money between their price and that of fresh ones, by account."""

    async def scenario() -> None:
        cached = say("yes", usage=Usage(input_tokens=100_000, cache_read_tokens=90_000, output_tokens=1))
        async with pool_of(tmp_path, {"a": cached}) as (pool, _):
            one = talk("no name")
            assert [await one.ask(pool) for _ in range(3)] == [A] * 3
            # 3 dollars a million fresh, 30 cents a million cached: 2.7 millionths of a dollar saved by each token.
            saved = 3 * 90_000 * 2_700
            assert pool.runtime.pool.affinity.tally(A) == Tally(1, 2, 0, 0, 270_000, saved)
            async with pool.get("/api/status") as reply:
                (account,) = json.loads(await reply.read())["accounts"]
            assert account["affinity"]["hits"] == 2
            assert account["affinity"]["saved_nanodollars"] == saved

    run(scenario)


def test_a_burst_of_first_requests(tmp_path: Path) -> None:
    """An agent that begins with several requests at once finds all of them at one account."""

    async def scenario() -> None:
        go = asyncio.Event()
        waits = {name: Behaviour(then=lambda _, reply: (WaitFor(go), *reply.steps())) for name in "abcd"}
        async with pool_of(tmp_path, waits) as (pool, upstream):
            asked = [asyncio.create_task(talk("claude code").ask(pool)) for _ in range(5)]
            await upstream.wait_for(lambda there: len(there.work) == 5)
            go.set()
            assert len(set(await asyncio.gather(*asked))) == 1
            assert Counter(request.api_key for request in upstream.work).most_common()[0][1] == 5

    run(scenario)


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """With `affinity = false` every request goes by the order of accounts alone."""

    async def scenario() -> None:
        clock = HandClock()
        extra = "[routing]\naffinity = false"
        async with pool_of(tmp_path, {"a": good, "b": good}, extra=extra, clock=clock) as (pool, _):
            one, used = talk("claude code"), []
            for _ in range(4):
                used.append(await one.ask(pool))
                clock.advance(1)
            assert used == [A, B, A, B]
            assert tally(pool) == (0, 0, 0, 0)

    run(scenario)
