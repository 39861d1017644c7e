"""Tokens: their form, what is kept of them, what is shown of them."""

from __future__ import annotations

import hashlib
import string

from hypothesis import given
from hypothesis import strategies as st

from service.keys import token as tokens
from service.keys.authenticator import token_in

CHARACTERS = string.ascii_letters + string.digits


def test_a_new_token_has_the_agreed_form() -> None:
    key_id = tokens.new_id()
    token = tokens.new_token(key_id)
    assert len(key_id) == 12
    assert set(key_id) <= set(CHARACTERS)
    assert token.startswith(f"llmr-{key_id}-")
    assert len(token) == len("llmr-") + 12 + 1 + 43
    assert tokens.id_in(token) == key_id
    assert token[tokens.ID] == key_id


def test_tokens_do_not_repeat() -> None:
    assert len({tokens.new_token("A" * 12) for _ in range(1000)}) == 1000


def test_the_digest_is_sha256_of_the_whole_token() -> None:
    token = tokens.new_token(tokens.new_id())
    assert tokens.digest_of(token) == hashlib.sha256(token.encode()).digest()


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    key_id = tokens.id_in(text)
    if key_id is not None:
        assert tokens.is_id(key_id)
    assert len(tokens.digest_of(text)) == 32
    shown = tokens.masked(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 8


@given(st.text(CHARACTERS + "-_", min_size=60, max_size=62))
def test_only_the_exact_length_is_a_token(rest: str) -> None:
    token = "llmr-" + rest
    right = len(token) == 61 and rest[12:13] == "-" and rest[:12].isalnum()
    assert (tokens.id_in(token) is not None) == right


@given(st.integers(0, 60), st.sampled_from(["", " ", "\n", "\0", "ä", "llmr-"]))
def test_a_token_with_anything_put_in_is_none(at: int, extra: str) -> None:
    token = tokens.new_token(tokens.new_id())
    changed = token[:at] + extra + token[at:]
    assert (tokens.id_in(changed) is None) == bool(extra)


def test_a_line_end_after_a_token_is_no_part_of_it() -> None:
    assert tokens.id_in(tokens.new_token("A" * 12) + "\n") is None
    assert not tokens.is_id("A" * 12 + "\n")


@given(st.text(min_size=16))
def test_no_more_than_four_characters_of_a_token_are_shown(text: str) -> None:
    assert tokens.masked(text).startswith("****")
    assert text[:-4] not in tokens.masked(text)


OURS = tokens.new_token("A" * 12)


def test_the_headers_that_carry_a_key() -> None:
    for name, value in (
        (b"authorization", b"Bearer " + OURS.encode()),
        (b"authorization", b"bearer  " + OURS.encode() + b" "),
        (b"x-api-key", OURS.encode()),
        (b"api-key", OURS.encode()),
    ):
        assert token_in([(b"host", b"x"), (name, value)]) == OURS


def test_headers_without_a_key() -> None:
    for headers in (
        [],
        [(b"authorization", b"Basic dXNlcjpwYXNz")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer")],
        [(b"x-api-key", b"")],
        [(b"cookie", b"authorization=Bearer " + OURS.encode())],
    ):
        assert token_in(headers) is None


def test_a_key_of_ours_goes_before_one_for_somebody_else() -> None:
    theirs = (b"authorization", b"Bearer sk-something-else-altogether")
    ours = (b"x-api-key", OURS.encode())
    assert token_in([theirs, ours]) == OURS
    assert token_in([ours, theirs]) == OURS
    assert token_in([theirs]) == "sk-something-else-altogether"


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x"]), st.binary())))
def test_any_header_bytes_are_read_without_an_error(headers: list[tuple[bytes, bytes]]) -> None:
    token = token_in(headers)
    assert token is None or token
    if token is not None:
        tokens.id_in(token)
        tokens.digest_of(token)
