"""Keys that other versions knew and this one has no use for: named in a warning, never an error.

Only the table of patterns and its look-up live here. In a pattern, `*` stands for a name, for part of one, or for the
place in a list; what is below a key that matches is covered by it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

RETIRED: tuple[str, ...] = (
    "alerts",
    "backup",
    "maintenance",
    "metrics",
    "model_capabilities",
    "model_info",
    "model_routers",
    "network",
    "pricing",
    "readiness_probe",
    "transcoder",
    "update_checker",
    "server.max_request_body_bytes",
    "server.threads",
    "database.journal_size_limit",
    "database.url",
    "database.worker_threads",
    "models.catalog_withdrawal_policy",
    "routing.fairness_*",
    "routing.local_quota_mode",
    "routing.trace",
    "routing.wire_negotiation",
    "providers.*.auth.additional",
    "providers.*.kind",
    "providers.*.model_wire",
    "providers.*.stream_completion_policy",
    "providers.*.stream_timeouts",
    "providers.*.wire_surfaces",
)

_SPLIT = tuple(tuple(pattern.split(".")) for pattern in RETIRED)


def is_retired(trail: tuple[str, ...]) -> bool:
    """Whether the key at that trail is known from another version; a place in a list is a part of its own."""
    return any(
        len(pattern) == len(trail) and all(fnmatchcase(part, mask) for part, mask in zip(trail, pattern, strict=True))
        for pattern in _SPLIT
    )
