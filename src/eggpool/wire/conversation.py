"""Which conversation a request belongs to, as a key that says nothing about it.

Agents name their conversations in headers or fields; where one does not, the beginning of the conversation names it.
What may live here: where the names stand, and the hash that is made of them. What may not: accounts, and how long a
conversation is remembered.

Sources: for Claude Code its page "LLM gateway protocol" and its requests, for Codex and OpenCode their requests, for
`prompt_cache_key` and `conversation` OpenAI's reference of the Responses API, for `session_id` OpenRouter's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import msgspec

from eggpool.wire import fields, leading
from eggpool.wire.envelope import Envelope

KEY_BYTES = 16
MAX_FIELD_BYTES = 16 * 1024  # of a field that may hold a name; whatever is longer holds something else

HEADERS = (
    b"x-eggpool-conversation",  # for programs whose headers a user can set
    b"x-claude-code-session-id",
    b"thread-id",  # Codex: a subagent has a thread of its own in the session of its parent
    b"conversation-id",
    b"conversation_id",
    b"session-id",
    b"session_id",
    b"x-session-affinity",  # OpenCode
    b"x-opencode-session",
    b"x-session-id",
    b"x-conversation-id",
    b"x-thread-id",
    b"x-openwebui-chat-id",  # Open WebUI
    b"x-chat-id",
)
"""Headers that name a conversation, the most telling first."""

AGENT_HEADER = b"x-claude-code-agent-id"
"""Names a subagent within a session. Its prompts share nothing with its parent's: it is a conversation of its own."""

FIELDS = ("session_id", "conversation_id", "thread_id", "chat_id")
"""Fields that name a conversation, of a body and of its `metadata`."""

_HASH = hashlib.sha256(b"conversation")  # copied, because to look the algorithm up costs more than to use it
_pack = msgspec.msgpack.Encoder().encode
_TELLING = frozenset({*HEADERS, AGENT_HEADER})
_NAMING = frozenset({"metadata", "conversation", "prompt_cache_key", "previous_response_id", *FIELDS})
_SESSION_OF_USER = re.compile(r"_session_([0-9A-Za-z-]{8,128})\Z")  # user_<hash>_account_<id>_session_<id>
_ONE_OF_ITS_KIND = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-|(?=[A-Za-z]{0,15}[0-9])[0-9A-Za-z]{16}")


def conversation_key(client: str, headers: Mapping[bytes, bytes], envelope: Envelope | None) -> bytes | None:
    """The key of a request's conversation, 16 bytes; None when nothing tells.

    It depends on the client's name, so that two clients with the same names for their conversations do not meet, and
    on the model that is asked for: prompt caches are kept by model, and an agent that uses a second one in between
    would drag the conversation along to wherever that one is served. `headers` have lower-case names. Never raises.
    """
    named, agent = _in_headers(headers)
    model = envelope.model if envelope is not None else ""
    if named is not None:
        return _key(client, model, (b"header", named, agent))
    if envelope is None:
        return None
    group = ""
    if not _NAMING.isdisjoint(envelope.places):  # most bodies have none of these fields, which is seen at once
        field = _in_fields(envelope)
        if field is not None:
            return _key(client, model, (b"field", field.encode("utf-8", "surrogatepass"), agent))
        group = _text_at(envelope, "prompt_cache_key") or ""
        if _ONE_OF_ITS_KIND.search(group):
            return _key(client, model, (b"field", group.encode("utf-8", "surrogatepass"), agent))
        if _text_at(envelope, "previous_response_id"):
            # Such a body holds the newest turn only; what comes before it is at the account that made it.
            return None
    opening = leading.opening(envelope)
    if not opening:
        return None
    return _key(client, model, (b"opening", group.encode("utf-8", "surrogatepass"), agent, *opening))


def named_keys(client: str, model: str, name: str) -> tuple[bytes, ...]:
    """The keys of a conversation that the client names `name`: in a header, or in a field."""
    told = name.encode("utf-8", "surrogatepass")
    return tuple(_key(client, model, (place, told, b"")) for place in (b"header", b"field"))


def _in_headers(headers: Mapping[bytes, bytes]) -> tuple[bytes | None, bytes]:
    """The best name in the headers, and the subagent's."""
    if _TELLING.isdisjoint(headers):
        return None, b""
    named = next((value for name in HEADERS if (value := headers.get(name))), None)
    return named, headers.get(AGENT_HEADER, b"")


def _in_fields(envelope: Envelope) -> str | None:
    """The name of the conversation in a field that holds one."""
    if "metadata" in envelope.places:
        metadata = fields.mapping(_value_at(envelope, "metadata"))
        named = _session_of(metadata.get("user_id")) or _first_text(metadata)
        if named:
            return named
    if "conversation" in envelope.places:
        value = _value_at(envelope, "conversation")
        named = fields.text(value) or fields.text(fields.mapping(value).get("id"))
        if named:
            return named
    for name in FIELDS:
        if name in envelope.places and (named := _text_at(envelope, name)):
            return named
    return None


def _session_of(user: object) -> str | None:
    """The session inside a `metadata.user_id`; None for one that names a user only, who has many conversations."""
    if not isinstance(user, str):
        return None
    if user.startswith("{"):
        return _first_text(fields.decode_object(user.encode("utf-8", "surrogatepass")))
    match = _SESSION_OF_USER.search(user)
    return match[1] if match else None


def _first_text(values: dict[str, object]) -> str | None:
    return next((text for name in FIELDS if (text := fields.text(values.get(name)))), None)


def _value_at(envelope: Envelope, field: str) -> object:
    start, end = envelope.places.get(field, (0, 0))
    return fields.decode(envelope.body[start:end]) if 0 < end - start <= MAX_FIELD_BYTES else None


def _text_at(envelope: Envelope, field: str) -> str | None:
    return fields.text(_value_at(envelope, field)) if field in envelope.places else None


def _key(client: str, model: str, parts: Sequence[bytes]) -> bytes:
    """The hash of all parts, packed with their lengths, so that no two lists of parts read the same."""
    hashed = _HASH.copy()
    hashed.update(_pack((client, model, *parts)))
    return hashed.digest()[:KEY_BYTES]
