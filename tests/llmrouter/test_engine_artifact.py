"""Engine and artifact: decisions, priors for unknown models, and everything that can be wrong with a folder."""

import hashlib
import json
import math

import numpy as np
import pytest

from llmrouter import artifact
from llmrouter._completion import PRIOR_STD
from llmrouter.engine import RoutingEngine
from llmrouter.evaluation import prepare
from llmrouter.exceptions import (
    ArtifactCorruptError,
    ArtifactError,
    ConfigError,
    FingerprintError,
    NoEligibleModelError,
)
from llmrouter.outcomes import OutcomeTable
from llmrouter.policy import UtilityPolicy
from llmrouter.types import Capability, ModelCard, Preference, Price, RoutingRequest
from training.train import calibration_of, fit


class DirectionEncoder:
    """Texts are angles in degrees."""

    fingerprint = "direction-1"
    dimension = 2

    def encode(self, texts, /):
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def count_tokens(self, text, /):
        return len(text)


PRICES = {"small": Price(1.0, 1.0), "large": Price(10.0, 10.0)}


def table(**changes):
    n = 40
    angles = np.linspace(0, 90, n)
    quality = np.stack([(angles < 45).astype(float), np.ones(n)], axis=1)
    tokens = np.stack([np.full(n, 10.0), 10.0 + angles], axis=1)
    inputs = np.full((n, 2), 6.0)  # texts of 1 to 4 characters are 1 estimated token
    prices = np.array([[p.input, p.output] for p in PRICES.values()])
    fields = {
        "prompt_ids": tuple(f"p{i}" for i in range(n)),
        "models": tuple(PRICES),
        "texts": tuple(f"{angle:.1f}" for angle in angles),
        "tasks": (None,) * n,
        "splits": ("train",) * n,
        "quality": quality,
        "cost_usd": (inputs * prices[:, 0] + tokens * prices[:, 1]) / 1e6,
        "input_tokens": inputs,
        "output_tokens": tokens,
        "propensity": np.ones((n, 2)),
        "prices": tuple(PRICES.values()),
        "name": "angles",
    }
    return OutcomeTable(**{**fields, **changes})


def trained(router="knn", parameters=None, **changes):
    outcomes = table(**changes)
    X = DirectionEncoder().encode(outcomes.router_texts())
    return fit(outcomes, X, name=router, parameters={"k": 5} if parameters is None else parameters)


CARDS = [ModelCard(name, price, context_window=1000) for name, price in PRICES.items()]


def engine(cards=CARDS, **kwargs):
    learned = trained(**kwargs)
    policy = UtilityPolicy(0.3, reference_cost_usd=learned.reference_cost_usd)
    return RoutingEngine(cards, DirectionEncoder(), trained=learned, policy=policy, artifact_id="knn-test")


def test_routes_by_what_was_learned():
    assert engine().route(RoutingRequest("10", prompt_tokens=1)).model == "small"
    decision = engine().route(RoutingRequest("80", prompt_tokens=1))
    assert decision.model == "large"
    assert (decision.router, decision.artifact_id, decision.propensity) == ("knn", "knn-test", 1.0)
    assert decision.policy == "utility(0.3)"


def test_expected_cost_is_real_tokens_times_price():
    # 2 estimated prompt tokens at 6 real ones each, and the mean output of the 5 nearest training prompts
    entry = next(e for e in engine().route(RoutingRequest("0", prompt_tokens=2)).ranking if e.model == "large")
    nearest = 10.0 + np.linspace(0, 90, 40)[:5].mean()
    assert entry.expected_cost_usd == pytest.approx((12 * 10 + nearest * 10) / 1e6)


def test_a_changed_price_counts_at_once():
    cards = [CARDS[0], ModelCard("large", Price(0.1, 0.1))]
    assert engine(cards).route(RoutingRequest("10", prompt_tokens=1)).model == "large"


def test_batch_equals_one_by_one():
    e = engine()
    together = e.estimate(["5", "50", "85"], [1, 2, 3])
    for row, (text, tokens) in enumerate([("5", 1), ("50", 2), ("85", 3)]):
        alone = e.estimate([text], [tokens])[0]
        np.testing.assert_allclose(together[row].quality, alone.quality)
        np.testing.assert_allclose(together[row].cost_usd, alone.cost_usd)


def test_neighbours_are_named():
    decision = engine().route(RoutingRequest("0", prompt_tokens=1), neighbours=2)
    assert [n.prompt_id for n in decision.neighbours] == ["p0", "p1"]
    assert decision.neighbours[0].similarity == pytest.approx(1.0)
    assert engine().route(RoutingRequest("0")).neighbours == ()


def test_unknown_pool_model_gets_a_prior_and_a_warning(caplog):
    cards = [ModelCard("new", Price(0.5, 0.5)), CARDS[1]]
    e = engine(cards)
    assert "does not know the pool model 'new'" in caplog.text
    decision = e.route(RoutingRequest("80", prompt_tokens=1))
    assert any("'new'" in warning for warning in decision.warnings)
    new = next(entry for entry in decision.ranking if entry.model == "new")
    assert new.standard_error == PRIOR_STD
    assert new.expected_quality == pytest.approx(1.0)  # the mean of what is known of the others here
    assert new.expected_cost_usd > 0


def test_a_pool_of_strangers_still_answers():
    decision = engine([ModelCard("x", Price(1, 1)), ModelCard("y", Price(2, 2), prior_quality=0.9)]).route(
        RoutingRequest("80", prompt_tokens=1)
    )
    assert {entry.model: entry.expected_quality for entry in decision.ranking} == {"x": 0.5, "y": 0.9}
    assert decision.model == "y"


def test_nothing_eligible():
    with pytest.raises(NoEligibleModelError, match="lacks tools"):
        engine().route(RoutingRequest("1", needs=frozenset({Capability.TOOLS})))


def test_preferences_reach_the_policy():
    request = RoutingRequest("80", prompt_tokens=1, preference=Preference(cost_weight=50.0))
    assert engine().route(request).model == "small"


@pytest.mark.parametrize("cards", [[], [CARDS[0], CARDS[0]]])
def test_bad_pool(cards):
    with pytest.raises(ConfigError, match=r"empty|unique"):
        engine(cards)


def test_costs_without_tokens_are_learned_as_they_are():
    nothing = np.full((40, 2), np.nan)
    learned = trained(input_tokens=nothing, output_tokens=nothing, prices=(None, None))
    assert learned.cost_unit == "usd"
    e = RoutingEngine(CARDS, DirectionEncoder(), trained=learned, policy=UtilityPolicy())
    cost = e.estimate(["0"], [1])[0].cost_usd
    np.testing.assert_allclose(cost, table().cost_usd[:5].mean(axis=0))


@pytest.mark.parametrize("router", ["best-single", "cheapest", "random", "mean"])
def test_baselines_route_too(router):
    assert engine(router=router, parameters={}).route(RoutingRequest("80", prompt_tokens=1)).router == router


# artifacts


def save(tmp_path, learned=None, **kwargs):
    spec = artifact.EncoderSpec("direction", {}, DirectionEncoder.fingerprint)
    return artifact.save(learned or trained(), tmp_path, encoder=spec, training={"data": "angles"}, **kwargs)


def load(folder, **kwargs):
    return artifact.load(folder, CARDS, encoder=kwargs.pop("encoder", DirectionEncoder()), **kwargs)


@pytest.mark.parametrize("router", ["knn", "best-single", "random"])
def test_round_trip_decides_the_same(tmp_path, router):
    learned = trained(router, {"k": 5} if router == "knn" else {})
    again = load(save(tmp_path, learned))
    before = RoutingEngine(
        CARDS, DirectionEncoder(), trained=learned, policy=again.policy, artifact_id=again.artifact_id
    )
    for angle in range(0, 91, 7):
        request = RoutingRequest(str(angle), prompt_tokens=1)
        assert again.route(request, neighbours=3) == before.route(request, neighbours=3)


def test_same_content_same_id_and_immutable(tmp_path):
    first = save(tmp_path)
    stamp = (first / "manifest.json").stat().st_mtime_ns
    assert save(tmp_path) == first
    assert (first / "manifest.json").stat().st_mtime_ns == stamp
    assert save(tmp_path, trained(parameters={"k": 6})) != first
    assert not list(tmp_path.glob(".new-*"))


def test_promote_moves_a_relative_link(tmp_path):
    first, second = save(tmp_path), save(tmp_path, trained(parameters={"k": 6}))
    link = artifact.promote(first)
    assert link.is_symlink()
    assert str(link.readlink()) == first.name
    artifact.promote(second)
    assert load(link).artifact_id == second.name


def test_the_policy_gets_the_reference_cost(tmp_path):
    learned = trained()
    e = load(save(tmp_path, learned), policy=UtilityPolicy(0.7))
    assert e.policy.cost_weight == 0.7
    assert e.policy.reference_cost_usd == learned.reference_cost_usd
    assert learned.reference_cost_usd == pytest.approx(table().cost_usd[:, 1].mean())


def test_arrays_in_any_memory_order_survive(tmp_path):
    outcomes = table()
    transposed = table(quality=np.asfortranarray(outcomes.quality), output_tokens=outcomes.output_tokens.T.copy().T)
    X = DirectionEncoder().encode(outcomes.router_texts())
    learned = fit(transposed, X, name="knn", parameters={"k": 5})
    again = load(save(tmp_path, learned))
    np.testing.assert_array_equal(again.trained.quality.y_, outcomes.quality)
    np.testing.assert_array_equal(again.trained.cost.y_, outcomes.output_tokens)


def test_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, evaluation={"bad": object()})
    assert list(tmp_path.iterdir()) == []


def test_another_encoder_is_refused(tmp_path):
    class Other(DirectionEncoder):
        fingerprint = "direction-2"

    with pytest.raises(FingerprintError, match=r"direction-1.*direction-2.*train again"):
        load(save(tmp_path), encoder=Other())


def test_not_an_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="no manifest.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["quality.safetensors", "encoder/config.json", "index/prompt_ids.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_every_damaged_file_is_named(tmp_path, name, damage):
    folder = save(tmp_path)
    file = folder / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(ArtifactCorruptError, match=file.name):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_damaged_manifest(tmp_path, text):
    folder = save(tmp_path)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactCorruptError, match=r"manifest\.json"):
        load(folder)


def test_a_manifest_that_was_changed(tmp_path):
    folder = save(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["reference_cost_usd"] *= 1000
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactCorruptError, match=r"manifest\.json does not match the artifact's id; restore"):
        load(folder)


def test_newer_layout(tmp_path):
    folder = save(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["layout"] = 99
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="layout 99"):
        load(folder)


def test_estimates_are_finite_everywhere():
    found = engine().estimate(["45"], [0])[0]
    assert all(math.isfinite(value) for value in (*found.quality, *found.quality_std, *found.cost_usd))


# What training knows beyond the routers


@pytest.mark.parametrize("router", ["stack", "ridge", "uniroute", "mlp"])
def test_every_kind_of_router_survives_the_folder(tmp_path, router):
    learned = trained(router, {})
    loaded = load(save(tmp_path, learned))
    for text in ("0", "30", "60", "90"):
        request = RoutingRequest(text, prompt_tokens=2)
        ours = RoutingEngine(CARDS, DirectionEncoder(), trained=learned, policy=UtilityPolicy()).route(request)
        assert loaded.route(request).ranking == ours.ranking


def test_routers_without_an_index_still_name_neighbours(tmp_path):
    loaded = load(save(tmp_path, trained("ridge", {})))
    decision = loaded.route(RoutingRequest("0", prompt_tokens=1), neighbours=2)
    assert [n.prompt_id for n in decision.neighbours] == ["p0", "p1"]


def test_calibration_and_guard_are_kept_and_bound_to_the_policy(tmp_path):
    outcomes = table()
    X = DirectionEncoder().encode(outcomes.router_texts())
    ready = prepare("stack", outcomes, X, crossed=True)
    learned = fit(
        outcomes,
        X,
        name="stack",
        parameters=ready.parameters,
        guard=0.5,
        calibration=calibration_of(ready, outcomes, X),
    )
    folder = save(tmp_path, learned)
    loaded = load(folder)
    assert loaded.trained.guard == 0.5
    kept = loaded.trained.calibration
    np.testing.assert_array_equal(kept.expected_quality, learned.calibration.expected_quality)
    np.testing.assert_allclose(kept.embeddings, X, atol=1e-3)
    assert loaded.trained.mean_cost_usd == learned.mean_cost_usd
    facts = loaded.trained.facts(CARDS)
    assert (facts.best_single, facts.cards, facts.guard) == ("large", tuple(CARDS), 0.5)
    # the prompts themselves are nowhere in the folder
    assert not any(b"45.0" in path.read_bytes() for path in (folder / "calibration").iterdir())


def test_a_calibration_of_another_shape_is_named(tmp_path):
    outcomes = table()
    X = DirectionEncoder().encode(outcomes.router_texts())
    ready = prepare("ridge", outcomes, X, crossed=True)
    learned = fit(outcomes, X, name="ridge", parameters={}, calibration=calibration_of(ready, outcomes, X))
    folder = save(tmp_path, learned)
    (folder / "calibration" / "labels.json").write_text('{"models": ["small"], "tasks": []}')
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "calibration" / "labels.json").read_bytes()).hexdigest()
    manifest["files"]["calibration/labels.json"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactCorruptError, match="calibration"):
        load(folder)


@pytest.mark.parametrize("router", ["knn", "best-single"])
def test_an_artifact_of_the_first_layout_still_loads(tmp_path, router):
    learned = trained(router, {"k": 5} if router == "knn" else {})
    folder = save(tmp_path, learned)
    expected = load(folder).route(RoutingRequest("80", prompt_tokens=2))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["layout"] = 1
    for key in ("guard", "mean_cost_usd"):
        del manifest[key]
    for entry in manifest["routers"].values():
        values = {"parameters": entry["values"]["parameters"]}
        if router != "knn":
            values["n_features_in"] = 2
        entry["values"] = values
    (folder / "manifest.json").write_text(json.dumps(manifest))
    loaded = load(folder)
    assert loaded.route(RoutingRequest("80", prompt_tokens=2)).ranking == expected.ranking
    assert loaded.trained.calibration is None


def test_the_policy_sees_the_embedding():
    seen = []

    class Spy(UtilityPolicy):
        def choose(self, request, candidates, estimates, /):
            seen.append(estimates.embedding)
            return super().choose(request, candidates, estimates)

    RoutingEngine(CARDS, DirectionEncoder(), trained=trained(), policy=Spy()).route(RoutingRequest("90"))
    np.testing.assert_allclose(seen[0], [0, 1], atol=1e-6)
