"""What a request needs: found where it stands, and not in what is only talked about."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eggpool.domain import Needs
from eggpool.wire import envelope
from eggpool.wire.needs import glance, has_images

DATA = "A" * 400_000


def read(body: dict[str, Any], indent: int | None = None) -> Needs:
    """The needs of a body, looked for everywhere."""
    sent = envelope.read(json.dumps({"model": "m", **body}, indent=indent).encode())
    return replace(glance(sent, 7), images=has_images(sent))


def user(*parts: Any) -> list[dict[str, Any]]:
    """A list with one message of the user."""
    return [{"role": "user", "content": list(parts)}]


IMAGES = [
    {"messages": user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}})},
    {"messages": user({"image_url": {"url": f"data:image/png;base64,{DATA}"}, "type": "image_url"})},
    {"messages": user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}})},
    {
        "messages": user(
            {"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": DATA}}]}
        )
    },
    {"input": user({"type": "input_image", "image_url": f"data:image/png;base64,{DATA}"})},
]


@pytest.mark.parametrize("body", IMAGES)
@pytest.mark.parametrize("indent", [None, 2])
def test_images_are_found(body: dict[str, Any], indent: int | None) -> None:
    """An image of each dialect is found."""
    assert read(body, indent).images


@pytest.mark.parametrize(
    "body",
    [
        {"messages": user({"type": "text", "text": json.dumps(IMAGES[2])})},
        {"messages": user({"type": "text", "text": "image_url"})},
        {"messages": [], "tools": [{"type": "image"}]},
        {"messages": user({"type": "text", "text": "x", "name": "image"})},
        {"model": "m"},
    ],
)
def test_talk_of_images_is_no_image(body: dict[str, Any]) -> None:
    """An image that is quoted in a text, or named elsewhere, is none."""
    assert not read(body).images


@pytest.mark.parametrize(
    ("body", "tools"),
    [
        ({"tools": [{"name": "a"}]}, True),
        ({"functions": [{"name": "a"}]}, True),
        ({"tools": []}, False),
        ({"tools": None}, False),
        ({"tools": {}}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_tools(body: dict[str, Any], tools: bool, indent: int | None) -> None:
    """A list of tools needs tools when something is in it."""
    assert read(body, indent).tools is tools


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_output_tokens": 7}, 7),
        ({"max_tokens": None}, None),
        ({"max_tokens": "x"}, None),
        ({"max_tokens": 0}, None),
        ({}, None),
    ],
)
def test_output_that_is_asked_for(body: dict[str, Any], asked: int | None) -> None:
    """Each dialect's name for it is read; what is no count is no wish."""
    assert read(body).max_output_tokens == asked


def test_the_length_is_taken_over() -> None:
    """How long a request is, is told from elsewhere."""
    assert read({"input": "word"}).input_tokens == 7


@given(st.binary(max_size=60) | st.sampled_from([b'"data":"', b';base64,"', b"[", b'[{"type":"image']))
def test_no_bytes_are_refused(value: bytes) -> None:
    """Whatever stands in a field, there is an answer."""
    for field in ("messages", "input", "tools", "max_tokens"):
        sent = envelope.Envelope(b'{"x":' + value + b"}", {field: (5, 5 + len(value))}, "m", stream=False)
        assert glance(sent, 3).input_tokens == 3
        assert has_images(sent) in (True, False)
