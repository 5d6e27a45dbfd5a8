"""What is asked, and what a good model says to it, before it is written down in a dialect.

The rules are simple on purpose, so that whoever checks books can count along: a token is a word, the answer repeats
the last message, and a tool is called when the last message of the user mentions it by name.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from eggpool.domain import Dialect, Usage
from eggpool.errors import BadRequest

MAX_REPEATED_WORDS = 200
CREATED_AT_S = 1_790_000_000  # a fixed date, so that replies can be compared byte for byte

SEAL = "c2VhbGVkIGJ5IHRoZSBzY3JpcHRlZCBwcm92aWRlcg=="
"""What only the provider itself understands of its thoughts: the signature, or the encrypted reasoning."""

Stop = Literal["end", "tools", "length"]
_LIMIT_FIELDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TEXT_FIELDS = ("text", "content", "output", "input")


def count_tokens(text: str) -> int:
    """How many tokens a text has here: its words."""
    return len(text.split())


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool; `arguments` is JSON."""

    name: str
    arguments: str


class Answer(msgspec.Struct, frozen=True):
    """What is said, after what was thought. `usage` counts as in the books: cache reads and writes are parts of the
    input."""

    text: str
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    stop: Stop = "end"
    thinking: str = ""

    @property
    def deltas(self) -> tuple[str, ...]:
        """The text in pieces, word by word, blanks in front."""
        words = self.text.split(" ")
        return tuple(word if place == 0 else " " + word for place, word in enumerate(words)) if self.text else ()


class Question(msgspec.Struct, frozen=True):
    """One request for text, decoded."""

    dialect: Dialect
    body: bytes
    payload: dict[str, Any]

    @classmethod
    def read(cls, dialect: Dialect, body: bytes) -> Question:
        """Decode a body; raises BadRequest as a provider would refuse it."""
        try:
            payload = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequest("The body is not valid JSON.") from error
        if not isinstance(payload, dict):
            raise BadRequest("The body must be a JSON object.")
        if not isinstance(payload.get("model"), str):
            raise BadRequest("model: Field required", param="model")
        wanted = "input" if dialect is Dialect.RESPONSES else "messages"
        if not payload.get(wanted) and "prompt" not in payload:
            raise BadRequest(f"{wanted}: Field required", param=wanted)
        return cls(dialect, body, payload)

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.payload["model"])

    @property
    def streamed(self) -> bool:
        """Whether a stream is wanted."""
        return self.payload.get("stream") is True

    @property
    def digest(self) -> str:
        """24 hexadecimal digits that belong to this body, for ids in the reply."""
        return hashlib.sha256(self.body).hexdigest()[:24]

    @property
    def turns(self) -> list[Any]:
        """The conversation, oldest first."""
        turns = self.payload.get("input" if self.dialect is Dialect.RESPONSES else "messages")
        if turns is None:
            turns = self.payload.get("prompt")
        return turns if isinstance(turns, list) else [turns]

    @property
    def last_text(self) -> str:
        """What the last turn says, be it a person or a tool."""
        return " ".join(texts(self.turns[-1])) if self.turns else ""

    @property
    def input_tokens(self) -> int:
        """Words of the instructions and of every turn; at least 1."""
        instructions = [self.payload.get("system"), self.payload.get("instructions")]
        return max(1, sum(map(count_tokens, texts([*instructions, *self.turns]))))

    @property
    def tools(self) -> dict[str, Any]:
        """The schema of each tool offered, by name."""
        offered = self.payload.get("tools") or []
        described = [tool.get("function", tool) for tool in offered if isinstance(tool, dict)]
        return {
            tool["name"]: tool.get("parameters") or tool.get("input_schema") or {}
            for tool in described
            if isinstance(tool.get("name"), str)
        }

    @property
    def is_tool_result(self) -> bool:
        """Whether the last turn brings the result of a tool."""
        last = self.turns[-1] if self.turns else None
        if not isinstance(last, dict):
            return False
        blocks = last.get("content")
        return (
            last.get("role") == "tool"
            or last.get("type") == "function_call_output"
            or any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks or ())
        )


def texts(part: Any) -> list[str]:
    """Every text in a part of a conversation, in order; names, ids and pictures are none."""
    if isinstance(part, str):
        return [part]
    if isinstance(part, list):
        return [text for item in part for text in texts(item)]
    if isinstance(part, dict):
        return [text for name in _TEXT_FIELDS if name in part for text in texts(part[name])]
    return []


def answer_to(question: Question) -> Answer:
    """What a good model says: a tool call where a tool is mentioned, else what it was told."""
    if not question.is_tool_result and question.payload.get("tool_choice") != "none":
        calls = tuple(
            ToolCall(name, msgspec.json.encode(sample(schema)).decode())
            for name, schema in question.tools.items()
            if name in question.last_text
        )
        if calls:
            spent = sum(count_tokens(call.arguments) for call in calls)
            return Answer("", Usage(input_tokens=question.input_tokens, output_tokens=spent), calls, "tools")
    words = ["You", "said:", *question.last_text.split()[:MAX_REPEATED_WORDS]]
    limit = next(
        (question.payload[name] for name in _LIMIT_FIELDS if isinstance(question.payload.get(name), int)), None
    )
    stop: Stop = "end"
    if limit is not None and len(words) > limit:
        words, stop = words[:limit], "length"
    return saying(question, " ".join(words), stop=stop)


def saying(question: Question, text: str, *, usage: Usage | None = None, stop: Stop = "end") -> Answer:
    """A given text as the answer; without `usage` it is counted."""
    counted = Usage(input_tokens=question.input_tokens, output_tokens=count_tokens(text))
    return Answer(text, counted if usage is None else usage, (), stop)


def sample(schema: Any) -> Any:
    """A value that satisfies a simple JSON schema."""
    if not isinstance(schema, dict):
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if kind == "object":
        return {name: sample(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items", {}))]
    return {"string": "sample text", "integer": 3, "number": 1.5, "boolean": True}.get(kind)
