"""Pictures of a study: scores, learning curves, and what the sweeps say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpp_agents.experiments.files import slug
from rpp_agents.experiments.plan import Setting
from rpp_agents.experiments.results import Results
from rpp_agents.plots import (
    INK,
    MUTED,
    OTHERS,
    TRAINING,
    Picture,
    grid,
    headline,
    label_ends,
    legend,
    limits,
    listed,
    plain,
    save,
    short,
)
from rpp_agents.plots import figure as new_figure

__all__ = ["COLOURS", "LINES", "baselines", "draw_all", "learners", "sweep_value"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#666666")
"""Okabe and Ito's, which the colour-blind tell apart, and two more."""
LINES = {"random": (0, (1, 1.5)), "enumerate_all": (0, (5, 2)), "supervised": (0, (5, 1.5, 1, 1.5))}
"""Methods that stand as level lines behind the learning curves, and how they are dashed."""


def draw_all(results: Results, folder: Path) -> list[Picture]:
    """Draw everything that there is something to draw for; PNG files, each with an SVG."""
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
    """Labels of the main table's methods whose curve has several points, in the table's order."""
    return [label for label in results.tabled(setting) if len(results.curve(setting, label)[0]) > 1]


def baselines(results: Results, setting: Setting) -> dict[str, float]:
    """Names and scores of what the others are compared with: chance, random, fixed, supervised."""
    lines = {"chance": setting.chance}
    for method in LINES:
        label = results.label_of(setting, method)
        if label is not None:
            lines[label] = results.score(setting, label).value
    return lines


def _styled(results: Results, setting: Setting) -> dict[str, Any]:
    """How each baseline is dashed."""
    labels = {results.label_of(setting, method): dashes for method, dashes in LINES.items()}
    return {name: labels.get(name, "-") for name in baselines(results, setting)}


def _baseline_legend(
    results: Results, setting: Setting, low: float, high: float
) -> dict[str, dict[str, Any]]:
    """Entries of a legend; a baseline off the axis says so."""
    styles = _styled(results, setting)
    return {
        f"{name} {value:.3f}" + ("" if low <= value <= high else " (off the axis)"): {
            "color": MUTED if name == "chance" else INK,
            "linewidth": 1,
            "linestyle": styles[name],
        }
        for name, value in baselines(results, setting).items()
    }


def _near(results: Results, setting: Setting) -> list[float]:
    """Baselines that an axis makes room for; chance is shown where there is room anyway."""
    return [x for name, x in baselines(results, setting).items() if name != "chance"]


def _draw_baselines(results: Results, setting: Setting, axes: Any, *, along: str) -> None:
    """Level lines where they are on the axis."""
    low, high = axes.get_ylim() if along == "x" else axes.get_xlim()
    draw = axes.axhline if along == "x" else axes.axvline
    styles = _styled(results, setting)
    for name, value in baselines(results, setting).items():
        if low <= value <= high:
            colour = MUTED if name == "chance" else INK
            draw(value, color=colour, linewidth=0.9, linestyle=styles[name], zorder=1)


def _scores(results: Results, setting: Setting, path: Path) -> Picture:
    """Every method's score with its interval, best at the top within its family."""
    methods = list(results.methods(setting))
    families = list(dict.fromkeys(method.family for method in methods))
    found = {method.label: results.score(setting, method.label) for method in methods}
    ordered = sorted(methods, key=lambda m: (families.index(m.family), -found[m.label].value))
    figure = new_figure(7.5, 0.24 * len(methods) + 1.3)
    axes = figure.subplots()
    ends = [x for e in found.values() for x in (e.low, e.value, e.high) if np.isfinite(x)]
    axes.set_xlim(*limits(min(ends), max(ends), _near(results, setting)))
    for row, method in enumerate(ordered):
        score = found[method.label]
        colour = COLOURS[families.index(method.family) % len(COLOURS)]
        axes.plot([score.low, score.high], [row, row], color=colour, linewidth=2)
        axes.plot([score.value], [row], "o", color=colour, markersize=4.5)
        if row == 0 or ordered[row - 1].family != method.family:
            axes.annotate(
                method.family,
                (1.02, row),
                xycoords=("axes fraction", "data"),
                fontsize=8,
                color=colour,
                va="center",
            )
    axes.set_yticks(range(len(ordered)), [method.label for method in ordered])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    plain(axes)
    _draw_baselines(results, setting, axes, along="y")
    axes.set_xlabel("NDCG@10, test users", fontsize=8, color=INK)
    axes.set_title(f"{setting.name}: scores with 95% intervals", fontsize=10, color=INK, loc="left")
    legend(figure, _baseline_legend(results, setting, *axes.get_xlim()), 4)
    best = sorted(found, key=lambda label: -found[label].value)[:3]
    alt = (
        f"Scores of {len(methods)} methods on {setting.name} with their intervals. The highest: "
        f"{listed({label: found[label].value for label in best})}"
    )
    return save(figure, path, alt, svg=True)


def _panels(results: Results, setting: Setting) -> tuple[Any, dict[str, Any]]:
    """A panel for each method that learns step by step, the best at the end first."""
    labels = learners(results, setting)
    ends = {label: results.curve(setting, label)[1][:, -1].mean() for label in labels}
    ordered = sorted(labels, key=lambda label: -ends[label])
    figure, panels = grid(
        len(ordered),
        2.3,
        1.75,
        xlabel="calls of the model in training",
        ylabel="NDCG@10, test users",
    )
    for label, axes in zip(ordered, panels, strict=True):
        axes.set_title(label, fontsize=8, color=INK, loc="left")
    calls = np.concatenate([results.curve(setting, label)[0] for label in labels])
    room = 0.03 * (calls.max() - calls.min())
    panels[0].set_xlim(calls.min() - room, calls.max() + room)
    panels[0].xaxis.set_major_formatter(short)
    return figure, dict(zip(ordered, panels, strict=True))


def _curves(results: Results, setting: Setting, path: Path) -> Picture:
    """Score against calls: each method in a panel of its own, in front of all others."""
    figure, panels = _panels(results, setting)
    curves = {label: results.curve(setting, label) for label in panels}
    scores = [scores for _, scores in curves.values()]
    low, high = min(map(np.min, scores)), max(map(np.max, scores))
    next(iter(panels.values())).set_ylim(*limits(low, high, _near(results, setting)))
    for label, axes in panels.items():
        for other, (calls, theirs) in curves.items():
            if other != label:
                axes.plot(calls, theirs.mean(axis=0), color=OTHERS, linewidth=0.7, zorder=1.5)
        calls, mine = curves[label]
        axes.fill_between(
            calls, mine.min(axis=0), mine.max(axis=0), color=TRAINING, alpha=0.2, linewidth=0
        )
        axes.plot(calls, mine.mean(axis=0), color=TRAINING, linewidth=1.8)
        _draw_baselines(results, setting, axes, along="x")
    headline(figure, f"{setting.name}: score against calls")
    entries = {
        "mean of the runs": {"color": TRAINING, "linewidth": 1.8},
        "range of the runs": {"color": TRAINING, "linewidth": 6, "alpha": 0.2},
        "the other methods": {"color": OTHERS, "linewidth": 0.7},
    }
    axes = next(iter(panels.values()))
    legend(figure, entries | _baseline_legend(results, setting, *axes.get_ylim()), 4)
    ends = {label: scores[:, -1].mean() for label, (_, scores) in curves.items()}
    best = dict(list(ends.items())[:5])
    alt = (
        f"Score against calls of the model on {setting.name}, a panel for each of {len(panels)} "
        f"methods. The best at the end: {listed(best)}. Baselines: "
        f"{listed(baselines(results, setting))}"
    )
    return save(figure, path, alt, svg=True)


def _splits(results: Results, setting: Setting, path: Path) -> Picture:
    """Train, validation and test users side by side."""
    figure, panels = _panels(results, setting)
    figure.supylabel("NDCG@10", fontsize=9, color=INK)
    colours = {"train": COLOURS[0], "validation": COLOURS[4], "test": COLOURS[1]}
    apart = {}
    for label, axes in panels.items():
        ends = {}
        for split, colour in colours.items():
            calls, scores = results.curve(setting, label, split)
            axes.plot(calls, scores.mean(axis=0), color=colour, linewidth=1.4)
            ends[split] = scores[:, -1].mean()
        apart[label] = ends["train"] - ends["test"]
    headline(figure, f"{setting.name}: train, validation and test users")
    entries = {
        f"{split} users": {"color": colour, "linewidth": 1.4} for split, colour in colours.items()
    }
    legend(figure, entries, 3)
    widest = sorted(apart, key=lambda label: -apart[label])[:3]
    alt = (
        f"Scores of train, validation and test users against calls of the model on {setting.name}. "
        "Train users are furthest above test users in the end with "
        f"{listed({label: apart[label] for label in widest})}"
    )
    return save(figure, path, alt, svg=True)


def sweep_value(setting: Setting, what: str) -> int:
    """The number that a sweep varies."""
    return int(getattr(setting, what))


def _sweep(results: Results, settings: Sequence[Setting], what: str, path: Path) -> Picture:
    """Scores along a sweep, a panel for each dataset; lines are named where they end."""
    datasets = list(dict.fromkeys(setting.dataset for setting in settings))
    figure = new_figure(max(5.4 * len(datasets), 6.5), 4.2)
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    labels = [
        m.label
        for m in results.plan.methods
        if any(results.runs(s, m.label) for s in settings if s.part != "main")
    ]
    for dataset, axes in zip(datasets, panels, strict=True):
        mine = sorted(
            (s for s in settings if s.dataset == dataset), key=lambda s: sweep_value(s, what)
        )
        ends = []
        for i, label in enumerate(labels):
            there = [s for s in mine if results.runs(s, label)]
            found = [results.score(s, label) for s in there]
            at = [sweep_value(s, what) for s in there]
            colour = COLOURS[i % len(COLOURS)]
            if found:
                spans = np.array([[e.value - e.low, e.high - e.value] for e in found]).T
                ends.append((found[-1].value, label, colour))
                axes.errorbar(
                    at,
                    [e.value for e in found],
                    np.nan_to_num(spans, posinf=0.0),
                    fmt=("o-", "s--", "^:")[i // len(COLOURS) % 3],
                    color=colour,
                    linewidth=1.4,
                    markersize=3.5,
                    elinewidth=0.8,
                )
        at = sorted({sweep_value(s, what) for s in mine})
        axes.set_xscale("log")
        axes.set_xticks(at, [f"{x:,}" for x in at])
        axes.minorticks_off()
        chances = [s.chance for s in mine]
        axes.plot([sweep_value(s, what) for s in mine], chances, color=MUTED, linewidth=1)
        ends.append((chances[-1], "chance", MUTED))
        axes.set_title(dataset, fontsize=9, color=INK, loc="left")
        axes.set_xlabel(
            what.replace("_", " "),
            fontsize=8,
            color=INK,
        )
        plain(axes)
        label_ends(axes, ends)
    panels[0].set_ylabel("NDCG@10, test users", fontsize=8, color=INK)
    alt = (
        f"Scores of {len(labels)} methods with 95% intervals against {what.replace('_', ' ')}, on "
        f"{' and '.join(datasets)}"
    )
    return save(figure, path, alt, svg=True)
