"""Pictures of a bench. Every run is drawn, and the mean with its interval over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.bench import as_bench
from rpp_agents.experiments.files import slug
from rpp_agents.experiments.plan import Setting
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.statistics import Lines, iqm, stratified_bootstrap
from rpp_agents.plots import (
    INK,
    TRAINING,
    VALIDATION,
    Picture,
    grid,
    headline,
    legend,
    limits,
    listed,
    plain,
    save,
)
from rpp_agents.plots import figure as new_figure

__all__ = ["draw_all"]

LINES = {
    "random": ("random prompt", (0, (1, 1.5))),
    "fixed": ("best fixed prompt", (0, (5, 2))),
    "reference": ("observable reference", (0, (5, 1.5, 1, 1.5))),
}


def draw_all(results: Results, folder: Path) -> list[Picture]:
    """Draw everything that there is something to draw for."""
    pictures = [
        _curves(results, setting, folder / f"curves-{slug(setting.name)}.png")
        for setting in results.settings
    ]
    if not as_bench(results.plan).tunes:
        pictures.append(_finals(results, folder / "final.png"))
        pictures += _improvement(results, folder / "improvement.png")
        pictures += _overall(results, folder / "overall.png")
    return pictures


def _steps(axes: Any, last: float) -> None:
    ticks = [0, last / 2, last]
    texts = [f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x else "0" for x in ticks]
    axes.set_xticks(ticks, texts)
    axes.set_xlim(0, 1.01 * last)


def _heights(results: Results, setting: Setting) -> dict[str, float]:
    """Mean over worlds of each level line."""
    lines = [r["scores"] for (name, _), r in results.levels.items() if name == setting.name]
    return {line: float(np.mean([one[line] for one in lines])) for line in LINES if lines}


def _rows_of(results: Results, setting: Setting, label: str) -> dict[int, NDArray[np.float64]]:
    """(R, P) scores at every evaluation, per world."""
    found: dict[int, list[list[float]]] = {}
    for cell, result in results.runs(setting, label):
        found.setdefault(cell.draw, []).append(result["scores"])
    return {world: np.array(rows) for world, rows in found.items()}


def _curves(results: Results, setting: Setting, path: Path) -> Picture:
    """Sample efficiency: a panel for each algorithm, all on one scale."""
    labels = results.labels(setting)
    figure, panels = grid(
        len(labels),
        2.7,
        2.2,
        xlabel="environment steps",
        ylabel=f"NDCG@10, {as_bench(results.plan).split} users",
    )
    heights = _heights(results, setting)
    middles: dict[str, NDArray[np.float64]] = {}
    points = np.array(results.runs(setting, labels[0])[0][1]["points"])
    low, high = np.inf, -np.inf
    for label, axes in zip(labels, panels, strict=True):
        by_world = _rows_of(results, setting, label)
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
    floor, ceiling = limits(low, high, heights.values())
    against = results.plan.against
    for label, axes in zip(labels, panels, strict=True):
        for line, height in heights.items():
            axes.axhline(height, color=INK, linewidth=0.9, linestyle=LINES[line][1])
        if against in middles and label != against:
            axes.plot(points, middles[against], color=VALIDATION, linewidth=1.1)
        axes.set_title(label, fontsize=9, color=INK, loc="left")
        _steps(axes, points[-1])
    panels[0].set_ylim(floor, ceiling)
    headline(figure, setting.name)
    entries: dict[str, dict[str, Any]] = {
        "one run": {"color": TRAINING, "linewidth": 0.7, "alpha": 0.6},
        "mean, 95% interval": {"color": TRAINING, "linewidth": 2},
    }
    if against in middles and len(labels) > 1:
        entries[f"mean of {against}"] = {"color": VALIDATION, "linewidth": 1.1}
    for line, height in heights.items():
        off = "" if floor <= height <= ceiling else ", off the axis"
        entries[f"{LINES[line][0]} ({height:.3f}{off})"] = _dashed(line)
    legend(figure, entries, 3)
    ends = listed({label: middle[-1] for label, middle in middles.items()})
    lines = listed({LINES[line][0]: height for line, height in heights.items()})
    alt = (
        f"NDCG@10 over the steps of training on {setting.name}, a panel for each algorithm. At "
        f"the end: {ends}. Baselines: {lines}"
    )
    return save(figure, path, alt)


def _dashed(line: str) -> dict[str, Any]:
    return {"color": INK, "linewidth": 0.9, "linestyle": LINES[line][1]}


def _finals(results: Results, path: Path) -> Picture:
    """The final score of every run: a panel for each setting, a row for each algorithm."""
    environments = results.settings
    named = {label for e in environments for label in results.labels(e)}
    labels = [a.label for a in results.plan.methods if a.label in named]
    figure, panels = grid(
        len(environments),
        3.4,
        0.26 * len(labels) + 0.7,
        xlabel=f"NDCG@10 at the end, {as_bench(results.plan).split} users",
        ylabel="",
        columns=3,
        sharex=False,
    )
    rng = np.random.default_rng(0)
    best = {}
    for setting, axes in zip(environments, panels, strict=True):
        means = {}
        for line, height in _heights(results, setting).items():
            axes.axvline(height, **_dashed(line))
        for row, label in enumerate(labels):
            scores = [result["score"] for _, result in results.runs(setting, label)]
            if not scores:
                continue
            apart = rng.uniform(-0.22, 0.22, len(scores))
            found = results.score(setting, label)
            means[label] = found.value
            axes.plot([found.low, found.high], [row, row], color=VALIDATION, linewidth=1.6)
            axes.scatter(
                scores, row + apart, s=13, color=TRAINING, alpha=0.65, linewidths=0, zorder=3
            )
            axes.plot(
                found.value, row, marker="|", color=VALIDATION, markersize=9, markeredgewidth=2
            )
        best[setting.name] = max(means, key=lambda label: means[label])
        axes.set_title(setting.name, fontsize=9, color=INK, loc="left")
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    headline(figure, "Final score of every run (intervals of differences: see the tables)")
    entries = {
        "one run": {"color": TRAINING, "marker": "o", "markersize": 4, "linewidth": 0},
        "mean, 95% interval": {"color": VALIDATION, "linewidth": 1.6},
        **{LINES[line][0]: _dashed(line) for line in LINES},
    }
    legend(figure, entries, {1: 2, 2: 3}.get(len(environments), 5))
    highest = ", ".join(f"{label} on {name}" for name, label in best.items())
    alt = (
        f"The final scores of all runs of {len(labels)} algorithms with the means and their "
        f"intervals. The highest means: {highest}"
    )
    return save(figure, path, alt)


def _improvement(results: Results, path: Path) -> list[Picture]:
    """Probability of improvement: all environments together, and each as a small dot."""
    against, environments = results.plan.against, results.settings
    found = {
        a.label: results.improvement(a.label, environments)
        for a in results.plan.methods
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
    shares = listed({label: estimate.value for label, estimate in rows.items()}, 2)
    alt = f"Probability that a run scores above a run of {against} in the same world: {shares}"
    return [save(figure, path, alt)]


def _overall(results: Results, path: Path) -> list[Picture]:
    """Sample efficiency over all tasks: the inter-quartile mean of the gain."""
    from rpp_agents.experiments.tables import FEWEST_TASKS

    if len(results.tasks) < FEWEST_TASKS:
        return []
    points = np.array(results.cells[0][1]["points"])
    alike = len({cell.budget for cell, _ in results.cells}) == 1
    if not alike:  # budgets differ: the k-th evaluation of each
        points = 100 * np.arange(1, len(points) + 1) / len(points)
    curves = {}
    for algorithm in results.plan.methods:
        worlds = results.common_draws([algorithm.label], results.tasks)
        if worlds:
            curves[algorithm.label] = [
                stratified_bootstrap(iqm, results.gains(algorithm.label, worlds, i), resamples=500)
                for i in range(len(points))
            ]
    if not curves:
        return []
    figure, panels = grid(
        len(curves),
        2.7,
        2.2,
        xlabel="environment steps" if alike else "% of the steps",
        ylabel="IQM of the gain over tasks",
    )
    against = results.plan.against
    for (label, curve), axes in zip(curves.items(), panels, strict=True):
        low, value, high = np.array([(e.low, e.value, e.high) for e in curve]).T
        for line in (0, 1):
            axes.axhline(line, **_dashed("fixed"))
        axes.fill_between(points, low, high, color=TRAINING, alpha=0.2, linewidth=0)
        axes.plot(points, value, color=TRAINING, linewidth=2)
        if against in curves and label != against:
            axes.plot(points, [e.value for e in curves[against]], color=VALIDATION, linewidth=1.1)
        axes.set_title(label, fontsize=9, color=INK, loc="left")
        if alike:
            _steps(axes, points[-1])
    lowest = min(e.low for curve in curves.values() for e in curve[1:] or curve)
    panels[0].set_ylim(max(lowest, -2.0) - 0.05, None)
    headline(figure, f"The gain over the steps of training, over {len(results.tasks)} tasks")
    entries: dict[str, dict[str, Any]] = {
        "mean of the middle half (IQM)": {"color": TRAINING, "linewidth": 2},
        "95% over other runs in these worlds": {"color": TRAINING, "linewidth": 6, "alpha": 0.2},
    }
    if against in curves and len(curves) > 1:
        entries[against] = {"color": VALIDATION, "linewidth": 1.1}
    entries["0: best fixed prompt, 1: observable reference"] = _dashed("fixed")
    legend(figure, entries, 2)
    ends = listed({label: curve[-1].value for label, curve in curves.items()}, 2)
    alt = (
        f"Inter-quartile mean of the gain over {len(results.tasks)} tasks and the steps of "
        f"training, a panel for each algorithm. At the end: {ends}"
    )
    return [save(figure, path, alt)]
