"""What a request needs: found where it stands, and not in what is only talked about."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import Needs
from eggpool.wire import envelope
from eggpool.wire.needs import BYTES_PER_TOKEN, TOKENS_PER_ATTACHMENT, glance, look_inside

DATA = "A" * 400_000


def read(body: dict[str, Any], indent: int | None = None) -> Needs:
    """The needs of a body, looked for everywhere."""
    sent = envelope.read(json.dumps({"model": "m", **body}, indent=indent).encode())
    return look_inside(sent, glance(sent))


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
def test_images_are_found_and_do_not_count_by_their_bytes(body: dict[str, Any], indent: int | None) -> None:
    """An image of each dialect is found, and half a megabyte of it is not a hundred thousand tokens."""
    needs = read(body, indent)
    assert needs.images
    assert TOKENS_PER_ATTACHMENT <= needs.input_tokens < TOKENS_PER_ATTACHMENT + 300


def test_a_short_text_called_data_is_no_attachment() -> None:
    """Arguments of tools may have that name, and are counted as the text that they are."""
    calls = [{"type": "tool_use", "input": {"data": "short"}} for _ in range(50)]
    assert read({"messages": user(IMAGES[0]["messages"][0]["content"][0], *calls)}).input_tokens < 2_000


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


def test_length() -> None:
    """The input is guessed from the length of the body."""
    sent = envelope.read(json.dumps({"model": "m", "input": "word " * 1000}).encode())
    assert glance(sent).input_tokens == len(sent.body) // BYTES_PER_TOKEN
    assert look_inside(sent, glance(sent)) == glance(sent)


def test_a_search_takes_time_in_proportion_to_the_body() -> None:
    """Megabytes of beginnings without an end are passed over once."""
    for text in (";base64," * 500_000, '"data"' * 500_000, '{"type": ' * 300_000):
        sent = envelope.Envelope(text.encode(), {"input": (0, len(text))}, "m", stream=False)
        assert look_inside(sent, glance(sent)) == glance(sent)


@given(st.binary(max_size=60) | st.sampled_from([b'"data":"', b';base64,"', b"[", b'[{"type":"image']))
def test_no_bytes_are_refused(value: bytes) -> None:
    """Whatever stands in a field, there is an answer."""
    for field in ("messages", "input", "tools", "max_tokens"):
        sent = envelope.Envelope(b'{"x":' + value + b"}", {field: (5, 5 + len(value))}, "m", stream=False)
        assert look_inside(sent, glance(sent)).input_tokens >= 0
