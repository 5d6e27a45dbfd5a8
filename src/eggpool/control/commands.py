"""What the running server does for each command of the command line, as one table of cases."""

from __future__ import annotations

from typing import assert_never

from eggpool.control.protocol import Explain, Request, Rest, SetUsed, Status, Wake
from eggpool.engine import by_hand
from eggpool.engine.explaining import explain
from eggpool.engine.runtime import Runtime
from eggpool.engine.status import pool_status


def perform(runtime: Runtime, request: Request) -> object:
    """Do what is asked; what is told of it. Raises EggPoolError with a sentence for the person who asked."""
    pool = runtime.pool
    match request:
        case Status():
            return pool_status(runtime)
        case Explain(model=model, dialect=dialect, conversation=conversation, client=client):
            return explain(pool, model, dialect, conversation, client)
        case Rest(name=name, for_s=for_s):
            return by_hand.rest(pool, name, for_s)
        case Wake(name=name):
            return by_hand.wake(pool, name)
        case SetUsed(name=name, window=window, share=share):
            return by_hand.set_used(pool, name, window, share)
        case _:
            assert_never(request)
