"""Draw the scene as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrouter.evaluation._result import EvaluationResult
from llmrouter.evaluation._scene import HEIGHT, WIDTH, Mark, build_scene
from llmrouter.exceptions import MissingExtraError

_DPI = 100
_SHAPES = {"dot": "o", "ring": "o", "diamond": "D", "square": "s", "cross": "x"}


def save_plot(result: EvaluationResult, path: Path, *, scale: float = 2.0) -> None:
    """Write the cost-quality plot as PNG.

    Parameters
    ----------
    result : EvaluationResult
        What to draw.
    path : Path
        File to write.
    scale : float
        Pixels a unit of the 1200 x 760 drawing.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patheffects import withStroke
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="train", purpose="drawing the cost-quality plot") from error
    scene = build_scene(result)
    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI * scale, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(HEIGHT, 0)
    axes.set_axis_off()
    points = 72 / _DPI  # one drawing unit in typographic points
    for line in scene.lines:
        xs, ys = zip(*line.points, strict=True)
        style: Any = (0, tuple(length / line.width for length in line.dash)) if line.dash else "-"
        axes.plot(xs, ys, color=line.colour, linewidth=line.width * points, linestyle=style, solid_joinstyle="round")
    for mark in scene.marks:
        axes.plot([mark.x], [mark.y], **_mark_style(mark, points))
    for text in scene.texts:
        axes.text(
            text.x,
            text.y,
            text.text,
            color=text.colour,
            fontsize=text.size * points,
            fontfamily="DejaVu Sans",
            fontweight="bold" if text.bold else "normal",
            ha=text.align,
            va="center",
            rotation=90 if text.rotated else 0,
            parse_math=False,
            path_effects=[withStroke(linewidth=3 * points, foreground="white")] if text.halo else [],
        )
    figure.savefig(path, format="png")


def _mark_style(mark: Mark, points: float) -> dict[str, Any]:
    hollow = mark.shape == "ring"
    return {
        "marker": _SHAPES[mark.shape],
        "color": mark.colour,
        "markersize": 2 * mark.size * points,
        "markerfacecolor": "white" if hollow else mark.colour,
        "markeredgewidth": (1.6 if hollow or mark.shape == "cross" else 0) * points,
        "linestyle": "none",
    }
