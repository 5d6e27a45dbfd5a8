"""The demonstration from its begin to its end: provider and pool started, traffic sent, the outcome told."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import Callable

from eggpool import __version__
from eggpool.config.load import load
from eggpool.config.schema import Config
from eggpool.demo.report import account_table, faults, request_table, verdict
from eggpool.demo.traffic import MODELS, ask_all, questions
from eggpool.engine import jobs, runtime
from eggpool.engine.runtime import Runtime
from eggpool.scripted import Behaviour, ScriptedProvider, limited_after, slow
from eggpool.store.stats import MAX_ROWS, RequestRow, recent_requests
from eggpool.web.app import make_app

LIMIT_REQUESTS = 3
LIMIT_S = 60.0
SLOW_FIRST_BYTE_S, SLOW_EVENT_S = 0.25, 0.02
USUAL_FIRST_BYTE_S, USUAL_EVENT_S = 0.03, 0.003

EACH_KIND = 4
EACH_KIND_ONCE = 12

BOOKS_LIMIT_S = 5.0

_CONFIG = """
[server]
port = {port}
api_key = "{key}"
access_log = false
shutdown_grace_s = 5

[database]
path = "usage.sqlite3"
commit_interval_ms = 20

[models]
startup_refresh = false

[providers.demo]
id = "demo"
base_url = "{base_url}"
protocols = ["openai", "anthropic", "responses"]
"""

_ACCOUNT = """
[[providers.demo.accounts]]
name = "{name}"
api_key = "{key}"
"""


def run(echo: Callable[[str], None], *, port: int = 0, once: bool = False) -> bool:
    """Show the pool at work until a signal comes; with `once`, ask a dozen requests of each kind, check, and end.

    Returns whether everything was right. Raises StartError when the port cannot be had. Whatever is written lies in a
    temporary folder, which is removed.
    """
    with tempfile.TemporaryDirectory(prefix="eggpool-demo-") as folder:
        show = _Show(echo, port, folder, once=once)
        runtime.run(show.run())
        return show.good


class _Show:
    """One demonstration from its begin to its end."""

    def __init__(self, echo: Callable[[str], None], port: int, folder: str, *, once: bool) -> None:
        self._echo = echo
        self._port = port
        self._folder = folder
        self._once = once
        self._key = "ep_" + secrets.token_hex(8)  # short, so that the printed lines are; it lives as long as this
        self._provider = ScriptedProvider(accounts(), models=MODELS)
        self._ended = False
        self.good = not once

    async def run(self) -> None:
        async with self._provider:
            config = configuration(self._provider, self._port, self._key, self._folder)
            await runtime.serve(config, make_app, self._attend)
        if self._once and not self._ended:
            self._echo("Stopped before the end; nothing was checked.")

    async def _attend(self, running: Runtime) -> None:
        await jobs.fetch_all(running.pool, running.ledger)
        self._echo(_introduction(running.url, self._key))
        told = await ask_all(questions(EACH_KIND_ONCE if self._once else EACH_KIND), running.url, self._key)
        rows = await _booked(running, len(told))
        if self._once:
            self._echo(request_table(told, rows))
        self._echo(account_table(list(accounts()), rows))
        wrong = list(faults(told, rows, len(self._provider.work)))
        self._ended = True
        if self._once or wrong:
            self.good = not wrong
            self._echo(verdict(told, wrong))
        if self._once:
            return
        self._echo(_invitation(running.url, self._key))
        await asyncio.Event().wait()


def accounts() -> dict[str, Behaviour]:
    """What each account does, by its name; new ones each time, because they count."""
    return {
        "healthy": Behaviour(then=slow(USUAL_FIRST_BYTE_S, USUAL_EVENT_S)),
        "limited": Behaviour(then=limited_after(LIMIT_REQUESTS, LIMIT_S, then=slow(USUAL_FIRST_BYTE_S, USUAL_EVENT_S))),
        "slow": Behaviour(then=slow(SLOW_FIRST_BYTE_S, SLOW_EVENT_S)),
    }


def configuration(provider: ScriptedProvider, port: int, key: str, folder: str) -> Config:
    """The pool's configuration; for a person it would stand in a file. The name of an account is its key, too."""
    text = _CONFIG.format(port=port, key=key, base_url=provider.base_url)
    text += "".join(_ACCOUNT.format(name=name, key=name) for name in accounts())
    return load(text, {}, folder=folder).config


async def _booked(running: Runtime, count: int) -> dict[int, RequestRow]:
    """The requests in the books by their ids, once there are `count` of them or the time for that is over."""
    rows: tuple[RequestRow, ...] = ()
    with contextlib.suppress(TimeoutError):  # what is missing then is told as a fault
        async with asyncio.timeout(BOOKS_LIMIT_S):
            while len(rows) < count:
                await running.database.settle(BOOKS_LIMIT_S)
                rows = await running.database.read(lambda conn: recent_requests(conn, MAX_ROWS))
    return {row.record.id: row for row in rows}


def _introduction(url: str, key: str) -> str:
    return f"""\
EggPool {__version__}, a demonstration: a scripted provider with three accounts
and the real pool in front of it. No key or file of yours is used.

  Endpoint  {url}/v1
  Key       {key}
"""


def _invitation(url: str, key: str) -> str:
    plain, streamed = curl_lines(url, key)
    return f"""\
The account "limited" has answered {LIMIT_REQUESTS} requests and refuses more for {LIMIT_S:.0f} s; the pool
moved on to the others, and the callers have not noticed.

Try it (the second one is streamed):

{plain}

{streamed}

Ctrl-C ends the demonstration.
"""


def curl_lines(url: str, key: str) -> tuple[str, str]:
    """Two commands that can be pasted into a shell: a plain chat request and a streamed messages request."""
    return (
        f"curl -sS {url}/v1/chat/completions \\\n"
        f"  -H 'authorization: Bearer {key}' \\\n"
        "  -H 'content-type: application/json' \\\n"
        f"""  -d '{{"model":"{MODELS[0].id}","messages":[{{"role":"user","content":"Hello"}}]}}'""",
        f"curl -sSN {url}/v1/messages \\\n"
        f"  -H 'x-api-key: {key}' \\\n"
        "  -H 'content-type: application/json' \\\n"
        f"""  -d '{{"model":"{MODELS[1].id}","max_tokens":50,"stream":true,\n"""
        """       "messages":[{"role":"user","content":"Hello"}]}'""",
    )
