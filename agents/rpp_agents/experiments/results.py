"""Means, differences and intervals of the finished runs of a plan.

Intervals are Student's t over draws (of worlds, or of the candidates and train users of real data),
and over users too where all draws have the same ones: see
`rpp_agents.experiments.statistics.Lines`. The methods below "Several tasks together" normalise
scores to gains, and are for benches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.bench import LEVELS
from rpp_agents.experiments.jobs import all_kept, kept, refusal
from rpp_agents.experiments.plan import (
    ONE_PATTERN,
    SWEEPS,
    Comparison,
    Method,
    Plan,
    Redrawn,
    Run,
    Setting,
)
from rpp_agents.experiments.statistics import (
    Contrast,
    Lines,
    holm,
    jackknife,
    probability_of_improvement,
)
from rpp_env.errors import InvalidData
from rpp_env.intervals import Estimate, gain, has_gap

__all__ = ["COLUMNS", "Finished", "Key", "Results", "Row"]

Floats = NDArray[np.float64]
COLUMNS = ("score", "first", "last", "merged")
"""Columns of every user's scores; a bench's runs have no merged one."""
Key = tuple[str, str]
"""A label (of a method or baseline) and a column."""
Finished = tuple[Run, dict[str, Any]]
"""A finished run and its result."""


@dataclass(frozen=True)
class Row:
    """A row of a table: one method or baseline in one setting."""

    label: str
    method: Method | None
    """The method; None for a baseline."""
    scores: dict[str, Contrast]
    """Scores by column."""
    minus: dict[str, Contrast | None]
    """Its score minus that of each line of `Results.compared`; None for itself."""
    significant: bool
    """Whether the difference to a study's baseline is significant (Holm, over the rows)."""
    gain: Contrast | None
    """Share of the reference's gain over the best fixed prompt; None without a gap."""
    cost: dict[str, float]
    """Mean costs over runs, see `Results.cost`."""
    runs: int


@dataclass(frozen=True, eq=False)
class Results:
    """Results of the finished runs of a plan."""

    plan: Plan
    finished: list[Finished]
    levels: dict[tuple[str, int], dict[str, Any]]
    """A bench's baselines by setting and draw."""
    redrawn: dict[str, dict[str, Any]]
    """Share of a study's hindsight gain that survives new candidates, by setting."""
    planned: int
    refused: list[tuple[Run, str]] = field(default_factory=list)
    """Runs whose method cannot choose the setting's prompts, with the reason."""
    sure: bool = False
    """Whether users whose last item is a tie are left out."""

    @classmethod
    def read(cls, plan: Plan, out: Path) -> Results:
        """Read all finished runs in the folder `out`.

        Raises
        ------
        InvalidData
            If runs of one problem and draw scored different users or replayed different tables:
            what they say of each other is nothing.
        """
        runs = plan.runs()
        found = all_kept(runs, out)
        done = {run.file for run, _ in found}
        reasons = [(run, refusal(run, out)) for run in runs if run.file not in done]
        levels = {}
        for run, _ in found:
            key = run.setting.name, run.draw
            if run.levels is None or key in levels:
                continue
            if (lines := kept(run.levels, out)) is not None:
                levels[key] = lines
        redrawn = {
            job.setting.name: result
            for job in plan.jobs([run for run, _ in found])
            if isinstance(job, Redrawn) and (result := kept(job, out)) is not None
        }
        refused = [(run, why) for run, why in reasons if why]
        results = cls(plan, found, levels, redrawn, len(runs), refused)
        results._check(out)
        return results

    def _check(self, out: Path) -> None:
        first: dict[tuple[str, object], tuple[Any, str]] = {}

        def same(problem: str, which: object, seen: Any, file: str, said: str) -> None:
            before, name = first.setdefault((problem, which), (seen, file))
            if before != seen:
                raise InvalidData(
                    f"{name} and {file} in {out} {said}, so that they cannot be compared: delete "
                    "the older one, and whatever else is as old"
                )

        for run, result in self.finished:
            jobs = [(run.file, result, run.per_user(result)["score"])]
            lines = self.levels.get((run.setting.name, run.draw))
            if lines is not None and run.levels is not None:
                jobs.append((run.levels.file, lines, lines["users"]["random"]["mean"]))
            for file, found, scores in jobs:
                tables, users = found.get("tables"), (found["whose"], len(scores))
                same(run.problem, ("tables", run.draw), tables, file, "replayed different tables")
                for which in (run.draw, found["whose"]):
                    same(run.problem, which, users, file, "scored different users")
            for which in (run.draw, result["whose"]):
                ties = result.get("unsure")
                same(run.problem, ("ties", which), ties, run.file, "scored different users")

    def only_sure(self) -> Results:
        """Return the results without users whose last item is a tie."""
        return replace(self, sure=True)

    @cached_property
    def _by_setting(self) -> dict[str, dict[str, list[Finished]]]:
        found: dict[str, dict[str, list[Finished]]] = {}
        for run, result in self.finished:
            by_label = found.setdefault(run.setting.name, {})
            by_label.setdefault(run.method.label, []).append((run, result))
        return found

    @cached_property
    def settings(self) -> list[Setting]:
        """Settings with a finished run."""
        return [s for s in self.plan.settings if s.name in self._by_setting]

    def part(self, name: str) -> list[Setting]:
        """Return the settings of a part of the report that have a finished run."""
        return [setting for setting in self.settings if setting.part == name]

    def beside(self, settings: Sequence[Setting]) -> list[Setting]:
        """Return the main settings of the same data, followed by settings that vary one thing."""
        data = {setting.dataset for setting in settings if setting.part in SWEEPS}
        return [s for s in self.part("main") if s.dataset in data] + list(settings)

    def methods(self, setting: Setting) -> list[Method]:
        """Return the methods with a finished run in a setting, in the plan's order."""
        there = self._by_setting[setting.name]
        return [method for method in self.plan.methods if method.label in there]

    def labels(self, setting: Setting) -> list[str]:
        """Return the labels of the methods in a setting."""
        return [method.label for method in self.methods(setting)]

    def tabled(self, setting: Setting) -> list[str]:
        """Return the labels of the main table, without those with a separate table."""
        return [m.label for m in self.methods(setting) if m.family != ONE_PATTERN]

    def runs(self, setting: Setting, label: str) -> list[Finished]:
        """Return a method's finished runs."""
        return self._by_setting.get(setting.name, {}).get(label, [])

    def of(self, setting: Setting) -> list[dict[str, Any]]:
        """Return the results of all finished runs of a setting."""
        return [found for run, found in self.finished if run.setting == setting]

    def is_refused(self, setting: Setting, label: str) -> bool:
        """Return whether a method cannot choose a setting's prompts."""
        return any((run.setting, run.method.label) == (setting, label) for run, _ in self.refused)

    def unsure(self, setting: Setting) -> int:
        """Return the number of test users whose last item is a tie."""
        return max((len(found["unsure"]) for found in self.of(setting)), default=0)

    def users(self, setting: Setting) -> int:
        """Number of scored users."""
        runs = [run for run in self.finished if run[0].setting == setting]
        return max(len(run.per_user(found)["score"]) for run, found in runs)

    def train_users(self, setting: Setting) -> int:
        """Number of users that methods were fitted on, which may be all that there are."""
        counts = [found["training"].get("users", 0) for found in self.of(setting)]
        return max(counts, default=0) or setting.train_users

    # Scores

    @cached_property
    def _lines(self) -> dict[str, Lines[Key]]:
        return {}

    def lines(self, setting: Setting) -> Lines[Key]:
        """Return all methods, baselines and columns of a setting."""
        if setting.name in self._lines:
            return self._lines[setting.name]
        lines: dict[Key, dict[int, list[Floats]]] = {}
        whose = set()
        for label, runs in self._by_setting[setting.name].items():
            for run, result in runs:
                whose.add(result["whose"])
                by_column = run.per_user(result)
                keep = np.ones(len(by_column["score"]), bool)
                if self.sure:
                    keep[result["unsure"]] = False
                for column, values in by_column.items():
                    scores = np.asarray(values, np.float64)[keep]
                    lines.setdefault((label, column), {}).setdefault(run.draw, []).append(scores)
        for draw, result in self.levels_of(setting).items():
            for line in LEVELS:
                for column, key in (("score", "mean"), ("first", "first"), ("last", "last")):
                    scores = np.asarray(result["users"][line][key], np.float64)
                    lines.setdefault((line, column), {}).setdefault(draw, []).append(scores)
        draws = {draw for by_draw in lines.values() for draw in by_draw}
        # Where all draws have the same users, a draw is one of their candidates.
        found = Lines(lines, shared_users=len(whose) == 1 and len(draws) > 1)
        self._lines[setting.name] = found
        return found

    def score(self, setting: Setting, label: str, column: str = "score") -> Contrast:
        """Return the NDCG@10 of a method or baseline."""
        return self.lines(setting).mean((label, column))

    def minus(self, setting: Setting, left: str, right: str, column: str = "score") -> Contrast:
        """Return one line's score (or another column) minus another's, for the same users."""
        return self.lines(setting).minus((left, column), (right, "score"))

    def levels_of(self, setting: Setting) -> dict[int, dict[str, Any]]:
        """Return the baselines of a setting by draw."""
        return {draw: x for (name, draw), x in self.levels.items() if name == setting.name}

    def label_of(self, setting: Setting, method: str) -> str | None:
        """Return the label of the first method of this kind with a finished run.

        The supervised policy is the reference with one call, not with several merged ones.
        """
        return next(
            (
                m.label
                for m in self.methods(setting)
                if m.method == method and (method != "supervised" or m.resolved()["calls"] == 1)
            ),
            None,
        )

    def fixed(self, setting: Setting) -> str | None:
        """Return the label of the best fixed prompt, if possible of all prompts on all users."""
        if self.levels_of(setting):
            return "fixed"
        return self.label_of(setting, "enumerate_all") or self.label_of(setting, "enumerate")

    def reference(self, setting: Setting) -> str | None:
        """Return the label of the observable reference: a baseline, or the supervised policy."""
        return "reference" if self.levels_of(setting) else self.label_of(setting, "supervised")

    def baseline(self, setting: Setting) -> str | None:
        """Return the baseline at equal calls: the best fixed prompt with one call per step."""
        merged = self.label_of(setting, "merged_fixed") if setting.steps > 1 else None
        return merged or self.fixed(setting)

    def counterpart(self, setting: Setting, method: Method, key: str) -> str | None:
        """Return the label of the same method without `key` in its config, if finished."""
        if key not in method.config:
            return None
        plain = {k: x for k, x in method.config.items() if k != key}
        return next(
            (
                other.label
                for other in self.methods(setting)
                if (other.method, dict(other.config)) == (method.method, plain)
            ),
            None,
        )

    def gap(self, setting: Setting) -> Contrast | None:
        """Return the reference minus the best fixed prompt."""
        reference, fixed = self.reference(setting), self.fixed(setting)
        if reference is None or fixed is None:
            return None
        return self.minus(setting, reference, fixed)

    def has_gap(self, setting: Setting) -> bool:
        """Return whether gains are reported."""
        return has_gap(self.gap(setting))

    def gain(self, setting: Setting, label: str) -> Contrast | None:
        """Return a line's share of the gap, a ratio of means over draws; None without a gap."""
        if not self.has_gap(setting):
            return None
        sides = (label, str(self.fixed(setting)), str(self.reference(setting)))
        return self.lines(setting).gain(*((name, "score") for name in sides))

    def compared(self, setting: Setting) -> dict[str, str]:
        """Return the names and labels of the lines that methods are compared with."""
        labels, against = self.labels(setting), self.plan.against
        if not self.plan.against:
            sides = {"fixed": self.fixed(setting), "baseline": self.baseline(setting)}
            return {name: label for name, label in sides.items() if label is not None}
        found = {"random": "random", "best fixed": "fixed"} if self.levels_of(setting) else {}
        if against in labels and len(labels) > 1 and not self.plan.tunes:
            found[against] = against
        return found

    def rows(self, setting: Setting, labels: Iterable[str] | None = None) -> list[Row]:
        """Return a setting's rows; of all its methods by default, and of baselines if named."""
        chosen = self.labels(setting) if labels is None else list(labels)
        methods = {method.label: method for method in self.methods(setting)}
        minus = {
            name: [self._apart(setting, label, other) for label in chosen]
            for name, other in self.compared(setting).items()
        }
        apart_from_baseline = minus.get("baseline", [])
        significant = iter(holm([x for x in apart_from_baseline if x is not None]))
        found = []
        for i, label in enumerate(chosen):
            apart = {name: several[i] for name, several in minus.items()}
            columns = [c for c in COLUMNS if (label, c) in self.lines(setting)]
            found.append(
                Row(
                    label,
                    methods.get(label),
                    {column: self.score(setting, label, column) for column in columns},
                    apart,
                    apart.get("baseline") is not None and next(significant),
                    self.gain(setting, label),
                    self.cost(setting, label),
                    len(self.runs(setting, label)),
                )
            )
        return found

    def _apart(self, setting: Setting, label: str, other: str) -> Contrast | None:
        """Return the difference; None for a line itself, and for lines without a common draw.

        A bench's baselines are not compared with its methods.
        """
        baselines = LEVELS if self.levels_of(setting) else {}
        if label == other or (label in baselines and other not in baselines):
            return None
        found = self.minus(setting, label, other)
        return None if np.isnan(found.value) else found

    def cost(self, setting: Setting, label: str) -> dict[str, float]:
        """Return a method's costs as means over runs; see its job's `costs`."""
        runs = [run.costs(found) for run, found in self.runs(setting, label)]
        return (
            {name: float(np.mean([run[name] for run in runs])) for name in runs[0]} if runs else {}
        )

    def curve(self, setting: Setting, label: str, split: str = "test") -> tuple[Floats, Floats]:
        """(P,) calls or steps and (R, P) scores along training, as far as all runs have points."""
        curves = [run.curve(found, split) for run, found in self.runs(setting, label)]
        curves = [curve for curve in curves if curve]
        if not curves:
            return np.zeros(0), np.zeros((0, 0))
        points = min(map(len, curves))
        both = np.array([curve[-points:] for curve in curves], np.float64)
        return both[:, :, 0].mean(axis=0), both[:, :, 1]

    def along(self, setting: Setting, label: str) -> list[Contrast]:
        """The mean with its interval over draws and runs, at every point of `curve`."""
        runs = self.runs(setting, label)
        draws = [run.draw for run, found in runs if run.curve(found)]
        _, scores = self.curve(setting, label)
        found = []
        for column in scores.T:
            by_draw: dict[int, list[list[float]]] = {}
            for draw, score in zip(draws, column.tolist(), strict=True):
                by_draw.setdefault(draw, []).append([score])
            found.append(Lines({label: by_draw}).mean(label))
        return found

    def learners(self, setting: Setting) -> list[str]:
        """Return the main table's methods whose curve has several points, in the table's order."""
        return [label for label in self.tabled(setting) if len(self.curve(setting, label)[0]) > 1]

    @cached_property
    def primary(self) -> tuple[Setting, str, str, Contrast] | None:
        """Return the pre-specified contrast, if both sides have finished runs."""
        told = self.plan.primary
        if not told:
            return None
        setting = next(s for s in self.plan.settings if s.name == told["setting"])
        sides = told["method"], told["against"]
        if not all(self.runs(setting, side) for side in sides):
            return None
        return setting, *sides, self.minus(setting, *sides)

    def contrasts(self) -> list[tuple[Comparison, Contrast | None, bool]]:
        """Return the named contrasts, and whether each is significant (Holm, over all of them).

        None is one that is not finished; then nothing is called significant.
        """
        settings = {setting.name: setting for setting in self.plan.settings}
        found: list[Contrast | None] = []
        for one in self.plan.contrasts:
            setting, sides = settings[one.setting], (one.method, one.against)
            there = all(self.runs(setting, side) for side in sides)
            found.append(self.minus(setting, *sides) if there else None)
        finished = [x for x in found if x is not None]
        significant = holm(finished) if len(finished) == len(found) else [False] * len(found)
        return list(zip(self.plan.contrasts, found, significant, strict=True))

    def baselines(self, setting: Setting) -> dict[str, tuple[str, float]]:
        """Return the available baselines: their names and scores.

        Keys are ``"chance"``, ``"random"``, ``"fixed"`` and ``"reference"``; a bench has no chance.
        """
        if levels := self.levels_of(setting):
            every = [found["scores"] for found in levels.values()]
            return {
                line: (name, float(np.mean([scores[line] for scores in every])))
                for line, name in LEVELS.items()
            }
        found = {"chance": ("chance", setting.chance)}
        if self.plan.against:
            return {}
        lines = {"random": self.label_of(setting, "random"), "fixed": self.fixed(setting)}
        for line, label in (lines | {"reference": self.reference(setting)}).items():
            if label is not None:
                found[line] = label, self.score(setting, label).value
        return found

    # Several tasks together

    @cached_property
    def tasks(self) -> list[Setting]:
        """Settings whose scores can be normalised to a gain."""
        return [setting for setting in self.settings if self.has_gap(setting)]

    @cached_property
    def against(self) -> str | None:
        """Method that others are compared with over tasks; in a study that at equal calls."""
        return (
            self.plan.against or self.plan.primary.get("against") or self.baseline(self.settings[0])
        )

    def _by_draw(self, setting: Setting, line: str) -> dict[int, float]:
        """Return the mean score of a line's runs, by index of the setting's draws."""
        found: dict[int, list[float]] = {}
        for draw, levels in self.levels_of(setting).items():
            if line in LEVELS:
                found.setdefault(setting.draws.index(draw), []).append(levels["scores"][line])
        for run, result in self.runs(setting, line):
            found.setdefault(run.place, []).append(run.path(result)[1][-1])
        return {place: float(np.mean(scores)) for place, scores in found.items()}

    def run_gain(self, run: Run, score: float, places: Collection[int] | None = None) -> float:
        """Return the gain of a run with this score.

        What the run has more than the best fixed prompt of its draw, as a share of the mean gap
        over the draws at `places` (all by default): the mean of runs' gains is then the gain of
        their means. NaN without the two lines.
        """
        lines = self.fixed(run.setting), self.reference(run.setting)
        fixed, reference = (self._by_draw(run.setting, str(line)) for line in lines)
        if run.place not in fixed:
            return math.nan
        both = [place for place in fixed if place in reference]
        chosen = [place for place in both if places is None or place in places]
        if not chosen:
            return math.nan
        gap = float(np.mean([reference[place] - fixed[place] for place in chosen]))
        return float(gain(score - fixed[run.place], 0.0, gap))

    def common_draws(self, labels: Iterable[str], tasks: Sequence[Setting]) -> tuple[int, ...]:
        """Return the indices of draws in which each of `labels` has a run in each of `tasks`.

        The k-th draw of one setting belongs to the k-th of another: a bench's have the same worlds.
        """
        there = [{c.place for c, _ in self.runs(e, label)} for e in tasks for label in labels]
        most = max((len(setting.draws) for setting in tasks), default=0)
        return tuple(place for place in range(most) if all(place in one for one in there))

    def gains(self, label: str, places: Collection[int], point: int = -1) -> list[list[float]]:
        """Return per task the gains of a method's runs in these draws, at the end or earlier."""
        return [
            [
                self.run_gain(run, run.path(found)[1][point], places)
                for run, found in self.runs(task, label)
                if run.place in places
            ]
            for task in self.tasks
        ]

    def over_tasks(
        self, label: str, places: Sequence[int], statistic: Callable[[Floats], Floats]
    ) -> Contrast:
        """Compute a statistic of the gains of all runs of all tasks, such as `iqm`."""
        return jackknife(
            lambda some: float(statistic(np.concatenate(self.gains(label, some)))), places
        )

    def improvement(self, label: str, settings: Sequence[Setting]) -> Estimate | None:
        """Estimate the probability that a run beats one of `against` in the same task and draw."""
        sides = label, str(self.against)
        places = self.common_draws(sides, settings)
        if not places:
            return None

        def probability(some: Sequence[int]) -> float:
            ours, theirs = (
                [
                    [c.path(r)[1][-1] for c, r in self.runs(setting, one) if c.place == place]
                    for setting in settings
                    for place in some
                ]
                for one in sides
            )
            return probability_of_improvement(ours, theirs)

        found = jackknife(probability, places)
        return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))
