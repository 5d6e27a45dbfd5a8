"""The content of Messages turns: the dialect's typed blocks, read into the pivot's and written from them.

Source: the Anthropic API reference, "Create a Message" (content blocks), "Tool use", "Extended thinking", "PDF
support", "Search results" and "Compaction". What may live here: blocks. What may not: turns, and the rest of a request.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping

import msgspec

from eggpool.errors import WireError
from eggpool.wire.members import is_told
from eggpool.wire.prompt import (
    Block,
    CacheMark,
    CannotCarry,
    Document,
    Image,
    Refused,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

Json = dict[str, object]


class Mark(msgspec.Struct):
    """`cache_control`."""

    type: str = ""
    ttl: str | None = None


class Source(msgspec.Struct):
    """Where an image or a document comes from."""

    type: str = ""
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: msgspec.Raw = msgspec.Raw()


class Item(msgspec.Struct):
    """A content block of any type; each type uses some of the fields."""

    type: str
    text: str | None = None
    source: Source | str | None = None
    title: str | None = None
    context: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    tool_use_id: str | None = None
    tool_name: str | None = None
    content: msgspec.Raw = msgspec.Raw()
    is_error: bool | None = None
    citations: msgspec.Raw = msgspec.Raw()
    cache_control: Mark | None = None


_CONTENT: msgspec.json.Decoder[str | list[Item]] = msgspec.json.Decoder(str | list[Item])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])

PDF = "application/pdf"
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_MAGIC = {"/9j/": "image/jpeg", "iVBOR": "image/png", "R0lGOD": "image/gif", "UklGR": "image/webp"}  # in base64
_UNFIT_ID = re.compile(r"[^A-Za-z0-9_-]")
_NOTHING = (b"", b"null", b"[]", b"{}", b'{"enabled":false}')


def read_mark(mark: Mark | None) -> CacheMark | None:
    """A cache mark."""
    return None if mark is None else CacheMark(mark.ttl)


def decode_content(raw: msgspec.Raw) -> str | list[Item]:
    """What a field `content` holds: a text, or blocks. Raises WireError."""
    if not is_told(raw):
        return ""
    try:
        return _CONTENT.decode(raw)
    except msgspec.ValidationError as error:
        raise WireError(f"A message has content that is not what it should be: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("A message has content that is not valid JSON.") from None


def text_of(raw: msgspec.Raw) -> str:
    """Raw JSON as text. Raises WireError where it is not UTF-8."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise WireError("The request is not UTF-8 text.") from None


class ContentReader:
    """Reads the blocks of one request. Collects what pins it to its provider, and what no pivot has a place for."""

    def __init__(self) -> None:
        self.pins: list[str] = []
        self.dropped: list[str] = []

    def read(self, content: str | list[Item]) -> list[Block]:
        """The blocks of a message. Raises WireError, or CannotCarry for a type that nobody else knows."""
        if isinstance(content, str):
            return [Text(content)] if content else []
        return [block for item in content for block in self._item(item)]

    def texts(self, content: str | list[Item]) -> list[Text]:
        """The blocks of a field that holds only text. Raises WireError."""
        blocks = self.read(content)
        texts = [block for block in blocks if isinstance(block, Text)]
        if len(texts) != len(blocks):
            raise WireError("A system prompt has content that is not text.")
        return texts

    def _item(self, item: Item) -> list[Block]:
        reader = _READERS.get(item.type)
        if reader is not None:
            return reader(self, item)
        if item.type in _LEFT_OUT or item.type.endswith("_tool_result"):
            self.dropped.append(item.type)
            return []
        raise CannotCarry(
            f"A message has content of the type {item.type[:40]}, which cannot be translated.", param="messages"
        )

    def _text(self, item: Item) -> list[Block]:
        self._note_citations(item)
        return [Text(item.text, read_mark(item.cache_control))] if item.text else []

    def _image(self, item: Item) -> list[Block]:
        source = self._source(item)
        cache = read_mark(item.cache_control)
        if source.type == "url":
            return [Image(url=source.url or "", cache=cache)]
        return [Image(data=source.data or "", media_type=source.media_type, cache=cache)]

    def _document(self, item: Item) -> list[Block]:
        source = self._source(item)
        self._note_citations(item)
        if item.context:
            self.dropped.append("context")
        cache, name = read_mark(item.cache_control), item.title
        match source.type:
            case "url":
                return [Document(url=source.url or "", name=name, cache=cache)]
            case "text":
                return [Document(text=source.data or "", media_type=source.media_type, name=name, cache=cache)]
            case "content":
                inner = self.read(decode_content(source.content))
                text = "\n".join(block.text for block in inner if isinstance(block, Text))
                return [
                    Document(text=text, name=name, cache=cache),
                    *(block for block in inner if isinstance(block, Image)),
                ]
            case _:
                return [Document(data=source.data or "", media_type=source.media_type or PDF, name=name, cache=cache)]

    def _search_result(self, item: Item) -> list[Block]:
        self._note_citations(item)
        found = self.texts(decode_content(item.content))
        origin = item.source if isinstance(item.source, str) else ""
        head = " - ".join(part for part in (item.title, origin) if part)
        return [Text("\n".join([head, *(text.text for text in found)]), read_mark(item.cache_control))]

    def _thinking(self, item: Item) -> list[Block]:
        return [Thinking(text=item.thinking or "", signature=item.signature or None)]

    def _redacted(self, item: Item) -> list[Block]:
        return [Thinking(redacted=item.data or "")]

    def _call(self, item: Item) -> list[Block]:
        arguments = text_of(item.input) if is_told(item.input) else "{}"
        if not arguments.startswith("{"):
            raise WireError("A tool_use block has an input that is not an object.")
        return [ToolCall(item.id or "", item.name or "", arguments, cache=read_mark(item.cache_control))]

    def _result(self, item: Item) -> list[Block]:
        found = self.read(decode_content(item.content))
        content = tuple(block for block in found if isinstance(block, Text | Image | Document))
        if len(content) != len(found):
            raise WireError("A tool_result has content that no tool can give.")
        cache = read_mark(item.cache_control)
        return [ToolResult(item.tool_use_id or "", content, failed=item.is_error, cache=cache)]

    def _reference(self, item: Item) -> list[Block]:
        return [Text(f"The tool {item.tool_name} is available.")]

    def _upload(self, item: Item) -> list[Block]:
        self.pins.append("file_id")
        return []

    def _compaction(self, item: Item) -> list[Block]:
        content = decode_content(item.content)
        return self.read(content) if isinstance(content, str) else []

    def _source(self, item: Item) -> Source:
        if not isinstance(item.source, Source):
            raise WireError(f"A block of the type {item.type} has no source.")
        if item.source.type == "file":
            self.pins.append("file_id")
        return item.source

    def _note_citations(self, item: Item) -> None:
        if bytes(item.citations).replace(b" ", b"") not in _NOTHING:
            self.dropped.append("citations")


_READERS: Mapping[str, Callable[[ContentReader, Item], list[Block]]] = {
    "text": ContentReader._text,
    "image": ContentReader._image,
    "document": ContentReader._document,
    "search_result": ContentReader._search_result,
    "thinking": ContentReader._thinking,
    "redacted_thinking": ContentReader._redacted,
    "tool_use": ContentReader._call,
    "tool_result": ContentReader._result,
    "tool_reference": ContentReader._reference,
    "container_upload": ContentReader._upload,
    "compaction": ContentReader._compaction,
}

# Marks of what the provider did on its own; the model's own words about it stand beside them. Results of its tools
# (`web_search_tool_result` and the like) are known by the end of their names.
_LEFT_OUT = frozenset(
    {"server_tool_use", "mcp_tool_use", "mcp_tool_listing", "tool_addition", "tool_removal", "fallback"}
)


def write_mark(block: Json, cache: CacheMark | None) -> Json:
    """The block, with the cache mark that it had."""
    if cache is not None:
        block["cache_control"] = {"type": "ephemeral"} if cache.ttl is None else {"type": "ephemeral", "ttl": cache.ttl}
    return block


def write_content(blocks: Iterable[Block], role: str, lost: list[str]) -> list[Json]:
    """The blocks of a turn of `user` or `assistant`. Raises CannotCarry; `lost` collects what cannot be said.

    Text without a visible character is left out, because the API refuses it.
    """
    written = (_write_block(block, role, lost) for block in blocks)
    return [block for block in written if block is not None]


def _write_block(block: Block, role: str, lost: list[str]) -> Json | None:
    match block:
        case Text():
            return write_text(block)
        case Refused():
            return write_text(Text(block.text))
        case ToolResult() if role == "user":
            return _write_result(block, lost)
        case Image() if role == "user":
            return _write_image(block, lost)
        case Document() if role == "user":
            return _write_document(block)
        case ToolCall() if role == "assistant":
            return _write_call(block)
        case Thinking() if role == "assistant":
            return _write_thinking(block, lost)
    raise CannotCarry(f"A turn of the {role} holds what only the other side can say.", param="messages")


def write_text(text: Text) -> Json | None:
    """A text block; None for a text that the API would refuse as empty."""
    if not text.text.strip():
        return None
    return write_mark({"type": "text", "text": text.text}, text.cache)


def _write_image(image: Image, lost: list[str]) -> Json:
    if image.detail not in (None, "auto"):
        lost.append("detail")
    if image.url is not None:
        return write_mark({"type": "image", "source": {"type": "url", "url": image.url}}, image.cache)
    data = image.data or ""
    media_type = image.media_type
    if media_type not in _IMAGE_TYPES:
        found = (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
        media_type = next(found, media_type or "image/png")
    source = {"type": "base64", "media_type": media_type, "data": data}
    return write_mark({"type": "image", "source": source}, image.cache)


def _write_document(document: Document) -> Json:
    block: Json = {"type": "document", "source": _document_source(document)}
    if document.name is not None:
        block["title"] = document.name
    return write_mark(block, document.cache)


def _document_source(document: Document) -> Json:
    if document.url is not None:
        return {"type": "url", "url": document.url}
    if document.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": document.text}
    data, media_type = document.data or "", document.media_type or PDF
    if media_type == PDF:
        return {"type": "base64", "media_type": PDF, "data": data}
    if media_type.startswith("text/"):
        try:
            text = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, ValueError):
            raise CannotCarry("A text file is not UTF-8 text in base64.", param="messages") from None
        return {"type": "text", "media_type": "text/plain", "data": text}
    raise CannotCarry("A Messages endpoint reads PDF and text files only.", param="messages")


def fit_id(call_id: str) -> str:
    """The id of a tool call in the letters that the API allows; calls and their results are changed alike."""
    return _UNFIT_ID.sub("_", call_id) or "toolu_0"


def _write_call(call: ToolCall) -> Json:
    block: Json = {"type": "tool_use", "id": fit_id(call.id), "name": call.name, "input": _input(call)}
    return write_mark(block, call.cache)


def _input(call: ToolCall) -> object:
    if call.custom:
        return {"input": call.arguments}
    if not call.arguments.strip():
        return {}
    try:
        _OBJECT.decode(call.arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise CannotCarry(
            f"The arguments of an earlier call of {call.name[:64]} are not a JSON object.", param="messages"
        ) from None
    return msgspec.Raw(call.arguments.encode())


def _write_result(result: ToolResult, lost: list[str]) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": fit_id(result.call_id)}
    content = write_content(result.content, "user", lost)
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        block["content"] = content[0]["text"]
    elif content:
        block["content"] = content
    if result.failed is not None:
        block["is_error"] = result.failed
    return write_mark(block, result.cache)


def _write_thinking(thinking: Thinking, lost: list[str]) -> Json | None:
    if thinking.redacted is not None:
        return {"type": "redacted_thinking", "data": thinking.redacted}
    if thinking.signature is not None:
        return {"type": "thinking", "thinking": thinking.text, "signature": thinking.signature}
    lost.append("thinking")
    return None
