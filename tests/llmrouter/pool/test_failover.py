"""What is tried next, what is reported, who cools down: without I/O."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.exceptions import (
    BackendConnectError,
    BackendError,
    BackendStatusError,
    BackendStreamError,
    BackendTimeoutError,
)
from llmrouter.pool import (
    FALLBACK_CLASSES,
    FailedAttempt,
    FailureClass,
    FailureKind,
    Walk,
    failover,
    failure_class,
    failure_kind,
    is_upstream_trouble,
    most_telling,
    retry_after_s,
)

FILTERED = b'{"error": {"code": "content_filter", "message": "no"}}'
OVERFLOW_BODY = b'{"error": {"code": "context_length_exceeded", "message": "too long"}}'


def status(code: int, body: bytes = b"{}", **headers: str) -> BackendStatusError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return BackendStatusError("x", status=code, body=body, headers=names)


def walk(models: list[str], errors: dict[str, BackendError], **options: object) -> list[str]:
    """Return the models tried; one without an error answers."""
    steps = failover(models, **{"windows": {}, **options})  # type: ignore[arg-type]
    tried = []
    try:
        name = next(steps)
        while True:
            tried.append(name)
            if name not in errors:
                return tried
            name = steps.send(errors[name])
    except StopIteration:
        return tried


@pytest.mark.parametrize("code", [401, 402, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_an_upstreams_own_trouble_goes_to_the_next(code: int) -> None:
    assert failure_kind(status(code)) is FailureKind.NEXT


@pytest.mark.parametrize("code", [400, 405, 413, 415, 422])
def test_a_fault_of_the_request_stops(code: int) -> None:
    assert failure_kind(status(code)) is FailureKind.CLIENT
    assert walk(["a", "b"], {"a": status(code)}) == ["a"]


@pytest.mark.parametrize("error", [BackendConnectError("x"), BackendTimeoutError("x"), BackendStreamError("x")])
def test_broken_connections_go_to_the_next(error: BackendError) -> None:
    assert walk(["a", "b", "c"], {"a": error}) == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        OVERFLOW_BODY,
        b'{"error": {"message": "This model\'s maximum context length is 8192 tokens"}}',
        b'{"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}',
        b"Input is too long for requested model.",
    ],
)
def test_a_prompt_too_long_goes_to_a_larger_window(body: bytes) -> None:
    windows = {"small": 8, "same": 8, "unknown": None, "large": 32}
    assert failure_kind(status(400, body)) is FailureKind.LARGER
    tried = walk(["small", "same", "large"], {"small": status(400, body)}, windows=windows)
    assert tried == ["small", "large"]
    assert walk(["small", "unknown"], {"small": status(400, body)}, windows=windows) == ["small", "unknown"]
    assert walk(["large", "small"], {"large": status(400, body)}, windows=windows) == ["large"]


def test_cooling_models_come_last_but_are_tried() -> None:
    down = BackendConnectError("x")
    assert walk(["a", "b", "c"], {}, cooling=lambda name: name == "a") == ["b"]
    assert walk(["a", "b"], {"b": down}, cooling=lambda name: name == "a") == ["b", "a"]
    assert walk(["a", "b"], {"a": down}, cooling=lambda _: True) == ["a", "b"]


def test_attempts_are_limited() -> None:
    names = [str(i) for i in range(9)]
    assert walk(names, dict.fromkeys(names, BackendConnectError("x")), max_attempts=3) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (status(429), FailureClass.RATE_LIMIT),
        (status(500), FailureClass.SERVER_ERROR),
        (status(529), FailureClass.SERVER_ERROR),
        (status(409), FailureClass.SERVER_ERROR),
        (status(408), FailureClass.TIMEOUT),
        (BackendTimeoutError("x"), FailureClass.TIMEOUT),
        (BackendConnectError("x"), FailureClass.CONNECTION),
        (BackendStreamError("x"), FailureClass.CONNECTION),
        (BackendError("x"), FailureClass.CONNECTION),
        (status(400, OVERFLOW_BODY), FailureClass.CONTEXT_OVERFLOW),
        (status(400, FILTERED), FailureClass.CONTENT_FILTER),
        (status(400, b'{"error": {"code": "content_policy_violation"}}'), FailureClass.CONTENT_FILTER),
        (
            status(400, b'{"error": {"code": null, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}'),
            FailureClass.CONTENT_FILTER,
        ),
        (status(400, b'{"error": {"message": "unknown value: content_filter"}}'), FailureClass.REQUEST),
        (status(400, b'["content_filter"]'), FailureClass.REQUEST),
        (status(400, b"content_filter"), FailureClass.REQUEST),
        (status(403), FailureClass.LOCKED_OUT),
        (status(422), FailureClass.REQUEST),
    ],
)
def test_failures_have_classes(error: BackendError, found: FailureClass) -> None:
    assert failure_class(error) is found


def test_what_a_provider_refuses_another_may_take_and_it_is_not_blamed() -> None:
    refused = status(400, FILTERED)
    assert failure_kind(refused) is FailureKind.NEXT
    assert walk(["a", "b"], {"a": refused}) == ["a", "b"]
    assert not is_upstream_trouble(refused)
    assert not is_upstream_trouble(status(400, OVERFLOW_BODY))
    assert not is_upstream_trouble(status(422))
    assert is_upstream_trouble(status(429))
    assert is_upstream_trouble(BackendTimeoutError("x"))


@pytest.mark.parametrize(
    ("error", "kind"), [(status(400, FILTERED), FailureClass.CONTENT_FILTER), (status(500), FailureClass.SERVER_ERROR)]
)
def test_classes_may_be_left_out_of_falling_back(error: BackendError, kind: FailureClass) -> None:
    assert walk(["a", "b"], {"a": error}, fallback_on=FALLBACK_CLASSES - {kind}) == ["a"]
    assert walk(["a", "b"], {"a": error}, fallback_on={kind}) == ["a", "b"]


def test_a_fault_of_the_request_never_falls_back() -> None:
    assert walk(["a", "b"], {"a": status(400)}, fallback_on=set(FailureClass)) == ["a"]


def test_a_model_is_asked_again_but_not_for_the_same_trouble() -> None:
    down = dict.fromkeys("ab", BackendConnectError("x"))
    assert walk(["a", "b"], down, retries_same_model=1) == ["a", "a", "b", "b"]
    assert walk(["a", "b"], down, retries_same_model=3) == ["a", "a", "b", "b"]
    assert walk(["a", "b"], {"a": status(429)}, retries_same_model=3) == ["a", "b"], "it would only be told again"
    steps = Walk(["a", "b"], windows={}, retries_same_model=2)
    tried = []
    for error in (status(500), BackendConnectError("x"), status(503)):
        tried.append(steps.next())
        steps.failed("a", error)
    assert tried == ["a", "a", "a"]
    assert steps.next() == "b"


def test_beside_another_only_a_model_that_is_well() -> None:
    steps = Walk(["a", "b", "c"], windows={}, cooling=lambda name: name == "b")
    assert (steps.next(), steps.beside(), steps.beside()) == ("a", "c", None)
    assert steps.next() == "b", "it is still there for when the others fail"


def test_attempts_beside_another_count() -> None:
    steps = Walk(["a", "b", "c"], windows={}, max_attempts=3)
    assert (steps.next(), steps.claim(), steps.beside(), steps.claim(), steps.next()) == ("a", True, "b", False, None)


ERRORS = [status(500), status(400), status(400, OVERFLOW_BODY), status(400, FILTERED), status(429), status(401)]
ERRORS += [BackendConnectError("x"), BackendTimeoutError("x")]


@given(
    models=st.lists(st.sampled_from("abcdef"), unique=True, min_size=1),
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(1, 6))),
    cold=st.sets(st.sampled_from("abcdef")),
    max_attempts=st.integers(1, 12),
    retries=st.integers(0, 3),
    fallback_on=st.frozensets(st.sampled_from(sorted(FailureClass, key=str))),
    data=st.data(),
)
def test_the_walk_keeps_to_its_limits(
    models: list[str],
    sizes: dict[str, int | None],
    cold: set[str],
    max_attempts: int,
    retries: int,
    fallback_on: frozenset[FailureClass],
    data: st.DataObject,
) -> None:
    steps = failover(
        models,
        windows=sizes,
        cooling=cold.__contains__,
        max_attempts=max_attempts,
        fallback_on=fallback_on,
        retries_same_model=retries,
    )
    tried: list[tuple[str, FailureClass]] = []
    error = None
    too_small = 0
    while True:
        try:
            name = next(steps) if error is None else steps.send(error)
        except StopIteration:
            break
        assert sizes.get(name) is None or sizes[name] > too_small
        error = data.draw(st.sampled_from(ERRORS))
        tried.append((name, failure_class(error)))
        if tried[-1][1] is FailureClass.CONTEXT_OVERFLOW:
            too_small = max(too_small, sizes.get(name) or 0)
    names = [name for name, _ in tried]
    assert 1 <= len(names) <= max_attempts
    assert set(names) <= set(models)
    assert all(names.count(name) <= 1 + retries for name in names)
    assert all(found in fallback_on and found is not FailureClass.REQUEST for _, found in tried[:-1])
    for name in set(names):
        classes = [found for other, found in tried if other == name]
        assert len(set(classes[:-1])) == len(classes[:-1]), "no retry after the same trouble twice"
    warm = [name for name in models if name not in cold]
    if warm and not cold.isdisjoint(models):
        assert names[0] == warm[0]


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([status(429), BackendConnectError("x")], 0),
        ([BackendConnectError("x"), status(503)], 1),
        ([status(500), status(503)], 1),
        ([status(401), BackendTimeoutError("x")], 1),
        ([BackendTimeoutError("x"), BackendConnectError("x")], 0),
        ([status(400, OVERFLOW_BODY), status(429)], 1),
        ([status(500), status(422)], 1),
        ([status(400, OVERFLOW_BODY)], 0),
        ([BackendStreamError("x"), BackendConnectError("x")], 1),
        ([status(400, FILTERED), status(400, OVERFLOW_BODY)], 0),
        ([status(400, FILTERED), BackendConnectError("x")], 1),
        ([status(408), BackendTimeoutError("x")], 0),
    ],
)
def test_the_most_telling_failure(errors: list[BackendError], told: int) -> None:
    failures = [FailedAttempt(str(i), error) for i, error in enumerate(errors)]
    assert most_telling(failures) is failures[told]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": email.utils.formatdate(1030, usegmt=True)}, 30),
        ({"retry_after": email.utils.formatdate(900, usegmt=True)}, 0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-3"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(status(429, **headers), now=1000.0) == seconds
