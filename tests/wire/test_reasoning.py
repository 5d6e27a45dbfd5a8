"""How much a model shall think, from words to tokens and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.wire.prompt import Effort, Reasoning
from eggpool.wire.reasoning import BUDGETS, budget_of, effort_of


@pytest.mark.parametrize("effort", list(Effort))
def test_an_effort_and_its_budget_mean_the_same(effort: Effort) -> None:
    """Words that became tokens become the same words again."""
    budget = budget_of(Reasoning(effort=effort))
    assert budget == BUDGETS[effort]
    if effort is not Effort.NONE:
        assert effort_of(Reasoning(budget_tokens=budget)) is effort


@pytest.mark.parametrize(
    ("budget", "effort"),
    [
        (1, Effort.MINIMAL),
        (1023, Effort.MINIMAL),
        (1024, Effort.MINIMAL),
        (2047, Effort.MINIMAL),
        (2048, Effort.LOW),
        (8191, Effort.LOW),
        (8192, Effort.MEDIUM),
        (16_384, Effort.HIGH),
        (31_999, Effort.HIGH),
        (32_768, Effort.XHIGH),
        (10**9, Effort.XHIGH),
    ],
)
def test_a_budget_between_two_efforts(budget: int, effort: Effort) -> None:
    """No model is told to think more than the client wanted to pay for, if it is told to think at all."""
    assert effort_of(Reasoning(budget_tokens=budget)) is effort


def test_what_is_left_to_the_model() -> None:
    """Where nothing is said, nothing is made up; what is switched off stays off, whatever stands beside it."""
    assert effort_of(Reasoning()) is None
    assert budget_of(Reasoning()) is None
    assert effort_of(Reasoning(enabled=False, effort=Effort.HIGH, budget_tokens=9000)) is Effort.NONE
    assert effort_of(Reasoning(effort=Effort.LOW, budget_tokens=32_768)) is Effort.LOW
    assert budget_of(Reasoning(effort=Effort.LOW, budget_tokens=32_768)) == 32_768


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_more_tokens_are_never_less_effort(first: int, second: int) -> None:
    """The table is in order."""
    efforts = [effort_of(Reasoning(budget_tokens=budget)) for budget in sorted((first, second))]
    order = list(BUDGETS)
    lower, higher = (order.index(effort) for effort in efforts if effort is not None)
    assert lower <= higher
