"""Pictures of a study: scores, learning curves, and what the sweeps say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpp_agents.plans import slug
from rpp_agents.plots import INK, MUTED, plain, save
from rpp_agents.plots import figure as new_figure
from rpp_agents.study.plan import Setting
from rpp_agents.study.results import Results

__all__ = ["COLOURS", "LINES", "draw_all"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#666666")
"""Okabe and Ito's, which the colour-blind tell apart, and two more."""
LINES = {"random": (0, (1, 1.5)), "enumerate_all": (0, (5, 2)), "supervised": (0, (5, 1.5, 1, 1.5))}
"""Methods that stand as level lines behind the learning curves, and how they are dashed."""

_MOST_BANDS = 10
"""Curves beyond which their bands hide each other."""


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draw everything that there is something to draw for; the PNG files, each with an SVG."""
    pictures = []
    for setting in results.settings:
        name = f"{setting.part}-{slug(setting.name)}"
        if setting.part in ("main", "models", "time"):
            pictures.append(_scores(results, setting, folder / f"{name}-scores.png"))
        if setting.part in ("main", "models") and learners(results, setting):
            pictures.append(_curves(results, setting, folder / f"{name}-curves.png"))
            pictures.append(_splits(results, setting, folder / f"{name}-splits.png"))
    for part, label in (("users", "train_users"), ("candidates", "candidates")):
        settings = results.part(part)
        if settings:
            pictures.append(
                _sweep(results, results.beside(settings), label, folder / f"{part}-sweep.png")
            )
    return pictures


def learners(results: Results, setting: Setting) -> list[str]:
    """Labels of the main table's methods whose curve has several points."""
    return [label for label in results.tabled(setting) if len(results.curve(setting, label)[0]) > 1]


def _legend(figure: Any, axes: Any, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=7, frameon=False
    )


def _levels(results: Results, setting: Setting, axes: Any, *, along: str) -> None:
    """Chance, random, best fixed and supervised as lines."""
    draw = axes.axhline if along == "x" else axes.axvline
    draw(setting.chance, color=MUTED, linewidth=1, label="chance")
    for method, dashes in LINES.items():
        label = results.label_of(setting, method)
        if label is not None:
            value = results.score(setting, label).value
            draw(value, color=INK, linewidth=1, linestyle=dashes, label=label)


def _scores(results: Results, setting: Setting, path: Path) -> Path:
    """Every method's score with its interval, best at the top within its family."""
    methods = list(results.methods(setting))
    families = list(dict.fromkeys(method.family for method in methods))
    figure = new_figure(7.5, 0.24 * len(methods) + 1.3)
    axes = figure.subplots()
    ordered = sorted(
        methods,
        key=lambda m: (
            families.index(m.family),
            -results.score(setting, m.label).value,
        ),
    )
    for row, method in enumerate(ordered):
        found = results.score(setting, method.label)
        colour = COLOURS[families.index(method.family) % len(COLOURS)]
        axes.plot([found.low, found.high], [row, row], color=colour, linewidth=2)
        axes.plot([found.value], [row], "o", color=colour, markersize=4.5)
    axes.set_yticks(range(len(ordered)), [method.label for method in ordered])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    plain(axes)
    _levels(results, setting, axes, along="y")
    axes.set_xlabel("NDCG@10, test users", fontsize=8, color=INK)
    axes.set_title(setting.name, fontsize=10, color=INK, loc="left")
    _legend(figure, axes, 4)
    return save(figure, path, svg=True)


def _curves(results: Results, setting: Setting, path: Path) -> Path:
    """Score against calls of the model, all methods that learn step by step in one plot."""
    figure = new_figure(7.5, 4.6)
    axes = figure.subplots()
    curves = [(label, *results.curve(setting, label)) for label in learners(results, setting)]
    # In the legend as they end, the best first; a method keeps its colour from setting to setting.
    for i in sorted(range(len(curves)), key=lambda i: -curves[i][2][:, -1].mean()):
        label, calls, scores = curves[i]
        style = ("-", "--", ":")[i // len(COLOURS) % 3]
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(calls, scores.mean(axis=0), style, color=colour, linewidth=1.6, label=label)
        if len(scores) > 1 and len(curves) <= _MOST_BANDS:
            axes.fill_between(
                calls, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.08, linewidth=0
            )
    plain(axes)
    _levels(results, setting, axes, along="x")
    axes.set_xlabel("calls of the model in training", fontsize=8, color=INK)
    axes.set_ylabel("NDCG@10, test users", fontsize=8, color=INK)
    axes.set_title(
        f"{setting.name}: score against calls, mean of the runs"
        + (" (bands: all of them)" if len(curves) <= _MOST_BANDS else ""),
        fontsize=10,
        color=INK,
        loc="left",
    )
    _legend(figure, axes, 4)
    return save(figure, path, svg=True)


def _splits(results: Results, setting: Setting, path: Path) -> Path:
    """Train, validation and test users side by side."""
    labels = learners(results, setting)
    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    figure = new_figure(2.4 * columns + 0.4, 1.9 * rows + 0.8)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for label, axes in zip(labels, panels, strict=False):
        for i, split in enumerate(("train", "validation", "test")):
            calls, scores = results.curve(setting, label, split)
            axes.plot(
                calls, scores.mean(axis=0), color=COLOURS[(0, 4, 1)[i]], linewidth=1.4, label=split
            )
        axes.set_title(label, fontsize=8, color=INK, loc="left")
        plain(axes)
    for axes in panels[len(labels) :]:
        axes.set_axis_off()
    figure.supxlabel("calls of the model in training", fontsize=8, color=INK)
    figure.supylabel("NDCG@10", fontsize=8, color=INK)
    _legend(figure, panels[0], 3)
    return save(figure, path, svg=True)


def sweep_value(setting: Setting, what: str) -> int:
    """The number that a sweep varies."""
    return int(getattr(setting, what))


def _sweep(results: Results, settings: Sequence[Setting], what: str, path: Path) -> Path:
    """Scores along a sweep, a panel for each dataset."""
    datasets = list(dict.fromkeys(setting.dataset for setting in settings))
    figure = new_figure(max(3.9 * len(datasets), 6.5), 4.2)
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    labels = [
        m.label
        for m in results.study.methods
        if any(results.runs(s, m.label) for s in settings if s.part != "main")
    ]
    for dataset, axes in zip(datasets, panels, strict=True):
        mine = sorted(
            (s for s in settings if s.dataset == dataset), key=lambda s: sweep_value(s, what)
        )
        for i, label in enumerate(labels):
            there = [s for s in mine if results.runs(s, label)]
            found = [results.score(s, label) for s in there]
            at = [sweep_value(s, what) for s in there]
            spread = np.array([[e.value - e.low, e.high - e.value] for e in found]).T
            axes.errorbar(
                at,
                [e.value for e in found],
                spread if found else None,
                fmt=("o-", "s--", "^:")[i // len(COLOURS) % 3],
                color=COLOURS[i % len(COLOURS)],
                linewidth=1.4,
                markersize=3.5,
                elinewidth=0.8,
                label=label,
            )
        at = sorted({sweep_value(s, what) for s in mine})
        axes.set_xscale("log")
        axes.set_xticks(at, [f"{x:,}" for x in at])
        axes.minorticks_off()
        axes.plot(
            [sweep_value(s, what) for s in mine],
            [s.chance for s in mine],
            color=MUTED,
            linewidth=1,
            label="chance",
        )
        axes.set_title(dataset, fontsize=9, color=INK, loc="left")
        axes.set_xlabel(
            what.replace("_", " "),
            fontsize=8,
            color=INK,
        )
        plain(axes)
    panels[0].set_ylabel("NDCG@10, test users", fontsize=8, color=INK)
    _legend(figure, panels[0], 3)
    return save(figure, path, svg=True)
