"""What a bench found: tables in Markdown, JSON lines, marl-eval's JSON, and pictures.

=================  ==============================================================================
file               holds
=================  ==============================================================================
report.md          the tables
results.jsonl      a line for each training run and each problem's level lines; no users
marl_eval.json     the format of ``id-marl-eval`` (Gorsane et al. 2022)
plots/*.png        every run
=================  ==============================================================================
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.bench.plan import Bench, Cell, Environment
from rpp_agents.experiments.files import slug
from rpp_agents.experiments.jobs import all_kept, kept
from rpp_agents.experiments.statistics import (
    Contrast,
    Lines,
    holm,
    iqm,
    jackknife,
    optimality_gap,
    probability_of_improvement,
    stratified_bootstrap,
)
from rpp_agents.plots import Picture
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData
from rpp_env.intervals import Estimate, gain, has_gap
from rpp_env.markdown import code, table, words

__all__ = ["LEVELS", "Results", "marl_eval", "tables", "write_report"]

Floats = NDArray[np.float64]
Key = tuple[str, str]
"""An algorithm or level line, and ``"mean"``, ``"first"`` or ``"last"``."""

LEVELS = {
    "random": "random prompt",
    "fixed": "best fixed prompt",
    "reference": "observable reference",
}
FEWEST_TASKS = 6
"""Below this, an inter-quartile mean over tasks says nothing."""
FEWEST_SEEDS = 10
"""Below this, the report calls itself a sketch (Gorsane et al. 2022 ask for ten)."""


@dataclass(frozen=True, eq=False)
class Results:
    """The finished cells and level lines of a bench."""

    bench: Bench
    cells: list[tuple[Cell, dict[str, Any]]]
    levels: dict[tuple[str, int], dict[str, Any]]
    """By environment's name and world."""
    planned: int

    @classmethod
    def read(cls, bench: Bench, out: Path) -> Results:
        """All cells that are finished in the folder `out`.

        Raises
        ------
        InvalidData
            If runs of one problem and world replayed different tables: what they say of each other
            is nothing.
        """
        cells = bench.cells()
        found = all_kept(cells, out)
        levels = {}
        for cell, _ in found:
            key = cell.environment.name, cell.world
            if key not in levels and (lines := kept(cell.levels, out)) is not None:
                levels[key] = lines
        results = cls(bench, found, levels, len(cells))
        results._check(out)
        return results

    def _check(self, out: Path) -> None:
        first: dict[tuple[str, int], tuple[list[Any], str]] = {}
        for cell, result in self.cells:
            lines = self.levels.get((cell.environment.name, cell.world))
            for job, found in ((cell, result), (cell.levels, lines)):
                if found is None:
                    continue
                problem = json.dumps(cell.environment.problem, sort_keys=True)
                users = found["users"].get("random", found["users"])
                replayed = [found["whose"], len(users["mean"]), found["tables"]]
                before, name = first.setdefault((problem, cell.world), (replayed, job.file))
                if before != replayed:
                    raise InvalidData(
                        f"{name} and {job.file} in {out} replayed different tables, so that they "
                        "cannot be compared: delete the older one, and whatever else is as old"
                    )

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], list[tuple[Cell, dict[str, Any]]]]:
        found: dict[tuple[str, str], list[tuple[Cell, dict[str, Any]]]] = {}
        for cell, result in self.cells:
            key = cell.environment.name, cell.algorithm.label
            found.setdefault(key, []).append((cell, result))
        return found

    @cached_property
    def environments(self) -> list[Environment]:
        """Those with a finished cell."""
        named = {name for name, _ in self._by_name}
        return [e for e in self.bench.environments if e.name in named]

    def algorithms(self, environment: Environment) -> list[str]:
        """Labels of those with a finished cell there."""
        labels = [algorithm.label for algorithm in self.bench.algorithms]
        return [label for label in labels if (environment.name, label) in self._by_name]

    def runs(self, environment: Environment, label: str) -> list[tuple[Cell, dict[str, Any]]]:
        """An algorithm's finished cells."""
        return self._by_name.get((environment.name, label), [])

    @cached_property
    def lines(self) -> dict[str, Lines[Key]]:
        """Per environment, all algorithms and level lines."""
        return {environment.name: self._lines(environment) for environment in self.environments}

    def _lines(self, environment: Environment) -> Lines[Key]:
        lines: dict[Key, dict[int, list[list[float]]]] = {}
        whose = set()
        for part in ("mean", "first", "last"):
            for label in self.algorithms(environment):
                for cell, result in self.runs(environment, label):
                    scores = lines.setdefault((label, part), {}).setdefault(cell.world, [])
                    scores.append(result["users"][part])
                    whose.add(result["whose"])
            for world, result in self._levels_of(environment).items():
                for line in LEVELS:
                    scores = lines.setdefault((line, part), {}).setdefault(world, [])
                    scores.append(result["users"][line][part])
        worlds = {world for by_world in lines.values() for world in by_world}
        # Where all worlds have the same users, a world is a draw of their candidates.
        return Lines(lines, shared_users=len(whose) == 1 and len(worlds) > 1)

    def _levels_of(self, environment: Environment) -> dict[int, dict[str, Any]]:
        return {world: x for (name, world), x in self.levels.items() if name == environment.name}

    def estimate(self, environment: Environment, label: str, part: str = "mean") -> Contrast:
        """NDCG@10 of one line."""
        return self.lines[environment.name].mean((label, part))

    def minus(self, environment: Environment, left: str, right: str) -> Contrast:
        """NDCG@10 of one line minus that of another, in the same worlds for the same users."""
        return self.lines[environment.name].minus((left, "mean"), (right, "mean"))

    def has_gap(self, environment: Environment) -> bool:
        """Whether gains are given: the reference is significantly above the best fixed prompt."""
        return environment in self.tasks

    def gain(self, environment: Environment, label: str) -> Contrast:
        """Share of the gap from best fixed prompt to reference: a ratio of means over worlds."""
        sides = ((line, "mean") for line in (label, "fixed", "reference"))
        return self.lines[environment.name].gain(*sides)

    def run_gain(self, cell: Cell, score: float, worlds: Collection[int] | None = None) -> float:
        """The gain of a run with this score.

        What the run has more than the best fixed prompt of its world, as a share of the mean gap
        over `worlds` (all by default): the mean of runs' gains is then the gain of their means.
        NaN without level lines.
        """
        levels = self._levels_of(cell.environment)
        if cell.world not in levels:
            return math.nan
        chosen = [x["scores"] for world, x in levels.items() if worlds is None or world in worlds]
        gap = float(np.mean([x["reference"] - x["fixed"] for x in chosen]))
        above = score - levels[cell.world]["scores"]["fixed"]
        return float(gain(above, 0.0, gap))

    @cached_property
    def tasks(self) -> list[Environment]:
        """Environments whose scores can be normalised to a gain."""
        return [
            environment
            for environment in self.environments
            if self._levels_of(environment)
            and has_gap(self.minus(environment, "reference", "fixed"))
        ]

    # Several tasks together

    def common_worlds(self, labels: Iterable[str], tasks: Sequence[Environment]) -> tuple[int, ...]:
        """Worlds in which each of `labels` has a run in each of `tasks`."""
        labels = list(labels)
        there = {
            (e.name, label, c.world)
            for e in tasks
            for label in labels
            for c, _ in self.runs(e, label)
        }
        return tuple(
            world
            for world in self.bench.worlds
            if all((e.name, label, world) in there for e in tasks for label in labels)
        )

    def gains(
        self, label: str, worlds: Collection[int], point: int | None = None
    ) -> list[list[float]]:
        """Per task the gains of an algorithm's runs in these worlds, at the end or earlier."""
        return [
            [
                self.run_gain(
                    cell, result["score"] if point is None else result["scores"][point], worlds
                )
                for cell, result in self.runs(task, label)
                if cell.world in worlds
            ]
            for task in self.tasks
        ]

    def over_tasks(
        self, label: str, worlds: Sequence[int], statistic: Callable[[Floats], Floats]
    ) -> Contrast:
        """A statistic of the gains of all runs of all tasks, such as `iqm`."""
        return jackknife(
            lambda some: float(statistic(np.concatenate(self.gains(label, some)))), worlds
        )

    def improvement(self, label: str, environments: Sequence[Environment]) -> Estimate | None:
        """Probability that a run beats one of ``against`` in the same task and world."""
        sides = label, self.bench.against
        worlds = self.common_worlds(sides, environments)
        if not worlds:
            return None

        def probability(some: Sequence[int]) -> float:
            ours, theirs = (
                [
                    [r["score"] for c, r in self.runs(environment, one) if c.world == world]
                    for environment in environments
                    for world in some
                ]
                for one in sides
            )
            return probability_of_improvement(ours, theirs)

        found = jackknife(probability, worlds)
        return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


def write_report(bench: Bench, out: Path) -> Path:
    """Write everything about what is finished.

    Parameters
    ----------
    bench : Bench
    out : Path
        Its folder.

    Returns
    -------
    Path
        Of ``report.md``.
    """
    from rpp_agents.experiments.bench.pictures import draw_all

    results = Results.read(bench, out)
    pictures = draw_all(results, out / "plots")
    _write(out / "results.jsonl", _lines(results))
    _write(out / "marl_eval.json", json.dumps(marl_eval(results), indent=1) + "\n")
    _write(out / "report.md", markdown(results, pictures, out))
    return out / "report.md"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def _lines(results: Results) -> str:
    rows: list[dict[str, Any]] = []
    for (name, world), result in results.levels.items():
        told = {key: x for key, x in result.items() if key != "users"}
        rows.append({"kind": "levels", "environment": name, "world": world, **told})
    for cell, result in results.cells:
        told = {key: x for key, x in result.items() if key != "users"}
        gain = results.run_gain(cell, result["score"])
        rows.append(
            {
                "kind": "run",
                "environment": cell.environment.name,
                "algorithm": cell.algorithm.label,
                "world": cell.world,
                "seed": cell.seed,
                "gain": round(gain, 6) if math.isfinite(gain) else None,
                **told,
            }
        )
    return "".join(json.dumps(row) + "\n" for row in rows)


def marl_eval(results: Results) -> dict[str, Any]:
    """Environment -> task -> algorithm -> run -> ``step_k``, as ``id-marl-eval`` reads it.

    Lists of metrics hold one number, the mean over all users. ``absolute_metrics`` are the final
    policy's: the best policy on the way, which the format has in mind, is never looked for.
    """
    found: dict[str, Any] = {}
    for cell, result in results.cells:
        task = found.setdefault(_safe(cell.environment.name), {})
        runs = task.setdefault(_safe(cell.algorithm.label), {})
        crossed = results.bench.design == "crossed"
        run = f"world_{cell.world}_seed_{cell.seed}" if crossed else f"seed_{cell.seed}"
        steps = {
            f"step_{i}": {"step_count": at, "ndcg_10": [score]}
            for i, (at, score) in enumerate(zip(result["points"], result["scores"], strict=True))
        }
        runs[run] = steps | {"absolute_metrics": {"ndcg_10": [result["score"]]}}
    return {"rpp_env": found}


def _safe(name: str) -> str:
    return name.replace(",", ";")


# Markdown


def tables(bench: Bench, out: Path) -> str:
    """What a run of the bench shows on the terminal: a table for each environment."""
    results = Results.read(bench, out)
    if bench.tunes:
        return _tuning(results) + "\n"
    text = []
    for environment in results.environments:
        text += [f"## {words(environment.name)}", *_environment(results, environment)]
    return "\n\n".join(text) + "\n"


def markdown(results: Results, pictures: Sequence[Picture], out: Path) -> str:
    """The report."""
    bench = results.bench
    text = [f"# Bench {code(bench.name)}", _intro(results)]
    if bench.tunes:
        text += ["## Tuning", _tuning(results)]
    for environment in results.environments:
        text += [f"## {words(environment.name)}", *_environment(results, environment)]
        mine = f"curves-{slug(environment.name)}"
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
    bench = results.bench
    done, planned = len(results.cells), results.planned
    state = "" if done == planned else f" **Not complete: {done} of {planned} runs.**"
    crossed = "every seed in every world" if bench.design == "crossed" else "each seed in one world"
    worlds = {cell.world for cell, _ in results.cells}
    seeds = {cell.seed for cell, _ in results.cells}
    users = {len(result["users"]["mean"]) for _, result in results.cells}
    few = len(seeds) < FEWEST_SEEDS and not bench.tunes
    return (
        f"{len(results.environments)} environment{_s(results.environments)}, {len(seeds)} training "
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
    for environment in bench.environments:
        told.setdefault(bench.steps_in(environment), []).append(environment.name)
    if len(told) == 1:
        return f"{next(iter(told)):,} steps each"
    return "; ".join(
        f"{steps:,} steps of {words(', '.join(names))}" for steps, names in told.items()
    )


def _trained(bench: Bench) -> str:
    live = [environment.name for environment in bench.environments if environment.live]
    if len(live) == len(bench.environments):
        return f"all train users (level lines: {bench.train_users:,})"
    return f"{bench.train_users:,} users" + (f", {words(', '.join(live))} on all" if live else "")


def _s(things: Collection[Any]) -> str:
    return "" if len(things) == 1 else "s"


def _environment(results: Results, environment: Environment) -> list[str]:
    steps = {r["steps"] for (name, _), r in results.levels.items() if name == environment.name}
    ends = {"first": "step 1", "last": f"step {max(steps)}"} if steps and max(steps) > 1 else {}
    gap, lines = results.has_gap(environment), bool(steps)
    header = ["algorithm", "NDCG@10", *ends.values()]
    header += ["gain"] * gap + ["minus random", "minus best fixed"] * lines
    against = results.bench.against
    labels = results.algorithms(environment)
    compare = against in labels and len(labels) > 1 and not results.bench.tunes
    header += [f"minus {against}"] * compare + ["steps/s", "runs"]
    rows = [header]
    for label in labels:
        runs = results.runs(environment, label)
        row = [label, str(results.estimate(environment, label))]
        row += [f"{results.estimate(environment, label, part).value:.3f}" for part in ends]
        if gap:
            row.append(str(results.gain(environment, label)))
        if lines:
            row += [f"{results.minus(environment, label, x):+.3f}" for x in ("random", "fixed")]
        if compare:
            same = label == against
            row.append("" if same else f"{results.minus(environment, label, against):+.3f}")
        speed = np.mean([result["steps_per_second"] for _, result in runs])
        rows.append([*row, f"{speed:,.0f}", str(len(runs))])
    if lines:
        for line, label in LEVELS.items():
            row = [f"*{label}*", str(results.estimate(environment, line))]
            row += [f"{results.estimate(environment, line, part).value:.3f}" for part in ends]
            if gap:
                row.append(f"{results.gain(environment, line).value:.3f}")
            for other in ("random", "fixed"):
                same = line == other
                row.append("" if same else f"{results.minus(environment, line, other):+.3f}")
            rows.append(row + [""] * (len(header) - len(row)))
        chance = next(
            r["scores"]["chance"] for (n, _), r in results.levels.items() if n == environment.name
        )
        rows.append(["*chance*", f"{chance:.3f}"] + [""] * (len(header) - 2))
    text = [_described(environment), table(rows)]
    if lines and not gap:
        text.append(
            "No gain is given: the observable reference is not significantly above the best fixed "
            f"prompt (difference {results.minus(environment, 'reference', 'fixed')})."
        )
    if not results.bench.tunes:
        text.append(_pairs(results, environment, labels))
    return text


def _described(environment: Environment) -> str:
    options = "".join(f", {key} {words(value)}" for key, value in environment.options.items())
    live = ", trained on all train users, asking the model" if environment.live else ""
    return (
        f"{code(environment.dataset)}, {code(environment.rules)}, {environment.observe} "
        f"observations{options}{live}."
    )


def _pairs(results: Results, environment: Environment, labels: Sequence[str]) -> str:
    pairs = list(itertools.combinations(labels, 2))
    found = [results.minus(environment, left, right) for left, right in pairs]
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
        f"algorithms; {significant_ones} remain when Holm's correction allows for so many "
        "comparisons"
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
    for algorithm in results.bench.algorithms:
        worlds = results.common_worlds([algorithm.label], tasks)
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
    against, environments = results.bench.against, results.environments
    header = ["algorithm", *(e.name for e in environments)]
    header += ["all"] * (len(environments) > 1)
    rows = [header]
    for algorithm in results.bench.algorithms:
        if algorithm.label == against:
            continue
        groups: list[Sequence[Environment]] = [[e] for e in environments]
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
    environments = results.environments
    rows = [["algorithm", "point", "options", *(e.name for e in environments), "mean", "runs", ""]]
    for base in dict.fromkeys(algorithm.tunes for algorithm in results.bench.algorithms):
        points = [a for a in results.bench.algorithms if a.tunes == base]
        scores = [
            [
                results.estimate(e, a.label).value if results.runs(e, a.label) else math.nan
                for e in environments
            ]
            for a in points
        ]
        means = [float(np.mean(row)) for row in scores]
        complete = not any(map(math.isnan, means))
        best = int(np.argmax(means)) if complete else -1
        for i, (point, row, mean) in enumerate(zip(points, scores, means, strict=True)):
            options = ", ".join(f"{key} {value}" for key, value in point.config.items())
            runs = sum(len(results.runs(e, point.label)) for e in environments)
            numbers = ["" if math.isnan(x) else f"{x:.4f}" for x in [*row, mean]]
            mark = "**best**" if i == best else ""
            rows.append([str(base), str(i + 1), options, *numbers, str(runs), mark])
    return (
        "Every algorithm has the same number of points. The best has the highest mean over the "
        "environments of NDCG@10; nothing is marked while runs are missing.\n\n" + table(rows)
    )


def _provenance(results: Results, out: Path) -> list[str]:
    bench = results.bench
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
    for algorithm in bench.algorithms:
        mine = [r for c, r in results.cells if c.algorithm == algorithm]
        options = ", ".join(f"{key} {value}" for key, value in algorithm.config.items())
        rows.append(
            [
                algorithm.label,
                algorithm.trainer,
                options,
                {"mean": "the mean of its items", "sequence": "a sequence"}[algorithm.ranking],
                str(algorithm.num_envs or bench.num_envs),
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
