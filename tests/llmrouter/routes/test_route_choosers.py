"""Picking a route without asking a model: by similarity, by a classifier; and the engine in front of an engine."""

import numpy as np
import pytest

from llmrouter.encoders import load_encoder
from llmrouter.exceptions import ConfigError, EncoderError, NoEligibleModelError
from llmrouter.routes import (
    Chooser,
    ClassifierChooser,
    EmbeddingChooser,
    Route,
    RoutedEngine,
    other,
    with_picks,
)
from llmrouter.routes._classifier import fit_softmax, softmax, with_constant
from llmrouter.types import Decision, RankedModel, RoutePick, RoutingRequest

VOCABULARY = ("code", "bug", "poem", "verse", "sum", "add", "please")


class Words:
    """An encoder of seven words: what share of a text each is."""

    fingerprint = "words"
    dimension = len(VOCABULARY)

    def encode(self, texts, /):
        if any("\0" in text for text in texts):
            raise EncoderError("texts[0] cannot be encoded")
        counts = np.array([[text.lower().count(word) for word in VOCABULARY] for text in texts], dtype=np.float32)
        length = np.linalg.norm(counts, axis=1, keepdims=True)
        return counts / np.where(length > 0, length, 1)

    def count_tokens(self, text, /):
        return len(text.split())


CODE = Route("code_help", "code", ("a bug",), models=("a",))
POEM = Route("poems", "poem", models=("b",))


def said(*texts):
    return tuple(("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))


def test_the_most_similar_route_is_picked_and_the_reason_says_how_similar():
    chooser = EmbeddingChooser([CODE, POEM], Words(), threshold=0.3)
    assert isinstance(chooser, Chooser)
    by_name, by_example, neither, nothing = chooser.pick(
        [said("code please"), said("this bug"), said("add please"), said("...")]
    )
    assert (by_name.name, by_example.name) == ("code_help", "code_help")
    assert "most similar of all routes" in by_name.reason
    assert by_name.score == by_name.scores["code_help"] > by_name.scores["poems"]
    assert neither.is_other
    assert "similarity 0.3" in neither.reason
    assert nothing.is_other
    assert not nothing.failure
    assert chooser.pick([said("this bug")]) == [by_example], "alone as in a batch"


def test_what_was_said_last_counts_most_and_a_bare_follow_up_keeps_the_subject():
    chooser = EmbeddingChooser([CODE, POEM], Words(), threshold=0.1)
    turned, follow_up, forgotten = chooser.pick(
        [
            said("code", "done", "poem"),
            said("a poem", "done", "shorter, please"),
            said("poem", "x", "code", "x", "code", "x", "bug"),
        ]
    )
    assert (turned.name, follow_up.name, forgotten.name) == ("poems", "poems", "code_help")
    assert turned.scores["code_help"] > 0, "the turn before is not forgotten"
    assert forgotten.scores["poems"] < turned.scores["code_help"], "the fourth message back is"
    alone = EmbeddingChooser([CODE, POEM], Words(), threshold=0.1, turns=1).pick([said("a poem", "x", "shorter")])
    assert alone[0].is_other


@pytest.mark.parametrize(("given", "error"), [({"threshold": 2}, r"\[-1, 1\]"), ({"turns": 0}, "at least 1; got 0")])
def test_bad_numbers_of_the_embedding_chooser_are_refused(given, error):
    with pytest.raises(ConfigError, match=error):
        EmbeddingChooser([CODE], Words(), **given)


def test_a_description_without_a_known_word_is_refused():
    with pytest.raises(ConfigError, match="no word of the description 'xyz' of the route 'r'"):
        EmbeddingChooser([CODE, Route("r", "xyz", models=("a",))], Words())


def test_the_classifier_learns_examples_and_labels_and_leaves_the_unsure():
    labelled = {"code_help": ["code", "code bug", "bug bug code"], "poems": ["poem", "verse poem"], "other": ["sum"]}
    chooser = ClassifierChooser([CODE, POEM], Words(), labelled=labelled, threshold=0.6)
    assert chooser.classes == ("code_help", "poems", "other")
    code, verse, neither, mixed = chooser.pick([said("a bug"), said("verse"), said("sum"), said("bug verse verse")])
    assert (code.name, verse.name) == ("code_help", "poems")
    assert neither.is_other
    assert "on no route" in neither.reason
    assert mixed.is_other
    assert "probability 0.6" in mixed.reason
    assert sum(code.scores.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("routes", "labelled", "error"),
    [
        ([CODE, POEM], {"code": ["x"]}, "the label 'code' is no route; there are code_help, poems, other"),
        ([CODE, POEM], {}, "the route 'poems' has no utterance to learn from; give it examples"),
        ([CODE], {}, "only the route 'code_help' to learn"),
    ],
)
def test_what_the_classifier_cannot_learn_from_is_refused(routes, labelled, error):
    with pytest.raises(ConfigError, match=error):
        ClassifierChooser(routes, Words(), labelled=labelled)
    with pytest.raises(ConfigError, match="threshold must lie in"):
        ClassifierChooser([CODE, POEM], Words(), labelled={"poems": ["poem"]}, threshold=1.5)


def test_the_fit_is_at_the_minimum_of_the_balanced_loss():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    labels = np.repeat([0, 1, 2], [40, 15, 5])
    weights = fit_softmax(X, labels, 3, ridge=0.05, steps=2000)
    share = (1 / (3 * np.bincount(labels)))[labels][:, None]
    A = with_constant(X)
    gradient = A.T @ (share * (softmax(A @ weights) - np.eye(3)[labels])) + 0.05 * weights
    assert np.abs(gradient).max() < 1e-6


class FakeChooser:
    """Says what it is told to say, by the last word."""

    def __init__(self, broken=()):
        self.asked = []
        self.broken = broken

    def pick(self, conversations, /):
        self.asked.append(len(conversations))
        if any(conversation[-1][1] in self.broken for conversation in conversations):
            raise EncoderError("no")
        return [RoutePick(conversation[-1][1], "embedding") for conversation in conversations]


def test_requests_get_their_routes_once_and_one_bad_text_spoils_nobody_elses():
    chooser = FakeChooser(broken=("bad",))
    picked = RoutePick("picked", "model")
    requests = [
        RoutingRequest("a"),
        RoutingRequest("bad"),
        RoutingRequest("x", conversation=said("b")),
        RoutingRequest("c", route=picked),
    ]
    routes = [request.route for request in with_picks(chooser, requests)]
    assert [route.name for route in routes] == ["a", "other", "b", "picked"]
    assert routes[1].failure == "unreadable"
    assert with_picks(chooser, [requests[3]]) == [requests[3]]
    assert chooser.asked == [3, 1, 1, 1]


class FakeEngine:
    def __init__(self):
        self.requests = []

    def route_many(self, requests, *, neighbours=0):
        self.requests += requests
        ranked = RankedModel("m", 0.5, 0.1, 1e-6)
        return [NoEligibleModelError({}) if r.text == "none" else Decision((ranked,)) for r in requests]


def test_an_engine_behind_a_chooser_is_told_the_route_and_decisions_say_it():
    engine = FakeEngine()
    routed = RoutedEngine(lambda: engine, FakeChooser())
    decided, error = routed.route_many([RoutingRequest("a"), RoutingRequest("none")])
    assert decided.route.name == engine.requests[0].route.name == decided.document()["route"]["name"] == "a"
    assert isinstance(error, NoEligibleModelError)
    (plain,) = RoutedEngine(lambda: engine).route_many([RoutingRequest("a")])
    assert plain.route is None
    assert "route" not in plain.document()


def test_the_shipped_encoder_tells_everyday_routes_apart():
    routes = [
        Route("code", "Writing, fixing or explaining program code", models=("a",)),
        Route("travel", "Booking flights, hotels and trips", models=("a",)),
    ]
    chooser = EmbeddingChooser(routes, load_encoder("static"))
    picks = chooser.pick([said("There is a bug in my Python function"), said("I need a hotel in Rome next week")])
    assert [pick.name for pick in picks] == ["code", "travel"]


def test_the_pick_that_is_none_is_other():
    assert other("model", "why", failure="timeout").is_other
