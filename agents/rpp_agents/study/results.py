"""What the finished cells of a study say of each other: means, differences, intervals.

Intervals are 95% percentile intervals of a hierarchical bootstrap: draws (of worlds, or of the
candidates), runs within them, and users are drawn with replacement, and all methods share the draws
and the users. Where all draws have the same users, one draw of users serves them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.jobs import kept
from rpp_agents.statistics import Resampled, hierarchical, holm
from rpp_agents.study.plan import ONE_PATTERN, SWEEPS, Cell, Method, Setting, Study
from rpp_agents.study.work import Redrawn
from rpp_env.errors import InvalidData
from rpp_env.evaluation import SMALLEST_GAP
from rpp_env.intervals import Estimate

__all__ = ["COLUMNS", "Results", "Row"]

Floats = NDArray[np.float64]
Key = tuple[str, str]
"""A method's label and a column."""

COLUMNS = ("score", "first", "last", "merged")
"""What is known of every test user; see `rpp_agents.study.players.Played.scores`."""


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
    clear: bool
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
        found = [(cell, result) for cell in cells if (result := kept(cell, out)) is not None]
        whose: dict[tuple[str, int], tuple[str, str]] = {}
        for cell, result in found:
            before = whose.setdefault((cell.setting.name, cell.draw), (result["whose"], cell.file))
            if before[0] != result["whose"]:
                raise InvalidData(
                    f"{before[1]} and {cell.file} in {out} scored different users, so that they "
                    "cannot be compared: delete the older one, and whatever else is as old"
                )
        redrawn = {
            setting.name: result
            for setting in study.settings
            if (result := kept(Redrawn(study, setting), out)) is not None
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
    def _resampled(self) -> dict[str, Resampled[Key]]:
        return {}

    def resampled(self, setting: Setting) -> Resampled[Key]:
        """All methods and columns of a setting, resampled together."""
        if setting.name in self._resampled:
            return self._resampled[setting.name]
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
        found = hierarchical(lines, shared_users=len(whose) == 1 and len(draws) > 1)
        self._resampled[setting.name] = found
        return found

    def score(self, setting: Setting, label: str, column: str = "score") -> Estimate:
        """NDCG@10 of a method."""
        return self.resampled(setting).estimate(lambda means: means[label, column])

    def minus(self, setting: Setting, left: str, right: str, column: str = "score") -> Estimate:
        """One method's score (or another column) minus another's score, for the same users."""
        return self.resampled(setting).estimate(
            lambda means: means[left, column] - means[right, "score"]
        )

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

    def gap(self, setting: Setting) -> Estimate | None:
        """The supervised policy minus the best fixed prompt."""
        reference, fixed = self.label_of(setting, "supervised"), self.fixed(setting)
        if reference is None or fixed is None:
            return None
        return self.minus(setting, reference, fixed)

    def has_gap(self, setting: Setting) -> bool:
        """Whether that is clearly above 0."""
        gap = self.gap(setting)
        return gap is not None and gap.low > 0 and gap.value > SMALLEST_GAP

    def gain(self, setting: Setting, label: str) -> Estimate | None:
        """Share of the gap that a method earns; None where there is none."""
        if not self.has_gap(setting):
            return None
        reference, fixed = self.label_of(setting, "supervised"), self.fixed(setting)

        def share(means: Mapping[Key, Floats]) -> Floats:
            # Of the means over draws: a single draw's gap may be next to nothing.
            top, base, mine = (means[str(name), "score"] for name in (reference, fixed, label))
            there = ~np.isnan(top + base + mine)
            gap = np.where(there, top - base, 0).sum(axis=1, keepdims=True)
            gained = np.where(there, mine - base, 0).sum(axis=1, keepdims=True)
            return np.asarray(gained / np.where(gap > 0, gap, np.nan))

        return self.resampled(setting).estimate(share)

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
        clear = iter(holm(compared))
        return [
            Row(
                method,
                {c: self.score(setting, method.label, c) for c in COLUMNS},
                None
                if fixed in (None, method.label)
                else self.minus(setting, method.label, str(fixed)),
                difference,
                difference is not None and next(clear),
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
    def primary(self) -> tuple[Setting, str, str, Estimate] | None:
        """The contrast that was named before the run, if both sides are finished."""
        told = self.study.primary
        if not told:
            return None
        setting = next(s for s in self.study.settings if s.name == told["setting"])
        sides = told["method"], told["against"]
        if not all(self.runs(setting, side) for side in sides):
            return None
        return setting, *sides, self.minus(setting, *sides)
