"""Top-level members of a request: a sound value, nothing, or one sentence that names the fault and quotes nothing."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.errors import WireError
from eggpool.wire.members import decode, is_told, read_members

TEXTS = msgspec.json.Decoder(list[str])
ANYTHING = msgspec.json.Decoder()


def test_members_stay_raw() -> None:
    """Values keep their bytes until somebody wants them."""
    members = read_members(b'{"a": [1,  2], "b":null}')
    assert {name: bytes(raw) for name, raw in members.items()} == {"a": b"[1,  2]", "b": b"null"}


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"a":', b'"text"', b'{"\xff":1}', b"[" * 100_000])
def test_what_is_no_object(body: bytes) -> None:
    """A body that is no object is told as that."""
    with pytest.raises(WireError, match="not a JSON object"):
        read_members(body)


@given(st.binary(max_size=60))
def test_bodies_raise_nothing_else(body: bytes) -> None:
    """Only WireError comes out."""
    with contextlib.suppress(WireError):
        read_members(body)


@pytest.mark.parametrize(
    ("body", "value"), [(b'{"stop":["a","b"]}', ["a", "b"]), (b"{}", None), (b'{"stop":null}', None)]
)
def test_a_sound_member(body: bytes, value: list[str] | None) -> None:
    """A member that is absent or null is None."""
    assert decode(read_members(body), "stop", TEXTS) == value


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'["a","secret",7]', "The field stop is not what it should be: .*\\[2\\]"),
        (b'"secret"', "The field stop is not what it should be: .*array"),
        (b'["secret', "The field stop is not valid JSON"),
        (b'["secret\xff"]', "The field stop is not valid JSON"),
    ],
)
def test_a_member_that_is_wrong(raw: bytes, words: str) -> None:
    """The sentence names the member and where in it the fault is, and quotes nothing of it."""
    with pytest.raises(WireError, match=words) as told:
        decode({"stop": msgspec.Raw(raw)}, "stop", TEXTS)
    assert "secret" not in str(told.value)


def test_a_member_that_is_nested_too_deeply() -> None:
    """Depth is a fault of the member, not of the pool."""
    with pytest.raises(WireError, match="nested too deeply"):
        decode({"stop": msgspec.Raw(b"[" * 100_000)}, "stop", ANYTHING)


@pytest.mark.parametrize(("raw", "told"), [(b"", False), (b"null", False), (b"0", True), (b'""', True), (b"[]", True)])
def test_told(raw: bytes, told: bool) -> None:
    """Empty values are told, absent ones and null are not."""
    assert is_told(msgspec.Raw(raw)) is told
