"""One request in the words of other dialects: read once, written for each account that speaks another one."""

from __future__ import annotations

import re

import msgspec

from eggpool.domain import Dialect
from eggpool.engine.inbound import Inbound
from eggpool.errors import BadRequest, WireError
from eggpool.routing.catalog import Candidate
from eggpool.wire.dialects import CODECS, Codec
from eggpool.wire.prompt import CannotCarry, Echo, Prompt

TRANSLATION = b"x-eggpool-translation"
MAX_TOLD_BYTES = 600


class Translation(msgspec.Struct, frozen=True):
    """A request as one account gets it, and what its reply needs on the way back.

    `asked` is the client's dialect and `dialect` the account's, `target` and `source` are their codecs; `lost` names
    what could not be said.
    """

    asked: Dialect
    dialect: Dialect
    source: Codec
    target: Codec
    echo: Echo
    stream: bool
    body: bytes
    lost: tuple[str, ...] = ()


class Translator:
    """The translations of one request."""

    __slots__ = ("_echo", "_inbound", "_prompt")

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound
        self._prompt: Prompt | None = None
        self._echo = Echo()

    def into(self, dialect: Dialect, candidate: Candidate) -> Translation:
        """The request in a dialect, for one account.

        Raises BadRequest for what is no request of the client's dialect, or cannot be said in the other one.
        """
        inbound, source = self._inbound, CODECS[dialect]
        target = CODECS[inbound.surface.dialect]
        try:
            prompt = self._read(target)
            asked = msgspec.structs.replace(prompt, model=candidate.model)
            written = source.write_request(asked, output_limit=candidate.limits.output)
        except CannotCarry as error:
            raise BadRequest(str(error), param=error.param, code=error.code) from None
        except WireError as error:
            raise BadRequest(str(error)) from None
        return Translation(
            inbound.surface.dialect, dialect, source, target, self._echo, prompt.stream, written.body, written.lost
        )

    def _read(self, codec: Codec) -> Prompt:
        if self._prompt is None:
            envelope = self._inbound.envelope
            body = envelope.body if envelope is not None else self._inbound.body or b""
            prompt = codec.read_request(body)
            self._echo = msgspec.structs.replace(codec.echo_of(prompt, body), now_s=self._inbound.arrived_ms // 1000)
            self._prompt = prompt
        return self._prompt


def in_chat(body: bytes) -> tuple[bytes, bytes]:
    """A Responses request that was sent where Chat is spoken, as a Chat request; and how that is told in a header.

    Raises BadRequest.
    """
    source = CODECS[Dialect.RESPONSES]
    try:
        written = CODECS[Dialect.CHAT].write_request(source.read_request(body))
    except CannotCarry as error:
        raise BadRequest(str(error), param=error.param, code=error.code) from None
    except WireError as error:
        raise BadRequest(str(error)) from None
    return written.body, _told(Dialect.RESPONSES, Dialect.CHAT, written.lost)


def told_translation(translation: Translation, dropped: tuple[str, ...]) -> bytes:
    """The header that tells of it: from which dialect to which, and what was lost on either way."""
    return _told(translation.asked, translation.dialect, (*translation.lost, *dropped))


def _told(asked: Dialect, dialect: Dialect, lost: tuple[str, ...]) -> bytes:
    text = f"{asked.value}>{dialect.value}"
    if lost:
        text += "; lost=" + ",".join(dict.fromkeys(lost))
    return re.sub(r"[^\x20-\x7e]", "?", text).encode()[:MAX_TOLD_BYTES]
