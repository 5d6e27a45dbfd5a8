"""From what went wrong to what is done about it: one table.

`classify` names the kind of a failure from its status, code and wording; `VERDICTS` says for each kind what rests, for
how long when the provider gives no time, whether another account is tried, and how the failure is booked.
Sources for codes and wordings: the providers' error pages (OpenAI, Anthropic, OpenRouter, Z.ai, DeepSeek, Gemini, Groq,
Mistral, MiniMax, Moonshot, xAI, Cerebras, Alibaba).
"""

from __future__ import annotations

import enum
import re
from typing import Literal

import msgspec

from eggpool.errors import ConnectFailed, UpstreamBroken, UpstreamError, UpstreamTimeout
from eggpool.routing.health import Scope

Next = Literal["another", "larger", "bare", "otherwise", "stop"]
"""Try another account, only one whose known window for the model is larger, the same one without what only another
account can read, the same one in another dialect, or none."""


class Kind(enum.StrEnum):
    """What went wrong with an attempt. The values stand in the books and on the pages."""

    BAD_REQUEST = "bad_request"
    PROMPT_TOO_LONG = "prompt_too_long"
    SIGNATURE = "signature"  # the request holds thinking or reasoning that another account made
    ENDPOINT = "endpoint"  # the provider does not serve the model there, but perhaps in another dialect
    CREDENTIALS = "credentials"
    FORBIDDEN = "forbidden"
    BALANCE = "balance"
    PLAN_WINDOW = "plan_window"
    RATE = "rate"
    CONCURRENCY = "concurrency"
    ADDRESS = "address"  # the provider's doorkeeper refuses our address, whatever key we show
    OVERLOADED = "overloaded"
    MODEL_MISSING = "model_missing"
    SERVER_ERROR = "server_error"
    NETWORK = "network"
    TIMEOUT = "timeout"
    BROKEN = "broken"
    NO_ANSWER = "no_answer"


class Verdict(msgspec.Struct, frozen=True):
    """What a failure leads to.

    `scope` is what rests, None for nothing; `first_rest_s` is the first guess at how long, doubled at each failure in
    a row; `on_providers_word` tells whether the rest refuses or only orders. A kind that `obeys` refuses too when the
    provider itself said when to come back.
    """

    next: Next
    scope: Scope | None
    first_rest_s: float
    on_providers_word: bool
    obeys: bool = False


VERDICTS: dict[Kind, Verdict] = {
    #                              next       scope      first rest  provider's word
    Kind.BAD_REQUEST: Verdict("stop", None, 0, False),
    Kind.PROMPT_TOO_LONG: Verdict("larger", None, 0, False),
    Kind.SIGNATURE: Verdict("bare", None, 0, False),
    Kind.ENDPOINT: Verdict("otherwise", None, 0, False),
    Kind.CREDENTIALS: Verdict("another", "account", 30, False),
    Kind.FORBIDDEN: Verdict("another", "model", 30, False),
    Kind.BALANCE: Verdict("another", "account", 60, True),
    Kind.PLAN_WINDOW: Verdict("another", "account", 60, True),
    Kind.RATE: Verdict("another", "model", 1, True),
    Kind.CONCURRENCY: Verdict("another", "account", 1, True),
    Kind.ADDRESS: Verdict("another", "provider", 5, False),
    Kind.OVERLOADED: Verdict("another", "model", 1, False, obeys=True),
    Kind.MODEL_MISSING: Verdict("another", "model", 30, False),
    Kind.SERVER_ERROR: Verdict("another", "model", 1, False),
    Kind.NETWORK: Verdict("another", "account", 1, False),
    Kind.TIMEOUT: Verdict("another", "model", 1, False),
    Kind.BROKEN: Verdict("another", "model", 1, False),
    Kind.NO_ANSWER: Verdict("another", "model", 1, False),
}

_BY_CODE: dict[str, Kind] = {
    # money
    "insufficient_quota": Kind.BALANCE,
    "insufficient_balance": Kind.BALANCE,
    "billing_error": Kind.BALANCE,
    "billing_not_active": Kind.BALANCE,
    "billing_hard_limit_reached": Kind.BALANCE,
    "exceeded_current_quota_error": Kind.BALANCE,
    "CreditsError": Kind.BALANCE,  # OpenCode, with a 401
    "Arrearage": Kind.BALANCE,  # Alibaba, with a 400
    # limits
    "usage_limit_reached": Kind.PLAN_WINDOW,
    "GoUsageLimitError": Kind.PLAN_WINDOW,
    "rate_limit_exceeded": Kind.RATE,
    "rate_limit_error": Kind.RATE,
    "rate_limit_reached_error": Kind.RATE,
    # load
    "overloaded_error": Kind.OVERLOADED,
    "engine_overloaded_error": Kind.OVERLOADED,
    "server_is_overloaded": Kind.OVERLOADED,
    "queue_exceeded": Kind.OVERLOADED,  # Cerebras, with a 429
    # the request
    "context_length_exceeded": Kind.PROMPT_TOO_LONG,
    "exceed_context_size_error": Kind.PROMPT_TOO_LONG,  # llama.cpp
    "invalid_encrypted_content": Kind.SIGNATURE,
    "unsupported_parameter": Kind.BAD_REQUEST,  # its wording speaks of models too
    "unsupported_value": Kind.BAD_REQUEST,
    # the model
    "model_not_found": Kind.MODEL_MISSING,
    "model_decommissioned": Kind.MODEL_MISSING,
    "invalid_model": Kind.MODEL_MISSING,
    "resource_not_found_error": Kind.MODEL_MISSING,  # Moonshot
    # the key
    "invalid_api_key": Kind.CREDENTIALS,
    "authentication_error": Kind.CREDENTIALS,
    "invalid_authentication_error": Kind.CREDENTIALS,
    "account_deactivated": Kind.CREDENTIALS,
    "organization_restricted": Kind.CREDENTIALS,  # Groq, with a 400
    "unsupported_country_region_territory": Kind.ADDRESS,
    # Z.ai
    "1113": Kind.BALANCE,
    "1211": Kind.MODEL_MISSING,
    "1261": Kind.PROMPT_TOO_LONG,
    "1302": Kind.CONCURRENCY,
    "1303": Kind.RATE,
    "1304": Kind.PLAN_WINDOW,
    "1305": Kind.RATE,
    "1308": Kind.PLAN_WINDOW,
    "1309": Kind.BALANCE,
    "1310": Kind.PLAN_WINDOW,
    "1311": Kind.MODEL_MISSING,
    "1312": Kind.OVERLOADED,
    "1313": Kind.PLAN_WINDOW,
}

_BY_CODE_IN_BAND: dict[str, Kind] = {
    # MiniMax; with a status, Z.ai gives some of these numbers another meaning
    "1001": Kind.TIMEOUT,
    "1002": Kind.RATE,
    "1004": Kind.CREDENTIALS,
    "1008": Kind.BALANCE,
    "1026": Kind.BAD_REQUEST,
    "1039": Kind.RATE,
    "1041": Kind.CONCURRENCY,
    "2013": Kind.BAD_REQUEST,
    "2045": Kind.RATE,
    "2049": Kind.CREDENTIALS,
    "2056": Kind.PLAN_WINDOW,
}

_BY_TYPE_IN_BAND: dict[str, Kind] = {
    "invalid_request_error": Kind.BAD_REQUEST,
    "not_found_error": Kind.MODEL_MISSING,
    "permission_error": Kind.FORBIDDEN,
    "timeout_error": Kind.TIMEOUT,
}

_BY_STATUS: dict[int, Kind] = {
    401: Kind.CREDENTIALS,
    402: Kind.BALANCE,
    403: Kind.FORBIDDEN,
    404: Kind.ENDPOINT,
    405: Kind.ENDPOINT,
    408: Kind.TIMEOUT,
    429: Kind.RATE,
    498: Kind.OVERLOADED,  # Groq: no capacity at this tier
    501: Kind.ENDPOINT,
    503: Kind.OVERLOADED,
    529: Kind.OVERLOADED,
}

LONGEST_WORDS = 8192  # characters of a message that are looked at
_HTTP_STATUS = re.compile(r"[45][0-9][0-9]")

_BALANCE = re.compile(
    r"credit balance is too low|insufficient (?:balance|credits|funds)|credit limit exceeded|key limit exceeded"
    r"|have any credits|used all available credits|requires more credits|(?:monthly|account) spending limit"
    r"|check your billing|in good standing",
    re.I,
)
_CREDENTIALS = re.compile(
    r"(?:invalid|incorrect|expired|missing|disabled|revoked) api[- ]?key"
    r"|api[- ]?key (?:is |was |has been )?(?:not valid|invalid|incorrect|expired|disabled|revoked|reported as leaked)"
    r"|unregistered callers|organization has been (?:disabled|restricted)",
    re.I,
)
_ADDRESS = re.compile(r"(?:location|country|region) is not supported", re.I)
_FLAGGED = re.compile(r"flagged|moderation", re.I)
_API_USAGE = re.compile(r"reached your specified api usage limits", re.I)
_SIGNATURE = re.compile(
    # Anthropic names the block and its field; OpenAI quotes the content between the two halves.
    r"invalid `?(?:signature|data)`? in `?(?:redacted_)?thinking`? block|thinking\.signature: field required"
    r"|thought signature is not valid|encrypted content .{0,1024}?(?:could not be|did not match)",
    re.I | re.S,
)
_TOO_LONG = re.compile(
    r"prompt is too long|context (?:length|window|limit|size)|too many tokens|maximum prompt length"
    r"|exceeds the maximum number of tokens|exceeded model token limit|range of input length",
    re.I,
)
_MODEL_MISSING = re.compile(
    # Within one sentence; a full stop inside a name (gemini-2.5) does not end it.
    r"model(?:[^.]|\.(?=\S)){0,120}?(?:not found|not available|does not exist|not supported)"
    r"|(?:unknown|unsupported|no such|invalid|not found the) model|no endpoints found|^model: "
    r"|no allowed providers are available",
    re.I,
)
_CONCURRENCY = re.compile(r"concurren(?:t|cy)|simultaneous|parallel requests", re.I)
_METRIC = re.compile(r"quota exceeded for (?:quota )?metric", re.I)  # Gemini counts each model by itself
_PLAN_WINDOW = re.compile(
    r"(?:usage|plan|weekly|monthly|daily|\d+[- ]hour) (?:limit|quota)|quota (?:exceeded|exhausted)", re.I
)

_ENDPOINT = re.compile(
    r"supported (?:in|on|by|with|via|for) (?:the )?/?(?:v1/)?(?:responses|chat/completions|messages)"
    r"|not a chat model|use (?:the )?/?(?:v1/)?(?:responses|chat/completions|messages)\b"
    r"|unknown request url|invalid url|unsupported endpoint|unknown endpoint|no route",
    re.I,
)

_BY_WORDS: tuple[tuple[frozenset[int], re.Pattern[str], Kind], ...] = (
    # Where the status leaves it open, the words decide; the first row that fits holds.
    (frozenset({200, 400, 401, 403, 404, 412, 413, 422, 429}), _BALANCE, Kind.BALANCE),
    (frozenset({200, 400, 403}), _CREDENTIALS, Kind.CREDENTIALS),
    (frozenset({400, 403}), _ADDRESS, Kind.ADDRESS),
    (frozenset({403}), _FLAGGED, Kind.BAD_REQUEST),
    (frozenset({200, 400, 403}), _API_USAGE, Kind.PLAN_WINDOW),
    (frozenset({200, 400, 422}), _SIGNATURE, Kind.SIGNATURE),
    (frozenset({200, 400, 413, 422}), _TOO_LONG, Kind.PROMPT_TOO_LONG),
    (frozenset({400, 404, 405, 422}), _ENDPOINT, Kind.ENDPOINT),
    (frozenset({200, 400, 403, 404, 422}), _MODEL_MISSING, Kind.MODEL_MISSING),
    (frozenset({429}), _CONCURRENCY, Kind.CONCURRENCY),
    (frozenset({429}), _METRIC, Kind.RATE),
    (frozenset({429}), _PLAN_WINDOW, Kind.PLAN_WINDOW),
)


def classify(status: int, code: str, error_type: str, message: str, *, page: bool = False) -> Kind:
    """The kind of an error that a provider told, from its status (200 for one told inside a stream) and words.

    `page` is true for one that came as HTML: that is not the API speaking, but what stands before it.
    """
    if page and status in (403, 429):
        return Kind.ADDRESS
    kind = _BY_CODE.get(code) or _BY_CODE.get(error_type)
    if kind is None and status == 200:
        kind = _BY_CODE_IN_BAND.get(code)
    if kind is not None:
        return kind
    if status == 200 and _HTTP_STATUS.fullmatch(code):
        status = int(code)  # OpenRouter and Gemini tell the status there
    message = message[:LONGEST_WORDS]
    for statuses, words, told in _BY_WORDS:
        if status in statuses and words.search(message):
            return told
    if status == 200 and error_type in _BY_TYPE_IN_BAND:
        return _BY_TYPE_IN_BAND[error_type]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return Kind.BAD_REQUEST if 400 <= status < 500 else Kind.SERVER_ERROR


def classify_exception(error: UpstreamError) -> Kind:
    """The kind of a failure without an HTTP answer."""
    if isinstance(error, ConnectFailed):
        return Kind.NETWORK
    if isinstance(error, UpstreamTimeout):
        return Kind.TIMEOUT
    if isinstance(error, UpstreamBroken):
        return Kind.BROKEN
    return Kind.NO_ANSWER
