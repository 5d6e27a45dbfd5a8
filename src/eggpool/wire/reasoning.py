"""How much a model shall think, in the measures of the dialects: an effort in words, or a budget in tokens."""

from __future__ import annotations

from eggpool.wire.prompt import Effort, Reasoning

BUDGETS: dict[Effort, int] = {
    Effort.NONE: 0,
    Effort.MINIMAL: 1024,
    Effort.LOW: 2048,
    Effort.MEDIUM: 8192,
    Effort.HIGH: 16384,
    Effort.XHIGH: 32768,
}
"""The thinking budget in tokens that stands for an effort."""


def effort_of(reasoning: Reasoning) -> Effort | None:
    """The effort that is meant, None when the model is to decide."""
    if not reasoning.enabled:
        return Effort.NONE
    if reasoning.effort is not None or reasoning.budget_tokens is None:
        return reasoning.effort
    # The largest effort whose budget is not above the one that was asked for.
    fitting = [effort for effort, tokens in BUDGETS.items() if 0 < tokens <= reasoning.budget_tokens]
    return max(fitting, key=BUDGETS.__getitem__, default=Effort.MINIMAL)


def budget_of(reasoning: Reasoning) -> int | None:
    """The budget in tokens that is meant, None when the model is to decide."""
    if reasoning.budget_tokens is not None:
        return reasoning.budget_tokens
    return None if reasoning.effort is None else BUDGETS[reasoning.effort]
