"""From what went wrong to what is done: every status, code and wording."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.errors import ConnectFailed, UpstreamBroken, UpstreamError, UpstreamTimeout
from eggpool.routing.health import LONGEST_GUESS_S
from eggpool.routing.verdict import VERDICTS, Kind, classify, classify_exception


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_a_verdict(kind: Kind) -> None:
    """What rests, rests for a bounded time; what stops is the request's own fault and rests nothing."""
    verdict = VERDICTS[kind]
    if verdict.next != "another":
        assert (verdict.scope, verdict.on_providers_word) == (None, False)
    else:
        assert verdict.scope is not None
        assert 0 < verdict.first_rest_s <= LONGEST_GUESS_S


def test_what_refuses() -> None:
    """Only limits and money, which a provider itself tells, refuse; everything else only orders."""
    words = {kind for kind, verdict in VERDICTS.items() if verdict.on_providers_word}
    assert words == {Kind.RATE, Kind.CONCURRENCY, Kind.BALANCE, Kind.PLAN_WINDOW}


def test_what_obeys() -> None:
    """A provider that is overloaded refuses when it says when to come back; every other guess stays a guess."""
    assert {kind for kind, verdict in VERDICTS.items() if verdict.obeys} == {Kind.OVERLOADED}


def test_what_rests_an_account() -> None:
    """A whole account rests only for its key, its money, its plan, its connection or all that it may do at once."""
    accounts = {kind for kind, verdict in VERDICTS.items() if verdict.scope == "account"}
    assert accounts == {Kind.CREDENTIALS, Kind.BALANCE, Kind.PLAN_WINDOW, Kind.NETWORK, Kind.CONCURRENCY}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, Kind.BAD_REQUEST) for status in (400, 406, 409, 410, 411, 413, 415, 418, 422, 431)),
        (401, Kind.CREDENTIALS),
        (402, Kind.BALANCE),
        (403, Kind.FORBIDDEN),
        (408, Kind.TIMEOUT),
        (429, Kind.RATE),
        (498, Kind.OVERLOADED),
        (503, Kind.OVERLOADED),
        (529, Kind.OVERLOADED),
        *((status, Kind.ENDPOINT) for status in (404, 405, 501)),
        *((status, Kind.SERVER_ERROR) for status in (500, 502, 504, 520, 522, 524, 599, 200)),
    ],
)
def test_status_alone(status: int, kind: Kind) -> None:
    """Without words the status decides."""
    assert classify(status, "", "", "") is kind


@pytest.mark.parametrize(
    ("status", "code", "error_type", "kind"),
    [
        (429, "insufficient_quota", "insufficient_quota", Kind.BALANCE),
        (429, "", "insufficient_quota", Kind.BALANCE),
        (429, "rate_limit_exceeded", "requests", Kind.RATE),
        (413, "rate_limit_exceeded", "tokens", Kind.RATE),
        (429, "", "exceeded_current_quota_error", Kind.BALANCE),
        (429, "", "rate_limit_reached_error", Kind.RATE),
        (429, "", "engine_overloaded_error", Kind.OVERLOADED),
        (429, "", "usage_limit_reached", Kind.PLAN_WINDOW),
        (400, "", "billing_error", Kind.BALANCE),
        (400, "context_length_exceeded", "invalid_request_error", Kind.PROMPT_TOO_LONG),
        (400, "model_decommissioned", "", Kind.MODEL_MISSING),
        (400, "invalid_encrypted_content", "invalid_request_error", Kind.SIGNATURE),
        (200, "invalid_encrypted_content", "", Kind.SIGNATURE),
        (404, "model_not_found", "", Kind.MODEL_MISSING),
        (400, "", "invalid_model", Kind.MODEL_MISSING),
        (400, "invalid_api_key", "", Kind.CREDENTIALS),
        (401, "", "authentication_error", Kind.CREDENTIALS),
        (200, "", "overloaded_error", Kind.OVERLOADED),
        (200, "server_is_overloaded", "", Kind.OVERLOADED),
        (200, "rate_limit_exceeded", "", Kind.RATE),
        # Z.ai answers 429 for all of them
        (429, "1113", "", Kind.BALANCE),
        (429, "1302", "", Kind.CONCURRENCY),
        (429, "1303", "", Kind.RATE),
        (429, "1304", "", Kind.PLAN_WINDOW),
        (429, "1305", "", Kind.RATE),
        (429, "1308", "", Kind.PLAN_WINDOW),
        (429, "1309", "", Kind.BALANCE),
        (429, "1310", "", Kind.PLAN_WINDOW),
        (429, "1311", "", Kind.MODEL_MISSING),
        (429, "1312", "", Kind.OVERLOADED),
        (429, "1313", "", Kind.PLAN_WINDOW),
        (400, "1211", "", Kind.MODEL_MISSING),
        (400, "1261", "", Kind.PROMPT_TOO_LONG),
        # where an account is at fault, under codes and types of their own
        (401, "", "CreditsError", Kind.BALANCE),
        (400, "Arrearage", "Arrearage", Kind.BALANCE),
        (429, "billing_not_active", "", Kind.BALANCE),
        (400, "billing_hard_limit_reached", "", Kind.BALANCE),
        (402, "insufficient_balance", "", Kind.BALANCE),
        (429, "", "GoUsageLimitError", Kind.PLAN_WINDOW),
        (429, "queue_exceeded", "too_many_requests_error", Kind.OVERLOADED),
        (429, "token_quota_exceeded", "too_many_tokens_error", Kind.RATE),
        (400, "organization_restricted", "invalid_request_error", Kind.CREDENTIALS),
        (401, "account_deactivated", "", Kind.CREDENTIALS),
        (401, "", "invalid_authentication_error", Kind.CREDENTIALS),
        (403, "unsupported_country_region_territory", "request_forbidden", Kind.ADDRESS),
        (404, "", "resource_not_found_error", Kind.MODEL_MISSING),
        (400, "", "exceed_context_size_error", Kind.PROMPT_TOO_LONG),
        (403, "", "permission_denied_error", Kind.FORBIDDEN),
        # numbers that mean another thing with a status
        (401, "1002", "", Kind.CREDENTIALS),
        (401, "1001", "", Kind.CREDENTIALS),
        (400, "1004", "", Kind.BAD_REQUEST),
        # MiniMax answers 200
        (200, "1001", "", Kind.TIMEOUT),
        (200, "1026", "", Kind.BAD_REQUEST),
        (200, "1041", "", Kind.CONCURRENCY),
        (200, "2013", "", Kind.BAD_REQUEST),
        (200, "2045", "", Kind.RATE),
        (200, "2049", "", Kind.CREDENTIALS),
        (200, "2056", "", Kind.PLAN_WINDOW),
        (200, "1013", "", Kind.SERVER_ERROR),
        (200, "1002", "", Kind.RATE),
        (200, "1004", "", Kind.CREDENTIALS),
        (200, "1008", "", Kind.BALANCE),
        (200, "1039", "", Kind.RATE),
        # the status told inside a 200
        (200, "429", "", Kind.RATE),
        (200, "503", "server_error", Kind.OVERLOADED),
        (200, "400", "", Kind.BAD_REQUEST),
        (200, "502", "", Kind.SERVER_ERROR),
        (200, "99", "", Kind.SERVER_ERROR),
        (200, "", "invalid_request_error", Kind.BAD_REQUEST),
        (200, "", "not_found_error", Kind.MODEL_MISSING),
        (200, "", "permission_error", Kind.FORBIDDEN),
        (200, "", "timeout_error", Kind.TIMEOUT),
        (200, "", "api_error", Kind.SERVER_ERROR),
        (200, "", "server_error", Kind.SERVER_ERROR),
        # a code that means nothing here leaves it to the status
        (400, "weird", "invalid_request_error", Kind.BAD_REQUEST),
        (500, "weird", "", Kind.SERVER_ERROR),
    ],
)
def test_codes(status: int, code: str, error_type: str, kind: Kind) -> None:
    """A known code or type says more than the status."""
    assert classify(status, code, error_type, "") is kind


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Your credit balance is too low to access the Anthropic API.", Kind.BALANCE),
        (403, "Insufficient balance", Kind.BALANCE),
        (401, "Insufficient balance. Manage your billing here: https://example.com", Kind.BALANCE),
        (402, "Insufficient Balance", Kind.BALANCE),
        (402, "This request requires more credits, or fewer max_tokens.", Kind.BALANCE),
        (403, "Key limit exceeded (total limit). Manage it in your settings.", Kind.BALANCE),
        (403, "Your newly created team doesn't have any credits yet.", Kind.BALANCE),
        (429, "Your team has either used all available credits or reached its monthly spending limit.", Kind.BALANCE),
        (412, "Account x is suspended, possibly due to reaching the monthly spending limit.", Kind.BALANCE),
        (402, "Credit limit exceeded, please add credits.", Kind.BALANCE),
        (429, "Your account is not active, please check your billing details on our website.", Kind.BALANCE),
        (400, "Access denied, please make sure your account is in good standing.", Kind.BALANCE),
        (400, "API key not valid. Please pass a valid API key.", Kind.CREDENTIALS),
        (400, "Incorrect API key provided: xa***ab. You can obtain one from the console.", Kind.CREDENTIALS),
        (400, "API key expired. Please renew the API key.", Kind.CREDENTIALS),
        (403, "Your API key was reported as leaked. Please use another API key.", Kind.CREDENTIALS),
        (403, "Method doesn't allow unregistered callers.", Kind.CREDENTIALS),
        (400, "This organization has been disabled.", Kind.CREDENTIALS),
        (200, "invalid api key", Kind.CREDENTIALS),
        (400, "User location is not supported for the API use.", Kind.ADDRESS),
        (403, "Country, region, or territory is not supported: your region is not supported", Kind.ADDRESS),
        (403, "The model requires moderation and your input was flagged for violence.", Kind.BAD_REQUEST),
        (
            400,
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
            Kind.PLAN_WINDOW,
        ),
        (400, "input length and `max_tokens` exceed context limit: 190000 + 21333 > 200000", Kind.PROMPT_TOO_LONG),
        (400, "The input token count (12) exceeds the maximum number of tokens allowed (10).", Kind.PROMPT_TOO_LONG),
        (400, "This model's maximum prompt length is 131072 but the request has 200000.", Kind.PROMPT_TOO_LONG),
        (400, "Invalid request: Your request exceeded model token limit: 262144", Kind.PROMPT_TOO_LONG),
        (400, "the request exceeds the available context size.", Kind.PROMPT_TOO_LONG),
        (400, "Range of input length should be [1, 98304]", Kind.PROMPT_TOO_LONG),
        (404, "Not found the model kimi-x or Permission denied", Kind.MODEL_MISSING),
        (404, "No allowed providers are available for the selected model.", Kind.MODEL_MISSING),
        (403, "Project x does not have access to model y", Kind.FORBIDDEN),
        (200, "insufficient balance", Kind.BALANCE),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", Kind.PROMPT_TOO_LONG),
        (400, "This model's maximum context length is 8192 tokens.", Kind.PROMPT_TOO_LONG),
        (413, "too many tokens", Kind.PROMPT_TOO_LONG),
        (200, "input exceeds the context window", Kind.PROMPT_TOO_LONG),
        (404, "The model `gpt-9` does not exist or you do not have access to it.", Kind.MODEL_MISSING),
        (404, "The model `gemini-2.5-pro` does not exist.", Kind.MODEL_MISSING),
        (404, "models/gemini-2.5-ultra is not found for API version v1", Kind.MODEL_MISSING),
        (404, "model: claude-nine", Kind.MODEL_MISSING),
        (404, "No endpoints found for x/y.", Kind.MODEL_MISSING),
        (400, "Invalid model: mistral-huge", Kind.MODEL_MISSING),
        (400, "unknown model 'x'", Kind.MODEL_MISSING),
        (403, "Model glm-5 is not supported on your plan", Kind.MODEL_MISSING),
        (200, "no such model", Kind.MODEL_MISSING),
        (400, "messages.1.content.0: Invalid `signature` in `thinking` block", Kind.SIGNATURE),
        (400, "messages.3.content.1: Invalid `data` in `redacted_thinking` block", Kind.SIGNATURE),
        (400, "messages.1.content.0.thinking.signature: Field required", Kind.SIGNATURE),
        (400, "The encrypted content gAAA...zz could not be verified.", Kind.SIGNATURE),
        (400, "Encrypted content organization_id did not match the target organization.", Kind.SIGNATURE),
        (400, "Thought signature is not valid.", Kind.SIGNATURE),
        # words that only look like it
        (400, "messages.1.content.0.signature: Extra inputs are not permitted", Kind.BAD_REQUEST),
        (400, "include: encrypted content needs store = false", Kind.BAD_REQUEST),
        (500, "Invalid `signature` in `thinking` block", Kind.SERVER_ERROR),
        (404, "Not Found", Kind.ENDPOINT),
        (404, "The file was not found. Choose a model.", Kind.ENDPOINT),
        (400, "Invalid field for this model. The tool f does not exist", Kind.BAD_REQUEST),
        (400, "temperature is not supported with this model", Kind.BAD_REQUEST),
        (500, "model not found", Kind.SERVER_ERROR),
        (429, "prompt is too long", Kind.RATE),
        (401, "model does not exist", Kind.CREDENTIALS),
    ],
)
def test_wordings(status: int, message: str, kind: Kind) -> None:
    """Wordings are looked at where the status leaves it open, within one sentence."""
    assert classify(status, "", "invalid_request_error" if status < 500 else "", message) is kind


def test_a_parameter_is_not_a_model() -> None:
    """An unsupported parameter is the request's fault, although its wording speaks of a model."""
    message = "Unsupported parameter: with the model o3 the field max_tokens is not supported."
    assert classify(400, "unsupported_parameter", "invalid_request_error", message) is Kind.BAD_REQUEST


@given(
    st.sampled_from([200, 400, 401, 403, 404, 412, 413, 422, 429, 500]),
    st.text(),
    st.text(),
    st.text() | st.sampled_from(["model " * 50_000, "encrypted content " * 50_000, "a" * 1_000_000]),
)
def test_any_words(status: int, code: str, error_type: str, message: str) -> None:
    """Whatever a provider says, there is a kind for it."""
    assert classify(status, code, error_type, message) in VERDICTS


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectFailed("x"), Kind.NETWORK),
        (UpstreamTimeout("x", phase="headers"), Kind.TIMEOUT),
        (UpstreamTimeout("x", phase="first_event"), Kind.TIMEOUT),
        (UpstreamTimeout("x", phase="idle"), Kind.TIMEOUT),
        (UpstreamBroken("x"), Kind.BROKEN),
        (UpstreamError("x"), Kind.NO_ANSWER),
    ],
)
def test_exceptions(error: UpstreamError, kind: Kind) -> None:
    """Each failure without an HTTP answer has its kind."""
    assert classify_exception(error) is kind


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Too many concurrent requests", Kind.CONCURRENCY),
        ("concurrency limit reached", Kind.CONCURRENCY),
        ("You have reached your weekly limit", Kind.PLAN_WINDOW),
        ("5-hour usage limit reached", Kind.PLAN_WINDOW),
        ("Quota exceeded for this plan", Kind.PLAN_WINDOW),
        ("Monthly usage limit reached. Resets in 3 days.", Kind.PLAN_WINDOW),
        ("You exceeded your current quota. Quota exceeded for metric: x/requests, limit: 50", Kind.RATE),
        ("Service tier capacity exceeded for this model.", Kind.RATE),
        ("Tokens per minute limit exceeded - too many tokens processed.", Kind.RATE),
        ("Rate limit exceeded: free-models-per-day.", Kind.RATE),
        ("Rate limit reached", Kind.RATE),
        ("Too many requests", Kind.RATE),
        ("", Kind.RATE),
    ],
)
def test_what_a_429_is_about(message: str, kind: Kind) -> None:
    """A 429 says by its words whether the rate, the plan or the number at once is meant."""
    assert classify(429, "", "", message) is kind


@pytest.mark.parametrize("status", [403, 429])
def test_a_page_speaks_of_the_address(status: int) -> None:
    """A refusal that comes as a page is not about the key: no account and no model is blamed for it."""
    assert classify(status, "", "", "<html>You have been blocked</html>", page=True) is Kind.ADDRESS
    assert VERDICTS[Kind.ADDRESS].scope == "provider"
    assert not VERDICTS[Kind.ADDRESS].on_providers_word
