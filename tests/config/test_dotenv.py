"""The `.env` file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.config.dotenv import parse_dotenv
from eggpool.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=sk-1", "sk-1"),
        ("export K=sk-1", "sk-1"),
        ("  K = sk-1  ", "sk-1"),
        ("K=sk#1 # a comment", "sk#1"),
        ("K=", ""),
        ("K= # nothing", ""),
        ("K=$HOME/`x`", "$HOME/`x`"),
        ("K='a \"b\" $c \\n #d' # e", 'a "b" $c \\n #d'),
        ('K="a \\"b\\" \\$c\\n #d"', 'a "b" $c\n #d'),
        ("K=a=b", "a=b"),
        ("K=sk-1\r", "sk-1"),
        ("\ufeffK=sk-1", "sk-1"),
        ("K=old\nK=new", "new"),
        ("# K=old\n\nK=new", "new"),
    ],
)
def test_a_line_gives_a_value(line: str, value: str) -> None:
    """Comments, export, quotes and white space mean what they mean in a shell; nothing is interpolated."""
    assert parse_dotenv(line) == {"K": value}


def test_each_line_that_cannot_be_read_is_told_without_its_value() -> None:
    """Problems carry the number of their line, and never what stands there."""
    with pytest.raises(ConfigError) as caught:
        parse_dotenv('A=1\nsecret\nB=\'secret\nC="secret" secret\n1D=secret\n')
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        ".env line 2",
        ".env line 3",
        ".env line 4",
        ".env line 5",
    ]
    assert "secret" not in str(caught.value)


@given(text=st.text(max_size=100))
def test_any_text_is_read_or_refused(text: str) -> None:
    """ConfigError is the only way to fail."""
    try:
        assert all(name.isidentifier() for name in parse_dotenv(text))
    except ConfigError as error:
        assert error.problems


@given(value=st.text(alphabet=st.characters(codec="ascii", exclude_characters="\n\r\0'"), max_size=40))
def test_single_quotes_keep_everything(value: str) -> None:
    """What stands between single quotes is the value."""
    assert parse_dotenv(f"K='{value}'") == {"K": value}
