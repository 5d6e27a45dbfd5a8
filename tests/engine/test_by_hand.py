"""Accounts that are put to rest and woken by hand, and the names that people give them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import RunningPool, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MODEL, PATHS, opening, question

from eggpool.config.load import load
from eggpool.domain import AccountLabel
from eggpool.engine import by_hand
from eggpool.engine.by_hand import LONGEST_S, Named
from eggpool.engine.pool import Pool
from eggpool.errors import BadRequest, NotFound
from eggpool.routing.health import account_scope, model_scope, provider_scope
from eggpool.scripted import (
    Behaviour,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    Steps,
    WaitFor,
    error,
    good,
    rate_limited,
)
from eggpool.scripted.behaviours import play

A = AccountLabel("alpha/a")

CONFIG = """
[server]
api_key = "ep_test-client-key-0000"
[database]
path = "/nowhere/usage.sqlite3"
""" + "".join(
    f'[providers.{provider}]\nbase_url = "http://127.0.0.1:9/v1"\n'
    + "".join(
        f'[[providers.{provider}.accounts]]\nname = "{name}"\napi_key = "test-key-{provider}-{name}"\n'
        for name in names
    )
    for provider, names in {"alpha": ["home", "work"], "beta": ["home", "beta"], "gamma": ["spare"]}.items()
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("alpha/home", Named("alpha", AccountLabel("alpha/home"))),
        ("work", Named("alpha", AccountLabel("alpha/work"))),
        ("spare", Named("gamma", AccountLabel("gamma/spare"))),
        ("alpha", Named("alpha")),
        ("beta/", Named("beta")),
        ("beta/beta", Named("beta", AccountLabel("beta/beta"))),
    ],
)
def test_names(name: str, meant: Named) -> None:
    """An account is named in full, or by its name alone where only one has it; a provider by its id."""
    assert by_hand.find(load(CONFIG, {}, folder="/nowhere").config, name) == meant


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("home", "'home' can mean alpha/home or beta/home: write it in full."),
        ("beta", "'beta' can mean beta/ for the provider or beta/beta: write it in full."),
    ],
)
def test_a_name_that_means_several(name: str, told: str) -> None:
    """Nothing is guessed: what the name can mean is listed."""
    with pytest.raises(BadRequest) as refused:
        by_hand.find(load(CONFIG, {}, folder="/nowhere").config, name)
    assert (str(refused.value), refused.value.machine_code) == (told, "ambiguous_name")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("alpha/hone", "Near it: alpha/home"),
        ("spar", "Near it: gamma/spare"),
        ("gama", "Near it: gamma"),
        ("Zürich", "`eggpool accounts list` shows them."),
        ("", "`eggpool accounts list` shows them."),
        ("/", "`eggpool accounts list` shows them."),
    ],
)
def test_an_unknown_name(name: str, near: str) -> None:
    """Names that are near are told in full."""
    with pytest.raises(NotFound, match=f"^No account or provider is called '{name}'. {near}"):
        by_hand.find(load(CONFIG, {}, folder="/nowhere").config, name)


async def served_by(pool: RunningPool) -> str | None:
    """The account that answers a question now, None when nobody may."""
    async with pool.post(PATHS[CHAT], opening()) as reply:
        await reply.read()
        assert reply.status in (200, 429)
        return str(reply.headers["x-eggpool-account"]) if reply.status == 200 else None


def test_an_account_at_rest_gets_nothing(tmp_path: Path) -> None:
    """It takes no request until it is woken, even as the last one there is; the others take its share."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good, "b": good}) as (pool, upstream):
            live = pool.runtime.pool
            by_hand.rest(live, "a", 60)
            assert [await served_by(pool) for _ in range(3)] == ["alpha/b"] * 3
            by_hand.rest(live, "b", 60)
            assert await served_by(pool) is None
            assert len(upstream.work) == 3
            woken = by_hand.wake(live, "a")
            assert [(rest.account, rest.kind, rest.word) for rest in woken.woken] == [(A, "by_hand", "user")]
            assert await served_by(pool) == "alpha/a"

    run(scenario)


def test_a_provider_at_rest(tmp_path: Path) -> None:
    """None of its accounts takes a request; waking one of them says what still keeps it, waking the provider helps."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good, "b": good}) as (pool, _):
            live = pool.runtime.pool
            by_hand.rest(live, "alpha", None)
            by_hand.rest(live, "a", None)
            assert await served_by(pool) is None
            woken = by_hand.wake(live, "a")
            assert [rest.scope for rest in woken.woken] == ["account"]
            assert [(rest.scope, rest.name) for rest in woken.still] == [("provider", "alpha")]
            assert await served_by(pool) is None
            by_hand.rest(live, "a", None)
            assert {rest.scope for rest in by_hand.wake(live, "alpha").woken} == {"provider", "account"}
            assert live.rests == {}
            assert await served_by(pool) is not None

    run(scenario)


@pytest.mark.parametrize(
    "ends",
    [good, error(401), error(402, headers={"retry-after": "1"})],
    ids=["answers", "fails", "has no balance for a second"],
)
def test_what_was_under_way_does_not_end_it(tmp_path: Path, ends: Script) -> None:
    """However a request ends that began before, the account goes on resting for as long as the user said."""

    async def scenario() -> None:
        go = asyncio.Event()

        def waits(request: ReceivedRequest, good_reply: Reply) -> Steps:
            return (WaitFor(go), *play(ends, request, good_reply))

        clock = HandClock()
        async with pool_of(tmp_path, {"a": Behaviour(waits, then=good)}, clock=clock) as (pool, upstream):
            live = pool.runtime.pool
            asking = asyncio.ensure_future(pool.answer(PATHS[CHAT], question()))
            await pool.until(lambda: len(upstream.work) == 1)
            clock.advance(1)
            by_hand.rest(live, "a", 600)
            go.set()
            await asking
            clock.advance(590)
            assert await served_by(pool) is None
            clock.advance(11)
            assert await served_by(pool) == "alpha/a"

    run(scenario)


def test_it_is_kept_over_a_restart(tmp_path: Path) -> None:
    """The next process keeps the user's word; a rest that was woken does not come back."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): good, key_of("b"): good}) as upstream:
            config = settings(tmp_path, provider("alpha", upstream, "a", "b"))
            clock = HandClock()
            async with running_pool(config, clock) as pool:
                by_hand.rest(pool.runtime.pool, "a", None)
                by_hand.rest(pool.runtime.pool, "b", 3600)
                by_hand.wake(pool.runtime.pool, "b")
            clock.advance(LONGEST_S - 10)
            async with running_pool(config, clock) as pool:
                assert [await served_by(pool) for _ in range(2)] == ["alpha/b"] * 2
                clock.advance(11)
                assert await served_by(pool) == "alpha/a"

    run(scenario)


def test_waking_ends_every_rest(tmp_path: Path) -> None:
    """Also a provider's word and a guess, of the account and of its models; of other accounts nothing."""

    async def scenario() -> None:
        limited = Behaviour(rate_limited(retry_after=3600), then=good)
        async with pool_of(tmp_path, {"a": limited, "b": Behaviour(rate_limited(retry_after=3600))}) as (
            pool,
            upstream,
        ):
            live: Pool = pool.runtime.pool
            assert await served_by(pool) is None
            assert len(upstream.work) == 2
            woken = by_hand.wake(live, "a")
            assert [(rest.scope, rest.name, rest.word) for rest in woken.woken] == [("model", MODEL, "provider")]
            assert set(live.rests) == {model_scope(AccountLabel("alpha/b"), MODEL)}
            assert await served_by(pool) == "alpha/a"
            assert by_hand.wake(live, "a").woken == ()

    run(scenario)


def test_it_is_told(tmp_path: Path) -> None:
    """Both are events, so that a person who was not there can see what was done."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            by_hand.rest(pool.runtime.pool, "a", 60)
            by_hand.rest(pool.runtime.pool, "alpha", 60)
            by_hand.wake(pool.runtime.pool, "alpha")
            told = await pool.rows("SELECT kind, account, detail FROM events ORDER BY id")
            assert {(kind, account) for kind, account, _ in told} >= {
                ("account_resting", "alpha/a"),
                ("account_woken", "alpha/a"),
            }
            assert any(detail == "The provider alpha rests for 60 s: by hand." for _, _, detail in told)

    run(scenario)


def test_scopes() -> None:
    """What rests is the account, or the provider as a whole."""
    assert Named("alpha", A).scope == account_scope(A)
    assert Named("alpha").scope == provider_scope("alpha")
