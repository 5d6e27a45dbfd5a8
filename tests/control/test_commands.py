"""What commands over the control socket do to a running pool."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import pool_of, run
from tests.scenarios.asking import CHAT, MODEL, PATHS, opening

from eggpool.control.commands import perform
from eggpool.control.protocol import Explain, Request, SetUsed, Status, read_request, write_request
from eggpool.engine.insight import Explanation, PoolStatus
from eggpool.errors import CommandRefused, NotFound
from eggpool.scripted import good

LIMITS = "[limits]\nfive_hour_microdollars = 0\nweekly_microdollars = 1_000_000\nmonthly_microdollars = 0\n"


def test_set_used_orders_and_is_shown(tmp_path: Path) -> None:
    """What a person says of a window decides who is asked next, and stands in the status; faults are told."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good, "b": good}, extra=LIMITS, clock=HandClock()) as (pool, _):
            runtime = pool.runtime
            perform(runtime, SetUsed("alpha/a", "weekly", 0.43))
            status = perform(runtime, Status())
            assert isinstance(status, PoolStatus)
            shares = {one.account: [window.used_share for window in one.windows] for one in status.accounts}
            assert shares == {"alpha/a": [pytest.approx(0.43)], "alpha/b": [0.0]}
            dry = perform(runtime, Explain(MODEL))
            assert isinstance(dry, Explanation)
            assert [one.account for one in dry.candidates] == ["alpha/b", "alpha/a"]
            async with pool.post(PATHS[CHAT], opening()) as reply:
                assert reply.headers["x-eggpool-account"] == "alpha/b"
            for wrong in (SetUsed("alpha/a", "yearly", 0.4), SetUsed("alpha", "weekly", 0.4)):
                with pytest.raises(CommandRefused):
                    perform(runtime, wrong)
            with pytest.raises(NotFound):
                perform(runtime, SetUsed("nobody", "weekly", 0.4))

    run(scenario)


def test_explain_knows_whose_conversation_it_is(tmp_path: Path) -> None:
    """The binding of one client's conversation is not shown for another client's of the same name."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": good, "b": good}, clock=clock) as (pool, _):
            async with pool.post(PATHS[CHAT], opening(), **{"x-eggpool-conversation": "mine"}) as reply:
                assert reply.headers["x-eggpool-account"] == "alpha/a"
            clock.advance(1)
            told = [
                perform(pool.runtime, Explain(MODEL, conversation="mine", client=client))
                for client in ("default", "laptop")
            ]
            assert [(one.would_go_to, one.bound_to, one.binding) for one in told if isinstance(one, Explanation)] == [
                ("alpha/a", "alpha/a", "kept"),
                ("alpha/b", None, "none"),
            ]

    run(scenario)


@pytest.mark.parametrize("request_", [Explain("m"), Explain("m", None, "k", "laptop"), SetUsed("a", "weekly", 0.5)])
def test_requests_are_read_as_written(request_: Request) -> None:
    """What one side writes the other reads; a client that is not named is the default one."""
    assert read_request(write_request(request_)) == request_
    assert msgspec.structs.asdict(Explain("m"))["client"] == "default"
