"""Aliases of models: names for a model, or for several that are tried in order.

Only what an alias may lead to is checked here; what a name means in a request is `routing.catalog`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from eggpool.config.findings import Findings, at


def check_chains(aliases: Mapping[str, tuple[str, ...]], place: str, findings: Findings) -> None:
    """Aliases lead to models: none is empty, and none leads back to itself."""
    for name, models in aliases.items():
        here = at(place, name)
        if not name.strip() or not models or not all(model.strip() for model in models):
            findings.problem(here, "expected the name of a model, or a list of such names, not empty")
        elif name in models:
            findings.problem(here, "leads to itself")
        elif len(set(models)) < len(models):
            findings.problem(here, "names a model twice")
    for name in _on_a_cycle(aliases):
        findings.problem(at(place, name), "leads back to itself by way of other aliases")


def _on_a_cycle(aliases: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The aliases that lead back to themselves over at least one other, each found by walking on from it."""
    found: list[str] = []
    for start in aliases:
        seen: set[str] = set()
        waiting = [model for model in aliases[start] if model != start]
        while waiting:
            name = waiting.pop()
            if name == start:
                found.append(start)
                break
            if name not in seen:
                seen.add(name)
                waiting.extend(aliases.get(name, ()))
    return found
