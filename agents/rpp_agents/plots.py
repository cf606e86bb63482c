"""Learning curves, and the shared style of all pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.runs import read_progress, read_unit
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.markdown import words

__all__ = [
    "Picture",
    "figure",
    "grid",
    "headline",
    "label_ends",
    "learning_curve",
    "legend",
    "limits",
    "listed",
    "plain",
    "save",
    "short",
    "smooth",
    "spread",
]

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
OTHERS = "#c8cdd6"
"""Lines in the background of the one that a panel is about."""
TRAINING, VALIDATION, SAMPLED = "#2563eb", "#d9480f", "#0f766e"


@dataclass(frozen=True)
class Picture:
    """A picture and its description."""

    path: Path
    alt: str
    """Alternative text: what is drawn, and what stands out."""

    def markdown(self, folder: Path) -> str:
        """Return the Markdown of the picture for a page in `folder`."""
        return f"![{words(self.alt)}]({self.path.relative_to(folder)})"


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

    One run: every iteration as a pale line, and the smoothed curve. Several: each run's smoothed
    curve as a pale line, their mean, and a 95% interval of that mean (Student's t). Evaluations are
    points; for several runs with the same interval. Labels count users if the runs were played by
    users (``unit`` in their ``config.json``).

    Parameters
    ----------
    run_dirs : sequence of paths
        Folders that training wrote.
    path : path
        The picture; its suffix selects the format, such as ``.png`` or ``.svg``.
    label : str
        Name of the algorithm.
    lines : mapping of str to float, optional
        Names and scores of baselines, drawn as horizontal lines.
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
    for i, height in enumerate((lines or {}).values()):
        axes.axhline(height, color=INK, linewidth=1.2, linestyle=styles[i % 4])

    axes.set_xlabel("environment steps")
    axes.set_ylabel(ylabel)
    axes.set_title(title or f"{label}: learning curve", loc="left", color=INK, fontweight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    # Room for the last evaluation's marker.
    axes.set_xlim(0, 1.015 * steps[-1])
    axes.margins(y=0.08)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    # Error bars are listed last by themselves; the two curves belong together.
    order = sorted(range(len(labels)), key=lambda i: not labels[i].startswith(f"{label}, "))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    ends = [(height, f"{name} {height:.3f}", INK) for name, height in (lines or {}).items()]
    label_ends(axes, ends)
    return save(figure, Path(path), f"{label}: {ylabel} over the steps of training").path


def smooth(values: NDArray[np.float64], window: float = 0.05) -> NDArray[np.float64]:
    """Compute a centred moving average over `window` of the length; narrower at the ends."""
    length = len(values)
    reach = np.minimum(np.arange(length), np.arange(length)[::-1])
    reach = np.minimum(reach, max(1, round(length * window / 2)))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    here = np.arange(length)
    return np.asarray((sums[here + reach + 1] - sums[here - reach]) / (2 * reach + 1))


def _interval(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over the runs, and the half width of its 95% interval (0 for one run)."""
    from scipy.stats import t

    count = len(rows)
    if count == 1:
        return rows[0], np.zeros(rows.shape[1])
    half = t.ppf(0.975, count - 1) * rows.std(axis=0, ddof=1) / np.sqrt(count)
    return rows.mean(axis=0), np.asarray(half)


def short(value: float, _: int = 0) -> str:
    """Abbreviate a large number for a tick."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def figure(width: float, height: float, dpi: int = 130) -> Any:
    """Make an empty matplotlib figure of this size in inches.

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
    """Apply our style to axes: a pale grid, small ticks, two spines."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def grid(
    count: int,
    width: float,
    height: float,
    *,
    xlabel: str,
    ylabel: str,
    columns: int = 4,
    sharex: bool = True,
) -> tuple[Any, list[Any]]:
    """Make a figure of `count` panels, `width` by `height` inches each, with a shared scale."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    drawn = figure(max(width * columns, 5.5), height * rows + 1.0)
    panels = drawn.subplots(rows, columns, sharex=sharex, sharey=True, squeeze=False).ravel()
    for axes in panels:
        plain(axes)
    for axes in panels[count:]:
        axes.set_axis_off()
    for axes in panels[max(count - columns, 0) : count]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    for axes in panels[columns * (rows - 1) : count]:
        axes.set_xlabel(xlabel, fontsize=8, color=INK)
    drawn.supylabel(ylabel, fontsize=9, color=INK)
    return drawn, list(panels[:count])


def limits(low: float, high: float, lines: Iterable[float] = ()) -> tuple[float, float]:
    """Return the limits of an axis: around the data and the lines that are near them.

    A line far outside would squeeze the data: leave it out, and state its value elsewhere.
    """
    span = max(high - low, 0.02)
    near = [line for line in lines if low - span <= line <= high + span]
    low, high = min([low, *near]), max([high, *near])
    room = 0.06 * max(high - low, 0.02)
    return low - room, high + room


def label_ends(axes: Any, ends: Iterable[tuple[float, str, str]]) -> None:
    """Write names at the right edge, each near its line's end and apart from the others.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Axes with their final limits.
    ends : iterable of (float, str, str)
        Height of a line's end, its name, and its colour.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    axes.figure.draw_without_rendering()  # lays the axes out, so that their height is known
    points = axes.get_window_extent().height / axes.figure.dpi * 72
    gap = 10 * (high - low) / points
    ordered = sorted(ends)
    heights = spread([y for y, _, _ in ordered], gap, low, high)
    for height, (y, name, colour) in zip(heights, ordered, strict=True):
        axes.annotate(
            name,
            xy=(1, y),
            xytext=(1.035, height),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            fontsize=8,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "shrinkA": 1,
                "relpos": (0, 0.5),
            },
        )


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending positions as little as possible, so that neighbours are `gap` apart.

    They stay between `low` and `high` if there is room for all.
    """
    groups = [[min(max(place, low), high)] for place in places]
    centres = [group[0] for group in groups]
    k = 0
    while k < len(groups):  # groups that touch become one, around their mean
        half = gap * (len(groups[k]) - 1) / 2
        centres[k] = min(max(centres[k], low + half), max(high - half, low + half))
        if k and centres[k] - half < centres[k - 1] + gap * (len(groups[k - 1]) + 1) / 2 - 1e-12:
            groups[k - 1 : k + 1] = [groups[k - 1] + groups[k]]
            centres[k - 1 : k + 1] = [float(np.mean(groups[k - 1]))]
            k -= 1
        else:
            k += 1
    return [
        centre + gap * (i - (len(group) - 1) / 2)
        for centre, group in zip(centres, groups, strict=True)
        for i in range(len(group))
    ]


def headline(drawn: Any, text: str) -> None:
    """Write a figure's title, above its panels on the left."""
    drawn.suptitle(text, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)


def legend(drawn: Any, entries: Mapping[str, Mapping[str, Any]], columns: int) -> None:
    """Write the names of lines below the figure, each with its style for `Line2D`.

    In as many columns as fit into the figure's width, up to `columns`.
    """
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **style) for name, style in entries.items()]
    for ncols in range(columns, 0, -1):
        made = drawn.legend(
            handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=8
        )
        if ncols == 1 or made.get_window_extent().width <= drawn.bbox.width:
            break
        made.remove()


def listed(scores: Mapping[str, float], digits: int = 3) -> str:
    """List names and numbers in a sentence, without brackets, which end alt text in Markdown."""
    found = "; ".join(f"{name} {score:.{digits}f}" for name, score in scores.items())
    return found.replace("[", "(").replace("]", ")")


def save(drawn: Any, path: Path, alt: str, *, svg: bool = False) -> Picture:
    """Save a figure, with a ``$`` in a label as a dollar sign and not as a formula.

    With `svg` also as SVG next to it, with the same bytes for the same numbers.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in drawn.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False, "svg.hashsalt": "rpp"}):
        with whole_file(path) as file:
            drawn.savefig(file, format=path.suffix[1:])
        if svg:
            with whole_file(path.with_suffix(".svg")) as file:
                drawn.savefig(file, format="svg", metadata={"Date": None})
    return Picture(path, alt)
