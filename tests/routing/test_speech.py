"""In which dialect an account is asked: the client's own where it can be, and never none because of a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import AccountLabel, Dialect
from eggpool.routing.catalog import Candidate
from eggpool.routing.speech import spoken

CHAT, MESSAGES, RESPONSES = Dialect.CHAT, Dialect.MESSAGES, Dialect.RESPONSES
ALL = frozenset(Dialect)


def candidate(*dialects: Dialect, model: str = "glm-5.3") -> Candidate:
    """An account that serves a model in these dialects."""
    return Candidate(AccountLabel("alpha/one"), "alpha", model, frozenset(dialects), 0)


def asked(
    one: Candidate,
    wanted: Dialect,
    *refused: Dialect,
    translates: bool = True,
    until: float = 100.0,
    now: float = 50.0,
) -> Dialect | None:
    """The dialect in which `one` is asked while these are refused."""
    surfaces = {(one.provider, one.model, dialect): until for dialect in refused}
    return spoken(one, wanted, translates=translates, refused=surfaces, now=now)


@pytest.mark.parametrize("wanted", list(Dialect))
@pytest.mark.parametrize("translates", [True, False])
def test_own_dialect_first(wanted: Dialect, translates: bool) -> None:
    """An account that speaks the client's dialect is asked in it."""
    assert asked(candidate(*ALL), wanted, translates=translates) is wanted
    assert asked(candidate(wanted), wanted, translates=translates) is wanted


@pytest.mark.parametrize(
    ("one", "wanted", "dialect"),
    [
        (candidate(CHAT, MESSAGES), RESPONSES, CHAT),
        (candidate(RESPONSES, CHAT), MESSAGES, CHAT),
        (candidate(RESPONSES, MESSAGES), CHAT, RESPONSES),
        (candidate(CHAT, MESSAGES, model="claude-opus-5"), RESPONSES, MESSAGES),
        (candidate(CHAT, MESSAGES, model="anthropic/Claude-opus-5"), RESPONSES, MESSAGES),
        (candidate(CHAT, MESSAGES, model="MiniMax-M3"), RESPONSES, MESSAGES),
        (candidate(CHAT, RESPONSES, model="claude-opus-5"), MESSAGES, CHAT),
        (candidate(CHAT, MESSAGES, model="not-claude"), RESPONSES, CHAT),
        (candidate(MESSAGES), CHAT, MESSAGES),
    ],
)
def test_which_other(one: Candidate, wanted: Dialect, dialect: Dialect) -> None:
    """Of other dialects Chat comes first, and Messages for models that are at home there."""
    assert asked(one, wanted) is dialect
    assert asked(one, wanted, translates=False) is None


def test_a_refused_dialect_is_avoided_for_a_while() -> None:
    """What a provider refused for a model is not asked there until its time is over; other models are not concerned."""
    one = candidate(CHAT, MESSAGES)
    assert asked(one, CHAT, CHAT) is MESSAGES
    assert asked(one, CHAT, CHAT, now=99.9) is MESSAGES
    assert asked(one, CHAT, CHAT, now=100.0) is CHAT
    assert asked(one, CHAT, MESSAGES) is CHAT
    other = {("alpha", "another", CHAT): 100.0, ("beta", one.model, CHAT): 100.0}
    assert spoken(one, CHAT, translates=True, refused=other, now=50.0) is CHAT


def test_without_translation_nothing_is_avoided() -> None:
    """A request that cannot be translated is asked in its own dialect, refused or not: there is no other way."""
    assert asked(candidate(CHAT, MESSAGES), CHAT, CHAT, translates=False) is CHAT


@given(st.frozensets(st.sampled_from(list(Dialect)), min_size=1), st.sampled_from(list(Dialect)), st.data())
def test_refusals_never_make_a_model_unroutable(
    there: frozenset[Dialect], wanted: Dialect, data: st.DataObject
) -> None:
    """Whatever was refused, a request that may be translated has a dialect, and one that the account speaks."""
    refused = data.draw(st.lists(st.sampled_from(list(Dialect))))
    dialect = asked(candidate(*there), wanted, *refused)
    assert dialect in there
    if there - set(refused):
        assert dialect not in refused
    else:
        assert dialect is asked(candidate(*there), wanted)
