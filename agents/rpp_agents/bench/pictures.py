"""Pictures of a bench. Every run is drawn, and the mean with its interval over them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.bench.plan import Environment
from rpp_agents.plans import slug
from rpp_agents.plots import INK, TRAINING, VALIDATION, plain, save
from rpp_agents.plots import figure as new_figure
from rpp_agents.statistics import Lines, iqm, stratified_bootstrap

if TYPE_CHECKING:
    from rpp_agents.bench.report import Results

__all__ = ["draw_all"]

LINES = {
    "random": ("random prompt", (0, (1, 1.5))),
    "fixed": ("best fixed prompt", (0, (5, 2))),
    "reference": ("observable reference", (0, (5, 1.5, 1, 1.5))),
}


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draw everything that there is something to draw for; the files."""
    pictures = [
        _curves(results, environment, folder / f"curves-{slug(environment.name)}.png")
        for environment in results.environments
    ]
    if not results.bench.tunes:
        pictures.append(_finals(results, folder / "final.png"))
        pictures += _improvement(results, folder / "improvement.png")
        pictures += _overall(results, folder / "overall.png")
    return pictures


def _steps(axes: Any, last: float) -> None:
    ticks = [0, last / 2, last]
    texts = [f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x else "0" for x in ticks]
    axes.set_xticks(ticks, texts)
    axes.set_xlim(0, 1.01 * last)


def _finish(panels: Any, used: int, columns: int, label: str) -> None:
    """Empty panels away; numbers and `label` below the lowest panel of each column."""
    for axes in panels[used:]:
        axes.set_axis_off()
    for axes in panels[max(used - columns, 0) : used]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(label, fontsize=8, color=INK)


def _heights(results: Results, environment: Environment) -> dict[str, float]:
    """Mean over worlds of each level line."""
    lines = [r["scores"] for (name, _), r in results.levels.items() if name == environment.name]
    return {line: float(np.mean([one[line] for one in lines])) for line in LINES if lines}


def _rows_of(
    results: Results, environment: Environment, label: str
) -> dict[int, NDArray[np.float64]]:
    """(R, P) scores at every evaluation, per world."""
    found: dict[int, list[list[float]]] = {}
    for cell, result in results.runs(environment, label):
        found.setdefault(cell.world, []).append(result["scores"])
    return {world: np.array(rows) for world, rows in found.items()}


def _curves(results: Results, environment: Environment, path: Path) -> Path:
    """Sample efficiency: a panel for each algorithm, all on one scale."""
    labels = results.algorithms(environment)
    columns = min(4, len(labels))
    rows = math.ceil(len(labels) / columns)
    figure = new_figure(max(2.7 * columns, 5.5), 2.2 * rows + 1.0)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    heights = _heights(results, environment)
    middles: dict[str, NDArray[np.float64]] = {}
    points = np.array(results.runs(environment, labels[0])[0][1]["points"])
    low, high = np.inf, -np.inf
    for label, axes in zip(labels, panels, strict=False):
        by_world = _rows_of(results, environment, label)
        found = Lines(
            {
                i: {w: scores[:, i : i + 1] for w, scores in by_world.items()}
                for i in range(len(points))
            }
        )
        estimates = [found.mean(i) for i in range(len(points))]
        middles[label] = np.array([e.value for e in estimates])
        for scores in by_world.values():
            axes.plot(points, scores.T, color=TRAINING, alpha=0.35, linewidth=0.7)
            low, high = min(low, scores.min()), max(high, scores.max())
        axes.fill_between(
            points,
            [e.low for e in estimates],
            [e.high for e in estimates],
            color=TRAINING,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(points, middles[label], color=TRAINING, linewidth=2)
    # A level line far below all runs would press them together; the table has it.
    span = max(high - low, 0.02)
    floor = min([low, *(h for h in heights.values() if h > low - 1.5 * span)])
    ceiling = max([high, *heights.values()])
    against = results.bench.against
    for label, axes in zip(labels, panels, strict=False):
        for line, height in heights.items():
            axes.axhline(height, color=INK, linewidth=0.9, linestyle=LINES[line][1])
        if against in middles and label != against:
            axes.plot(points, middles[against], color=VALIDATION, linewidth=1.1)
        axes.set_title(label, fontsize=9, color=INK, loc="left")
        plain(axes)
        _steps(axes, points[-1])
    panels[0].set_ylim(floor - 0.06 * (ceiling - floor), ceiling + 0.06 * (ceiling - floor))
    _finish(panels, len(labels), columns, "environment steps")
    figure.supylabel(f"NDCG@10, {results.bench.split} users", fontsize=9, color=INK)
    figure.suptitle(environment.name, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    _legend(figure, heights, against if against in middles and len(labels) > 1 else None)
    return save(figure, path)


def _legend(figure: Any, heights: dict[str, float], against: str | None) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=TRAINING, linewidth=0.7, alpha=0.6, label="one run"),
        Line2D([], [], color=TRAINING, linewidth=2, label="mean, interval over worlds and runs"),
    ]
    if against is not None:
        handles.append(Line2D([], [], color=VALIDATION, linewidth=1.1, label=f"mean of {against}"))
    for line, height in heights.items():
        name, style = LINES[line]
        handles.append(
            Line2D(
                [], [], color=INK, linewidth=0.9, linestyle=style, label=f"{name} ({height:.3f})"
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _finals(results: Results, path: Path) -> Path:
    """The final score of every run: a panel for each environment, a row for each algorithm."""
    environments = results.environments
    named = {label for e in environments for label in results.algorithms(e)}
    labels = [a.label for a in results.bench.algorithms if a.label in named]
    columns = min(3, len(environments))
    rows = math.ceil(len(environments) / columns)
    figure = new_figure(3.4 * columns + 1.2, (0.26 * len(labels) + 0.7) * rows + 0.6)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    rng = np.random.default_rng(0)
    for environment, axes in zip(environments, panels, strict=False):
        for line, height in _heights(results, environment).items():
            axes.axvline(height, color=INK, linewidth=0.9, linestyle=LINES[line][1])
        for row, label in enumerate(labels):
            scores = [result["score"] for _, result in results.runs(environment, label)]
            if not scores:
                continue
            spread = rng.uniform(-0.22, 0.22, len(scores))
            found = results.estimate(environment, label)
            axes.plot([found.low, found.high], [row, row], color=VALIDATION, linewidth=1.6)
            axes.scatter(
                scores, row + spread, s=13, color=TRAINING, alpha=0.65, linewidths=0, zorder=3
            )
            axes.plot(
                found.value, row, marker="|", color=VALIDATION, markersize=9, markeredgewidth=2
            )
        axes.set_title(environment.name, fontsize=9, color=INK, loc="left")
        plain(axes)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    _finish(panels, len(environments), columns, f"NDCG@10 at the end, {results.bench.split} users")
    title = "The score of every run; what users and worlds share is in the bars: "
    title += "differences are in the tables"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=TRAINING, marker="o", markersize=4, linewidth=0, label="one run"),
        Line2D([], [], color=VALIDATION, linewidth=1.6, label="mean, 95% interval"),
        *(
            Line2D([], [], color=INK, linewidth=0.9, linestyle=style, label=name)
            for name, style in LINES.values()
        ),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=5 if columns > 2 else 3 if columns > 1 else 2,
        frameon=False,
        fontsize=8,
    )
    return save(figure, path)


def _improvement(results: Results, path: Path) -> list[Path]:
    """Probability of improvement: all environments together, and each as a small dot."""
    against, environments = results.bench.against, results.environments
    found = {
        a.label: results.improvement(a.label, environments)
        for a in results.bench.algorithms
        if a.label != against
    }
    rows = {label: estimate for label, estimate in found.items() if estimate is not None}
    if not rows:
        return []
    figure = new_figure(6.5, 0.3 * len(rows) + 1.5)
    axes = figure.add_subplot()
    axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=(0, (5, 2)))
    several = len(environments) > 1
    for row, (label, estimate) in enumerate(rows.items()):
        axes.plot(
            [estimate.low, estimate.high], [row, row], color=TRAINING, linewidth=4, alpha=0.35
        )
        axes.plot(
            estimate.value, row, marker="|", color=TRAINING, markersize=12, markeredgewidth=2.5
        )
        each = [results.improvement(label, [e]) for e in environments] if several else []
        dots = [one.value for one in each if one is not None]
        axes.scatter(
            dots, [row] * len(dots), s=12, color=VALIDATION, linewidths=0, zorder=3, alpha=0.7
        )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(
        f"probability that a run scores above a run of {against} in the same world"
        + (
            "\n(bar: 95% interval over all environments; dots: each environment)" if several else ""
        ),
        fontsize=9,
        color=INK,
    )
    plain(axes)
    return [save(figure, path)]


def _overall(results: Results, path: Path) -> list[Path]:
    """Sample efficiency over all tasks: the inter-quartile mean of the gain."""
    from rpp_agents.bench.report import FEWEST_TASKS

    if len(results.tasks) < FEWEST_TASKS:
        return []
    points = np.array(results.cells[0][1]["points"])
    alike = len({cell.total_steps for cell, _ in results.cells}) == 1
    if not alike:  # budgets differ: the k-th evaluation of each
        points = 100 * np.arange(1, len(points) + 1) / len(points)
    curves = {}
    for algorithm in results.bench.algorithms:
        worlds = results.common_worlds([algorithm.label], results.tasks)
        if worlds:
            curves[algorithm.label] = [
                stratified_bootstrap(iqm, results.gains(algorithm.label, worlds, i), resamples=500)
                for i in range(len(points))
            ]
    if not curves:
        return []
    columns = min(4, len(curves))
    rows_of_panels = math.ceil(len(curves) / columns)
    figure = new_figure(max(2.7 * columns, 5.5), 2.2 * rows_of_panels + 0.9)
    panels = figure.subplots(
        rows_of_panels, columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    against = results.bench.against
    for (label, curve), axes in zip(curves.items(), panels, strict=False):
        low, value, high = np.array([(e.low, e.value, e.high) for e in curve]).T
        for line in (0, 1):
            axes.axhline(line, color=INK, linewidth=0.9, linestyle=(0, (5, 2)))
        axes.fill_between(points, low, high, color=TRAINING, alpha=0.2, linewidth=0)
        axes.plot(points, value, color=TRAINING, linewidth=2)
        if against in curves and label != against:
            axes.plot(points, [e.value for e in curves[against]], color=VALIDATION, linewidth=1.1)
        axes.set_title(label, fontsize=9, color=INK, loc="left")
        plain(axes)
        if alike:
            _steps(axes, points[-1])
    lowest = min(e.low for curve in curves.values() for e in curve[1:] or curve)
    panels[0].set_ylim(max(lowest, -2.0) - 0.05, None)
    _finish(panels, len(curves), columns, "environment steps" if alike else "% of the steps")
    figure.supylabel("IQM of the gain over tasks", fontsize=9, color=INK)
    title = f"{len(results.tasks)} tasks; 0 is the best fixed prompt, 1 the observable reference"
    title += "; bands: other runs in these worlds"
    if against in curves and len(curves) > 1:
        title += f"; thin: {against}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)
    return [save(figure, path)]
