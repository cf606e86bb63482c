"""Means, differences and intervals of the finished runs of a study.

Intervals are Student's t over draws (of worlds, or of the candidates and train users of real data),
and over users too where all draws have the same ones: see
`rpp_agents.experiments.statistics.Lines`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.jobs import all_kept, kept
from rpp_agents.experiments.plan import ONE_PATTERN, SWEEPS, Cell, Method, Setting, Study
from rpp_agents.experiments.run import Redrawn
from rpp_agents.experiments.statistics import Contrast, Lines, holm
from rpp_env.errors import InvalidData
from rpp_env.intervals import Estimate, has_gap

__all__ = ["COLUMNS", "Results", "Row"]

Floats = NDArray[np.float64]
Key = tuple[str, str]
"""A method's label and a column."""

COLUMNS = ("score", "first", "last", "merged")
"""What is known of every test user; see `rpp_agents.experiments.players.Played.scores`."""


@dataclass(frozen=True)
class Row:
    """One method in one setting."""

    method: Method
    scores: dict[str, Estimate]
    """By column."""
    minus_fixed: Estimate | None
    """Its score minus that of the best fixed prompt."""
    minus_rival: Estimate | None
    """Minus that of the best fixed prompt at equal calls."""
    significant: bool
    """Whether the latter is not 0 after Holm's correction over all methods of the setting."""
    gain: Estimate | None
    """Share of what the supervised policy gains over the best fixed prompt; None without a gap."""
    cost: dict[str, float]
    """Means over runs: training calls, unique, tokens, seconds; calls and tokens per test user."""
    runs: int


@dataclass(frozen=True, eq=False)
class Results:
    """The finished cells of a study."""

    study: Study
    cells: list[tuple[Cell, dict[str, Any]]]
    redrawn: dict[str, dict[str, Any]]
    """By setting: what is left of hindsight when candidates are drawn again."""
    planned: int
    sure: bool = False
    """Without users whose last item is a tie."""

    @classmethod
    def read(cls, study: Study, out: Path) -> Results:
        """All cells that are finished in the folder `out`.

        Raises
        ------
        InvalidData
            If runs of one setting and draw scored different users.
        """
        cells = study.cells()
        found = all_kept(cells, out)
        users: dict[tuple[str, int | str], tuple[Any, str]] = {}
        for cell, result in found:
            scored = result["whose"], len(result["scores"]["score"]), result["unsure"]
            for which in (cell.draw, result["whose"]):
                before, file = users.setdefault((cell.setting.name, which), (scored, cell.file))
                if before != scored:
                    raise InvalidData(
                        f"{file} and {cell.file} in {out} scored different users, so that they "
                        "cannot be compared: delete the older one, and whatever else is as old"
                    )
        redrawn = {
            setting.name: lines
            for setting in study.settings
            if (lines := kept(Redrawn(study, setting), out)) is not None
        }
        return cls(study, found, redrawn, len(cells))

    def only_sure(self) -> Results:
        """The same without users whose last item is a tie."""
        return replace(self, sure=True)

    @cached_property
    def _by_setting(self) -> dict[str, dict[str, list[tuple[Cell, dict[str, Any]]]]]:
        found: dict[str, dict[str, list[tuple[Cell, dict[str, Any]]]]] = {}
        for cell, result in self.cells:
            by_label = found.setdefault(cell.setting.name, {})
            by_label.setdefault(cell.method.label, []).append((cell, result))
        return found

    @cached_property
    def settings(self) -> list[Setting]:
        """Those with a finished cell."""
        return [s for s in self.study.settings if s.name in self._by_setting]

    def part(self, name: str) -> list[Setting]:
        """The settings of a part of the report, with a finished cell."""
        return [setting for setting in self.settings if setting.part == name]

    def beside(self, settings: Sequence[Setting]) -> list[Setting]:
        """The main settings of the same data, for settings that vary one thing; then these."""
        data = {setting.dataset for setting in settings if setting.part in SWEEPS}
        return [s for s in self.part("main") if s.dataset in data] + list(settings)

    def methods(self, setting: Setting) -> list[Method]:
        """Those with a finished cell there, in the study's order."""
        there = self._by_setting[setting.name]
        return [method for method in self.study.methods if method.label in there]

    def tabled(self, setting: Setting) -> list[str]:
        """Labels of the main table: without those that have a table of their own."""
        return [m.label for m in self.methods(setting) if m.family != ONE_PATTERN]

    def runs(self, setting: Setting, label: str) -> list[tuple[Cell, dict[str, Any]]]:
        """A method's finished cells."""
        return self._by_setting.get(setting.name, {}).get(label, [])

    def unsure(self, setting: Setting) -> int:
        """How many test users' last item is a tie."""
        return max(
            (len(found["unsure"]) for cell, found in self.cells if cell.setting == setting),
            default=0,
        )

    def users(self, setting: Setting) -> int:
        """How many test users there are."""
        return max(
            len(found["scores"]["score"]) for cell, found in self.cells if cell.setting == setting
        )

    def train_users(self, setting: Setting) -> int:
        """How many users methods were fitted on: fewer than asked for where there are no more."""
        return (
            max(
                (
                    found["training"].get("users", 0)
                    for cell, found in self.cells
                    if cell.setting == setting
                ),
                default=0,
            )
            or setting.train_users
        )

    def label_of(self, setting: Setting, method: str) -> str | None:
        """The label of the first method of this kind that is finished there.

        The supervised policy is the reference with one call, not with several merged ones.
        """
        return next(
            (
                m.label
                for m in self.methods(setting)
                if m.method == method and (method != "supervised" or m.resolved["calls"] == 1)
            ),
            None,
        )

    def fixed(self, setting: Setting) -> str | None:
        """The best fixed prompt, of all that were tried on everybody."""
        return self.label_of(setting, "enumerate_all")

    def rival(self, setting: Setting) -> str | None:
        """The same at as many calls as the multi-step methods make."""
        return self.label_of(setting, "merged_fixed") or self.fixed(setting)

    @cached_property
    def _lines(self) -> dict[str, Lines[Key]]:
        return {}

    def lines(self, setting: Setting) -> Lines[Key]:
        """All methods and columns of a setting."""
        if setting.name in self._lines:
            return self._lines[setting.name]
        lines: dict[Key, dict[int, list[Floats]]] = {}
        whose = set()
        for label, runs in self._by_setting[setting.name].items():
            for cell, result in runs:
                whose.add(result["whose"])
                keep = np.ones(len(result["scores"]["score"]), bool)
                if self.sure:
                    keep[result["unsure"]] = False
                for column in COLUMNS:
                    scores = np.asarray(result["scores"][column], np.float64)[keep]
                    lines.setdefault((label, column), {}).setdefault(cell.draw, []).append(scores)
        draws = {draw for by_draw in lines.values() for draw in by_draw}
        found = Lines(lines, shared_users=len(whose) == 1 and len(draws) > 1)
        self._lines[setting.name] = found
        return found

    def score(self, setting: Setting, label: str, column: str = "score") -> Contrast:
        """NDCG@10 of a method."""
        return self.lines(setting).mean((label, column))

    def minus(self, setting: Setting, left: str, right: str, column: str = "score") -> Contrast:
        """One method's score (or another column) minus another's score, for the same users."""
        return self.lines(setting).minus((left, column), (right, "score"))

    def counterpart(self, setting: Setting, method: Method, key: str) -> str | None:
        """The label of the same method without `key` in its config, if it is finished there."""
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
        """The supervised policy minus the best fixed prompt."""
        reference, fixed = self.label_of(setting, "supervised"), self.fixed(setting)
        if reference is None or fixed is None:
            return None
        return self.minus(setting, reference, fixed)

    def has_gap(self, setting: Setting) -> bool:
        """Whether gains are given."""
        return has_gap(self.gap(setting))

    def gain(self, setting: Setting, label: str) -> Contrast | None:
        """Share of the gap that a method earns; None where there is none."""
        reference, fixed = self.label_of(setting, "supervised"), self.fixed(setting)
        if reference is None or fixed is None or not self.has_gap(setting):
            return None
        sides = ((name, "score") for name in (label, fixed, reference))
        return self.lines(setting).gain(*sides)

    def rows(self, setting: Setting, labels: Iterable[str] | None = None) -> list[Row]:
        """The table of a setting."""
        fixed, rival = self.fixed(setting), self.rival(setting)
        chosen = [m for m in self.methods(setting) if labels is None or m.label in set(labels)]
        apart = [
            None if rival in (None, m.label) else self.minus(setting, m.label, str(rival))
            for m in chosen
        ]
        # Where the two have no draw in common yet, there is no difference.
        apart = [None if x is None or np.isnan(x.value) else x for x in apart]
        compared = [x for x in apart if x is not None]
        significant = iter(holm(compared))
        return [
            Row(
                method,
                {c: self.score(setting, method.label, c) for c in COLUMNS},
                None
                if fixed in (None, method.label)
                else self.minus(setting, method.label, str(fixed)),
                difference,
                difference is not None and next(significant),
                None if fixed == method.label else self.gain(setting, method.label),
                self.cost(setting, method.label),
                len(self.runs(setting, method.label)),
            )
            for method, difference in zip(chosen, apart, strict=True)
        ]

    def cost(self, setting: Setting, label: str) -> dict[str, float]:
        """Means over runs of what a method cost."""
        runs = [result for _, result in self.runs(setting, label)]

        def mean(part: str, key: str) -> float:
            return float(np.mean([run[part][key] for run in runs]))

        return {
            "training calls": mean("training", "calls"),
            "unique": mean("training", "unique"),
            "training tokens": mean("training", "tokens"),
            "seconds": mean("training", "seconds"),
            "calls": mean("testing", "calls"),
            "different": mean("testing", "different"),
            "tokens": mean("testing", "tokens"),
            "named": mean("testing", "named"),
        }

    def curve(self, setting: Setting, label: str, split: str = "test") -> tuple[Floats, Floats]:
        """(P,) calls and (R, P) scores along training; a method that learns at once is a point."""
        curves = [result["curve"] for _, result in self.runs(setting, label) if result["curve"]]
        if not curves:
            return np.zeros(0), np.zeros((0, 0))
        points = min(map(len, curves))
        calls = np.mean([[p["calls"] for p in c[-points:]] for c in curves], axis=0)
        return calls, np.array([[p[split] for p in c[-points:]] for c in curves])

    @cached_property
    def primary(self) -> tuple[Setting, str, str, Contrast] | None:
        """The contrast that was named before the run, if both sides are finished."""
        told = self.study.primary
        if not told:
            return None
        setting = next(s for s in self.study.settings if s.name == told["setting"])
        sides = told["method"], told["against"]
        if not all(self.runs(setting, side) for side in sides):
            return None
        return setting, *sides, self.minus(setting, *sides)
