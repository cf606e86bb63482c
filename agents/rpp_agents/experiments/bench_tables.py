"""Tables of a bench's report, in Markdown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rpp_agents.experiments.bench import LEVELS, Bench, as_bench, problem_of
from rpp_agents.experiments.files import slug
from rpp_agents.experiments.plan import Setting
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.statistics import holm, iqm, optimality_gap, stratified_bootstrap
from rpp_agents.plots import Picture
from rpp_env.markdown import code, table, words

__all__ = ["FEWEST_TASKS", "markdown", "summary"]

FEWEST_TASKS = 6
"""Below this, an inter-quartile mean over tasks says nothing."""
FEWEST_SEEDS = 10
"""Below this, the report calls itself a sketch (Gorsane et al. 2022 ask for ten)."""


def summary(results: Results) -> str:
    """What a run of the bench shows on the terminal: a table for each environment."""
    if as_bench(results.plan).tunes:
        return _tuning(results) + "\n"
    text = []
    for setting in results.settings:
        text += [f"## {words(setting.name)}", *_environment(results, setting)]
    return "\n\n".join(text) + "\n"


def markdown(results: Results, pictures: Sequence[Picture], out: Path) -> str:
    """The report."""
    bench = as_bench(results.plan)
    text = [f"# Bench {code(bench.name)}", _intro(results)]
    if bench.tunes:
        text += ["## Tuning", _tuning(results)]
    for setting in results.settings:
        text += [f"## {words(setting.name)}", *_environment(results, setting)]
        mine = f"curves-{slug(setting.name)}"
        text += [picture.markdown(out) for picture in pictures if picture.path.stem == mine]
    if not bench.tunes:
        text += ["## All tasks together", *_overall(results)]
        head = f"## Probability of improvement over {words(bench.against)}"
        text += [head, *_improvements(results)]
    together = ("final", "improvement", "overall")
    text += [picture.markdown(out) for picture in pictures if picture.path.stem in together]
    text += ["## How it was made", *_provenance(results, out)]
    return "\n\n".join(text) + "\n"


def _intro(results: Results) -> str:
    bench = as_bench(results.plan)
    done, planned = len(results.cells), results.planned
    state = "" if done == planned else f" **Not complete: {done} of {planned} runs.**"
    crossed = "every seed in every world" if bench.design == "crossed" else "each seed in one world"
    worlds = {cell.draw for cell, _ in results.cells}
    seeds = {cell.seed for cell, _ in results.cells}
    users = {len(cell.per_user(result)["score"]) for cell, result in results.cells}
    few = len(seeds) < FEWEST_SEEDS and not bench.tunes
    return (
        f"{len(results.settings)} environment{_s(results.settings)}, {len(seeds)} training "
        f"seed{_s(seeds)}, {len(worlds)} world{_s(worlds)} ({crossed}), "
        f"{_steps(bench)}.{state} Trained on {_trained(bench)}; scored "
        f"on {' or '.join(f'{count:,}' for count in sorted(users))} {bench.split} users, all of "
        "them, by the greedy actions of the policy at the end of training (Q learners: epsilon 0)."
        + (f" **Fewer than {FEWEST_SEEDS} seeds: a sketch.**" if few else "")
        + "\n\n"
        "NDCG@10 is the mean over an episode's steps. In brackets: 95% intervals by Student's t "
        "over worlds, whose spread holds that of seeds and users; in differences the worlds "
        "and users are the same on both sides. Gain: (score - best fixed prompt) / (observable "
        "reference - best fixed prompt), of means over worlds. Steps/s are steps of training in a "
        "second of one processor, evaluations left out."
    )


def _steps(bench: Bench) -> str:
    told: dict[int, list[str]] = {}
    for setting in bench.settings:
        told.setdefault(setting.budget or bench.budget, []).append(setting.name)
    if len(told) == 1:
        return f"{next(iter(told)):,} steps each"
    return "; ".join(
        f"{steps:,} steps of {words(', '.join(names))}" for steps, names in told.items()
    )


def _trained(bench: Bench) -> str:
    live = [setting.name for setting in bench.settings if setting.live]
    if len(live) == len(bench.settings):
        return f"all train users (level lines: {bench.train_users:,})"
    return f"{bench.train_users:,} users" + (f", {words(', '.join(live))} on all" if live else "")


def _s(things: Collection[Any]) -> str:
    return "" if len(things) == 1 else "s"


def _environment(results: Results, setting: Setting) -> list[str]:
    levels = results.levels_of(setting).values()
    steps = {found["steps"] for found in levels}
    ends = {"first": "step 1", "last": f"step {max(steps)}"} if steps and max(steps) > 1 else {}
    gap, lines = results.has_gap(setting), bool(steps)
    header = ["algorithm", "NDCG@10", *ends.values()]
    header += ["gain"] * gap + ["minus random", "minus best fixed"] * lines
    against = as_bench(results.plan).against
    labels = results.labels(setting)
    compare = against in labels and len(labels) > 1 and not as_bench(results.plan).tunes
    header += [f"minus {against}"] * compare + ["steps/s", "runs"]
    rows = [header]
    for label in labels:
        runs = results.runs(setting, label)
        row = [label, str(results.score(setting, label))]
        row += [f"{results.score(setting, label, part).value:.3f}" for part in ends]
        if gap:
            row.append(str(results.gain(setting, label)))
        if lines:
            row += [f"{results.minus(setting, label, x):+.3f}" for x in ("random", "fixed")]
        if compare:
            same = label == against
            row.append("" if same else f"{results.minus(setting, label, against):+.3f}")
        speed = np.mean([result["steps_per_second"] for _, result in runs])
        rows.append([*row, f"{speed:,.0f}", str(len(runs))])
    if lines:
        for line, label in LEVELS.items():
            row = [f"*{label}*", str(results.score(setting, line))]
            row += [f"{results.score(setting, line, part).value:.3f}" for part in ends]
            if gap:
                share = results.gain(setting, line)
                row.append("" if share is None else f"{share.value:.3f}")
            for other in ("random", "fixed"):
                same = line == other
                row.append("" if same else f"{results.minus(setting, line, other):+.3f}")
            rows.append(row + [""] * (len(header) - len(row)))
        chance = next(found["scores"]["chance"] for found in levels)
        rows.append(["*chance*", f"{chance:.3f}"] + [""] * (len(header) - 2))
    text = [_described(setting), table(rows)]
    if lines and not gap:
        text.append(
            "No gain is given: the observable reference is not significantly above the best fixed "
            f"prompt (difference {results.minus(setting, 'reference', 'fixed')})."
        )
    if not as_bench(results.plan).tunes:
        text.append(_pairs(results, setting, labels))
    return text


def _described(setting: Setting) -> str:
    problem = problem_of(setting)
    options = "".join(f", {key} {words(value)}" for key, value in problem["options"].items())
    live = ", trained on all train users, asking the model" if setting.live else ""
    return (
        f"{code(setting.dataset)}, {code(problem['rules'])}, {setting.observe} "
        f"observations{options}{live}."
    )


def _pairs(results: Results, setting: Setting, labels: Sequence[str]) -> str:
    pairs = list(itertools.combinations(labels, 2))
    found = [results.minus(setting, left, right) for left, right in pairs]
    above: dict[str, list[str]] = {}
    count = 0
    for (left, right), difference, significant in zip(pairs, found, holm(found), strict=True):
        count += difference.low > 0 or difference.high < 0
        if significant:
            higher, lower = (left, right) if difference.value > 0 else (right, left)
            above.setdefault(higher, []).append(lower)
    significant_ones = sum(map(len, above.values()))
    text = (
        f"The interval of the difference is without 0 for {count} of {len(pairs)} pairs of "
        f"algorithms; {significant_ones} are significant (Holm, over all pairs)"
    )
    rows = [
        f"- {words(label)} is above {words(', '.join(above[label]))}"
        for label in labels
        if label in above
    ]
    return text + (":\n\n" + "\n".join(rows) if rows else ".")


def _overall(results: Results) -> list[str]:
    tasks = results.tasks
    if len(tasks) < FEWEST_TASKS:
        few = f"{len(tasks)} with a significant gap, of at least {FEWEST_TASKS}"
        return [f"There are too few tasks for aggregates over tasks: {few}."]
    rows = [
        ["algorithm", "IQM of the gain", "these worlds and users", "optimality gap", "mean", "runs"]
    ]
    for algorithm in as_bench(results.plan).methods:
        worlds = results.common_draws([algorithm.label], tasks)
        if not worlds:
            continue
        gains = results.gains(algorithm.label, worlds)
        narrow = stratified_bootstrap(iqm, gains)
        over_tasks = partial(results.over_tasks, algorithm.label, worlds)
        rows.append(
            [
                algorithm.label,
                str(over_tasks(iqm)),
                f"[{narrow.low:.3f}, {narrow.high:.3f}]",
                str(over_tasks(optimality_gap)),
                str(over_tasks(np.mean)),
                str(sum(map(len, gains))),
            ]
        )
    said = (
        f"Over {len(tasks)} tasks ({words(', '.join(task.name for task in tasks))}), of each run's "
        "gain over the best fixed prompt of its world. Intervals are by the jackknife over worlds "
        "(the same ones in every task) with Student's t; beside the first, how sure it would be of "
        "these worlds and users alone (Agarwal et al.'s stratified bootstrap: runs within each "
        "task)."
    )
    return [said, table(rows)]


def _improvements(results: Results) -> list[str]:
    against, environments = as_bench(results.plan).against, results.settings
    header = ["algorithm", *(e.name for e in environments)]
    header += ["all"] * (len(environments) > 1)
    rows = [header]
    for algorithm in as_bench(results.plan).methods:
        if algorithm.label == against:
            continue
        groups: list[Sequence[Setting]] = [[e] for e in environments]
        groups += [environments] * (len(environments) > 1)
        found = [results.improvement(algorithm.label, group) for group in groups]
        if any(found):
            rows.append([algorithm.label, *("" if x is None else f"{x:.2f}" for x in found)])
    if len(rows) == 1:
        return [f"There is nothing to compare with {words(against)}."]
    said = (
        f"The probability that a run scores higher than a run of {words(against)} in the same "
        "world (ties half). It says how often, not by how much. Intervals are by the jackknife "
        "over worlds (the same ones in every task) with Student's t."
    )
    return [said, table(rows)]


def _tuning(results: Results) -> str:
    environments = results.settings
    rows = [["algorithm", "point", "options", *(e.name for e in environments), "mean", "runs", ""]]
    for base in dict.fromkeys(algorithm.tunes for algorithm in as_bench(results.plan).methods):
        points = [a for a in as_bench(results.plan).methods if a.tunes == base]
        scores = [
            [
                results.score(e, a.label).value if results.runs(e, a.label) else math.nan
                for e in environments
            ]
            for a in points
        ]
        means = [float(np.mean(row)) for row in scores]
        complete = not any(map(math.isnan, means))
        best = int(np.argmax(means)) if complete else -1
        for i, (point, row, mean) in enumerate(zip(points, scores, means, strict=True)):
            options = ", ".join(f"{key} {value}" for key, value in point.config["options"].items())
            runs = sum(len(results.runs(e, point.label)) for e in environments)
            numbers = ["" if math.isnan(x) else f"{x:.4f}" for x in [*row, mean]]
            mark = "**best**" if i == best else ""
            rows.append([str(base), str(i + 1), options, *numbers, str(runs), mark])
    return (
        "Every algorithm has the same number of points. The best has the highest mean over the "
        "environments of NDCG@10; nothing is marked while runs are missing.\n\n" + table(rows)
    )


def _provenance(results: Results, out: Path) -> list[str]:
    bench = as_bench(results.plan)
    rows = [
        [
            "algorithm",
            "trainer",
            "options set by the bench",
            "sees the last ranking as",
            "environments at once",
            "hours",
        ]
    ]
    for algorithm in bench.methods:
        mine = [r for c, r in results.cells if c.method == algorithm]
        config = algorithm.config
        options = ", ".join(f"{key} {value}" for key, value in config["options"].items())
        rows.append(
            [
                algorithm.label,
                config["trainer"],
                options,
                {"mean": "the mean of its items", "sequence": "a sequence"}[config["ranking"]],
                str(config["num_envs"]),
                f"{sum(result['seconds'] for result in mine) / 3600:.2f}",
            ]
        )
    versions = sorted(
        {", ".join(f"{k} {v}" for k, v in r["versions"].items()) for _, r in results.cells}
    )
    seeds, worlds = (", ".join(map(str, numbers)) for numbers in (bench.seeds, bench.worlds))
    said = (
        f"Training seeds {seeds}; worlds {worlds}. {words('; '.join(versions))}. Every option of "
        "every run, and the digests of its tables, are in `results.jsonl`."
    )
    text = [table(rows), said]
    failed = sorted(path.relative_to(out) for path in out.glob("cells/**/*.failed.txt"))
    if failed:
        text.append("Failed runs, which no number above holds:\n\n" + _bullets(map(str, failed)))
    return text


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {code(line)}" for line in lines)
