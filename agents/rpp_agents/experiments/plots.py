"""Pictures of a report, of a study and of a bench: curves, final scores, sweeps, and all tasks.

Every run is drawn, and the mean with its 95% interval over them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.files import slug
from rpp_agents.experiments.plan import DETAILED, Setting
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.statistics import iqm, stratified_bootstrap
from rpp_agents.experiments.tables import FEWEST_TASKS
from rpp_agents.plots import (
    INK,
    MUTED,
    OTHERS,
    TRAINING,
    VALIDATION,
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
from rpp_env.intervals import Estimate

__all__ = ["COLOURS", "draw_all"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#666666")
"""Okabe and Ito's colours, which are distinguishable for the colour-blind, and two more."""
DASHES: dict[str, Any] = {
    "chance": "-",
    "random": (0, (1, 1.5)),
    "fixed": (0, (5, 2)),
    "reference": (0, (5, 1.5, 1, 1.5)),
}
"""How the lines of `Results.baselines` are dashed."""
_RUN = {"color": TRAINING, "linewidth": 0.7, "alpha": 0.35}
_MEAN = {"color": TRAINING, "linewidth": 1.8}
_BAND = {"color": TRAINING, "linewidth": 6, "alpha": 0.2}
_MOST_NAMED = 12
"""Methods whose scores the description of a picture gives; of more methods the highest."""


def draw_all(results: Results, folder: Path, *, over_tasks: bool = False) -> list[Picture]:
    """Draw all pictures that have data; PNG files, each with an SVG."""
    bench = isinstance(results.plan, Bench)

    def named(setting: Setting, what: str) -> Path:
        name = slug(setting.name)
        return folder / (f"{what}-{name}.png" if bench else f"{setting.part}-{name}-{what}.png")

    pictures = []
    for setting in results.settings:
        if not bench and setting.part in DETAILED:
            pictures.append(_scores(results, [setting], named(setting, "scores")))
            pictures.append(_tokens(results, setting, named(setting, "tokens")))
        if setting.part in ("main", "models") and results.learners(setting):
            pictures.append(_curves(results, setting, named(setting, "curves")))
            if not bench:
                pictures.append(_splits(results, setting, named(setting, "splits")))
    for part, what in (("users", "train_users"), ("candidates", "candidates")):
        if settings := results.part(part):
            path = folder / f"{part}-sweep.png"
            pictures.append(_sweep(results, results.beside(settings), what, path))
    if bench and not results.plan.tunes:
        pictures.append(_scores(results, results.settings, folder / "final.png"))
    if over_tasks:
        pictures += _improvement(results, folder / "improvement.png")
        pictures += _overall(results, folder / "overall.png")
    return pictures


# ------------------------------------------------------------------------- lines to compare with


def _dashed(line: str) -> dict[str, Any]:
    colour = MUTED if line == "chance" else INK
    return {"color": colour, "linewidth": 0.9, "linestyle": DASHES[line]}


def _near(results: Results, setting: Setting) -> list[float]:
    """Return the baselines that an axis must include; chance only if there is room."""
    return [x for line, (_, x) in results.baselines(setting).items() if line != "chance"]


def _draw_baselines(results: Results, setting: Setting, axes: Any, *, along: str) -> None:
    """Draw the baselines that are within the axis."""
    low, high = axes.get_ylim() if along == "x" else axes.get_xlim()
    draw = axes.axhline if along == "x" else axes.axvline
    for line, (_, value) in results.baselines(setting).items():
        if low <= value <= high:
            draw(value, zorder=1, **_dashed(line))


def _named_baselines(
    results: Results, setting: Setting, span: tuple[float, float]
) -> dict[str, dict[str, Any]]:
    """Return the entries of a legend; a baseline off the axis is marked."""
    return {
        f"{name} {value:.3f}" + ("" if span[0] <= value <= span[1] else " (off the axis)"): _dashed(
            line
        )
        for line, (name, value) in results.baselines(setting).items()
    }


def _listed_baselines(results: Results, setting: Setting) -> str:
    return listed(dict(results.baselines(setting).values()))


# ---------------------------------------------------------------------------------------- curves


def _panels(
    results: Results, setting: Setting, ylabel: str
) -> tuple[Any, dict[str, Any], dict[str, float]]:
    """A figure, a panel for each method that learns step by step, and where each ends.

    The panels of a study, which has many methods, begin with the best at the end.
    """
    labels = results.learners(setting)
    ends = {label: float(results.curve(setting, label)[1][:, -1].mean()) for label in labels}
    if not results.plan.against:
        labels = sorted(labels, key=lambda label: -ends[label])
    figure, panels = grid(len(labels), 2.5, 2.0, xlabel=results.plan.UNIT, ylabel=ylabel)
    for label, axes in zip(labels, panels, strict=True):
        axes.set_title(label, fontsize=8, color=INK, loc="left")
    steps = np.concatenate([results.curve(setting, label)[0] for label in labels])
    room = 0.03 * (steps.max() - steps.min())
    panels[0].set_xlim(steps.min() - room, steps.max() + room)
    panels[0].xaxis.set_major_formatter(short)
    return figure, dict(zip(labels, panels, strict=True)), {label: ends[label] for label in labels}


def _band(axes: Any, steps: Any, along: Sequence[Estimate]) -> None:
    """A mean and its interval along training."""
    low, value, high = np.array([(one.low, one.value, one.high) for one in along]).T
    axes.fill_between(steps, low, high, color=TRAINING, alpha=0.2, linewidth=0)
    axes.plot(steps, value, **_MEAN)


def _beside(axes: Any, lines: Mapping[str, tuple[Any, Any]], label: str, against: str) -> None:
    """The means of the others behind a panel's own: of one in colour, or of all in grey."""
    for other, (steps, means) in lines.items():
        if other == label or (against and other != against):
            continue
        colour, width = (VALIDATION, 1.1) if against else (OTHERS, 0.7)
        axes.plot(steps, means, color=colour, linewidth=width, zorder=1.5)


def _others(against: str) -> dict[str, dict[str, Any]]:
    if against:
        return {f"mean of {against}": {"color": VALIDATION, "linewidth": 1.1}}
    return {"the other methods": {"color": OTHERS, "linewidth": 0.7}}


def _curves(results: Results, setting: Setting, path: Path) -> Picture:
    """Score against calls or steps: each method in a panel of its own, on one scale."""
    plan = results.plan
    figure, panels, ends = _panels(results, setting, f"NDCG@10, {plan.split} users")
    curves = {label: results.curve(setting, label) for label in panels}
    means = {label: (steps, scores.mean(axis=0)) for label, (steps, scores) in curves.items()}
    every = [scores for _, scores in curves.values()]
    span = limits(min(map(np.min, every)), max(map(np.max, every)), _near(results, setting))
    against = plan.against if plan.against in panels else ""
    for label, axes in panels.items():
        axes.set_ylim(*span)
        steps, scores = curves[label]
        if against or not plan.against:
            _beside(axes, means, label, against)
        axes.plot(steps, scores.T, **_RUN)
        _band(axes, steps, results.along(setting, label))
        _draw_baselines(results, setting, axes, along="x")
    headline(figure, f"{setting.name}: NDCG@10 over {plan.UNIT}")
    entries = {"one run": _RUN, "mean": _MEAN, "95% interval": _BAND}
    if len(panels) > 1 and (against or not plan.against):
        entries |= _others(against)
    legend(figure, entries | _named_baselines(results, setting, span), 4)
    alt = (
        f"NDCG@10 over {plan.UNIT} on {setting.name}, a panel for each of {len(panels)} methods. "
        f"{_ending(ends)}. Baselines: "
        f"{_listed_baselines(results, setting)}"
    )
    return save(figure, path, alt, svg=True)


def _ending(scores: Mapping[str, float], where: str = "") -> str:
    """Where curves end: all of a few, the highest of many."""
    if len(scores) <= _MOST_NAMED:
        return f"At the end{where}: {listed(scores)}"
    highest = sorted(scores.items(), key=lambda score: -score[1])[:_MOST_NAMED]
    return f"Highest at the end{where}: {listed(dict(highest))}"


def _splits(results: Results, setting: Setting, path: Path) -> Picture:
    """Train, validation and test users side by side."""
    figure, panels, _ = _panels(results, setting, "NDCG@10")
    colours = {"train": COLOURS[0], "validation": COLOURS[4], "test": COLOURS[1]}
    apart = {}
    for label, axes in panels.items():
        ends = {}
        for split, colour in colours.items():
            steps, scores = results.curve(setting, label, split)
            axes.plot(steps, scores.mean(axis=0), color=colour, linewidth=1.4)
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


def _overall(results: Results, path: Path) -> list[Picture]:
    """Sample efficiency over all tasks: the inter-quartile mean of the gain."""
    plan, tasks = results.plan, results.tasks
    if len(tasks) < FEWEST_TASKS:
        return []
    steps = np.array(results.finished[0][0].path(results.finished[0][1])[0], np.float64)
    alike = len({run.budget for run, _ in results.finished}) == 1
    if not alike:  # budgets differ: the k-th evaluation of each
        steps = 100 * np.arange(1, len(steps) + 1) / len(steps)
    curves = {}
    for method in plan.methods:
        if draws := results.common_draws([method.label], tasks):
            curves[method.label] = [
                stratified_bootstrap(iqm, results.gains(method.label, draws, i), resamples=500)
                for i in range(len(steps))
            ]
    if not curves:
        return []
    xlabel = plan.UNIT if alike else "% of the budget"
    figure, panels = grid(len(curves), 2.5, 2.0, xlabel=xlabel, ylabel="IQM of the gain over tasks")
    against = str(results.against) if results.against in curves else ""
    means = {label: (steps, [one.value for one in curve]) for label, curve in curves.items()}
    for (label, curve), axes in zip(curves.items(), panels, strict=True):
        for line in (0, 1):
            axes.axhline(line, **_dashed("fixed"))
        if against:
            _beside(axes, means, label, against)
        _band(axes, steps, curve)
        axes.set_title(label, fontsize=8, color=INK, loc="left")
    panels[0].xaxis.set_major_formatter(short)
    lowest = min(one.low for curve in curves.values() for one in curve[1:] or curve)
    panels[0].set_ylim(max(lowest, -2.0) - 0.05, None)
    headline(figure, f"The gain over training, over {len(tasks)} tasks")
    entries = {"mean of the middle half (IQM)": _MEAN}
    entries |= {"95% over other runs in these worlds": _BAND}
    if against and len(curves) > 1:
        entries |= _others(against)
    legend(figure, entries | {"0: best fixed prompt, 1: reference": _dashed("fixed")}, 2)
    alt = (
        f"Inter-quartile mean of the gain over {len(tasks)} tasks and {xlabel}, a panel for each "
        f"of {len(curves)} methods. At the end: "
        f"{listed({label: curve[-1].value for label, curve in curves.items()}, 2)}"
    )
    return [save(figure, path, alt, svg=True)]


# -------------------------------------------------------------------------------- rows of methods


def _row(axes: Any, row: int, found: Estimate, colour: str, dots: Sequence[float] = ()) -> None:
    """An interval with its value, over dots that are spread a little."""
    apart = np.random.default_rng(row).uniform(-0.22, 0.22, len(dots))
    axes.scatter(dots, row + apart, s=11, color=colour, alpha=0.45, linewidths=0, zorder=2)
    axes.plot([found.low, found.high], [row, row], color=colour, linewidth=1.8, zorder=3)
    axes.plot([found.value], [row], "|", color=INK, markersize=8, markeredgewidth=1.8, zorder=4)


def _scores(results: Results, settings: Sequence[Setting], path: Path) -> Picture:
    """The final score of every run and their mean: a panel for each setting, a row per method."""
    plan = results.plan
    found = {
        (setting.name, m.label): results.score(setting, m.label)
        for setting in settings
        for m in results.methods(setting)
    }
    means = {
        m.label: np.mean([x.value for (_, label), x in found.items() if label == m.label])
        for m in plan.methods
        if any(label == m.label for _, label in found)
    }
    families = list(dict.fromkeys(m.family for m in plan.methods if m.label in means))
    rows = [m for m in plan.methods if m.label in means]
    rows.sort(key=lambda m: (families.index(m.family), -means[m.label]))
    figure, panels = grid(
        len(settings),
        3.4 if len(settings) > 1 else 7.0,
        0.24 * len(rows) + 0.7,
        xlabel=f"NDCG@10, {plan.split} users",
        ylabel="",
        columns=3,
        sharex=False,
    )
    best = {}
    for setting, axes in zip(settings, panels, strict=True):
        mine = {m.label: found[setting.name, m.label] for m in results.methods(setting)}
        ends = [x for e in mine.values() for x in (e.low, e.value, e.high) if np.isfinite(x)]
        axes.set_xlim(*limits(min(ends), max(ends), _near(results, setting)))
        for row, method in enumerate(rows):
            if method.label in mine:
                colour = COLOURS[families.index(method.family) % len(COLOURS)]
                runs = results.runs(setting, method.label)
                dots = [run.path(result)[1][-1] for run, result in runs]
                _row(axes, row, mine[method.label], colour, dots)
        _draw_baselines(results, setting, axes, along="y")
        axes.set_title(setting.name, fontsize=9, color=INK, loc="left")
        best[setting.name] = sorted(mine, key=lambda label: -mine[label].value)
    panels[0].set_yticks(range(len(rows)), [m.label for m in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    if len(settings) == 1 and len(families) > 1:
        for row, method in enumerate(rows):
            if not row or rows[row - 1].family != method.family:
                colour = COLOURS[families.index(method.family) % len(COLOURS)]
                panels[0].annotate(
                    method.family,
                    (1.02, row),
                    xycoords=("axes fraction", "data"),
                    fontsize=8,
                    color=colour,
                    va="center",
                )
    headline(figure, "Final scores with 95% intervals (of differences: see the tables)")
    entries: dict[str, dict[str, Any]] = {
        "one run": {"color": MUTED, "marker": "o", "markersize": 3.5, "linewidth": 0},
        "mean, 95% interval": {"color": MUTED, "linewidth": 1.8},
    }
    if len(settings) == 1:
        entries |= _named_baselines(results, settings[0], panels[0].get_xlim())
    else:
        entries |= {
            name: _dashed(line) for line, (name, _) in results.baselines(settings[0]).items()
        }
    legend(figure, entries, 4)
    highest = {
        f"{labels[0]} on {name}": found[name, labels[0]].value for name, labels in best.items()
    }
    alt = (
        f"Final scores of all runs of {len(rows)} methods, with their means and intervals. The "
        f"highest means: {listed(highest)}"
    )
    return save(figure, path, alt, svg=True)


def _tokens(results: Results, setting: Setting, path: Path) -> Picture:
    """The final score of each method against the tokens of prompts and replies per user."""
    methods = results.methods(setting)
    families = list(dict.fromkeys(method.family for method in methods))
    figure = new_figure(6.8, 1.2 + 0.24 * max(len(methods), 10))
    axes = figure.subplots()
    plain(axes)
    labels, tokens = [], {}
    for method in methods:
        found = results.score(setting, method.label)
        tokens[method.label] = results.cost(setting, method.label)["tokens"]
        colour = COLOURS[families.index(method.family) % len(COLOURS)]
        place = [tokens[method.label]] * 2
        axes.plot(place, [found.low, found.high], color=colour, linewidth=1.2, alpha=0.5)
        axes.plot(place[:1], [found.value], color=colour, marker="o", markersize=5)
        labels.append((found.value, method.label, colour))
    axes.set_xlim(-0.04 * max(tokens.values()) - 1, 1.04 * max(tokens.values()) + 1)
    axes.set_xlabel("tokens of prompts and replies per test user", fontsize=8, color=INK)
    axes.set_ylabel(f"NDCG@10, {results.plan.split} users", fontsize=8, color=INK)
    axes.axhline(setting.chance, zorder=1, **_dashed("chance"))
    label_ends(axes, labels)
    headline(figure, f"{setting.name}: what a score costs, with 95% intervals")
    legend(figure, {f"chance {setting.chance:.3f}": _dashed("chance")}, 1)
    means = {f"{label} {tokens[label]:,.0f} tokens,": value for value, label, _ in labels}
    alt = (
        f"Final scores of {len(methods)} methods against their tokens per test user: "
        f"{listed(means)}"
    )
    return save(figure, path, alt, svg=True)


def _improvement(results: Results, path: Path) -> list[Picture]:
    """Probability of improvement: all settings together, and each as a dot."""
    against, settings = results.against, results.settings
    found = {
        m.label: results.improvement(m.label, settings)
        for m in results.plan.methods
        if m.label != against
    }
    rows = {label: estimate for label, estimate in found.items() if estimate is not None}
    if not rows:
        return []
    figure = new_figure(6.5, 0.3 * len(rows) + 1.5)
    axes = figure.add_subplot()
    axes.axvline(0.5, **_dashed("fixed"))
    several = len(settings) > 1
    for row, (label, estimate) in enumerate(rows.items()):
        each = [results.improvement(label, [one]) for one in settings] if several else []
        _row(axes, row, estimate, TRAINING, [one.value for one in each if one is not None])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    said = f"probability that a run scores above a run of {against} in the same world"
    if several:
        said += "\n(bar: 95% interval over all settings; dots: each setting)"
    axes.set_xlabel(said, fontsize=9, color=INK)
    plain(axes)
    shares = listed({label: estimate.value for label, estimate in rows.items()}, 2)
    alt = f"Probability that a run scores above a run of {against} in the same world: {shares}"
    return [save(figure, path, alt, svg=True)]


# ---------------------------------------------------------------------------------------- sweeps


def _sweep(results: Results, settings: Sequence[Setting], what: str, path: Path) -> Picture:
    """Scores along a sweep: a panel for each method, a line for each dataset."""
    settings = sorted(settings, key=lambda setting: int(getattr(setting, what)))
    datasets = list(dict.fromkeys(setting.dataset for setting in settings))
    lines: dict[str, dict[str, tuple[list[int], list[Estimate]]]] = {}
    for method in results.plan.methods:
        there = [s for s in settings if results.runs(s, method.label)]
        if any(setting.part != "main" for setting in there):
            lines[method.label] = {
                dataset: (
                    [getattr(s, what) for s in there if s.dataset == dataset],
                    [results.score(s, method.label) for s in there if s.dataset == dataset],
                )
                for dataset in datasets
            }
    ends = {
        label: float(np.mean([found[-1].value for _, found in mine.values() if found]))
        for label, mine in lines.items()
    }
    labels = sorted(lines, key=lambda label: -ends[label])
    named = what.replace("_", " ")
    figure, panels = grid(len(labels), 2.5, 2.0, xlabel=named, ylabel="NDCG@10, test users")
    at = sorted({getattr(setting, what) for setting in settings})
    colours = dict(zip(datasets, itertools.cycle(COLOURS)))
    chances = [next(s.chance for s in settings if getattr(s, what) == x) for x in at]
    for label, axes in zip(labels, panels, strict=True):
        axes.set_title(label, fontsize=8, color=INK, loc="left")
        axes.plot(at, chances, **_dashed("chance"))
        for other in labels:
            for x, found in lines[other].values():
                if other != label:
                    means = [one.value for one in found]
                    axes.plot(x, means, color=OTHERS, linewidth=0.7, zorder=1.5)
        for dataset, (x, found) in lines[label].items():
            means = [one.value for one in found]
            spans = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
            style = {"color": colours[dataset], "linewidth": 1.4, "elinewidth": 0.8}
            axes.errorbar(x, means, np.nan_to_num(spans, posinf=0.0), fmt="o-", ms=3, **style)
    panels[0].set_xscale("log")
    for axes in panels:
        axes.set_xticks(at, [short(x) for x in at])
        axes.minorticks_off()
    headline(figure, f"NDCG@10 over {named}, with 95% intervals")
    entries: dict[str, dict[str, Any]] = {
        dataset: {"color": colour, "marker": "o", "markersize": 3} | {"linewidth": 1.4}
        for dataset, colour in colours.items()
    }
    legend(figure, entries | _others("") | {"chance": _dashed("chance")}, 4)
    first = {label: lines[label][datasets[0]][1] for label in labels}
    last = {label: found[-1].value for label, found in first.items() if found}
    alt = (
        f"Scores with 95% intervals against {named} on {' and '.join(datasets)}, a panel for each "
        f"of {len(labels)} methods. {_ending(last, f' on {datasets[0]}')}"
    )
    return save(figure, path, alt, svg=True)
