"""`make bench`: measure the pool against nginx, print one table, write bench/results/latest.json."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

# This file is started as a script, and its siblings are a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import cases, others, report
from bench.lab import Lab
from bench.measure import BenchError
from bench.others import Budget
from eggpool import __version__

RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"
SECONDS = 3.0
QUICK_SECONDS = 1.0
QUICK_STREAMS = 500

_PEER_HELP = """a command that starts another proxy, measured beside the pool. It gets BENCH_PORT (listen there on
127.0.0.1), BENCH_UPSTREAM (base URL of a provider that speaks Chat Completions and takes any key), BENCH_KEY (the key
that clients send as a bearer token), BENCH_MODELS (model names, separated by commas) and BENCH_DIR (an empty folder,
removed afterwards) in its environment, must stay in the foreground, and has two minutes until it answers
POST /v1/chat/completions."""


def _arguments() -> argparse.Namespace:
    names = [case.name for case in cases.CASES] + ["first", "streams", "long", "start", "commands"]
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each case (5)")
    parser.add_argument("--quick", action="store_true", help="one short run of each case, to see that all works")
    parser.add_argument("--case", action="append", choices=names, help="only this one; may be given again")
    parser.add_argument("--peer", metavar="COMMAND", help=_PEER_HELP)
    parser.add_argument("--own-load", action="store_true", help="do not use wrk, even where it is installed")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    if arguments.quick:
        arguments.runs = 1
    arguments.case = arguments.case or names
    return arguments


def main() -> int:
    """Give the exit code: 0 when all limits hold and the books are right, 1 when not, 2 when nothing was measured."""
    arguments = _arguments()
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/self/statm").exists():
        print("The measurement needs Linux: it reads /proc and gives each process a core.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    cpu_count = len(os.sched_getaffinity(0))
    try:
        with Lab(use_wrk=not arguments.own_load, peer=arguments.peer) as lab:
            setting = report.Setting(
                date=datetime.now(UTC).isoformat(timespec="seconds"),
                eggpool=__version__,
                python=platform.python_version(),
                nginx=_nginx_version(lab.nginx),
                load="wrk" if lab.wrk else "own",
                cpu_count=cpu_count,
                runs=arguments.runs,
                quick=arguments.quick,
            )
            results, budgets, problems = _measure(lab, arguments)
    except BenchError as error:
        print(f"Nothing was measured: {error}", file=sys.stderr)
        return 2
    failed = report.failures(results, budgets, problems)
    print(report.table(results, budgets))
    for failure in failed:
        print(f"FAILED  {failure}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_bytes(report.to_json(setting, results, budgets, failed))
    return 1 if failed else 0


def _measure(lab: Lab, arguments: argparse.Namespace) -> tuple[list[cases.CaseResult], list[Budget], list[str]]:
    if lab.nginx is None:
        print("nginx is skipped: it is not installed. Costs are shown, but no ratio can be judged.", file=sys.stderr)
    if lab.proxy_core == lab.other_core:
        print("There is one core only: proxy and load share it, and delays say little.", file=sys.stderr)
    results: list[cases.CaseResult] = []
    budgets: list[Budget] = []
    problems: list[str] = []
    quick = arguments.quick
    for case in cases.CASES:
        if case.name in arguments.case:
            _say(case.name)
            results.append(cases.run(lab, case, arguments.runs, QUICK_SECONDS if quick else SECONDS))
            if case.name == "paced":
                budgets += others.of_paced(results[-1])
    if "first" in arguments.case:
        _say("first event")
        found, wrong = others.first_event(lab, arguments.runs)
        budgets += found
        problems += [f"first event: {problem}" for problem in wrong]
    if "streams" in arguments.case:
        _say("open streams")
        found, wrong = others.open_streams(lab, QUICK_STREAMS if quick else others.STREAMS)
        budgets += found
        problems += [f"open streams: {problem}" for problem in wrong]
    if "long" in arguments.case:
        _say("long streams")
        found, wrong = others.long_streams(lab, others.LONG_STREAMS)
        budgets += found
        problems += [f"long streams: {problem}" for problem in wrong]
    if "start" in arguments.case:
        _say("start")
        budgets += others.start_up(lab, arguments.runs)
    if "commands" in arguments.case:
        _say("commands")
        budgets += others.commands(5 if quick else 20)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return results, budgets, problems


def _say(what: str) -> None:
    """What goes on, for somebody who waits."""
    if sys.stderr.isatty():
        print(f"\r\x1b[Kmeasuring: {what}", end="", file=sys.stderr, flush=True)


def _nginx_version(program: str | None) -> str | None:
    if program is None:
        return None
    told = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=False).stderr
    return told.strip().rpartition("/")[2] or None


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
