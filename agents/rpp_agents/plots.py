"""Learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.runs import read_progress, read_unit
from rpp_env.errors import InvalidOption, MissingExtra

__all__ = ["figure", "learning_curve", "plain", "save", "smooth"]

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
TRAINING, VALIDATION, SAMPLED = "#2563eb", "#d9480f", "#0f766e"


def learning_curve(
    run_dirs: Sequence[str | Path],
    path: str | Path,
    *,
    label: str = "training",
    lines: Mapping[str, float] | None = None,
    title: str | None = None,
    ylabel: str = "mean reward per step",
    window: float = 0.05,
) -> Path:
    """Draw the reward over the steps of one run, or of several seeds of one setting.

    One run: every iteration in a pale line, the smoothed curve over it. Several: each run's
    smoothed curve in a pale line, their mean, and a 95% interval of that mean (Student's t).
    Evaluations are points; for several runs with the same interval. The labels speak of users where
    the runs were played by users (``unit`` in their ``config.json``).

    Parameters
    ----------
    run_dirs : sequence of paths
        Folders that training wrote.
    path : path
        The picture; its ending says the format, such as ``.png`` or ``.svg``.
    label : str
        Name of the algorithm.
    lines : mapping of str to float, optional
        Names and heights of level lines.
    title, ylabel : str
    window : float
        Width of the smoothing, as a share of the run.

    Returns
    -------
    Path
        Where the picture is.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise MissingExtra("matplotlib", "agents") from error

    if not run_dirs:
        raise InvalidOption("learning_curve needs the folder of at least one run")
    runs = [read_progress(folder) for folder in run_dirs]
    shortest = min(len(run.get("steps", ())) for run in runs)
    if not shortest:
        raise InvalidOption("there is nothing to draw: a run has no finished iteration")
    steps = runs[0]["steps"][:shortest]
    raw = np.stack([run["reward"][:shortest] for run in runs])
    curves = np.stack([smooth(row, window) for row in raw])

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    seeds = len(runs)
    unit = read_unit(run_dirs[0])
    of = "" if unit is None else f" {unit}"
    for row in raw if seeds == 1 else curves:
        axes.plot(steps, row, color=TRAINING, alpha=0.25, linewidth=0.8)
    centre, half = _interval(curves)
    axes.plot(
        steps,
        centre,
        color=TRAINING,
        linewidth=2,
        label=f"{label}, training{of}" + (f" ({seeds} seeds, 95% interval)" if seeds > 1 else ""),
    )
    if seeds > 1:
        axes.fill_between(steps, centre - half, centre + half, color=TRAINING, alpha=0.15, lw=0)

    for column, colour, how in (
        ("eval_sampled", SAMPLED, "sampled"),
        ("eval_reward", VALIDATION, "greedy"),
    ):
        if not all(column in run for run in runs):
            continue
        scores = np.stack([run[column][:shortest] for run in runs])
        at = np.flatnonzero(~np.isnan(scores).any(axis=0))
        if len(at):
            middle, half = _interval(scores[:, at])
            axes.errorbar(
                steps[at],
                middle,
                yerr=half if seeds > 1 else None,
                color=colour,
                marker="o",
                markersize=4.5,
                linewidth=1.4,
                capsize=2.5,
                label=f"{label}, validation{of} ({how})",
                zorder=4,
            )
    styles = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    for i, (name, height) in enumerate((lines or {}).items()):
        axes.axhline(
            height,
            color=INK,
            linewidth=1.2,
            linestyle=styles[i % 4],
            label=f"{name} ({height:.3f})",
        )

    axes.set_xlabel("environment steps")
    axes.set_ylabel(ylabel)
    axes.set_title(title or f"{label}: learning curve", loc="left", color=INK, fontweight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    # Room for the last evaluation's mark.
    axes.set_xlim(0, 1.015 * steps[-1])
    axes.margins(y=0.08)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    # Error bars come last by themselves; the two curves belong together.
    order = sorted(range(len(labels)), key=lambda i: not labels[i].startswith(f"{label}, "))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return save(figure, Path(path))


def save(figure: Any, path: Path, *, svg: bool = False) -> Path:
    """Write a figure, in which a ``$`` in a label is a dollar sign and no formula.

    With `svg` also as SVG beside it, with the same bytes for the same numbers.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    path.parent.mkdir(parents=True, exist_ok=True)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False, "svg.hashsalt": "rpp"}):
        figure.savefig(path)
        if svg:
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return path


def smooth(values: NDArray[np.float64], window: float = 0.05) -> NDArray[np.float64]:
    """Centred moving average over `window` of the length; narrower towards the ends."""
    length = len(values)
    reach = np.minimum(np.arange(length), np.arange(length)[::-1])
    reach = np.minimum(reach, max(1, round(length * window / 2)))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    here = np.arange(length)
    return np.asarray((sums[here + reach + 1] - sums[here - reach]) / (2 * reach + 1))


def _interval(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the runs, and half the width of its 95% interval (0 for one run)."""
    from scipy.stats import t

    count = len(rows)
    if count == 1:
        return rows[0], np.zeros(rows.shape[1])
    half = t.ppf(0.975, count - 1) * rows.std(axis=0, ddof=1) / np.sqrt(count)
    return rows.mean(axis=0), np.asarray(half)


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def figure(width: float, height: float, dpi: int = 130) -> Any:
    """An empty matplotlib figure of so many inches.

    Raises
    ------
    MissingExtra
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "agents") from error
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def plain(axes: Any) -> None:
    """The look of all our axes: a pale grid, small ticks, two spines."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
