"""What of a request the models take that a Messages endpoint serves: thinking, and what stands beside it.

Claude models differ by generation, which their names tell; a name that tells none is taken at its word and gets what
the dialect offered first. Source: the Anthropic API reference, "Extended thinking" (budgets, sampling, forced tools,
thinking in tool loops), "Adaptive thinking", "Effort", and the migration guide for Claude 4.1, 4.6 and 4.7.
"""

from __future__ import annotations

import re

from eggpool.wire.prompt import Effort, Prompt, Reasoning, Thinking, ToolCall, ToolResult
from eggpool.wire.reasoning import budget_of, effort_of

Json = dict[str, object]
Generation = tuple[int, int]

ONE_OF_TWO: Generation = (4, 1)
"""From here on a model takes temperature or top_p, not both."""
ADAPTIVE: Generation = (4, 6)
"""From here on a model is told an effort instead of a budget."""
NO_SAMPLING: Generation = (4, 7)
"""From here on a model takes neither temperature nor top_p nor top_k."""

MIN_BUDGET = 1024
_LOWEST_THINKING_TOP_P = 0.95
_CLAUDE = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2})(?!\d))?")

READ_EFFORTS: dict[str, Effort] = {
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.XHIGH,
    "max": Effort.XHIGH,
}
WRITTEN_EFFORTS: dict[Effort, str] = {
    Effort.MINIMAL: "low",
    Effort.LOW: "low",
    Effort.MEDIUM: "medium",
    Effort.HIGH: "high",
    Effort.XHIGH: "max",  # known to more models than `xhigh`
}


def generation_of(model: str) -> Generation | None:
    """The generation of a Claude model, such as (4, 6); None for any other name."""
    found = _CLAUDE.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def write_thinking(prompt: Prompt, limit: int, lost: list[str]) -> tuple[Json | None, str | None]:
    """The members `thinking` and `output_config.effort`; None where there is nothing to say.

    `limit` is the request's `max_tokens`, which counts the thoughts too: a budget that does not leave room below it is
    lowered to half of it. Thinking is left out where the API would refuse the request because of it.
    """
    asked = prompt.reasoning
    if asked is None:
        return None, None
    effort = effort_of(asked)
    word = None if effort is None else WRITTEN_EFFORTS.get(effort)
    generation = generation_of(prompt.model)
    if not asked.enabled or effort is Effort.NONE:
        told = None if asked.effort is None else WRITTEN_EFFORTS.get(asked.effort)
        return {"type": "disabled"}, told
    adaptive = asked.adaptive or (generation is not None and generation >= ADAPTIVE)
    if _forced(prompt) or (generation is not None and not adaptive and _lacks_thoughts(prompt)):
        lost.append("reasoning")
        return None, word if adaptive else None
    if adaptive:
        thinking: Json = {"type": "adaptive"}
        if asked.summary is not None:
            thinking["display"] = "summarized"
        return thinking, word
    return _with_budget(asked, limit, lost), word if asked.budget_tokens is not None and asked.effort else None


def _with_budget(asked: Reasoning, limit: int, lost: list[str]) -> Json | None:
    budget = budget_of(asked)
    if budget is None:
        lost.append("reasoning")  # no more than a wish for summaries
        return None
    if budget >= limit:
        budget = limit // 2
    budget = max(budget, MIN_BUDGET)
    if budget >= limit:
        lost.append("reasoning")
        return None
    return {"type": "enabled", "budget_tokens": budget}


def _forced(prompt: Prompt) -> bool:
    """A model that must call a tool may not think."""
    return prompt.tool_choice is not None and prompt.tool_choice.mode in ("required", "named")


def _lacks_thoughts(prompt: Prompt) -> bool:
    """Whether the request continues a call of a tool before which the model is not seen thinking.

    Models with a budget want to see their signed thoughts again there.
    """
    if not prompt.turns or not any(isinstance(block, ToolResult) for block in prompt.turns[-1].blocks):
        return False
    answers = [turn.blocks for turn in prompt.turns if turn.role == "assistant"]
    if not answers or not any(isinstance(block, ToolCall) for block in answers[-1]):
        return False
    return not any(isinstance(block, Thinking) and (block.signature or block.redacted) for block in answers[-1])


def write_sampling(prompt: Prompt, *, thinks: bool, lost: list[str]) -> Json:
    """The members for sampling."""
    sampling = prompt.sampling
    generation = generation_of(prompt.model) or (0, 0)
    payload: Json = {}
    for name in ("frequency_penalty", "presence_penalty", "seed"):
        if getattr(sampling, name) is not None:
            lost.append(name)
    temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
    if temperature is not None and temperature > 1:
        lost.append("temperature")
        temperature = 1.0
    refuses_all = generation >= NO_SAMPLING
    if temperature is not None:
        if refuses_all or (thinks and temperature != 1):
            lost.append("temperature")
        else:
            payload["temperature"] = temperature
    if top_p is not None:
        both = "temperature" in payload and generation >= ONE_OF_TWO
        if refuses_all or both or (thinks and top_p < _LOWEST_THINKING_TOP_P):
            lost.append("top_p")
        else:
            payload["top_p"] = top_p
    if top_k is not None:
        if refuses_all or thinks:
            lost.append("top_k")
        else:
            payload["top_k"] = top_k
    stops = [stop for stop in sampling.stop if stop.strip()]
    if len(stops) < len(sampling.stop):
        lost.append("stop")  # one of blanks only, which the API refuses
    if stops:
        payload["stop_sequences"] = stops
    return payload
