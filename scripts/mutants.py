"""Break the code on purpose, one place at a time, and see that a test fails each time.

    python scripts/mutants.py [NAME ...]

Each mutant is a literal replacement in one file, and the tests that must notice it. They run in a copy of the tree;
the tree itself is never touched. Ends with exit code 0 when every mutant was caught.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TIME_LIMIT_S = 180


class Mutant(NamedTuple):
    """One fault: where, what becomes what, and who must see it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant("verdict: a limit is only a guess", "routing/verdict.py", 'Verdict("another", "model", 1, True)',
           'Verdict("another", "model", 1, False)', "tests/routing/test_verdict.py"),
    Mutant("verdict: a client's mistake is tried elsewhere", "routing/verdict.py", 'Kind.BAD_REQUEST: Verdict("stop"',
           'Kind.BAD_REQUEST: Verdict("another"', "tests/routing/test_verdict.py"),
    Mutant("verdict: a 529 is a server error", "routing/verdict.py", "529: Kind.OVERLOADED", "530: Kind.OVERLOADED",
           "tests/routing/test_verdict.py"),
    Mutant("verdict: a page is the API speaking", "routing/verdict.py", "if page and status in (403, 429):",
           "if page and status in (404,):", "tests/routing/test_verdict.py"),
    Mutant("health: a failure is forgotten", "routing/health.py", "else rest.failures + 1", "else rest.failures",
           "tests/routing/test_health.py"),
    Mutant("health: an old answer ends a new rest", "routing/health.py", "rest.since > began",
           "rest.since > began + 9e9", "tests/routing/test_health.py tests/engine/test_pool.py"),
    Mutant("reset times: milliseconds are seconds", "routing/reset_times.py", "milliseconds / 1000",
           "milliseconds / 1", "tests/routing/test_reset_times.py"),
    Mutant("relay: reports are summed", "wire/notes.py", "output_tokens=max(first.output_tokens, second.output_tokens)",
           "output_tokens=first.output_tokens + second.output_tokens", "tests/wire"),
    Mutant("relay: half an event is passed on", "wire/usage.py", "if not rest.strip() or (found and whole):",
           "if rest.strip():", "tests/wire/test_relay.py"),
    Mutant("relay: usage is not withheld", "wire/usage.py", "return self._withhold_usage and bool(notes)",
           "return False and bool(notes)", "tests/wire/test_relay.py"),
    Mutant("relay: the end marker is not seen", "wire/chat/passing.py", 'b"[DONE]"', 'b"[NOPE]"', "tests/wire"),
    Mutant("splitter: a blank line across chunks is missed", "wire/sse.py", "_LONGEST_OVERLAP = 2",
           "_LONGEST_OVERLAP = 0", "tests/wire/test_sse.py"),
    Mutant("settlement: a second one is taken", "engine/leases.py", "if self.settled:", "if False:",
           "tests/engine/test_pool.py"),
    Mutant("settlement: the load is not given back", "engine/leases.py", "account.in_flight -= 1",
           "account.in_flight -= 0", "tests/engine/test_pool.py"),
    Mutant("settlement: a trial that was left stays", "engine/leases.py",
           "self._step(self._trials, health.TrialLeft())", "self._trials.clear()",
           "tests/engine/test_pool.py"),
    Mutant("settlement: the provider's reply stays open", "engine/booking.py", "self.reply.close()", "pass",
           "tests/scenarios/test_client_leaves.py"),
    Mutant("settlement: a cut stream is completed", "engine/dispatch.py",
           "if self._stage is _Stage.BROKEN:\n            return Outcome.ERROR",
           "if self._stage is _Stage.BROKEN:\n            return Outcome.COMPLETED",
           "tests/scenarios/test_cut_streams.py"),
    Mutant("envelope: the rest of the body is lost", "wire/envelope.py", "parts.append(whole[at:])",
           "parts.append(whole[at:-1])", "tests/wire/test_envelope.py"),
    Mutant("envelope: equal keys are taken", "wire/envelope.py", "if start < 0 or", "if False and",
           "tests/wire/test_envelope.py"),
    Mutant("envelope: usage is asked for although the client spoke", "engine/inbound.py",
           "and not envelopes.says_include_usage(self.envelope)", "", "tests/scenarios/test_request_bytes.py"),
    Mutant("headers: cookies cross", "upstream/headers.py", '    b"cookie",\n', "",
           "tests/upstream tests/scenarios/test_request_bytes.py"),
    Mutant("failover: nothing is held back", "engine/judging.py", "if relay.content or len(held) > MAX_HELD_BYTES",
           "if held or len(held) > MAX_HELD_BYTES", "tests/scenarios/test_failover.py"),
    Mutant("verdict: an overloaded provider is not obeyed", "routing/verdict.py", "obeys=True", "obeys=False",
           "tests/routing/test_verdict.py"),
    Mutant("verdict: numbers of one provider hold everywhere", "routing/verdict.py",
           "if kind is None and status == 200:", "if kind is None:", "tests/routing/test_verdict.py"),
    Mutant("verdict: credit behind a 401 is the key", "routing/verdict.py", "frozenset({200, 400, 401, 403, 404, 412",
           "frozenset({200, 400, 403, 404, 412", "tests/routing/test_verdict.py"),
    Mutant("verdict: a model's quota is the account's", "routing/verdict.py", "_METRIC, Kind.RATE",
           "_METRIC, Kind.PLAN_WINDOW", "tests/routing/test_verdict.py"),
    Mutant("verdict: a flagged prompt is the account's fault", "routing/verdict.py",
           "(frozenset({403}), _FLAGGED, Kind.BAD_REQUEST)", "(frozenset({403}), _FLAGGED, Kind.FORBIDDEN)",
           "tests/routing/test_verdict.py"),
    Mutant("health: an overload lasts as long as it says", "engine/leases.py",
           "told_s = min(told_s, health.LONGEST_GUESS_S)", "told_s = min(told_s, 9e9)",
           "tests/scenarios/test_limits.py"),
    Mutant("reset times: words for a day are not read", "routing/reset_times.py", "if regained is not None:",
           "if False and regained:", "tests/routing/test_reset_times.py"),
    Mutant("provenance: redacted thinking stays", "wire/provenance.py", '{"thinking", "redacted_thinking"}',
           '{"thinking"}', "tests/wire/test_provenance.py"),
    Mutant("provenance: the conversation goes too", "wire/provenance.py", '{"reasoning"}',
           '{"reasoning", "compaction"}', "tests/wire/test_provenance.py"),
    Mutant("provenance: an empty message stays", "wire/provenance.py", "        if kept:\n", "        if True:\n",
           "tests/wire/test_provenance.py"),
    Mutant("failover: the next account gets the bare request", "engine/dispatch.py",
           "inbound.envelope = whole  #", "pass  #", "tests/scenarios/test_signatures.py"),
    Mutant("failover: a bare request goes round all accounts", "engine/dispatch.py",
           'if following in ("stop", "bare"):', 'if following == "stop":', "tests/scenarios/test_signatures.py"),
    Mutant("relay: a legacy stream needs no end", "engine/inbound.py", 'self.beside in ("", LEGACY_COMPLETIONS)',
           "not self.beside", "tests/scenarios/test_pass_through.py"),
    Mutant("relay: a 204 says how long it is", "engine/judging.py", "if self._reply.status != NO_CONTENT:", "if True:",
           "tests/scenarios/test_pass_through.py"),
    Mutant("books: a damaged page is kept in memory", "store/writer.py", '"PRAGMA shrink_memory"', '"SELECT 1"',
           "tests/scenarios/test_books_in_trouble.py"),
    Mutant("books: strangers are not counted", "web/access.py", "self.refused += 1", "self.refused += 0",
           "tests/web/test_refusals.py"),
    Mutant("translation: a call ends a turn", "wire/messages/reply.py", 'StopReason.TOOL_USE: "tool_use"',
           'StopReason.TOOL_USE: "end_turn"', "tests/scenarios/test_crossing_anthropic.py"),
    Mutant("translation: cached tokens are counted twice", "wire/messages/usage.py",
           "max(0, usage.input_tokens - cached)", "max(0, usage.input_tokens)", "tests/wire/test_translation.py"),
    Mutant("translation: all calls have one place", "wire/chat/stream.py",
           "place = self._calls[event.block] = len(self._calls)", "place = self._calls[event.block] = 0",
           "tests/scenarios/test_crossing_openai.py"),
    Mutant("translation: a cut stream is whole", "wire/translation.py",
           "if any(isinstance(event, End) for event in last) else out", "+ self._give([End()])",
           "tests/scenarios/test_crossing_faults.py"),
    Mutant("translation: something follows an error", "wire/translation.py",
           "return self._gist.terminal or self._gist.error is not None", "return self._gist.terminal",
           "tests/wire/test_translation.py"),
    Mutant("translation: an error keeps its foreign shape", "engine/judging.py",
           "return self._client_codec.write_error(self._reply.status, message, code)",
           "return self._codec.write_error(self._reply.status, message, code)",
           "tests/scenarios/test_crossing_faults.py"),
    Mutant("translation: nothing is told as lost", "wire/chat/request.py",
           'lost = [f"tools.{tool.type}" for tool in prompt.tools if isinstance(tool, ServerTool)]',
           "lost: list[str] = []",
           "tests/scenarios/test_crossing_choice.py"),
    Mutant("translation: a break is told past the stream's numbers", "engine/dispatch.py",
           "if isinstance(self._relay, TranslatedStream):\n            return self._relay.fail",
           "if False:\n            return self._relay.fail", "tests/scenarios/test_crossing_faults.py"),
    Mutant("translation: half an answer ends a call", "wire/messages/stream.py",
           "return [] if self._ended else self._close_all()",
           "return [] if self._ended else [*self._close_all(), End()]", "tests/wire/test_translation.py"),
    Mutant("speech: a refused endpoint is asked again", "routing/speech.py", "0.0) <= now", "0.0) <= now + 9e9",
           "tests/routing/test_speech.py"),
    Mutant("speech: a model cannot be reached", "routing/speech.py", "<= now) or dialects", "<= now)",
           "tests/routing/test_speech.py"),
    Mutant("search: what cannot be told costs a try", "engine/search.py", "self._tries -= 1", "self._tries -= 0",
           "tests/scenarios/test_crossing_choice.py"),
]  # fmt: skip


def caught(mutant: Mutant, tree: Path) -> str | None:
    """None when a test fails with the mutant in place, else what went wrong."""
    file = tree / "src" / "eggpool" / mutant.file
    text = file.read_text(encoding="utf-8")
    if mutant.old not in text:
        return "its place in the code is gone: renew it"
    file.write_text(text.replace(mutant.old, mutant.new, 1), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
    try:
        run = subprocess.run(
            command,
            cwd=tree,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree / "src"), "HOME": str(tree)},
            capture_output=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None  # a hang is noticed too
    finally:
        file.write_text(text, encoding="utf-8")
    return None if run.returncode == 1 else f"the tests ended with exit code {run.returncode}"


def main(wanted: list[str]) -> int:
    """Try all mutants, or those whose name holds one of the words."""
    chosen = [mutant for mutant in MUTANTS if not wanted or any(word in mutant.name for word in wanted)]
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="eggpool-mutants-") as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(
            ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", "results", ".*_cache")
        )
        for mutant in chosen:
            fault = caught(mutant, tree)
            survivors += fault is not None
            print(
                f"{'caught  ' if fault is None else 'SURVIVED'} {mutant.name}{'' if fault is None else ': ' + fault}",
                flush=True,
            )
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
