from __future__ import annotations

import numpy as np
import pytest
from cache_samples import Clock, answer, body, make_cache, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from service.cache.guard import may_share
from service.cache.similar import Question, SimilarQuestions

NEAR = np.array([1.0, 0.1, 0.0], dtype=np.float32)
HERE = np.array([2.0, 0.0, 0.0], dtype=np.float32)
FAR = np.array([1.0, 1.0, 0.0], dtype=np.float32)

FIRST = "How do I sort a list in Python?"
SECOND = "Please tell me: how do I sort a list in Python"


def semantic(clock=None, **more):
    return make_cache(clock, semantic={"enabled": True, **more.pop("semantic", {})}, **more)


async def ask(cache, asked, embedding=HERE, *, text=None, **who):
    made = plan(cache, asked, **who)
    said = asked["messages"][-1]["content"] if text is None else text
    return made, await cache.lookup(made, text=said, embedding=embedding)


async def keep(cache, asked, embedding=HERE, whole=None, **who):
    made, hit = await ask(cache, asked, embedding, **who)
    assert hit is None
    cache.store_answer(made, whole or answer("kept"), served_by="m1")


async def test_a_similar_question_gets_the_answer():
    cache = semantic()
    await keep(cache, body(FIRST))
    _, hit = await ask(cache, body(SECOND), NEAR)
    assert hit.semantic
    assert hit.entry.payload == answer("kept")
    assert hit.headers() == {"age": "0", "x-llmrouter-cache-similarity": "0.9950"}
    assert (cache.state().semantic_hits, cache.state().hits, cache.state().questions) == (1, 0, 1)


async def test_the_same_question_is_no_similar_one():
    cache = semantic()
    await keep(cache, body(FIRST))
    _, hit = await ask(cache, body(FIRST))
    assert not hit.semantic


async def test_an_unlike_question_does_not():
    cache = semantic()
    await keep(cache, body(FIRST))
    assert (await ask(cache, body(SECOND), FAR))[1] is None


async def test_off_by_default():
    cache = make_cache()
    assert not cache.is_semantic
    await keep(cache, body(FIRST))
    assert (await ask(cache, body(SECOND)))[1] is None


@pytest.mark.parametrize(
    ("asked", "who"),
    [
        (body(SECOND, temperature=0.3), {}),
        (body(SECOND, model="other"), {}),
        (body(SECOND, max_tokens=3), {}),
        (body(SECOND, response_format={"type": "json_object"}), {}),
        (body(SECOND, llmrouter={"wishes": (1.0, None, None, None)}), {}),
        ({"model": "auto", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": SECOND}]}, {}),
        (body(SECOND), {"key_id": "other"}),
        (body(SECOND), {"endpoint": "messages"}),
        (body(SECOND), {"models": ("m1",)}),
    ],
)
async def test_all_but_the_question_has_to_be_the_same(asked, who):
    cache = semantic()
    await keep(cache, body(FIRST))
    assert (await ask(cache, asked, HERE, **who))[1] is None


@pytest.mark.parametrize(
    "asked",
    [
        body(FIRST, tools=[{"type": "function", "function": {"name": "f"}}]),
        body(FIRST, n=2),
        body("x" * 769),
        body("什么是机器学习"),
        {"model": "auto", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        body([{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]),
    ],
)
def test_questions_that_similar_ones_must_not_share(asked):
    made = plan(semantic(), asked)
    assert (made.frame, made.question) == (b"", None)


def test_another_image_is_another_frame():
    def asked(url, text):
        return body([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}])

    first, second, other = (plan(semantic(), asked(*pair)) for pair in (("u", "a"), ("u", "b"), ("v", "a")))
    assert first.frame == second.frame != other.frame


async def test_an_embedding_of_another_text_is_of_no_use():
    cache = semantic()
    await keep(cache, body(FIRST))
    assert (await ask(cache, body(SECOND), text=f"a system prompt\n\n{SECOND}"))[1] is None


@pytest.mark.parametrize("whole", [answer("cut", finish_reason="length"), answer(None, finish_reason="tool_calls")])
async def test_answers_that_are_not_whole_are_for_the_same_question_only(whole):
    cache = semantic()
    await keep(cache, body(FIRST), whole=whole)
    assert (await ask(cache, body(SECOND)))[1] is None
    assert (await ask(cache, body(FIRST)))[1] is not None


async def test_similar_questions_have_a_shorter_time():
    clock = Clock()
    cache = semantic(clock, semantic={"ttl_s": 5})
    await keep(cache, body(FIRST))
    clock.now += 5
    assert (await ask(cache, body(SECOND)))[1] is None
    assert (await ask(cache, body(FIRST)))[1] is not None


async def test_max_age_holds_for_similar_questions():
    clock = Clock()
    cache = semantic(clock)
    await keep(cache, body(FIRST))
    clock.now += 5
    assert (await ask(cache, body(SECOND), control="max-age=4"))[1] is None
    assert (await ask(cache, body(SECOND), control="max-age=5"))[1] is not None


async def test_a_question_goes_with_its_answer():
    cache = semantic(max_entries=1)
    await keep(cache, body(FIRST))
    await keep(cache, body("something else"), FAR)
    assert (await ask(cache, body(SECOND)))[1] is None
    assert cache.state().questions == 1


async def test_clear_forgets_the_questions_of_a_scope():
    cache = semantic()
    for key_id in ("a", "b"):
        await keep(cache, body(FIRST), key_id=key_id)
    await cache.clear("key:a")
    assert cache.state().questions == 1
    assert (await ask(cache, body(SECOND), key_id="b"))[1] is not None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is 2+2?", "What is 2+3?"),
        ("What is 5 - 3?", "What is 5 + 3?"),
        ("Is it -5 degrees?", "Is it 5 degrees?"),
        ("list files modified in 2023", "list files modified in 2024"),
        ("Should I take this drug?", "Should I not take this drug?"),
        ("Why does it work?", "Why doesn't it work?"),
        ("Why doesn\u2019t it work?", "Why does it work?"),
        ("What is the capital of France?", "What is the capital of Germany?"),
        ("how do I call get_user here", "how do I call get_users here"),
        ("who won after the war", "who won before the war"),
        ("convert miles to metres", "convert metres to miles"),
        ("does the dog bite the man", "does the man bite the dog"),
        ("Hat er ein Auto?", "Hat er kein Auto?"),
        ("price of three apples", "price of four apples"),
        ("sort ascending by name", "sort descending by name"),
    ],
)
def test_the_guard_keeps_apart(first, second):
    assert not may_share(first, second)
    assert not may_share(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FIRST, SECOND),
        ("Is Paris nice in spring?", "is paris nice in spring"),
        ("What's the boiling point of water?", "Tell me the boiling point of water."),
        ("Why doesn't it work?", "why doesn\u2019t it work"),
    ],
)
def test_the_guard_lets_through(first, second):
    assert may_share(first, second)
    assert may_share(second, first)


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_a_text_may_share_with_itself(text):
    assert may_share(text, text)


# The index


def question(i, frame=b"frame---1", scope="s"):
    return Question(bytes([i]), frame, f"{'x' * i} text", scope)


@given(st.integers(1, 7), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_index_finds_what_a_plain_search_finds(max_entries, steps):
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(10, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = SimilarQuestions(max_entries=max_entries, similarity=0.1)
    ring, position = {}, 0
    for i, frame in steps:
        added = Question(bytes([i, frame]), b"frame---%d" % frame, "same", "s")
        index.add(added, vectors[i] * 3)
        if not any(known.key == added.key for known in ring.values()):
            ring[position] = added
            position = (position + 1) % max_entries
    assert len(index) == len(ring) <= max_entries
    for i in range(10):
        expected = {q.key for q in ring.values() if q.frame == b"frame---0" and vectors[i] @ vectors[q.key[0]] >= 0.1}
        got = index.search(b"frame---0", "same", vectors[i])
        assert {key for key, _ in got} == expected
        similarities = [similarity for _, similarity in got]
        assert similarities == sorted(similarities, reverse=True)


def test_frames_that_begin_alike_are_kept_apart():
    index = SimilarQuestions(max_entries=4, similarity=0.9)
    index.add(Question(b"a", b"12345678a", "t", "s"), HERE)
    assert index.search(b"12345678b", "t", HERE) == []


def test_another_dimension_begins_anew():
    index = SimilarQuestions(max_entries=4, similarity=0.9)
    index.add(question(1), HERE)
    assert index.search(b"frame---1", "x text", np.ones(5, dtype=np.float32)) == []
    index.add(question(2), np.ones(5, dtype=np.float32))
    assert len(index) == 1


@pytest.mark.parametrize("embedding", [np.zeros(3, dtype=np.float32), np.array([np.nan, 1, 1], dtype=np.float32)])
def test_an_embedding_without_direction_is_left_out(embedding):
    index = SimilarQuestions(max_entries=4, similarity=0.9)
    index.add(question(1), embedding)
    assert len(index) == 0
    assert index.search(b"frame---1", "x text", embedding) == []
