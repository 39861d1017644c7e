"""Place text labels beside points so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Box = tuple[float, float, float, float]

# Mean advance of a character of a wide sans-serif face, and height of a line, in units of the font size.
_ADVANCE = 0.58
_LINE = 1.25


@dataclass(frozen=True)
class Label:
    """A text and where it goes.

    `x` is its left edge, middle or right edge, as `align` says (``left``, ``center``, ``right``), `y` its vertical
    middle, in pixels; `box` is the room it takes; `moved` asks for a leader line to its point.
    """

    text: str
    x: float
    y: float
    align: str
    box: Box
    moved: bool


class _Place(NamedTuple):
    align: str
    x: float
    y: float
    distance: float


def text_width(text: str, font_size: float) -> float:
    """Return the approximate width of a text in pixels."""
    return len(text) * font_size * _ADVANCE


def overlap(a: Box, b: Box) -> float:
    """Return the area two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def place_labels(
    anchors: Sequence[tuple[float, float, str]],
    *,
    bounds: Box,
    font_size: float,
    obstacles: Sequence[Box] = (),
    gap: float = 10.0,
) -> list[Label]:
    """Choose a place for each label, in order: the one that covers least, the nearest of equals.

    Parameters
    ----------
    anchors : sequence of (x, y, text)
        Points in pixels and their labels.
    bounds : box
        ``(left, top, right, bottom)`` inside which labels must lie.
    font_size : float
        In pixels.
    obstacles : sequence of boxes
        What must not be covered beside the points themselves, e.g. pieces of curves.
    gap : float
        Distance between a point and its label.
    """
    taken = [*obstacles, *((x - 6, y - 6, x + 6, y + 6) for x, y, _ in anchors)]
    labels: list[Label] = []
    for x, y, text in anchors:
        width, height = text_width(text, font_size), font_size * _LINE

        places = _places(x, y, width, height, gap)
        boxes = [_box(place, width, height) for place in places]
        covered = _covered(boxes, taken)
        costs = [
            3 * area + 20 * (width * height - overlap(box, bounds)) + place.distance
            for place, box, area in zip(places, boxes, covered, strict=True)
        ]
        best, box = min(zip(costs, places, boxes, strict=True), key=lambda entry: entry[0])[1:]
        labels.append(Label(text, best.x, best.y, best.align, box, moved=best.distance > 2 * gap))
        taken.append(box)
    return labels


def _covered(boxes: Sequence[Box], taken: Sequence[Box]) -> list[float]:
    """Return for each box the area it shares with all the taken ones."""
    if not taken:
        return [0.0] * len(boxes)
    a, b = np.array(boxes)[:, None, :], np.array(taken)[None, :, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    areas: list[float] = np.prod(np.maximum(sides, 0.0), axis=2).sum(axis=1).tolist()
    return areas


def _box(place: _Place, width: float, height: float) -> Box:
    left = place.x - {"left": 0.0, "center": width / 2, "right": width}[place.align]
    return (left, place.y - height / 2, left + width, place.y + height / 2)


def _places(x: float, y: float, width: float, height: float, gap: float) -> list[_Place]:
    """Return candidate places, the most natural first: beside, above and below the point, then further away."""
    rise = gap + height / 2
    places = [
        _Place("left", x + gap, y, 0),
        _Place("right", x - gap, y, 1),
        _Place("center", x, y - rise, 2),
        _Place("center", x, y + rise, 3),
        *(_Place("left", x + gap * 0.7, y + side * rise * 0.9, 4) for side in (-1, 1)),
        *(_Place("right", x - gap * 0.7, y + side * rise * 0.9, 5) for side in (-1, 1)),
    ]
    for step in (1.6, 2.4, 3.2, 4.2, 5.4):
        for side in (-1, 1):
            shifted = y + side * step * height
            distance = step * height + gap
            places += [_Place("center", x, shifted, distance)]
            places += [_Place("left", x + gap * step, shifted, distance + gap)]
            places += [_Place("right", x - gap * step, shifted, distance + gap)]
            places += [_Place("left", x + 0.25 * width, shifted, distance + gap)]
    return places


def spread(wanted: Sequence[float], distance: float, *, low: float, high: float) -> list[float]:
    """Return positions near the wanted, ascending ones, at least `distance` apart and inside [low, high].

    Where they do not all fit, the distance shrinks.
    """
    if len(wanted) > 1:
        distance = min(distance, (high - low) / (len(wanted) - 1))
    placed: list[float] = []
    for position in wanted:
        placed.append(max(position, placed[-1] + distance) if placed else max(position, low))
    for index in range(len(placed) - 1, -1, -1):
        limit = high if index == len(placed) - 1 else placed[index + 1] - distance
        placed[index] = min(placed[index], limit)
    return placed
