"""How many tokens a request is, without a tokeniser: its bytes, and what a token of each model has been worth so far.

`content_bytes` looks at a body of any dialect in a time that does not matter beside relaying it; `Calibration` learns
from the usage that providers report. Source: the vision guides of Anthropic and OpenAI (a picture of usual size is
about 1,500 tokens, whatever its bytes) and Anthropic's "PDF support" (1,500 to 3,000 tokens a page). What may live
here: estimates. What may not: what is done with them; an estimate orders, and never refuses on its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

IMAGE_TOKENS = 1500
DOCUMENT_TOKENS = 6000  # three pages

START_TOKENS_PER_BYTE = 0.25
"""What a byte of a request is worth before anything is known of a model: English text and code in JSON."""

_STRIDE = 4096
_SAMPLE = 48
# Attached data is found where two samples of it lie in a row; anything shorter costs as much as text does.
_MIN_ATTACHED_BYTES = 4096
_MAX_SCANNED_BYTES = 128 * 1024
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\\"
_PDF_START = b"JVBER"  # %PDF in base64
_LINKED_IMAGE = re.compile(
    rb'"type"\s*:\s*"(?:input_image|image_url)"|"type"\s*:\s*"image"\s*,\s*"source"\s*:\s*\{|"image_url"\s*:\s*"'
)
_URL = re.compile(rb'"(?:url|image_url)"\s*:\s*"https?://')


class Content(msgspec.Struct, frozen=True, gc=False):
    """What a request holds: bytes of text and of the JSON around it, and how many pictures and files besides."""

    bytes: int
    images: int = 0
    documents: int = 0

    @property
    def attached_tokens(self) -> int:
        """What the pictures and files are worth, in tokens."""
        return self.images * IMAGE_TOKENS + self.documents * DOCUMENT_TOKENS


def content_bytes(body: bytes) -> Content:
    """What is in a body. Data in base64 is told from text by samples, so the time hardly grows with the body.

    Attachments of less than 8 KiB count as text. Pictures by URL are looked for in bodies of up to 128 KiB; in longer
    ones they count as their addresses.
    """
    images = documents = attached = at = 0
    last = len(body) - _STRIDE - _SAMPLE  # where two samples in a row still fit
    while at <= last:
        # Nearly everywhere the first sample tells; the second is taken where both could be of data in base64.
        if body[at : at + _SAMPLE].translate(None, _BASE64) or (
            body[at + _STRIDE : at + _STRIDE + _SAMPLE].translate(None, _BASE64)
        ):
            at += _STRIDE
            continue
        end = body.find(b'"', at)
        if end < 0:
            break
        start = max(body.rfind(b'"', 0, at), body.rfind(b",", 0, at)) + 1  # the head of a data URL ends in a comma
        if end - start >= _MIN_ATTACHED_BYTES and not body[start:end].translate(None, _BASE64):
            attached += end - start
            if body.startswith(_PDF_START, start):
                documents += 1
            else:
                images += 1
        at = max(end, at + _STRIDE)  # each string is looked at once, whatever it holds
    if len(body) <= _MAX_SCANNED_BYTES:
        images += _linked_images(body)
    return Content(len(body) - attached, images, documents)


def _linked_images(body: bytes) -> int:
    """How many pictures a body only names. Text cannot be taken for one: its quotation marks are escaped."""
    if b"image" not in body or not _LINKED_IMAGE.search(body):  # the word is found much faster than what is around it
        return 0
    return sum(1 for _ in _URL.finditer(body))


class Learnt(msgspec.Struct, frozen=True):
    """What reports have taught about one model. The numbers are sums in which older reports fade."""

    tokens: float
    bytes: float
    off_tokens: float  # by how much the estimates were wrong
    seen_tokens: float  # the reports that the estimates were compared with

    @property
    def tokens_per_byte(self) -> float:
        """What a byte is worth."""
        return self.tokens / self.bytes


# So many bytes count as seen before the first report, so that a tiny request, which is mostly the provider's own
# wrapping, does not decide what a byte is worth.
_PRIOR_BYTES = 2000.0
_START = Learnt(_PRIOR_BYTES * START_TOKENS_PER_BYTE, _PRIOR_BYTES, 0.0, 0.0)
_KEPT = 0.95  # of older reports, with each new one
_LOWEST, _HIGHEST = 0.01, 1.5  # tokens per byte; a report beyond them speaks of something else than this request


class Calibration:
    """Learns what a byte is worth at each model. Of more than `max_models`, the one not heard of longest is let go."""

    def __init__(self, max_models: int = 1000) -> None:
        self._max_models = max_models
        self._models: dict[str, Learnt] = {}

    def estimate(self, model: str, content: Content) -> int:
        """How many input tokens a request is, as far as one can tell; at least 1."""
        return _estimate(self._models.get(model, _START), content)

    def error(self, model: str) -> float | None:
        """By what share the estimates for a model have been wrong, as a mean over tokens; None before any report."""
        learnt = self._models.get(model)
        return None if learnt is None or not learnt.seen_tokens else learnt.off_tokens / learnt.seen_tokens

    def learn(self, model: str, content: Content, input_tokens: int) -> None:
        """A provider has reported the input tokens of a request, cached ones included."""
        text_tokens = input_tokens - content.attached_tokens
        if content.bytes <= 0 or not _LOWEST <= text_tokens / content.bytes <= _HIGHEST:
            return
        old = self._models.pop(model, _START)
        off = abs(_estimate(old, content) - input_tokens)
        if len(self._models) >= self._max_models:
            del self._models[next(iter(self._models))]
        self._models[model] = Learnt(
            tokens=old.tokens * _KEPT + text_tokens,
            bytes=old.bytes * _KEPT + content.bytes,
            off_tokens=old.off_tokens * _KEPT + off,
            seen_tokens=old.seen_tokens * _KEPT + input_tokens,
        )

    def snapshot(self) -> dict[str, Learnt]:
        """All that was learnt, by model, the one not heard of longest first."""
        return dict(self._models)

    def restore(self, snapshot: Mapping[str, Learnt]) -> None:
        """Take what an earlier run learnt; of a model that was learnt about meanwhile, the newer is kept."""
        known = {model: learnt for model, learnt in snapshot.items() if _is_sound(learnt)}
        merged = known | self._models
        self._models = dict(list(merged.items())[-self._max_models :])


def _estimate(learnt: Learnt, content: Content) -> int:
    tokens = round(content.bytes * learnt.tokens / learnt.bytes)
    if content.images or content.documents:
        tokens += content.attached_tokens
    return tokens or 1


def _is_sound(learnt: Learnt) -> bool:
    """Whether these are numbers that could have been learnt: a file may have been edited."""
    if not 0 < learnt.bytes < float("inf") or not 0 <= learnt.off_tokens < float("inf"):
        return False
    return _LOWEST <= learnt.tokens_per_byte <= _HIGHEST and 0 <= learnt.seen_tokens < float("inf")
