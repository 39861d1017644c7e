"""A small classifier of routes, trained from labelled utterances when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llmrouter.encoders import Encoder
from llmrouter.exceptions import ConfigError
from llmrouter.routes._choosers import other
from llmrouter.routes._conversation import Conversation
from llmrouter.routes._route import Route
from llmrouter.routes._vectors import ConversationEncoder
from llmrouter.types import OTHER_ROUTE, FloatArray, IntArray, RoutePick

CLASSIFIER_THRESHOLD = 0.3
"""Least probability of a pick, unless another is given; chosen on train splits, as the ridge was."""

_KIND = "classifier"
_DIGITS = 4
_RIDGE = 1e-4
_STEPS = 300


class ClassifierChooser:
    """Multinomial logistic regression over an encoder's vectors.

    Classes weigh alike, however many utterances they have. The fit is Nesterov's accelerated gradient with a fixed
    step from zero: no chance in it, and fast enough for the start of a gateway (thousands of utterances a second).

    Parameters
    ----------
    routes : sequence of Route
        Checked ones; at least one. Their examples are utterances, too.
    encoder : Encoder
        Of utterances and conversations.
    labelled : mapping of str to sequence of str, optional
        Route, or `OTHER_ROUTE` for what is on none -> utterances.
    threshold : float
        What is less probable than that on its best route is on none; in [0, 1].
    turns : int
        See `ConversationEncoder`.

    Raises
    ------
    ConfigError
        If a label is no route, a route has no utterance, there is one class only, or a number is out of range.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        encoder: Encoder,
        *,
        labelled: Mapping[str, Sequence[str]] | None = None,
        threshold: float = CLASSIFIER_THRESHOLD,
        turns: int = 3,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must lie in [0, 1], being a probability; got {threshold!r}")
        if turns < 1:
            raise ConfigError(f"turns must be at least 1; got {turns!r}")
        self.threshold = threshold
        self._conversations = ConversationEncoder(encoder, turns=turns)
        utterances = _utterances(routes, labelled or {})
        self.classes = tuple(utterances)
        texts = [text for name in self.classes for text in utterances[name]]
        labels = np.repeat(np.arange(len(self.classes)), [len(utterances[name]) for name in self.classes])
        X = self._conversations.encode_texts(texts)
        self._weights = fit_softmax(X, labels, len(self.classes))

    def probabilities(self, conversations: Sequence[Conversation], /) -> FloatArray:
        """Return the probability of each of `classes`, shape (n, k)."""
        return softmax(with_constant(self._conversations.encode(conversations)) @ self._weights)

    def pick(self, conversations: Sequence[Conversation], /) -> list[RoutePick]:
        """Return the route of each conversation, the same as alone; see `Chooser`."""
        return [self._picked(row) for row in self.probabilities(conversations)]

    def _picked(self, probability: FloatArray) -> RoutePick:
        best = int(probability.argmax())
        name, score = self.classes[best], round(float(probability[best]), _DIGITS)
        scores = {c: round(float(p), _DIGITS) for c, p in zip(self.classes, probability, strict=True)}
        if name == OTHER_ROUTE:
            return RoutePick(name, _KIND, f"it is most like what is on no route: {score:g}", score, scores)
        if probability[best] < self.threshold:
            none = other(_KIND, f"no route reaches the probability {self.threshold:g}: {name} has {score:g}")
            return RoutePick(none.name, _KIND, none.reason, score, scores)
        return RoutePick(name, _KIND, f"the most probable route: {score:g}", score, scores)


def _utterances(routes: Sequence[Route], labelled: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    names = [route.name for route in routes]
    for label in labelled:
        if label not in names and label != OTHER_ROUTE:
            raise ConfigError(f"the label {label!r} is no route; there are {', '.join([*names, OTHER_ROUTE])}")
    found = {route.name: [*route.examples, *labelled.get(route.name, ())] for route in routes}
    for name, texts in found.items():
        if not texts:
            raise ConfigError(
                f"the route {name!r} has no utterance to learn from; give it examples, label some, or take the "
                "embedding chooser, which goes by descriptions"
            )
    if labelled.get(OTHER_ROUTE):
        found[OTHER_ROUTE] = list(labelled[OTHER_ROUTE])
    if len(found) < 2:
        raise ConfigError(
            f"there is only the route {names[0]!r} to learn; label utterances of {OTHER_ROUTE!r} too, or take the "
            "embedding chooser"
        )
    return found


def with_constant(X: FloatArray) -> FloatArray:
    """Return X, shape (n, d), with a column of ones: (n, d + 1)."""
    return np.hstack([X, np.ones((len(X), 1))])


def softmax(scores: FloatArray) -> FloatArray:
    """Return probabilities by row, shape (n, k)."""
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: FloatArray = weight / weight.sum(axis=1, keepdims=True)
    return probabilities


def fit_softmax(
    X: FloatArray, labels: IntArray, classes: int, *, ridge: float = _RIDGE, steps: int = _STEPS
) -> FloatArray:
    """Return the weights of a multinomial logistic regression, shape (d + 1, classes).

    Parameters
    ----------
    X : array of shape (n, d)
        Features.
    labels : array of shape (n,), int
        Class of each row; every class has one.
    classes : int
        Number of classes.
    ridge : float
        Weight of half the squared norm of the weights beside the mean loss; classes weigh alike in that mean.
    steps : int
        Of the accelerated gradient.
    """
    A = with_constant(X)
    target = np.eye(classes)[labels]
    share = (1.0 / (classes * np.bincount(labels, minlength=classes)))[labels][:, None]
    # Böhning's bound: the Hessian of the loss is at most half the weighted second moment of the features.
    steepest = 0.5 * float(np.linalg.norm(A * np.sqrt(share), ord=2)) ** 2 + ridge
    weights = np.zeros((A.shape[1], classes))
    ahead = weights
    for step in range(steps):
        gradient = A.T @ (share * (softmax(A @ ahead) - target)) + ridge * ahead
        moved = ahead - gradient / steepest
        ahead = moved + step / (step + 3.0) * (moved - weights)
        weights = moved
    return weights
