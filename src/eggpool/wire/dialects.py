"""The table of dialects: the module that speaks each one, seen through the names that all of them share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from eggpool.domain import Dialect, ModelCard
from eggpool.wire import chat, messages, responses, sse
from eggpool.wire.events import Event
from eggpool.wire.notes import ErrorInfo, Note
from eggpool.wire.prompt import Echo, Prompt, Written


class StreamReader(Protocol):
    """Turns the events of one stream into those of the pivot."""

    def read(self, event: sse.SseEvent) -> list[Event]: ...

    def finish(self) -> list[Event]: ...


class StreamWriter(Protocol):
    """Writes the pivot's events as one stream."""

    def write(self, event: Event) -> bytes: ...


class Codec(Protocol):
    """What every dialect module offers; each name is described there."""

    @property
    def STREAM_MARKS(self) -> re.Pattern[bytes]: ...  # noqa: N802 - a constant of the module

    @property
    def KEEPALIVE(self) -> bytes: ...  # noqa: N802 - a constant of the module

    def error_type(self, status: int) -> str: ...

    def write_error(
        self, status: int, message: str, code: str, *, param: str | None = None, request_id: str = ""
    ) -> bytes: ...

    def write_error_event(self, status: int, message: str, code: str) -> bytes: ...

    def read_error(self, body: bytes) -> ErrorInfo: ...

    def read_reply(self, body: bytes) -> Note: ...

    def read_event(self, event: sse.SseEvent) -> Note: ...

    def read_long_event(self, head: bytes, tail: bytes | bytearray) -> Note: ...

    def read_request(self, body: bytes) -> Prompt: ...

    def write_request(self, prompt: Prompt, *, output_limit: int | None = None) -> Written: ...

    def echo_of(self, prompt: Prompt, body: bytes) -> Echo: ...

    def reply_events(self, body: bytes) -> list[Event]: ...

    def write_reply(self, events: Iterable[Event], echo: Echo) -> bytes: ...

    def StreamReader(self) -> StreamReader: ...  # noqa: N802 - a class of the module

    def StreamWriter(self, echo: Echo) -> StreamWriter: ...  # noqa: N802 - a class of the module

    def models_page(self, cards: Sequence[ModelCard]) -> dict[str, object]: ...

    def model_entry(self, card: ModelCard) -> dict[str, object]: ...


CODECS: Mapping[Dialect, Codec] = {
    Dialect.CHAT: chat,
    Dialect.MESSAGES: messages,
    Dialect.RESPONSES: responses,
}
