"""Request bodies as coding agents send them: no two alike, the same ones in every run.

Only makes bytes. Sizes are met to the byte, so that figures of different runs can be compared.
"""

from __future__ import annotations

import json
import random

SMALL_BYTES = 1_500
SMALL_BODIES = 64
LARGE_BYTES = 533_000
LARGE_BODIES = 8
LARGE_TURNS = 121
LARGE_TOOLS = 25

_SYLLABLES = ("con", "ta", "re", "mo", "di", "vel", "par", "ser", "lin", "ka", "tor", "pe", "sa", "nu", "fi", "gra")
_CODE = (
    "def {a}_{b}(self, {c}: str) -> dict[str, {d}]:\n",
    '    """Return the {a} of {b}; raises {c}Error."""\n',
    "    if {a}.{b} is None:\n        return {{}}\n",
    '    log.info("{a} took %s ms for \\"{b}\\"", {c})\n',
    "\treturn {{'{a}': [{b} for {b} in {c}]}}  # {d}…\n",
    "{a}/{b}/{c}.py:{d}: error: Argument 1 has incompatible type\n",
)


def small(model: str, *, stream: bool) -> list[bytes]:
    """Short questions, to be answered at once or in a stream."""
    return [_small(model, number, stream=stream) for number in range(SMALL_BODIES)]


def small_messages(model: str) -> list[bytes]:
    """The short questions in the Messages dialect, to be answered in a stream."""
    return [_small_messages(model, number) for number in range(SMALL_BODIES)]


def large(model: str) -> list[bytes]:
    """Whole conversations of an agent: system prompt, tools, turns full of code and tool results; streamed."""
    return [_large(model, number) for number in range(LARGE_BODIES)]


def _small(model: str, number: int, *, stream: bool) -> bytes:
    chance = random.Random(number)
    request: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": f"You are a careful assistant. Session {chance.getrandbits(64):x}."},
            {"role": "user", "content": ""},
        ],
        "temperature": round(chance.random(), 2),
        "max_tokens": chance.randrange(256, 4096),
    }
    if stream:
        request |= _streamed(number)
    return _filled(request, chance, SMALL_BYTES)


def _small_messages(model: str, number: int) -> bytes:
    chance = random.Random(number)
    request: dict[str, object] = {
        "model": model,
        "system": f"You are a careful assistant. Session {chance.getrandbits(64):x}.",
        "messages": [{"role": "user", "content": ""}],
        "max_tokens": chance.randrange(256, 4096),
        "stream": True,
    }
    return _filled(request, chance, SMALL_BYTES)


def _large(model: str, number: int) -> bytes:
    chance = random.Random(1_000 + number)
    messages: list[dict[str, object]] = [{"role": "system", "content": _prose(chance, 9_000)}]
    while len(messages) < LARGE_TURNS - 1:
        turn = len(messages)
        if turn % 3 == 1:
            messages.append({"role": "user", "content": _prose(chance, chance.randrange(40, 900))})
        elif turn % 3 == 2:
            arguments = json.dumps({"path": f"{_word(chance)}/{_word(chance)}.py", "limit": chance.randrange(9_999)})
            call = {"name": f"tool_{turn % LARGE_TOOLS}", "arguments": arguments}
            messages.append(
                {
                    "role": "assistant",
                    "content": _prose(chance, chance.randrange(20, 400)),
                    "tool_calls": [{"id": f"call_{turn}_{number}", "type": "function", "function": call}],
                }
            )
        else:
            text = _code(chance, chance.randrange(2_000, 15_500))
            messages.append({"role": "tool", "tool_call_id": f"call_{turn - 1}_{number}", "content": text})
    messages.append({"role": "user", "content": ""})
    request: dict[str, object] = {"model": model, "messages": messages, "tools": _tools(chance), "max_tokens": 32_000}
    request |= _streamed(number)
    return _filled(request, chance, LARGE_BYTES)


def _streamed(number: int) -> dict[str, object]:
    """Every other request asks for the usage too, as some agents do."""
    return {"stream": True, "stream_options": {"include_usage": True}} if number % 2 else {"stream": True}


def _tools(chance: random.Random) -> list[dict[str, object]]:
    tools: list[dict[str, object]] = []
    for number in range(LARGE_TOOLS):
        properties = {
            _word(chance): {"type": "string", "description": _prose(chance, chance.randrange(60, 200))}
            for _ in range(chance.randrange(2, 7))
        }
        parameters = {"type": "object", "properties": properties, "additionalProperties": False}
        function = {"name": f"tool_{number}", "description": _prose(chance, 900), "parameters": parameters}
        tools.append({"type": "function", "function": function})
    return tools


def _filled(request: dict[str, object], chance: random.Random, size: int) -> bytes:
    """The request as JSON of `size` bytes; what is missing goes into its last message, as prose."""
    messages = request["messages"]
    if not isinstance(messages, list):
        raise TypeError("a request has a list of messages")
    missing = size - len(_encoded(request))
    if missing < 0:
        raise ValueError(f"the request is {-missing} bytes longer than the {size} that it may have")
    messages[-1]["content"] = _prose(chance, missing)
    return _encoded(request)


def _encoded(request: dict[str, object]) -> bytes:
    return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()


def _word(chance: random.Random) -> str:
    return "".join(chance.choice(_SYLLABLES) for _ in range(chance.randrange(1, 4)))


def _prose(chance: random.Random, length: int) -> str:
    """ASCII words, exactly so many characters, none of which JSON escapes."""
    words: list[str] = []
    so_far = 0
    while so_far <= length:
        words.append(_word(chance))
        so_far += len(words[-1]) + 1
    return " ".join(words)[:length]


def _code(chance: random.Random, length: int) -> str:
    """Lines of code, about so many characters, with the quotes and line ends that JSON escapes."""
    lines: list[str] = []
    so_far = 0
    while so_far < length:
        names = {name: _word(chance) for name in "abcd"}
        lines.append(chance.choice(_CODE).format(**names))
        so_far += len(lines[-1])
    return "".join(lines)
