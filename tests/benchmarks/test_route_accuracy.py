"""The measurement of route choosers: its scenes hang together, its intervals are what they say."""

import numpy as np
import pytest

from benchmarks.quality.sets import POCKET
from benchmarks.route_accuracy import _with_interval, page, picks, wilson
from benchmarks.route_scenes import SCENES
from llmrouter.outcomes import load_table
from llmrouter.routes import checked_routes
from llmrouter.types import OTHER_ROUTE, RoutePick


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_every_route_of_a_scene_has_words_and_tasks_of_its_own(scene):
    assert set(scene.descriptions) == set(scene.tasks)
    assert len(checked_routes(scene.routes, ("any",))) == len(scene.descriptions)
    tasks = [task for listed in scene.tasks.values() for task in listed]
    assert len(tasks) == len(set(tasks))
    assert scene.label("a task that nobody knows") == OTHER_ROUTE
    if scene.data == "pocket":
        assert set(tasks) == set(load_table(POCKET).tasks)


def test_intervals():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10)[0] == pytest.approx(0.0, abs=1e-12)
    rng = np.random.default_rng(0)
    one = (rng.random(400) < 0.7).astype(float)
    alone, same = _with_interval([one]), _with_interval([one] * 5)
    assert same["mean"] == alone["mean"] == pytest.approx(one.mean(), abs=1e-4)
    assert same["high"] - same["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.05), "draws are no prompts"
    partly = _with_interval([np.array([1.0, np.nan, 0.0]), np.array([1.0, np.nan, 1.0])])
    assert partly["mean"] == 0.75, "what was learned from is not scored"


class Echo:
    def pick(self, conversations, /):
        return [RoutePick(conversation[-1][1], "embedding") for conversation in conversations]


def test_every_text_is_picked_for_and_the_page_shows_every_figure():
    texts = [f"t{i}" for i in range(600)]
    assert picks(Echo(), texts) == texts
    cell = {"mean": 0.123, "low": 0.1, "high": 0.2}
    row = {"chooser": "mine", "accuracy": cell, "accuracy_on_routes": cell, "picked_other": 0.25}
    scene = {"scene": "s", "data": "d", "routes": 2, "prompts": 9, "on_no_route": 0.5, "choosers": [row]}
    shown = page([{"command": "c", "duration_s": 1.0, "encoder": "static", "split": "test", "scenes": [scene]}])
    assert "| mine | 0.123 [0.100, 0.200] | 0.123 [0.100, 0.200] | 25% |" in shown
