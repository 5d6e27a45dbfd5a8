"""The field model of a multipart form is found and replaced, and nothing else is touched."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.errors import BadRequest
from eggpool.wire import forms

TYPE = b"multipart/form-data; boundary=bb"


def part(head: bytes, value: bytes) -> bytes:
    """One part of a form."""
    return b"--bb\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


@given(
    st.lists(st.binary(max_size=50).filter(lambda data: b"--bb" not in data), max_size=3),
    st.from_regex(r"[a-zA-Z0-9/.:-]{1,40}", fullmatch=True),
    st.from_regex(r"[a-zA-Z0-9/.:-]{1,40}", fullmatch=True),
)
def test_found_and_replaced(files: list[bytes], model: str, other: str) -> None:
    """Between whatever files, the model is found; replaced, it is found again and every other byte is as before."""
    before = b"".join(part(b'Content-Disposition: form-data; name="file"; filename="model"', data) for data in files)
    head = b'Content-Disposition: form-data; name="model"'
    after = part(b'Content-Disposition: form-data; name="x"', b"y") + b"--bb--\r\n"
    form = forms.read(TYPE, before + part(head, model.encode()) + after)
    assert form.model == model
    assert forms.with_model(form, model) is form.body
    changed = forms.with_model(form, other)
    assert changed == before + part(head, other.encode()) + after
    assert forms.read(TYPE, changed).model == other


def test_boundary_in_quotes() -> None:
    """A quoted boundary is taken as a whole, blanks included."""
    body = b"--b b\r\ncontent-disposition: form-data; name=model\r\n\r\nm\r\n--b b--"
    assert forms.read(b'multipart/form-data; boundary="b b"', body).model == "m"


@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    """Whatever a caller sends, it is a form with a model or a refusal that names the field."""
    for data in (body, b"--bb" + body, part(b'content-disposition: form-data; name="model"', body)):
        try:
            form = forms.read(TYPE, data)
        except BadRequest as error:
            assert error.param == "model"
        else:
            assert form.model in data[form.start : form.end].decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("content_type", "is_form"),
    [
        (b"multipart/form-data; boundary=x", True),
        (b'Multipart/Form-Data; charset=utf-8; boundary="x y"', True),
        (b'multipart/form-data; boundary="x"', True),
        (b"multipart/form-data", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_content_types(content_type: bytes, is_form: bool) -> None:
    """A form is told by its content type, which names the boundary."""
    assert forms.is_form(content_type) == is_form


def test_a_long_head_takes_no_long_time() -> None:
    """The time for a head that repeats a field's beginning grows with its length, not with the square of it."""
    for head in (b"content-disposition:" * 400_000, b"content-disposition:\r\n" * 350, b";" * 8_000, b"; " * 4_000):
        began = time.perf_counter()
        with pytest.raises(BadRequest, match="names no model"):
            forms.read(TYPE, part(b"content-disposition: " + head, b"x") + b"--bb--\r\n")
        assert time.perf_counter() - began < 1.0


def test_only_a_line_of_the_head_names_a_field() -> None:
    """A header that ends like the one that names a field is another header; a later line of the head is found."""
    value = b'content-disposition: form-data; name="model"'
    with pytest.raises(BadRequest):
        forms.read(TYPE, part(b"x-" + value, b"m") + b"--bb--\r\n")
    assert forms.read(TYPE, part(b"content-type: text/plain\r\n" + value, b"m") + b"--bb--\r\n").model == "m"
