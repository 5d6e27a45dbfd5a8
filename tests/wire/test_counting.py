"""Token estimates: what of a body counts, and what is learnt from the reports of providers."""

from __future__ import annotations

import base64
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.wire.counting import (
    DOCUMENT_TOKENS,
    IMAGE_TOKENS,
    Calibration,
    Content,
    Learnt,
    content_bytes,
)

DATA = base64.b64encode(random.Random(1).randbytes(60_000)).decode()
PDF = base64.b64encode(b"%PDF-1.4 " + random.Random(2).randbytes(30_000)).decode()
WORDS = "def main():\n    return 'what \"image_url\" means'\n" * 400
CONTENTS = st.builds(Content, st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 3))


def body(*parts: Any) -> bytes:
    """A request with these content parts, in the middle of others."""
    around = [{"type": "text", "text": WORDS}]
    return json.dumps({"messages": [{"role": "user", "content": [*around, *parts, *around]}]}).encode()


PLAIN = body()
ATTACHED = [
    ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}, 1, 0),
    ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}, 1, 0),
    ({"type": "input_image", "image_url": f"data:image/png;base64,{DATA}"}, 1, 0),
    ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}, 0, 1),
    ({"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}, 0, 1),
    ({"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}"}, 0, 1),
]
LINKED = [
    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    {"type": "input_image", "image_url": "https://example.com/a.png"},
]


def test_text_counts_whole() -> None:
    """All bytes of a body without attachments count: turns, instructions, tools."""
    assert content_bytes(PLAIN) == Content(len(PLAIN))
    assert content_bytes(b"") == Content(0)


@pytest.mark.parametrize(("part", "images", "documents"), ATTACHED)
def test_attached_data_does_not_count_by_its_bytes(part: Any, images: int, documents: int) -> None:
    """In each dialect a picture or file is one thing, and its data none of the text."""
    found = content_bytes(body(part))
    assert (found.images, found.documents) == (images, documents)
    assert len(PLAIN) < found.bytes < len(PLAIN) + 200


@pytest.mark.parametrize("shift", range(0, 4096, 97))
def test_data_is_found_wherever_it_lies(shift: int) -> None:
    """Where in a body an attachment stands makes no difference, nor what follows it at once."""
    parts = [{"type": "text", "text": "." * shift}, ATTACHED[0][0], ATTACHED[3][0], ATTACHED[1][0]]
    found = content_bytes(body(*parts))
    assert (found.images, found.documents) == (2, 1)
    assert found.bytes < len(PLAIN) + shift + 500


@pytest.mark.parametrize("part", LINKED)
def test_linked_pictures_are_pictures(part: Any) -> None:
    """A picture by URL counts as one; a text that speaks of pictures does not."""
    assert content_bytes(body(part, part)).images == 2
    quoted = {"type": "text", "text": json.dumps(part)}
    assert content_bytes(body(quoted)).images == 0


def test_long_words_are_text() -> None:
    """Text without blanks is text as long as anything else stands in it."""
    assert content_bytes(body({"type": "text", "text": ("A" * 9000 + " ") * 20})).images == 0


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_have_a_count(piece: bytes, times: int) -> None:
    """Nothing raises, and no more bytes are text than there are."""
    data = piece * times + b'"' + b"A" * 9000
    assert 0 <= content_bytes(data).bytes <= len(data)


# --- learning -------------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_estimated_from_four_bytes_a_token() -> None:
    """Before any report there is an estimate, and no claim about its error."""
    calibration = Calibration()
    assert calibration.estimate("m", Content(4000)) == 1000
    assert calibration.estimate("m", Content(0)) == 1
    assert calibration.estimate("m", Content(0, images=2, documents=1)) == 2 * IMAGE_TOKENS + DOCUMENT_TOKENS
    assert calibration.error("m") is None


def test_estimates_come_near_what_is_reported() -> None:
    """After some reports the estimate is right within a few per cent, and the error says so."""
    calibration = Calibration()
    for size in range(40_000, 80_000, 1000):
        calibration.learn("m", Content(size, images=1), round(size * 0.31) + IMAGE_TOKENS)
    assert calibration.estimate("m", Content(100_000)) == pytest.approx(31_000, rel=0.01)
    error = calibration.error("m")
    assert error is not None
    assert error < 0.05
    assert calibration.estimate("other", Content(100_000)) == 25_000


def test_a_first_report_counts_and_a_tiny_one_does_not_decide() -> None:
    """One long request teaches nearly all; a short one, mostly wrapping, changes little."""
    long, short = Calibration(), Calibration()
    long.learn("m", Content(200_000), 80_000)
    short.learn("m", Content(60), 60)
    assert long.estimate("m", Content(10_000)) == pytest.approx(4000, rel=0.02)
    assert short.estimate("m", Content(10_000)) == pytest.approx(2500, rel=0.1)


def test_the_error_is_the_share_by_which_estimates_were_off() -> None:
    """An estimate of half the tokens that there were is an error of one half."""
    calibration = Calibration()
    calibration.learn("m", Content(400_000), 200_000)
    assert calibration.error("m") == pytest.approx(0.5)


def test_newer_reports_count_more() -> None:
    """When a model's tokeniser changes, the estimate follows."""
    calibration = Calibration()
    for tokens in [10_000] * 50 + [20_000] * 50:
        calibration.learn("m", Content(50_000), tokens)
    assert calibration.estimate("m", Content(50_000)) == pytest.approx(20_000, rel=0.1)


@pytest.mark.parametrize("tokens", [0, -5, 10, 10**9])
def test_reports_that_make_no_sense_are_passed_over(tokens: int) -> None:
    """No tokens, too few or too many for the bytes: such a report is not about this request."""
    calibration = Calibration()
    calibration.learn("m", Content(50_000), tokens)
    calibration.learn("m", Content(0), 100)
    assert calibration.snapshot() == {}


def test_the_number_of_models_is_bounded() -> None:
    """The model that was not heard of longest is forgotten first."""
    calibration = Calibration(max_models=2)
    for model in ("a", "b", "a", "c"):
        calibration.learn(model, Content(1000), 300)
    assert list(calibration.snapshot()) == ["a", "c"]


def test_what_was_learnt_survives_a_restart() -> None:
    """A snapshot brings the estimates back; nonsense in it, and what is known better by now, is left."""
    before, after = Calibration(), Calibration()
    before.learn("m", Content(100_000), 40_000)
    before.learn("n", Content(100_000), 40_000)
    after.learn("n", Content(100_000), 10_000)
    newer = after.snapshot()["n"]
    after.restore(before.snapshot() | {"bad": Learnt(1.0, 0.0, 0.0, 0.0), "odd": Learnt(math.nan, 1.0, 0.0, 0.0)})
    assert after.snapshot() == {"m": before.snapshot()["m"], "n": newer}
    small = Calibration(max_models=1)
    small.restore(before.snapshot())
    assert list(small.snapshot()) == ["n"]


@given(st.lists(st.tuples(CONTENTS, st.integers(-10, 10**7)), max_size=20), CONTENTS)
def test_estimates_stay_within_reason(reports: list[tuple[Content, int]], content: Content) -> None:
    """Whatever is reported, an estimate is a positive number of tokens that its bytes can be worth."""
    calibration = Calibration()
    for seen, tokens in reports:
        calibration.learn("m", seen, tokens)
    estimate = calibration.estimate("m", content)
    assert max(1, content.attached_tokens) <= estimate <= content.attached_tokens + content.bytes * 1.5 + 1
    error = calibration.error("m")
    assert error is None or error >= 0
