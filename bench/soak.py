"""A soak: a real pool process, providers that fail in every way, clients that leave, and what must always hold.

    python bench/soak.py --minutes 2 --seed 1

Invariants, checked for each answer and at the end:

* an answer that looks whole is whole: its text is what the provider was asked to say;
* an answer that is not whole ends with the dialect's error event or a broken connection, never with a clean end;
* each request is in the books exactly once, completed ones with the provider's own token counts, and nothing is left
  under way;
* the books and the providers tell the same of each try: every request that a provider saw is an attempt at that very
  account, and every attempt that was answered is one that the provider saw;
* memory and open files of the pool stay flat, and every account serves again once its provider is well.

All along, one provider goes away and comes back, and another program locks the database file for moments.

Ends with exit code 0 when all of them held. Sends traffic to this machine only, and stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec

from eggpool import scripted
from eggpool.control.client import ask
from eggpool.control.protocol import Rest
from eggpool.domain import ListedModel
from eggpool.engine.insight import Rested
from eggpool.scripted import Behaviour, Drop, Play, Reply, Script, ScriptedProvider, Steps
from eggpool.scripted.received import ReceivedRequest

KEY = "ep_soak-client-key-0000"
MODEL = "soak-model"
WORKERS = 40
FAULT_SHARE = 0.3
LEAVE_SHARE = 0.1
SLOW_SHARE = 0.02
BAD_SHARE = 0.01
HEAL_LIMIT_S = 360.0  # the longest rest that is only a guess, and some
SILENCE_S = 2.0  # after which the pool gives a provider up
DEADLINE_S = 6.0  # for a provider that says nothing at all
QUIET_MS = 200  # after which a client gets a sign of life
CHAOS_EVERY_S = 5.0
MEMORY_GROWTH = 1.25  # against the end of the first quarter
CONVERSATIONS = 500  # soon all are known: what the pool remembers of them is bounded, but its bound is far away
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda")

Dialect = Literal["chat", "messages", "responses"]
PATHS: dict[Dialect, str] = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}


class Sent(msgspec.Struct):
    """What a client saw of one request."""

    dialect: Dialect
    text: str
    outcome: str = "unknown"  # whole, refused, told_broken, cut, left
    request_id: str | None = None
    cut_after_finish: bool = False  # a chat answer that is whole by its finish reason, but broke before its usage


class Soak:
    """One run."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.random = random.Random(seed)
        self.ends_at = time.monotonic() + seconds
        self.seconds = seconds
        self.sent: list[Sent] = []
        self.faults: list[str] = []
        self.samples: list[tuple[float, int, int]] = []
        self.failing = True
        self.played: Counter[str] = Counter()
        self.seen: dict[tuple[str, str], set[str]] = {}  # names of requests for work, by provider and key
        self.hung_up: Counter[tuple[str, str]] = Counter()  # of those, the ones that the pool sends a second time

    def fault(self, text: str) -> None:
        """An invariant did not hold."""
        if len(self.faults) < 50:
            print(f"FAULT {text}", flush=True)
        self.faults.append(text)

    # --- the providers' side ------------------------------------------------------------------------------------

    def mood(self, provider: str) -> Play:
        """What the accounts of a provider do with a request; each one is noted."""

        def script(request: ReceivedRequest, good: Reply) -> Steps:
            account = (provider, request.api_key or "")
            steps = self._moody(request, good)
            self.seen.setdefault(account, set()).add(
                next(value for name, value in good.headers if name.endswith("request-id"))
            )
            if isinstance(steps[0], Drop) and request.place_on_connection > 1:
                self.hung_up[account] += 1
            return steps

        return script

    def _moody(self, request: ReceivedRequest, good: Reply) -> Steps:
        """Mostly well, else any of the faults."""
        if not self.failing or self.random.random() > FAULT_SHARE or good.status != 200:
            return good.steps()
        fault = self.random.choices(FAULTS, WEIGHTS)[0]
        if good.events is None and fault.streams_only:
            return good.steps()
        self.played[fault.name] += 1
        made = fault.script(self.random)
        return made if isinstance(made, tuple) else made(request, good)

    # --- the clients' side --------------------------------------------------------------------------------------

    async def worker(self, http: aiohttp.ClientSession, url: str) -> None:
        """Ask one thing after the other until the time is over."""
        while time.monotonic() < self.ends_at:
            await self.ask(http, url, leaves=self.random.random() < LEAVE_SHARE)

    async def ask(self, http: aiohttp.ClientSession, url: str, *, leaves: bool = False) -> Sent:
        """One request, checked."""
        rnd = self.random
        dialect: Dialect = rnd.choice(("chat", "messages", "responses"))
        text = " ".join(rnd.choice(WORDS) for _ in range(rnd.randint(1, 60))) + f" {len(self.sent)}"
        streamed = rnd.random() < 0.8
        sent = Sent(dialect, text)
        self.sent.append(sent)
        leave_after = rnd.randint(0, 3000) if leaves else None
        slow = rnd.random() < SLOW_SHARE
        received = bytearray()
        try:
            body = msgspec.json.encode(_body(dialect, text, streamed=streamed))
            if rnd.random() < BAD_SHARE:
                body = body[: rnd.randint(0, len(body) - 1)]
            conversation = {"x-eggpool-conversation": str(rnd.randrange(CONVERSATIONS))}
            async with http.post(url + PATHS[dialect], data=body, headers=conversation) as reply:
                sent.request_id = reply.headers.get("x-proxy-request-id")
                if reply.status >= 400:
                    await reply.read()
                    sent.outcome = "refused"
                    await asyncio.sleep(0.05)
                    return sent
                async for chunk in reply.content.iter_any():
                    received += chunk
                    if leave_after is not None and len(received) >= leave_after:
                        sent.outcome = "left"
                        reply.close()
                        return sent
                    if slow:
                        await asyncio.sleep(0.05)
        except aiohttp.ClientError:
            sent.outcome = "cut"
            return sent
        self._judge(sent, bytes(received), streamed=streamed)
        return sent

    def _judge(self, sent: Sent, received: bytes, *, streamed: bool) -> None:
        """An answer that ended cleanly: whole and right, or told as broken."""
        try:
            whole, told, text = (_read_stream if streamed else _read_plain)(sent.dialect, received)
        except msgspec.DecodeError:
            self.fault(f"{sent.dialect} {sent.request_id}: half an event in an answer: {received[-300:]!r}")
            return
        if told:
            sent.outcome = "told_broken"
            if whole and text != f"You said: {sent.text}":
                self.fault(f"{sent.dialect} {sent.request_id}: an error and an end marker in one answer")
            return
        if not whole:
            self.fault(f"{sent.dialect} {sent.request_id}: a clean end of an answer that is not whole")
            return
        sent.outcome = "whole"
        sent.cut_after_finish = streamed and sent.dialect == "chat" and b"[DONE]" not in received
        if text != f"You said: {sent.text}":
            self.fault(f"{sent.dialect} {sent.request_id}: a whole answer with the wrong text")

    # --- watching -----------------------------------------------------------------------------------------------

    async def watch(self, pid: int) -> None:
        """Note memory and open files of the pool, until cancelled."""
        while True:
            self.samples.append((time.monotonic(), *_size(pid)))
            await asyncio.sleep(1.0)

    async def heal(self, http: aiohttp.ClientSession, url: str, path: Path, accounts: int) -> None:
        """With all providers well, every account must serve again."""
        self.failing = False
        deadline = time.monotonic() + HEAL_LIMIT_S
        serving: set[str] = set()
        ready = 0
        while len(serving) < accounts and time.monotonic() < deadline:
            body = _body("chat", "are you well", streamed=False)
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(_who_answers(http, url, body)) for _ in range(accounts)]
            self.sent.extend(Sent("chat", "are you well", "whole") for _ in asked)
            serving.update(account for one in asked if (account := one.result()) is not None)
            if ready < accounts:
                ready = await _ready(http, url)
            if ready == accounts:
                # Who has spent the most is not chosen for a long time: those that have shown themselves make room.
                for account in serving:
                    await asyncio.to_thread(ask, path, Rest(account), Rested)
            await asyncio.sleep(0.2)
        if len(serving) < accounts:
            self.fault(
                f"only {sorted(serving)} serve again {HEAL_LIMIT_S:g} s after the faults ended, {ready} are ready"
            )

    def check_books(self, path: Path) -> None:
        """What the clients saw and what the books say."""
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as books:
            if books.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                self.fault("the database is damaged")
            if left := books.execute("SELECT count(*) FROM begun").fetchone()[0]:
                self.fault(f"{left} requests are still under way in the books")
            rows = {
                f"{number:016x}": (outcome, given, taken)
                for number, outcome, given, taken in books.execute(
                    "SELECT id, outcome, input_tokens, output_tokens FROM requests"
                )
            }
        if len(rows) != len(self.sent):
            self.fault(f"{len(self.sent)} requests were sent, {len(rows)} are in the books")
        for sent in self.sent:
            if sent.request_id is None:
                continue
            row = rows.get(sent.request_id)
            if row is None:
                self.fault(f"{sent.request_id} ({sent.outcome}) is not in the books")
            elif sent.outcome == "whole":
                words = len(sent.text.split())
                if row != ("completed", words, words + 2) and not (sent.cut_after_finish and row[0] == "completed"):
                    self.fault(f"{sent.dialect} {sent.request_id} was whole with {words} words, and is booked as {row}")
            elif sent.outcome in ("told_broken", "cut") and row[0] == "completed":
                self.fault(f"{sent.request_id} was {sent.outcome}, and is booked as completed")

    def check_attempts(self, path: Path) -> None:
        """What the providers saw and what the books say of each try."""
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as books:
            booked = books.execute("SELECT account, upstream_request_id FROM attempts").fetchall()
        tries = Counter(_account(label) for label, _ in booked)
        seen, again = sum(map(len, self.seen.values())), self.hung_up.total()
        print(f"tries: the providers saw {seen}, {again} of them twice; the books have {len(booked)}")
        for account, names in self.seen.items():
            told = [name for label, name in booked if name is not None and _account(label) == account]
            if len(told) != len(set(told)) or not names.issuperset(told):
                self.fault(f"{account}: the books name requests twice, or some that it never saw")
            if tries[account] < len(names) - self.hung_up[account]:
                self.fault(
                    f"{account} saw {len(names)} requests, {self.hung_up[account]} of them on a connection that it "
                    f"closed; the books have {tries[account]}"
                )

    def check_growth(self) -> None:
        """Memory and files at the end against those after the first quarter."""
        first = [one for one in self.samples if one[0] < self.ends_at - self.seconds * 0.75]
        last = [one for one in self.samples if self.ends_at - self.seconds * 0.25 < one[0] < self.ends_at]
        if not first or not last:
            return
        memory_then, memory_now = max(one[1] for one in first), max(one[1] for one in last)
        files_then, files_now = max(one[2] for one in first), max(one[2] for one in last)
        print(f"memory {memory_then / 1e6:.1f} -> {memory_now / 1e6:.1f} MB, open files {files_then} -> {files_now}")
        if memory_now > memory_then * MEMORY_GROWTH:
            self.fault(f"memory grew from {memory_then} to {memory_now} bytes")
        if files_now > files_then + 2 * WORKERS:
            self.fault(f"open files grew from {files_then} to {files_now}")


class Fault(msgspec.Struct, frozen=True):
    """One way to fail. `weight` is its share among all; `streams_only` for those that a plain reply cannot have."""

    name: str
    script: Callable[[random.Random], Script]
    weight: float = 1.0
    streams_only: bool = False


FAULTS = [
    # What keeps an account from serving for a while must be rare at full speed.
    Fault("rate limited with a time", lambda rnd: scripted.rate_limited(retry_after=rnd.randint(1, 2)), 0.05),
    Fault("rate limited without", lambda rnd: scripted.rate_limited(), 0.05),
    Fault("401", lambda rnd: scripted.error(401), 0.005),
    Fault("402", lambda rnd: scripted.error(402), 0.001),
    Fault("403", lambda rnd: scripted.error(403), 0.02),
    Fault("503 with a time", lambda rnd: scripted.error(503, headers={"retry-after": "1"}), 0.05),
    Fault("silent before its headers", lambda rnd: scripted.hang_before_headers(), 0.05),
    Fault("silent after its headers", lambda rnd: scripted.hang_after_headers(), 0.05, True),
    Fault("silent in its stream", lambda rnd: scripted.hang_after_events(rnd.randint(0, 8)), 0.05, True),
    Fault("quiet for a while", lambda rnd: scripted.slow(rnd.random(), 0.0), 0.2),
    # What ends a try and is over at once.
    Fault("400", lambda rnd: scripted.error(400), 0.2),
    Fault("404 model", lambda rnd: scripted.error(404, message="The model does not exist.")),
    Fault("500", lambda rnd: scripted.error(500)),
    Fault("503", lambda rnd: scripted.error(503)),
    Fault("529", lambda rnd: scripted.error(529)),
    Fault("prompt too long", lambda rnd: scripted.error(400, message="The prompt is too long."), 0.2),
    Fault(
        "signature",
        lambda rnd: scripted.error(400, message="messages.0.content.0: Invalid `signature` in `thinking` block"),
        0.2,
    ),
    Fault("redirected", lambda rnd: scripted.reply(307, b"", {"location": "http://127.0.0.1:9/"})),
    Fault("html", lambda rnd: scripted.html_200()),
    Fault("empty", lambda rnd: scripted.empty_200()),
    Fault("half an object", lambda rnd: scripted.reply(200, b'{"choices":[', {"content-type": "application/json"})),
    Fault("no HTTP", lambda rnd: scripted.reply(200, b"", {"content-length": "x"})),
    Fault("error under 200", lambda rnd: scripted.error_200()),
    Fault("dropped", lambda rnd: scripted.drop_before_reply()),
    Fault("dropped when reused", lambda rnd: scripted.drop_when_reused()),
    Fault("cut", lambda rnd: scripted.cut_stream(rnd.randint(0, 8)), streams_only=True),
    Fault("cut in an event", lambda rnd: scripted.cut_stream(rnd.randint(0, 8), mid_event=True), streams_only=True),
    Fault("reset", lambda rnd: scripted.cut_stream(rnd.randint(0, 8), reset=True), streams_only=True),
    Fault("error in the stream", lambda rnd: scripted.error_in_stream(rnd.randint(0, 6)), streams_only=True),
    Fault("no end marker", lambda rnd: scripted.no_terminal_marker(), streams_only=True),
    # What is odd and whole.
    Fault("late", lambda rnd: scripted.slow(rnd.random() * 0.1, rnd.random() * 0.01)),
    Fault("one byte each", lambda rnd: scripted.in_chunks(rnd.randint(1, 7)), streams_only=True),
    Fault("CRLF", lambda rnd: scripted.crlf_lines(), streams_only=True),
    Fault("comments", lambda rnd: scripted.with_comments(), streams_only=True),
    Fault("data over several lines", lambda rnd: scripted.multi_line_data(), streams_only=True),
    Fault("compressed", lambda rnd: scripted.gzipped()),
    Fault("trailers", lambda rnd: scripted.with_trailers()),
]
WEIGHTS = [fault.weight for fault in FAULTS]


def _body(dialect: Dialect, text: str, *, streamed: bool) -> dict[str, object]:
    if dialect == "responses":
        return {"model": MODEL, "input": text, "stream": streamed}
    body: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": streamed}
    return body | {"max_tokens": 1000} if dialect == "messages" else body


def _read_plain(dialect: Dialect, received: bytes) -> tuple[bool, bool, str]:
    """(whole, told as broken, text) of a plain answer."""
    reply = msgspec.json.decode(received)
    if dialect == "chat":
        return True, False, reply["choices"][0]["message"]["content"]
    if dialect == "messages":
        return True, False, reply["content"][0]["text"]
    return True, False, reply["output"][0]["content"][0]["text"]


def _read_stream(dialect: Dialect, received: bytes) -> tuple[bool, bool, str]:
    """(whole, told as broken, text) of a streamed answer, read with other means than the pool's own."""
    whole = told = False
    text = ""
    for block in received.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        if data == b"[DONE]":
            whole = True
        if not data.startswith(b"{"):
            continue
        event = msgspec.json.decode(data)
        told = told or bool(event.get("error")) or event.get("type") in ("error", "response.failed")
        if dialect == "chat":
            for choice in event.get("choices") or ():
                text += choice["delta"].get("content") or ""
                whole = whole or choice.get("finish_reason") is not None
        elif dialect == "messages":
            text += (event.get("delta") or {}).get("text") or ""
            whole = whole or event.get("type") == "message_stop"
        else:
            text += event["delta"] if event.get("type") == "response.output_text.delta" else ""
            whole = whole or event.get("type") == "response.completed"
    return whole, told, text


def _account(label: str) -> tuple[str, str]:
    """The provider and the key of an account of `_configuration`."""
    provider, _, name = label.partition("/")
    return provider, f"test-{provider}{name}-0000"


async def _who_answers(http: aiohttp.ClientSession, url: str, body: dict[str, object]) -> str | None:
    async with http.post(url + PATHS["chat"], json=body) as reply:
        await reply.read()
        return reply.headers.get("x-eggpool-account") if reply.status == 200 else None


async def _ready(http: aiohttp.ClientSession, url: str) -> int:
    """How many accounts the pool itself takes to be well."""
    async with http.get(url + "/api/explain", params={"model": MODEL}) as reply:
        told = await reply.json()
    return sum(not one["why"]["last_resort"] for one in told["candidates"])


def _configuration(providers: list[ScriptedProvider], folder: Path, port: int) -> str:
    text = f'[server]\nport = {port}\napi_key = "{KEY}"\n[database]\npath = "{folder}/usage.sqlite3"\n'
    text += f"[routing]\ndeadline_s = {DEADLINE_S}\n"
    text += f"[upstream]\nread_timeout_s = {SILENCE_S}\nkeepalive_after_ms = {QUIET_MS}\n"
    for number, provider in enumerate(providers):
        text += f'[providers.p{number}]\nid = "p{number}"\nbase_url = "{provider.base_url}"\n'
        text += 'protocols = ["openai", "anthropic", "responses"]\n'
        for account in "ab":
            text += f'[[providers.p{number}.accounts]]\nname = "{account}"\napi_key = "test-p{number}{account}-0000"\n'
    return text


async def _run(seconds: float, seed: int) -> int:
    soak = Soak(seconds, seed)
    models = (ListedModel(id=MODEL),)
    with tempfile.TemporaryDirectory(prefix="eggpool-soak-") as name:
        folder = Path(name)
        async with (
            ScriptedProvider(default=Behaviour(then=soak.mood("p0")), models=models, remember=100) as first,
            ScriptedProvider(default=Behaviour(then=soak.mood("p1")), models=models, remember=100) as second,
        ):
            port = _free_port()
            (folder / "config.toml").write_text(_configuration([first, second], folder, port))
            with (folder / "log").open("wb") as log:
                pool = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "eggpool", "--config", str(folder / "config.toml"), "serve",
                    stdout=log, stderr=log,
                )  # fmt: skip
            try:
                await _drive(soak, pool.pid, f"http://127.0.0.1:{port}", first, folder / "usage.sqlite3")
            finally:
                pool.send_signal(signal.SIGTERM)
                try:
                    code = await asyncio.wait_for(pool.wait(), 60)
                except TimeoutError:
                    pool.kill()
                    code = await pool.wait()
            if code != 0:
                soak.fault(f"the pool ended with exit code {code}")
        soak.check_books(folder / "usage.sqlite3")
        soak.check_attempts(folder / "usage.sqlite3")
        soak.check_growth()
        defects = [
            line for line in (folder / "log").read_text().splitlines() if "defect" in line or "Traceback" in line
        ]
        for line in defects[:10]:
            soak.fault(f"in the log: {line}")
    print("asked:", len(soak.sent), dict(Counter(sent.outcome for sent in soak.sent)))
    print("faults played:", dict(sorted(soak.played.items())))
    print("FAILED" if soak.faults else "all invariants held", f"({len(soak.faults)} faults, seed {seed})")
    return 1 if soak.faults else 0


async def _drive(soak: Soak, pid: int, url: str, goes_away: ScriptedProvider, path: Path) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    connector = aiohttp.TCPConnector(limit=0)
    bearer = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=bearer) as http:
        await _until_ready(http, url)
        soak.ends_at = time.monotonic() + soak.seconds
        watcher = asyncio.create_task(soak.watch(pid))
        chaos = asyncio.create_task(_trouble(soak, goes_away, path))
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(soak.worker(http, url))
        watcher.cancel()
        await chaos
        await soak.heal(http, url, path, accounts=4)


async def _trouble(soak: Soak, goes_away: ScriptedProvider, path: Path) -> None:
    """Now and then a provider goes away, and another program locks the database, each for a moment."""
    while time.monotonic() + CHAOS_EVERY_S < soak.ends_at:
        await asyncio.sleep(CHAOS_EVERY_S * soak.random.random())
        await goes_away.unplug()
        await asyncio.sleep(0.2)
        await goes_away.plug_in()
        await asyncio.sleep(CHAOS_EVERY_S * soak.random.random())
        await asyncio.to_thread(_lock_for, path, 0.5)
        soak.played.update(("provider gone", "file locked"))


def _lock_for(path: Path, seconds: float) -> None:
    """Hold the database like another program that writes to it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        holder.execute("ROLLBACK")


async def _until_ready(http: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            async with http.get(url + "/v1/readyz") as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit("the pool did not become ready within 30 s")


def _size(pid: int) -> tuple[int, int]:
    """Resident bytes and open files of a process."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _free_port() -> int:

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(_run(arguments.minutes * 60, arguments.seed)))


if __name__ == "__main__":
    main()
