"""Let real coding agents do a small task through the pool, against a provider that speaks only a foreign dialect.

    python scripts/try_agents.py [--agents FOLDER] [--only WORD] [--keep FOLDER]

Claude Code, Codex and OpenCode are looked for in FOLDER, then in PATH; what is missing is skipped and named. Nothing
leaves this computer: the provider is the scripted one, and each agent gets a home of its own. A row is good when the
agent ended as it should, the files are edited, nothing is in flight, and each request is booked. Takes about five
minutes; ends with exit code 1 when a row is bad.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eggpool.config.load import load
from eggpool.domain import Dialect, Limits, ListedModel, Outcome
from eggpool.engine.runtime import Runtime, open_runtime
from eggpool.scripted import Question, ReceivedRequest, Reply, ScriptedProvider, Steps, cut_stream, error, slow
from eggpool.scripted.good import answered, error_reply
from eggpool.store.stats import RequestRow, recent_requests
from eggpool.web.app import make_app

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.scripted_model import AFTER, BEFORE, DONE, TASK, faults, say_next

LIMIT_S = 90.0  # for one agent and one task
SETTLE_S = 5.0
SLOW_S = (1.0, 0.1)  # before the head and before each event of a slow answer; signs of life fill the pauses

Trouble = Literal["", "slow", "breaks", "wrong model", "too long", "wrong key"]
PROTOCOLS = {Dialect.CHAT: "openai", Dialect.MESSAGES: "anthropic", Dialect.RESPONSES: "responses"}


class Case(NamedTuple):
    """One row: an agent (`plan` is how the scripted model goes about its task), what it speaks, what the provider
    speaks, and what is wrong."""

    agent: str
    plan: str
    model: str
    dialect: Dialect
    upstream: Dialect
    trouble: Trouble = ""

    @property
    def words(self) -> str:
        """The row's name, which `--only` looks into."""
        trouble = f" ({self.trouble})" if self.trouble else ""
        return f"{self.agent} {self.dialect.value}>{self.upstream.value} {self.model}{trouble}"


def cases() -> Iterator[Case]:
    """All rows: each agent on each foreign dialect, and what can go wrong once on each."""
    kinds: tuple[tuple[str, str, str, Dialect], ...] = (
        ("claude", "claude", "claude-sonnet-4-5", Dialect.MESSAGES),
        ("claude", "claude", "gpt-4o-mini", Dialect.MESSAGES),
        ("codex", "codex", "glm-5.3", Dialect.RESPONSES),
        ("codex", "codex-patch", "gpt-5.5", Dialect.RESPONSES),
        ("codex", "codex-code", "gpt-6-astra", Dialect.RESPONSES),
        *(("opencode", "opencode", "glm-5.3", dialect) for dialect in Dialect),
    )
    for agent, plan, model, dialect in kinds:
        for upstream in Dialect:
            if upstream is not dialect:
                yield Case(agent, plan, model, dialect, upstream)
    troubles: tuple[Trouble, ...] = ("slow", "breaks", "wrong model", "too long", "wrong key")
    for agent, plan, model, dialect in (kinds[0], kinds[2], kinds[5]):
        upstreams = [one for one in Dialect if one is not dialect]
        for place, trouble in enumerate(troubles):
            yield Case(agent, plan, model, dialect, upstreams[place % 2], trouble)


# --- the provider -----------------------------------------------------------------------------------------------


class Model:
    """What the provider does for one case; keeps what it found fault with."""

    def __init__(self, case: Case, folder: str) -> None:
        self._case = case
        self._folder = folder
        self.refused: list[str] = []
        self._long = False

    def __call__(self, request: ReceivedRequest, good: Reply) -> Steps:
        """Play the model."""
        if good.status != 200 or request.is_model_list:
            return good.steps()
        question = Question.read(request.dialect, request.body)
        wrong = faults(question)
        if wrong:
            self.refused += wrong
            return error_reply(request.dialect, 400, "; ".join(wrong)).steps()
        answer = say_next(question, self._case.plan, self._folder)
        reply = answered(question, answer)
        if self._case.trouble == "slow":
            script = slow(*SLOW_S)
            return script(request, reply) if callable(script) else script
        if self._case.trouble == "breaks" and question.tools:
            script = cut_stream(len(reply.events or ()) // 2, mid_event=True)
            return script(request, reply) if callable(script) else script
        if self._case.trouble == "too long" and question.tools and not self._long and question.is_tool_result:
            self._long = True
            script = error(400, message=TOO_LONG[request.dialect])
            return script(request, reply) if callable(script) else script
        return reply.steps()


TOO_LONG = {
    Dialect.MESSAGES: "prompt is too long: 208310 tokens > 200000 maximum",
    Dialect.CHAT: "This model's maximum context length is 128000 tokens. However, your messages resulted in 150000.",
    Dialect.RESPONSES: "Your input exceeds the context window of this model. Please adjust your input and try again.",
}


KNOWS_TOO_LONG = ("Prompt is too long", "ran out of room in the model's context window", "conversation was compacted")

# --- the agents -------------------------------------------------------------------------------------------------


class Order(NamedTuple):
    """How an agent is run: its arguments, its environment, and the files that it is set up with, below its home."""

    arguments: list[str]
    environment: dict[str, str]
    files: dict[str, str]


def order(case: Case, url: str, key: str, home: str) -> Order:
    """How to run the agent of a case against a pool at `url`."""
    model = "no-such-model" if case.trouble == "wrong model" else case.model
    key = "ep_wrong" if case.trouble == "wrong key" else key
    return {"claude": _claude, "codex": _codex, "opencode": _opencode}[case.agent](case, url, key, home, model)


def _claude(_case: Case, url: str, key: str, _home: str, model: str) -> Order:
    arguments = ["-p", TASK, "--model", model, "--dangerously-skip-permissions", "--output-format", "json"]
    environment = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": key,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_SUBAGENT_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "IS_SANDBOX": "1",  # lets it run as root, as in a container
    }
    return Order(arguments, environment, {})


def _codex(_case: Case, url: str, key: str, home: str, model: str) -> Order:
    text = f"""model = "{model}"
model_provider = "eggpool"
model_context_window = 128000

[model_providers.eggpool]
name = "EggPool"
base_url = "{url}/v1"
env_key = "EGGPOOL_API_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
"""
    arguments = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK]
    return Order(arguments, {"CODEX_HOME": f"{home}/.codex", "EGGPOOL_API_KEY": key}, {".codex/config.toml": text})


_PACKAGES = {
    Dialect.CHAT: "@ai-sdk/openai-compatible",
    Dialect.MESSAGES: "@ai-sdk/anthropic",
    Dialect.RESPONSES: "@ai-sdk/openai",
}


def _opencode(case: Case, url: str, key: str, _home: str, model: str) -> Order:
    settings: dict[str, Any] = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"eggpool/{model}",
        "small_model": f"eggpool/{model}",
        "autoupdate": False,
        "share": "disabled",
        "permission": "allow",
        "provider": {
            "eggpool": {
                "npm": _PACKAGES[case.dialect],
                "name": "EggPool",
                "options": {"baseURL": f"{url}/v1", "apiKey": "{env:EGGPOOL_API_KEY}"},
                "models": {model: {"name": model, "limit": {"context": 128_000, "output": 16_000}}},
            }
        },
    }
    environment = {
        "EGGPOOL_API_KEY": key,
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    }
    return Order(["run", TASK], environment, {".config/opencode/opencode.json": json.dumps(settings)})


class Ended(NamedTuple):
    """How an agent ended: its exit code, None when it had to be stopped, and all that it printed."""

    code: int | None
    said: str


async def run_agent(program: str, told: Order, home: Path, work: Path) -> Ended:
    """Run an agent to its end, bounded in time, and end what it has started."""
    for name, text in told.files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        program,
        *told.arguments,
        cwd=work,
        env=kept | {"HOME": str(home)} | told.environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # so that it and its children can be ended, and nobody else
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            said, _ = await process.communicate()
        return Ended(process.returncode, said.decode("utf-8", "replace"))
    except TimeoutError:
        return Ended(None, "")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


# --- one row ----------------------------------------------------------------------------------------------------


async def run_case(case: Case, program: str, keep: Path | None) -> list[str]:
    """Run one case; why it is not good, empty when it is."""
    with tempfile.TemporaryDirectory(prefix="eggpool-agents-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        home, work = folder / "home", folder / "work"
        home.mkdir()
        work.mkdir()
        for file, text in BEFORE.items():
            (work / file).write_text(text, encoding="utf-8")
        model = Model(case, str(work))
        models = (ListedModel(case.model, limits=Limits(context=200_000, output=32_000)),)
        async with ScriptedProvider(default=model, models=models) as provider:
            key = "ep_" + secrets.token_hex(8)
            config = load(_configuration(case, provider, key, name), {}, folder=name).config
            async with open_runtime(config, make_app) as runtime:
                await _listed(runtime)
                ended = await run_agent(program, order(case, runtime.url, key, str(home)), home, work)
                rows = await _booked(runtime)
                wrong = [*_of_the_run(case, ended, work), *_of_the_pool(case, runtime, rows), *model.refused]
            if keep is not None:
                _keep(keep / case.words.replace(" ", "_").replace(">", "-to-"), ended, provider, rows)
        return wrong


def _configuration(case: Case, provider: ScriptedProvider, key: str, folder: str) -> str:
    return f"""
[server]
host = "127.0.0.1"
port = 0
api_key = "{key}"
access_log = false
log_level = "ERROR"

[upstream]
keepalive_after_ms = {SLOW_S[1] * 500:.0f}

[database]
path = "{folder}/usage.sqlite3"

[providers.foreign]
id = "foreign"
base_url = "{provider.base_url}"
protocols = ["{PROTOCOLS[case.upstream]}"]

[[providers.foreign.accounts]]
name = "only"
api_key = "test-key-0000"
"""


async def _listed(runtime: Runtime) -> None:
    async with asyncio.timeout(SETTLE_S):
        while not runtime.pool.catalog.offers:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


async def _booked(runtime: Runtime) -> tuple[RequestRow, ...]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while runtime.pool.in_flight:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.01)
    await runtime.database.settle(SETTLE_S)
    return await runtime.database.read(lambda connection: recent_requests(connection, 1000))


def _of_the_run(case: Case, ended: Ended, work: Path) -> Iterator[str]:
    """What is wrong with how the agent ended and what it has done."""
    if ended.code is None:
        yield f"did not end within {LIMIT_S:g} s"
        return
    if case.trouble in ("breaks", "wrong model", "wrong key"):
        if DONE in ended.said:
            yield "took a broken answer for a finished one"
        if ended.code == 0:
            yield "ended as if all was well"
        if "error" not in ended.said.lower():
            yield "told no error"
        return
    if case.trouble == "too long" and any(words in ended.said for words in KNOWS_TOO_LONG):
        return  # it knows what happened, and has either compacted and gone on or told its user
    if ended.code != 0:
        yield f"exit code {ended.code}: {' '.join(ended.said.split())[-300:]}"
    if DONE not in ended.said:
        yield f"did not say the last word: {' '.join(ended.said.split())[-300:]}"
    for file, text in AFTER.items():
        found = (work / file).read_text(encoding="utf-8") if (work / file).is_file() else "nothing"
        if found != text:
            yield f"{file} holds {found!r}"


def _of_the_pool(case: Case, runtime: Runtime, rows: tuple[RequestRow, ...]) -> Iterator[str]:
    """What is wrong in the pool afterwards."""
    if runtime.pool.in_flight:
        yield f"{runtime.pool.in_flight} in flight"
    if case.trouble != "wrong key" and not rows:
        yield "no request came"
    for row in rows:
        record = row.record
        if record.outcome is Outcome.COMPLETED:
            if record.usage.output_tokens == 0:
                yield f"a completed request to {record.path} is booked without usage"
            if record.upstream_dialect is not case.upstream:
                yield f"a request went to {record.upstream_dialect}"
        elif not case.trouble and not (case.agent == "codex" and record.outcome is Outcome.CANCELLED):
            # Codex ends the requests of its subagents when it is done itself.
            yield f"{record.path} ended as {record.outcome.value} with {record.status}, {record.error_class}"


def _keep(folder: Path, ended: Ended, provider: ScriptedProvider, rows: tuple[RequestRow, ...]) -> None:
    """Keep what was said and sent, for a closer look."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "said.txt").write_text(f"{ended.said}\nexit code {ended.code}\n", encoding="utf-8")
    (folder / "books.txt").write_text("\n".join(map(repr, rows)), encoding="utf-8")
    for number, request in enumerate(provider.work):
        (folder / f"{number:02}{request.path.replace('/', '_')}.json").write_bytes(request.body)


# --- all of them ------------------------------------------------------------------------------------------------


def found(agents: list[str], folder: Path | None) -> dict[str, str]:
    """The programs of the agents that are here, by name."""
    places = [str(folder), str(folder / "node_modules" / ".bin")] if folder else []
    path = os.pathsep.join([*places, os.environ.get("PATH", "")])
    there = {agent: shutil.which(agent, path=path) for agent in agents}
    return {agent: program for agent, program in there.items() if program}


async def version(program: str) -> str:
    """What a program says its version is."""
    process = await asyncio.create_subprocess_exec(
        program, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return "unknown"
    return said.decode("utf-8", "replace").strip()


async def run_all(agents: Path | None, only: str, keep: Path | None) -> bool:
    """Run every case, print a table, say whether all is well."""
    wanted = [case for case in cases() if only in case.words]
    programs = found(sorted({case.agent for case in wanted}), agents)
    for agent in sorted({case.agent for case in wanted}):
        print(f"{agent}: {await version(programs[agent])}" if agent in programs else f"{agent}: not found, skipped")
    print(f"\n{'agent, dialects, model':<60} result")
    good = True
    for case in wanted:
        if case.agent not in programs:
            print(f"{case.words:<60} skipped: {case.agent} is not here", flush=True)
            continue
        wrong = await run_case(case, programs[case.agent], keep)
        good = good and not wrong
        print(f"{case.words:<60} {'ok' if not wrong else '; '.join(wrong)[:1000]}", flush=True)
    return good


def main() -> int:
    """Run; 0 when all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, help="folder with the agents' programs or with node_modules")
    parser.add_argument("--only", default="", help="run the rows whose name holds this")
    parser.add_argument("--keep", type=Path, help="keep what was said and sent in this folder")
    given = parser.parse_args()
    agents = given.agents.resolve() if given.agents else None
    return 0 if asyncio.run(run_all(agents, given.only, given.keep)) else 1


if __name__ == "__main__":
    sys.exit(main())
