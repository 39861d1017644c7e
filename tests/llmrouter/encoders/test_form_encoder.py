"""The form encoder: what it sees that the meaning does not show."""

import numpy as np
import pytest

from llmrouter.encoders import FormEncoder, StaticEncoder, load_encoder
from llmrouter.encoders._form import form_features
from llmrouter.exceptions import ConfigError


def test_features_by_hand():
    (features,) = form_features(["Hi 12?\n\nA. x"])
    assert features.shape == (44,)
    assert features[0] == pytest.approx(np.log1p(12))
    assert features[1] == pytest.approx(np.log1p(2 + 2 + 1))  # two blanks, two line ends, and one
    marks = dict(
        zip(("?", ".", ":", "upper", "digit", "fence", "def", "return", "options", "link", "gap"), features[3:14])
    )
    assert {name for name, value in marks.items() if value} == {"upper", "options", "gap"}
    counts = np.expm1(features[14:29])
    np.testing.assert_allclose(counts[:3], [2, 2, 2], rtol=1e-12)  # lower, upper, digits
    np.testing.assert_allclose(features[29:44] ** 2 * 12, counts, rtol=1e-9)


def test_meaning_is_kept_and_form_is_added():
    form, static = FormEncoder(), StaticEncoder()
    texts = ["What is the capital of France?", "what is the capital of france"]
    ours, theirs = form.encode(texts), static.encode(texts)
    assert form.dimension == static.dimension + 44
    direction = ours[:, : static.dimension] / np.linalg.norm(ours[:, : static.dimension], axis=1, keepdims=True)
    np.testing.assert_allclose(direction, theirs, atol=1e-6)
    assert theirs[0] @ theirs[1] > 0.99  # the same words
    assert ours[0] @ ours[1] < theirs[0] @ theirs[1] - 0.05  # in another form


def test_weight_and_base_are_part_of_the_fingerprint():
    assert FormEncoder().fingerprint == load_encoder("form").fingerprint
    assert FormEncoder(weight=0.2).fingerprint != FormEncoder().fingerprint
    assert FormEncoder(base="static:max_windows=2").fingerprint != FormEncoder().fingerprint
    assert load_encoder("form:weight=0.2").fingerprint == FormEncoder(weight=0.2).fingerprint


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), "much"])
def test_bad_weights(weight):
    with pytest.raises(ConfigError, match="weight"):
        FormEncoder(weight=weight)
