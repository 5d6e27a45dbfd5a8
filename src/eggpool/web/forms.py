"""The model that a multipart form asks for: audio and image requests carry it as a field between files.

Source: RFC 7578. Only that one field is looked for; the form is passed on as it came.
"""

from __future__ import annotations

import re

from eggpool.errors import BadRequest
from eggpool.wire.envelope import MAX_MODEL_NAME_CHARS

_BOUNDARY = re.compile(rb'multipart/form-data\s*;.*?boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_FIELD = re.compile(rb'content-disposition:[^\r\n]*;\s*name="model"', re.IGNORECASE)


def is_form(content_type: bytes) -> bool:
    """Whether a body of that type is a multipart form."""
    return _BOUNDARY.match(content_type) is not None


def model_of(content_type: bytes, body: bytes) -> str:
    """The value of the form's field `model`. Raises BadRequest when there is none."""
    boundary = _BOUNDARY.match(content_type)
    if boundary is None:
        raise BadRequest("The form's content type names no boundary.")
    for part in body.split(b"--" + boundary[1]):
        head, blank, value = part.partition(b"\r\n\r\n")
        if blank and _FIELD.search(head):
            model = value.removesuffix(b"\r\n").decode("utf-8", "replace").strip()
            if 0 < len(model) <= MAX_MODEL_NAME_CHARS:
                return model
            break
    raise BadRequest("The form names no model; set the field model.", param="model")
