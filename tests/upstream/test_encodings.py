"""Undoing encodings that were not asked for."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.errors import UpstreamBroken
from eggpool.upstream.encodings import Inflater, applied

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": lambda plain: zlib.compress(plain),
    " GZIP ": gzip.compress,
    "identity, gzip": gzip.compress,
}


def inflated(encoding: str, packed: bytes, size: int) -> bytes:
    """What comes out, fed in chunks of a size."""
    inflater = Inflater.of(encoding)
    assert inflater is not None
    chunks = [packed[start : start + size] for start in range(0, len(packed), size)]
    return b"".join(map(inflater.feed, [*chunks, b""]))


@given(st.sampled_from([*ENCODERS]), st.binary(max_size=500), st.integers(1, 40))
def test_any_chunks(encoding: str, plain: bytes, size: int) -> None:
    """Whatever the chunks, the plain bytes come out."""
    assert inflated(encoding, ENCODERS[encoding](plain), size) == plain


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.integers(1, 40))
def test_several_members(parts: list[bytes], size: int) -> None:
    """A gzip stream of several members is all of them."""
    assert inflated("gzip", b"".join(map(gzip.compress, parts)), size) == b"".join(parts)


@given(st.binary(max_size=50), st.integers(1, 600), st.integers(1, 40))
def test_padding(plain: bytes, zeros: int, size: int) -> None:
    """Zeros behind the end of gzip are padding, between two members as well."""
    packed = gzip.compress(plain) + bytes(zeros)
    assert inflated("gzip", packed, size) == plain
    assert inflated("gzip", packed + packed, size) == plain + plain


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=200), st.integers(1, 100), st.integers(1, 40))
def test_cut_off(encoding: str, plain: bytes, missing: int, size: int) -> None:
    """What ends before its encoding does is broken; nothing at all is empty."""
    packed = ENCODERS[encoding](plain)
    cut = packed[: max(0, len(packed) - missing)]
    if cut:
        with pytest.raises(UpstreamBroken, match="ends before"):
            inflated(encoding, cut, size)
    else:
        assert inflated(encoding, cut, size) == b""


@given(st.sampled_from(["gzip", "deflate"]), st.binary(min_size=1, max_size=100))
def test_garbage(encoding: str, packed: bytes) -> None:
    """What is not so encoded is UpstreamBroken and nothing else."""
    try:
        inflated(encoding, packed, 7)
    except UpstreamBroken:
        return
    assert zlib.decompress(packed, 31 if encoding == "gzip" else 15) is not None


def test_events_come_at_once() -> None:
    """What was flushed by the sender is given with the chunk that holds it."""
    pack = zlib.compressobj(wbits=31)
    inflater = Inflater.of("gzip")
    assert inflater is not None
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        assert inflater.feed(pack.compress(event) + pack.flush(zlib.Z_SYNC_FLUSH)) == event


def test_a_bomb() -> None:
    """A small chunk that becomes more than is taken is refused before it is all unpacked."""
    with pytest.raises(UpstreamBroken, match="more than is taken"):
        inflated("gzip", gzip.compress(b"\0" * (17 * 1024 * 1024)), 1 << 20)


@pytest.mark.parametrize("encoding", [None, "", "identity", "br", "zstd", "gzip, br"])
def test_others_are_left(encoding: str | None) -> None:
    """What is not known is not touched."""
    assert Inflater.of(encoding) is None


@pytest.mark.parametrize(
    ("encoding", "expected"), [(None, []), ("Identity, ", []), ("br", ["br"]), ("GZIP,br", ["gzip", "br"])]
)
def test_what_was_applied(encoding: str | None, expected: list[str]) -> None:
    """Each encoding is named in lower case, but the one that changes nothing."""
    assert applied(encoding) == expected
