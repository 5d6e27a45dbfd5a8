"""The envelope of a request: all but the member that changes keeps each byte, and only BadRequest is raised."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.errors import BadRequest
from eggpool.wire import envelope
from eggpool.wire.envelope import Envelope

WHITE_SPACE = st.text(alphabet=" \t\n\r", max_size=3).map(str.encode)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
READ_FIELDS = {"model", "stream", "stream_options"}


@st.composite
def spelt(draw: st.DrawFn, text: str) -> bytes:
    """A text as JSON: plain, or with any of its characters escaped."""
    if draw(st.booleans()):
        return json.dumps(text, ensure_ascii=draw(st.booleans())).encode()
    units = text.encode("utf-16-be")
    return b'"' + b"".join(b"\\u%04x" % int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)) + b'"'


@st.composite
def bodies(draw: st.DrawFn, /, **fixed: bytes) -> list[tuple[str, bytes, bytes]]:
    """A request as (key, bytes before its value, value) in any order and spacing; the last one is what follows."""
    others = draw(st.dictionaries(TEXT.filter(lambda key: key not in READ_FIELDS), VALUES, max_size=5))
    indent = draw(st.sampled_from([None, 1]))
    values = {key: json.dumps(value, indent=indent).encode() for key, value in others.items()}
    members = draw(st.permutations([*values.items(), *fixed.items()]))
    parts: list[tuple[str, bytes, bytes]] = []
    comma = draw(WHITE_SPACE) + b"{"
    for key, value in members:
        before = comma + draw(WHITE_SPACE) + draw(spelt(key)) + draw(WHITE_SPACE) + b":" + draw(WHITE_SPACE)
        parts.append((key, before, value))
        comma = draw(WHITE_SPACE) + b","
    parts.append(("", draw(WHITE_SPACE) + b"}" + draw(WHITE_SPACE), b""))
    return parts


def joined(parts: list[tuple[str, bytes, bytes]], **changed: bytes) -> bytes:
    """The body of such parts, with other values for some keys."""
    return b"".join(before + changed.get(key, value) for key, before, value in parts)


@given(bodies(model=b'"old/name"', stream=b"true"), TEXT)
def test_only_the_model_changes(parts: list[tuple[str, bytes, bytes]], model: str) -> None:
    """A new model name replaces the old value; white space, order, escapes and every other value keep each byte."""
    read = envelope.read(joined(parts))
    assert (read.model, read.stream) == ("old/name", True)
    assert envelope.with_changes(read, model=model) == joined(parts, model=msgspec.json.encode(model))
    assert {key: read.raw(key) for key, _, _ in parts[:-1]} == {key: value for key, _, value in parts[:-1]}


@given(bodies(model=b'"m"'))
def test_nothing_to_change(parts: list[tuple[str, bytes, bytes]]) -> None:
    """Without a change the very same bytes object is handed on."""
    body = joined(parts)
    assert envelope.with_changes(envelope.read(body), model="m") is body


@given(bodies(model=b'"m"'))
def test_usage_is_asked_for(parts: list[tuple[str, bytes, bytes]]) -> None:
    """Asking for usage inserts one member before the end, and touches nothing else."""
    read = envelope.read(joined(parts))
    assert not envelope.says_include_usage(read)
    inserted = b',"stream_options":{"include_usage":true}'
    changed = envelope.with_changes(read, model="n", include_usage=True)
    assert changed.replace(inserted, b"", 1) == joined(parts, model=b'"n"')
    assert json.loads(changed) == {**json.loads(joined(parts)), "model": "n", "stream_options": {"include_usage": True}}


OPTIONS = {
    b"null": b'{"include_usage":true}',
    b"{}": b'{"include_usage":true}',
    b"{ }": b'{ "include_usage":true}',
    b'{"x": [1, {"include_usage": 0}] }': b'{"x": [1, {"include_usage": 0}] ,"include_usage":true}',
    b'"text"': b'"text"',
    b"[1]": b"[1]",
    b"7": b"7",
}


@given(st.sampled_from([*OPTIONS]).flatmap(lambda given: bodies(model=b'"m"', stream_options=given)))
def test_usage_is_added_to_options(parts: list[tuple[str, bytes, bytes]]) -> None:
    """Options of the client's own keep their bytes; what is no object is left for the provider to judge."""
    read = envelope.read(joined(parts))
    options = read.raw("stream_options")
    assert options is not None
    assert not envelope.says_include_usage(read)
    assert envelope.with_changes(read, include_usage=True) == joined(parts, stream_options=OPTIONS[options])


@pytest.mark.parametrize("options", [b'{"include_usage":false}', b'{"include_\\u0075sage": null}'])
def test_the_clients_own_word_on_usage(options: bytes) -> None:
    """A client that said anything about usage itself is recognised, also when the key is escaped."""
    assert envelope.says_include_usage(envelope.read(b'{"model":"m","stream_options":' + options + b"}"))


@given(bodies(model=b'"m"', a=b"1"), st.data())
def test_a_key_twice_is_refused(parts: list[tuple[str, bytes, bytes]], data: st.DataObject) -> None:
    """A repeated key, however it is written and whatever its value, is a BadRequest that says so."""
    key, _, value = data.draw(st.sampled_from(parts[:-1]))
    again = data.draw(st.sampled_from([value, b"1", b"12", b'"1"', b'{"a":1}', b"[]"]))
    at = data.draw(st.integers(1, len(parts) - 1))
    doubled = [*parts[:at], ("", b"," + data.draw(spelt(key)) + b":" + again, b""), *parts[at:]]
    with pytest.raises(BadRequest, match="the same key twice"):
        envelope.read(joined(doubled))


def test_a_key_twice_whose_lengths_deceive() -> None:
    """A repeated key is refused too where its last value is as long as what would hide the first one."""
    with pytest.raises(BadRequest, match="the same key twice"):
        envelope.read(b'{"a":{},"b":1234567,"a":222}')


@given(st.dictionaries(TEXT.filter(lambda key: key != "model"), VALUES, max_size=5), st.booleans(), st.data())
def test_without_white_space(others: dict[str, object], ascii_only: bool, data: st.DataObject) -> None:
    """As most clients write it, without white space: each value is found, and each key that comes twice is refused."""
    written = {
        key: json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode()
        for key, value in {"model": "m", **others}.items()
    }
    members = [json.dumps(key, ensure_ascii=ascii_only).encode() + b":" + value for key, value in written.items()]
    found = envelope.read(b"{" + b",".join(members) + b"}")
    assert {key: found.raw(key) for key in written} == written
    at = data.draw(st.integers(0, len(members)))
    doubled = [*members[:at], data.draw(st.sampled_from(members)), *members[at:]]
    with pytest.raises(BadRequest, match="the same key twice"):
        envelope.read(b"{" + b",".join(doubled) + b"}")


@pytest.mark.parametrize(
    "limit",
    [b"9999999999999999", b"9" * 100_000, b"1e3", b"-1", b'"5"', b"null", b"true"],
    ids=lambda value: repr(value)[:30],
)
def test_odd_output_limits(limit: bytes) -> None:
    """A wrong output limit is for the provider to judge: the body is taken and kept byte for byte."""
    body = b'{"model":"m","max_tokens":' + limit + b"}"
    assert envelope.with_changes(envelope.read(body)) is body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b" \n ", "is empty"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{", "cut off"),
        (b'{"model":"m"', "cut off"),
        (b'\xef\xbb\xbf{"model":"m"}', "byte order mark"),
        (b'{"model":"m"}x', "not valid JSON"),
        (b'{"model":"m"}\x00', "not valid JSON"),
        (b'{"model":"m","x":NaN}', "not valid JSON at byte 17"),
        (b'{"model":"m","x":Infinity}', "not valid JSON at byte 17"),
        (b'{"model":"m","x":"\x00"}', "not valid JSON at byte 18"),
        (b'{"model":"m","x":01}', "not valid JSON"),
        (b'{"model":"m","x":1,}', "not valid JSON"),
        (b"{'model':'m'}", "not valid JSON"),
        (b'{"model":"m","x":"\\ud83d"}', "half of a surrogate pair"),
        (b'{"model":"m","\\ud83d":1}', "half of a surrogate pair"),
        (b'{"\xff":1,"model":"m"}', "not valid UTF-8"),
        (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"model":"m","x":' + b'{"a":' * 100_000, "nested too deeply"),
        (b"{}", "names no model"),
        (b'{"model":null}', "must be a text"),
        (b'{"model":7}', "must be a text"),
        (b'{"model":["m"]}', "must be a text"),
        (b'{"model":"\xff"}', "must be a text"),
        (b'{"model":""}', "is empty"),
        (b'{"model":"  "}', "is empty"),
        (b'{"model":"a\\u0000b"}', "control character"),
        (b'{"model":"a\\nb"}', "control character"),
        (b'{"model":"' + b"m" * 1_000_000 + b'"}', "longer than 512"),
        (b'{"model":"m","stream":1}', "stream must be true or false"),
        (b'{"model":"m","stream":"true"}', "stream must be true or false"),
        (b'{"model":"m","stream":[]}', "stream must be true or false"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_refused(body: bytes, words: str) -> None:
    """Each fault is a BadRequest that names it in one short sentence without quoting the body."""
    with pytest.raises(BadRequest) as caught:
        envelope.read(body)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 120
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(("value", "streams"), [(b"true", True), (b"false", False), (b"null", False)])
def test_stream(value: bytes, streams: bool) -> None:
    """Only true asks for a stream; null is like leaving it out."""
    assert envelope.read(b'{"model":"m", "stream" : ' + value + b" }").stream is streams


def accepted(body: bytes) -> Envelope | None:
    """The envelope, None when the body is refused; any other exception goes through."""
    try:
        return envelope.read(body)
    except BadRequest:
        return None


@given(st.binary(max_size=200))
def test_arbitrary_bytes(body: bytes) -> None:
    """Whatever comes, the only exception is BadRequest."""
    accepted(body)


@given(bodies(model=b'"m"', stream=b"true", stream_options=b'{"x":1}'), st.data())
def test_spoilt_requests(parts: list[tuple[str, bytes, bytes]], data: st.DataObject) -> None:
    """A request with bytes put in, taken out or replaced is refused with BadRequest or can still be changed."""
    body = joined(parts)
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 3)))
    noise = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"{", b"}", b",", b":", b"\xed\xa0\x80"]))
    read = accepted(body[:start] + noise + body[end:])
    if read is not None:
        changed = envelope.with_changes(read, model="other", include_usage=True)
        again = envelope.read(changed)
        assert again.model == "other"
        assert {**again.places, "model": 0, "stream_options": 0}.keys() == {*read.places, "model", "stream_options"}


def test_invalid_utf8_inside_a_value_passes() -> None:
    """Bytes inside values that are not read are the provider's to judge."""
    body = b'{"model":"m","messages":"\xff\xfe"}'
    assert envelope.with_changes(envelope.read(body), model="n") == b'{"model":"n","messages":"\xff\xfe"}'


def test_a_key_of_megabytes() -> None:
    """A key of four megabytes of escapes takes no more memory than a few copies of it."""
    body = b'{"model":"m","' + b'\\"' * 2_000_000 + b'":1}'
    tracemalloc.start()
    try:
        envelope.read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(body)


def test_very_many_keys() -> None:
    """A thousand keys are read; more are refused by a sentence that says so, without a walk through them."""
    members = b"".join(b',"k%d":1' % number for number in range(999))
    assert len(envelope.read(b'{"model":"m"' + members + b"}").places) == 1000
    with pytest.raises(BadRequest, match="more than 1000 keys at its top level"):
        envelope.read(b'{"model":"m"' + members + b',"one":1}')


@pytest.mark.parametrize("inner", [b'"\x80":1', b'"a":{}'])
def test_stream_options_that_cannot_be_read(inner: bytes) -> None:
    """Options that were let in can be added to, whatever stands in them."""
    read = envelope.read(b'{"model":"m","stream_options":{' + inner + b"}}")
    changed = envelope.with_changes(read, include_usage=True)
    assert changed == b'{"model":"m","stream_options":{' + inner + b',"include_usage":true}}'
