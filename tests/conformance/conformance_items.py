"""What the suite has to show, one entry an item, and the mark by which a test says that it shows one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])

DEVIATIONS: dict[str, str] = {
    "error-words": "`code`, `type`, `param` and `message` of an upstream's error are its own",
    "retry-after": "`retry-after`, `retry-after-ms` and `x-should-retry` reach the client, which waits as it is told",
    "request-id": "every answer has an `x-request-id`; the upstream's own is kept beside it, on errors too",
    "processing-ms": "`openai-processing-ms` and `x-ratelimit-*` keep their names",
    "unknown-model": "an unknown model is 404 `model_not_found`",
    "bad-key": "a wrong key is 401 `invalid_api_key`",
    "chunk-fields": "chunks keep `finish_reason: null`, `created` and vendors' fields",
    "message-fields": "vendors' fields of a message stay where the vendor put them",
    "body-model": "`model` of the body is what the upstream said; the header has the pool's name",
    "usage-hidden": "streams are asked for their usage, and it is hidden where the client did not ask",
    "error-midstream": "a stream that fails ends in an error and without `[DONE]`, also where the upstream hangs up",
    "hang-up": "a client that hangs up cancels the upstream, streaming or not, in every dialect",
    "unknown-fields": "fields that the gateway does not know go upstream as they are",
    "client-retries": "statuses that clients try again keep being tried again: 408, 409, 429, 5xx; others are not",
    "models-shape": "`GET /v1/models` has OpenAI's shape",
    "anthropic-errors": "`/v1/messages` answers errors in Anthropic's shape, with `request-id`",
    "rate-limit-headers": "the gateway's own limits are told in OpenAI's headers, resets as `1s` or `6m0s`",
}
"""Where a gateway that was measured deviates from the API that it stands for."""

COMPLAINTS: dict[str, str] = {
    "first-token-time": "keep-alives do not stretch the time to the first token (LiteLLM #19184, #19909)",
    "first-token-silence": "nor does an empty first chunk",
    "no-fallback": "where fallback is not wanted there is none, also within a stream (LiteLLM #19077)",
    "error-after-first-chunk": "an error behind an empty first chunk still lets the next model answer (Bifrost #5395)",
    "resume": "where it is asked for, another model goes on with a stream that broke off (LiteLLM #38610)",
    "reasoning-usage": "usage of streams is the provider's, also of models that reason (LiteLLM PR #35290)",
    "usage-with-choices": "usage in a chunk that has choices counts (LiteLLM #36168)",
    "cached-price": "cached tokens have their own price (LiteLLM #34801, #40006)",
    "cached-stream-usage": "every stream is recorded with its usage, once (TensorZero #1791, LiteLLM #23847)",
    "cooled-down": "a model that cools down is not asked (LiteLLM PR #34836, #40130)",
    "longer-cooldown": "a later, shorter pause does not cut short a longer one (LiteLLM #40130)",
    "rate-limit-fallback": "429 goes to the next model (Bifrost #3261)",
    "response-format": "a valid `response_format` is never refused (Bifrost #619)",
    "object-field": "answers have their `object` (Bifrost #1638)",
    "partial-recorded": "streams that failed half-way are recorded (TensorZero #475)",
    "hedging": "a slow model is overtaken by a second one (pydantic-ai #4455)",
    "redis-frozen": "a frozen Redis holds up no request (LiteLLM PR #35273)",
    "redis-absent": "the gateway starts without Redis (LiteLLM #3400)",
    "limits-exact": "limits and budgets hold across replicas (LiteLLM #40291, #27736, #33325)",
    "hot-reload": "a change of the file needs no restart (LiteLLM #20409, #30772)",
    "bad-packages": "packages are pinned by hash, known bad versions refused (LiteLLM #24518)",
}
"""What users of other gateways complain about, where a test can show it."""

ELSEWHERE: dict[str, str] = {
    "hedging": "service/resilience/test_resilience_live.py::test_a_slow_model_is_overtaken_and_its_call_cancelled",
    "redis-frozen": "service/limits/test_redis_link.py::test_a_frozen_redis_costs_one_time_out_and_then_nothing",
    "redis-absent": "service/limits/test_redis_link.py::test_start_up_does_not_need_redis",
    "limits-exact": "service/limits/test_budget_processes.py::test_four_replicas_overspend_by_one_request_each_at_most",
    "hot-reload": "service/operations/test_reload.py::test_a_good_configuration_takes_the_place_of_the_old_one",
    "bad-packages": "service/keys/test_check_locks.py::test_every_entry_of_the_denylist_is_read_and_refused",
    "longer-cooldown": "llmrouter/pool/test_cooldowns.py::test_a_shorter_pause_does_not_end_a_longer_one",
}
"""Shown by the tests of the part that does it, below ``tests``."""


def shows(*items: str) -> Callable[[Test], Test]:
    """Mark a test as the one that shows these items."""
    for item in items:
        if item not in DEVIATIONS and item not in COMPLAINTS:
            raise KeyError(item)

    def mark(test: Test) -> Test:
        test.shows = items  # type: ignore[attr-defined]
        return test

    return mark
