"""The model that a multipart form asks for: audio and image requests carry it as a field between files.

Source: RFC 7578. Only that one field is read, and replaced in its place; the rest of the form stays byte for byte.
"""

from __future__ import annotations

import re

import msgspec

from eggpool.errors import BadRequest
from eggpool.wire.envelope import MAX_MODEL_NAME_CHARS

_BOUNDARY = re.compile(rb'multipart/form-data\s*;.*?boundary=(?:"([^"]{1,70})"|([^";,\s]{1,70}))', re.IGNORECASE)
# At a line's start only: tried at each place of a long line, it would take the square of its length.
_FIELD = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="?model"?\s*(?:;|\r?\n|$)', re.IGNORECASE | re.MULTILINE)
_MAX_HEAD_BYTES = 8 * 1024  # of one part


class Form(msgspec.Struct, frozen=True):
    """A form in which the field model was found; its value stands in `body` from `start` to `end`."""

    body: bytes
    model: str
    start: int
    end: int


def is_form(content_type: bytes) -> bool:
    """Whether a body of that type is a multipart form."""
    return _BOUNDARY.match(content_type) is not None


def read(content_type: bytes, body: bytes) -> Form:
    """Find the form's field `model`. Raises BadRequest when there is none."""
    boundary = _BOUNDARY.match(content_type)
    if boundary is None:
        raise BadRequest("The form's content type names no boundary.")
    line = b"--" + (boundary[1] or boundary[2])
    begin = body.find(line)
    while begin >= 0:
        begin += len(line)
        end = body.find(line, begin)
        if end < 0:
            break
        head_end = body.find(b"\r\n\r\n", begin, min(end, begin + _MAX_HEAD_BYTES))
        if head_end >= 0 and _FIELD.search(body, begin, head_end):
            start, stop = head_end + 4, end - 2
            model = body[start:stop].decode("utf-8", "replace")
            if model.strip() and len(model) <= MAX_MODEL_NAME_CHARS:
                return Form(body, model.strip(), start, stop)
            break
        begin = end
    raise BadRequest("The form names no model; set the field model.", param="model")


def with_model(form: Form, model: str) -> bytes:
    """The form with another model name; without a change the very same object is returned."""
    if model == form.model:
        return form.body
    return form.body[: form.start] + model.encode() + form.body[form.end :]
