"""Tables of a report, in Markdown and on its page: of a study and of a bench.

Numbers and columns stand in a `Table`, which writes itself in either form. What the two reports
differ in is what a method is compared with (`Results.compared`), and which sections they have.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rpp_agents.experiments import statistics
from rpp_agents.experiments.bench import LEVELS, Bench, as_bench, problem_of
from rpp_agents.experiments.files import slug
from rpp_agents.experiments.plan import DETAILED, PARTS, Method, Setting
from rpp_agents.experiments.results import Key, Results, Row
from rpp_agents.experiments.statistics import Lines, holm, optimality_gap, stratified_bootstrap
from rpp_agents.plots import Picture
from rpp_env.intervals import Estimate
from rpp_env.markdown import code, table, words

__all__ = [
    "FEWEST_TASKS",
    "Column",
    "Table",
    "findings",
    "markdown",
    "of_lines",
    "of_page",
    "rounded",
    "summary",
    "verdict",
]

FEWEST_TASKS = 6
"""Fewest tasks for an inter-quartile mean."""
FEWEST_SEEDS = 10
"""Below this, the report calls itself a sketch (Gorsane et al. 2022 ask for ten)."""

HOW_TO_READ = (
    "NDCG@10 on test users that no method was fitted on. *score* is what a method is compared "
    "by: the mean over its calls (never the best of them), or the one order that its calls are "
    "merged to by Borda count; *first* and *last* are single calls, *merged* all calls merged. "
    "*minus fixed* compares with the best prompt for everybody, chosen by asking all "
    "prompts about all train users (in a study without that method, within the budget); *minus "
    "baseline* with the same prompt asked as often as the multi-step methods ask, in other orders "
    "of the candidates, and merged (without that method, as before). *significant (Holm)* "
    "is yes where the latter is not 0 after Holm's correction over all methods of the table. "
    "*gain* is the share of what the supervised policy (which is fitted on all answers about the "
    "train users) gains over the best fixed prompt; none is given where that is not significantly "
    "above 0. "
    "In brackets: 95% intervals by Student's t over draws, and over users where draws share them."
)
"""Text under the head of a study's report."""

HOW_TO_READ_A_BENCH = (
    "NDCG@10 is the mean over an episode's steps. In brackets: 95% intervals by Student's t "
    "over worlds, whose spread holds that of seeds and users; in differences the worlds "
    "and users are the same on both sides. Gain: (score - best fixed prompt) / (observable "
    "reference - best fixed prompt), of means over worlds. Steps/s are steps of training in a "
    "second of one processor, evaluations left out."
)
"""Text under the head of a bench's report."""

TIES = (
    "For {count} of the test users several items have the latest time, and which of them is the "
    "target depends on how the source breaks ties."
)

_Cell = Estimate | float | str | None
"""Value of a table's entry; None if there is none."""
Drawn = Callable[[Callable[[str], bool]], list[str]]
"""From what a picture's name must be to the pictures, in Markdown."""


# --------------------------------------------------------------------------------- what a table is


@dataclass(frozen=True)
class Column:
    """Content and format of a column."""

    name: str
    spec: str = ".3f"
    """Format of its numbers in Markdown."""
    kind: str = "interval"
    """Kind on the page: ``"text"``, ``"number"``, ``"interval"`` or ``"count"``."""
    help: str = ""
    """Help on the page, next to its name."""
    only: str = ""
    """``"page"`` if the report leaves it out."""


@dataclass(frozen=True)
class Table:
    """Rows of texts, numbers and intervals."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[_Cell]]
    baselines: int = 0
    """Number of rows at the end that are baselines; their names are set apart."""
    title: str = ""
    note: str = ""

    def without(self, names: Collection[str]) -> Table:
        """Return the table without some columns."""
        keep = [i for i, column in enumerate(self.columns) if column.name not in names]
        rows = [[row[i] for i in keep] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in keep], rows=rows)

    def markdown(self, *, padded: bool = False) -> str:
        """Format as Markdown; unless `padded`, lines change only with their numbers."""
        shown = self.without([column.name for column in self.columns if column.only])
        rows = [
            [_written(x, c.spec) for x, c in zip(row, shown.columns, strict=True)]
            for row in shown.rows
        ]
        for row in rows[len(rows) - self.baselines :]:
            row[0] = f"*{row[0]}*"
        return table([[column.name for column in shown.columns], *rows], padded=padded)

    def page(self) -> dict[str, Any]:
        """Return the table in the form of `rpp_agents.experiments.page`."""
        return {
            "title": self.title,
            "note": self.note,
            "columns": [{"name": c.name, "kind": c.kind, "help": c.help} for c in self.columns],
            "rows": [
                [_paged(x, c.kind) for x, c in zip(row, self.columns, strict=True)]
                for row in self.rows
            ],
        }


_METHOD = Column("method", kind="text")
_FAMILY = Column("family", kind="text", only="page")


def _written(value: _Cell, spec: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else format(value, spec)


def _paged(value: _Cell, kind: str) -> Any:
    if isinstance(value, Estimate):
        three = [rounded(value.value), rounded(value.low), rounded(value.high)]
        return three if kind == "interval" else three[0]
    if value is None or isinstance(value, str):
        return value
    return [rounded(value), None, None] if kind == "interval" else rounded(value)


def rounded(value: float) -> float | None:
    """Round a number for JSON, finer than the page shows it; None if it is not finite."""
    return round(value, 6) if math.isfinite(value) else None


# ------------------------------------------------------------------------------------- the reports


def markdown(
    results: Results,
    pictures: Sequence[Picture],
    out: Path,
    *,
    iqm: bool = False,
    grids: bool = False,
) -> str:
    """The report.

    Parameters
    ----------
    results : Results
    pictures : sequence of Picture
        Each stands in the section that its name says.
    out : Path
        Folder of the report, for pictures and failed runs.
    iqm, grids : bool
        Add the aggregates over tasks; add the points of grids and the best of each.
    """
    plan = results.plan

    def drawn(mine: Callable[[str], bool]) -> list[str]:
        return [one.markdown(out) for one in pictures if mine(one.path.stem)]

    bench = isinstance(plan, Bench)
    text = [*(_bench_head if bench else _study_head)(results)]
    if grids:
        text += ["## Tuning", _grids(results)]
    text += (_environments if bench else _parts)(results, drawn)
    text += _refused(results)
    if iqm:
        text += ["## All tasks together", *_over_tasks(results)]
        head = f"## Probability of improvement over {words(results.against)}"
        text += [head, *_improvements(results)]
    text += drawn({"final", "improvement", "overall"}.__contains__)
    if bench:
        text += ["## How it was made", *_provenance(results, out)]
    return "\n\n".join(text) + "\n"


def summary(results: Results) -> str:
    """Return a bench's summary for the terminal: a table for each environment."""
    if results.plan.tunes:
        return _grids(results) + "\n"
    text = []
    for setting in results.settings:
        text += [f"## {words(setting.name)}", *_environment(results, setting)]
    return "\n\n".join(text) + "\n"


def of_page(results: Results) -> list[dict[str, Any]]:
    """Return the tables of the page."""
    found: list[Table] = []
    if isinstance(results.plan, Bench):
        found = [_environment_table(results, setting) for setting in results.settings]
    else:
        for part in PARTS:
            settings = results.part(part)
            if _side_by_side(part, settings):
                found.append(_overview(results, part, settings))
            if part in DETAILED:
                for setting in settings:
                    found.append(_methods_table(results, setting))
    return [{"id": f"table-{i + 1}", **one.page()} for i, one in enumerate(found)]


def of_lines(lines: Lines[Key], labels: Sequence[str], against: str | None) -> Table:
    """Return a table of scores and differences to one line, with Holm's correction."""
    columns = [_METHOD, Column("NDCG@10")]
    added: dict[str, list[_Cell]] = {}
    if against in labels:
        others = [label for label in labels if label != against]
        apart = [lines.minus((label, "score"), (str(against), "score")) for label in others]
        for label, difference, significant in zip(others, apart, holm(apart), strict=True):
            added[label] = [difference, "yes" if significant else "no"]
        columns += [Column(f"minus {against}", "+.3f"), Column("significant (Holm)")]
    rows = [
        [label, lines.mean((label, "score")), *added.get(label, [None] * (len(columns) - 2))]
        for label in labels
    ]
    return Table(columns, rows)


def _shown(results: Results, found: Table) -> str:
    """Format a table as Markdown; a bench's is padded for the terminal."""
    return found.markdown(padded=isinstance(results.plan, Bench))


def _state(results: Results) -> str:
    done, planned = len(results.finished) + len(results.refused), results.planned
    return "" if done == planned else f" **Not complete: {done} of {planned} runs.**"


def _refused(results: Results) -> list[str]:
    """Say which methods cannot be run where, and why."""
    where: dict[tuple[str, str], list[str]] = {}
    for run, why in results.refused:
        settings = where.setdefault((run.method.label, why), [])
        if run.setting.name not in settings:
            settings.append(run.setting.name)
    rows = [[label, "; ".join(names), why] for (label, why), names in where.items()]
    found = Table([_METHOD, Column("setting"), Column("why")], rows)
    said = "No number above holds these runs: the method cannot choose the prompts of the setting."
    return _titled("Refused", said, found, level=2)


# ---------------------------------------------------------------------------------------- a study


def _study_head(results: Results) -> list[str]:
    study = results.plan
    found = findings(results)
    return [
        f"# {words(study.title)}",
        (
            f"Study {code(study.name)}: {len(results.settings)} settings, {len(study.methods)} "
            f"methods, {len(study.seeds)} seeds.{_state(results)}"
        ),
        *(["\n".join(f"- {words(sentence)}" for sentence in found)] if found else []),
        *_primary(results),
        HOW_TO_READ,
        *_contrasts(results),
    ]


def _primary(results: Results) -> list[str]:
    study = results.plan
    if not study.primary:
        return []
    told = study.primary
    asked = (
        f"**Primary contrast, named before the run:** {words(told['method'])} minus "
        f"{words(told['against'])} on {words(told['setting'])}; the smallest difference that "
        f"matters: {study.smallest:g} NDCG@10."
    )
    if results.primary is None:
        return [f"{asked} Not finished yet."]
    found = results.primary[3]
    return [f"{asked} **Found: {found}.** {verdict(found, study.smallest)}"]


def _contrasts(results: Results) -> list[str]:
    """Report the contrasts that the file names besides the primary one."""
    rows: list[list[_Cell]] = [
        [one.setting, one.method, one.against, found, "yes" if significant else "no"]
        for one, found, significant in results.contrasts()
    ]
    names = ("setting", "method", "minus")
    columns = [*map(Column, names), Column("NDCG@10", "+.3f"), Column("significant (Holm)")]
    said = (
        "Named before the run. *significant (Holm)* is yes where a difference is not 0 after "
        "Holm's correction over this table, which is made when all of it is finished."
    )
    return _titled("Contrasts", said, Table(columns, rows), level=2)


def findings(results: Results) -> list[str]:
    """Summarise the results: a sentence on the primary contrast, and one per main setting."""
    text = []
    if results.primary is not None:
        setting, method, against, found = results.primary
        text.append(
            f"On {setting.name}, {method} minus {against} is {found:+.3f} NDCG@10. "
            f"{verdict(found, results.plan.smallest)}"
        )
    for setting in results.part("main"):
        apart = {
            row.label: (difference, row.significant)
            for row in results.rows(setting, results.tabled(setting))
            if (difference := row.minus.get("baseline")) is not None and row.cost.get("calls")
        }
        if not apart:
            continue
        above = {
            label: x for label, (x, significant) in apart.items() if significant and x.value > 0
        }
        said = f"On {setting.name}, {len(above) or 'none'} of {len(apart)} ways to prompt "
        said += f"score{'s' * (len(above) < 2)} significantly above {results.baseline(setting)}"
        if above:
            best = max(above, key=lambda label: above[label].value)
            said += f"; the highest is {best} ({above[best]:+.3f})"
        text.append(f"{said}.")
    return text


def verdict(found: Estimate, smallest: float) -> str:
    """Interpret an interval relative to the smallest relevant difference."""
    if found.low >= smallest:
        return "Significantly above 0, and large enough to matter throughout the interval."
    if found.low > 0 and found.high < smallest:
        return "Significantly above 0, and too small to matter."
    if found.low > 0:
        return "Significantly above 0; whether it is large enough to matter is open."
    if found.high < 0:
        return "Significantly below 0."
    if max(-found.low, found.high) < smallest:
        return "Not significantly different from 0, and too small to matter in any case."
    if found.high < smallest:
        return "Not significantly different from 0; an advantage that matters is excluded."
    return "Not significantly different from 0; a difference that matters is not excluded."


def _parts(results: Results, drawn: Drawn) -> list[str]:
    """The sections of a study, by the parts of its settings."""
    text: list[str] = []
    for part, title in PARTS.items():
        settings = results.part(part)
        if not settings:
            continue
        text.append(f"## {title}")
        if _side_by_side(part, settings):
            text.append(_shown(results, _overview(results, part, settings)))
        for setting in settings:
            if part in DETAILED:
                text += _setting(results, setting)
        if part == "main":
            for section in (_merged, _rewritten, _patterns, _costs, _redrawn, _sure):
                text += section(results, settings)
        text += drawn(lambda stem, part=part: stem.startswith(f"{part}-"))  # type: ignore[misc]
    return text


def _side_by_side(part: str, settings: Sequence[Setting]) -> bool:
    return len(settings) > 1 or (bool(settings) and part not in ("main", "models"))


def _overview(results: Results, part: str, settings: Sequence[Setting]) -> Table:
    """Return a table of scores on several settings."""
    columns = results.beside(settings)
    tabled = {label for setting in settings for label in results.tabled(setting)}
    rows: list[list[_Cell]] = [["chance", "", *(setting.chance for setting in columns)]]
    for method in results.plan.methods:
        if method.label in tabled:
            there = (results.runs(setting, method.label) for setting in columns)
            scores: list[_Cell] = [
                results.score(setting, method.label)
                if runs
                else "refused" * results.is_refused(setting, method.label)
                for setting, runs in zip(columns, there, strict=True)
            ]
            rows.append([method.label, method.family, *scores])
    named = [Column(s.name, help=f"chance {s.chance:.3f}") for s in columns]
    return Table([_METHOD, _FAMILY, *named], rows, title=PARTS[part], note="NDCG@10 on test users.")


_SEVERAL = "only of methods that ask several times"
_METHODS = (
    _METHOD,
    _FAMILY,
    Column("score", help="NDCG@10: mean over the calls, or of the merged order"),
    Column("minus fixed", "+.3f", help="minus the best prompt for everybody"),
    Column("minus baseline", "+.3f", help="minus that prompt at as many calls, merged"),
    Column("significant (Holm)", kind="text", help="the last is not 0 after Holm's correction"),
    Column("gain", ".2f", help="share of what the supervised policy gains"),
    Column("first", kind="number", help=_SEVERAL),
    Column("last", kind="number", help=_SEVERAL),
    Column("merged", kind="number", help=_SEVERAL),
    Column("training calls", kind="count", only="page"),
    Column("unique", kind="count", help="what a cache leaves to pay for", only="page"),
    Column("calls per user", kind="number", only="page"),
    Column("tokens per user", kind="count", only="page"),
)


def _method_row(results: Results, setting: Setting, row: Row) -> list[_Cell]:
    baseline = row.minus.get("baseline")
    ends = ("first", "last", "merged" if setting.episode.one_task else "")
    return [
        row.label,
        "" if row.method is None else row.method.family,
        row.scores["score"],
        row.minus.get("fixed"),
        baseline,
        "" if baseline is None else "yes" if row.significant else "no",
        None if row.label == results.fixed(setting) else row.gain,
        *(row.scores[c].value if c and row.cost["calls"] > 1 else None for c in ends),
        *(row.cost[name] for name in ("training calls", "unique", "calls", "tokens")),
    ]


def _methods_table(results: Results, setting: Setting) -> Table:
    """Return the methods of the main table, then those with a separate table."""
    main = results.tabled(setting)
    others = [label for label in results.labels(setting) if label not in main]
    rows = [*results.rows(setting, main), *results.rows(setting, others)]
    return Table(
        _METHODS,
        [_method_row(results, setting, row) for row in rows],
        title=setting.name,
        note=f"{setting.dataset}, {setting.recommender}; "
        f"{results.train_users(setting):,} train and {results.users(setting):,} test users. "
        f"Chance {setting.chance:.3f}. Holm's correction is made once over the methods of the main "
        "table, and once over single patterns.",
    )


def _setting(results: Results, setting: Setting) -> list[str]:
    rows = results.rows(setting, results.tabled(setting))
    gap = results.gap(setting)
    text = [f"### {words(setting.name)}", _intro(results, setting)]
    if gap is not None:
        none = "" if results.has_gap(setting) else ": not significant, so no gains are reported"
        text.append(f"Supervised policy minus best fixed prompt: {gap}{none}.")
    found = Table(_METHODS, [_method_row(results, setting, row) for row in rows])
    text.append(_shown(results, found))
    planned = Counter(c.method.label for c in results.plan.runs() if c.setting == setting)
    if fewer := [
        f"{row.label} {row.runs} of {planned[row.label]}"
        for row in rows
        if row.runs < planned[row.label]
    ]:
        text.append(f"Not all runs are there: {words(', '.join(fewer))}.")
    return text


def _intro(results: Results, setting: Setting) -> str:
    draws = {run.draw for run, _ in results.finished if run.setting == setting}
    made = "data_seed" in setting.problem(0)
    several = "" if len(draws) == 1 else "s"
    fixed = f"world{several}" if made else f"draw{several} of candidates and train users"
    budget = setting.budget or results.plan.budget
    return (
        f"{words(setting.dataset)}, {words(setting.recommender)} ({setting.rank_by}); "
        f"{results.train_users(setting):,} train and {results.users(setting):,} test users, "
        f"{len(draws)} {fixed}, "
        f"{setting.candidates} candidates "
        f"({words(setting.options.get('negatives', 'uniform'))}); {budget:,} calls of training. "
        f"Chance: {setting.chance:.3f}."
    )


def _merged(results: Results, settings: Sequence[Setting]) -> list[str]:
    """Compare the merged answers: of the baseline, and of every method with several calls."""
    rows: list[list[_Cell]] = []
    for setting in settings:
        baselines = [results.baseline(setting), results.label_of(setting, "merged_best")]
        if baselines[0] is None or not setting.episode.one_task:
            continue
        for label in results.tabled(setting):
            if label in baselines or results.cost(setting, label)["calls"] <= 1:
                continue
            apart = [
                None if other is None else results.minus(setting, label, other, "merged")
                for other in baselines
            ]
            rows.append([setting.name, label, *apart])
    said = (
        "*score* is the mean over single calls where a method is not merged by itself. Here all "
        "of its calls are merged, as the baselines' are. Without a correction over methods."
    )
    columns = [Column("setting"), Column("method"), Column("merged, minus baseline", "+.3f")]
    columns.append(Column("merged, minus best five merged", "+.3f"))
    return _titled("Merged on both sides", said, Table(columns, rows))


def _rewritten(results: Results, settings: Sequence[Setting]) -> list[str]:
    """Compare RPP+ with RPP, trainer by trainer."""
    rows: list[list[_Cell]] = []
    for setting in settings:
        for method in results.methods(setting):
            plain = results.counterpart(setting, method, "rewrite")
            if plain is not None:
                named = f"{setting.name}: {method.label} minus {plain}"
                rows.append([named, results.minus(setting, method.label, plain)])
    said = "At equal calls of the recommender; the rewriter's own calls are not counted."
    return _titled("RPP+ against RPP", said, Table([Column(""), Column("NDCG@10", "+.3f")], rows))


def _patterns(results: Results, settings: Sequence[Setting]) -> list[str]:
    """Report RPP-Ro, RPP-Hi, RPP-Re and RPP-Ou: one agent, the others on the manual prompt."""
    text: list[str] = []
    for setting in settings:
        tabled = set(results.tabled(setting))
        labels = [label for label in results.labels(setting) if label not in tabled]
        if not labels:
            continue
        rows = []
        for row in results.rows(setting, labels):
            assert row.method is not None
            whole = results.counterpart(setting, row.method, "only")
            apart = None if whole is None else results.minus(setting, row.label, whole)
            rows.append([*_method_row(results, setting, row)[:6], apart])
        found = Table([*_METHODS[:6], Column("minus all four", "+.3f")], rows)
        text += [f"On {words(setting.name)}:", _shown(results, found)]
    said = "One agent chooses; the other three stay on the manual prompt."
    return ["### One pattern at a time", said, *text] if text else []


def _costs(results: Results, settings: Sequence[Setting]) -> list[str]:
    said = (
        "Means over runs. *unique*: what a cache leaves to pay for. *different*: distinct "
        "questions about a test user. *seconds* are of training on this machine, answers from "
        "tables except where prompts are rewritten or reordered, and say little of a real model's."
    )
    columns = {
        "training calls": ("training calls", ",.0f"),
        "unique": ("unique", ",.0f"),
        "calls": ("calls per test user", "g"),
        "different": ("different", ".1f"),
        "tokens": ("tokens per test user", ",.0f"),
        "seconds": ("seconds", ",.1f"),
    }
    setting = settings[0]
    costs = {label: results.cost(setting, label) for label in results.labels(setting)}
    rows: list[list[_Cell]] = [
        [label, *(cost[name] for name in columns)] for label, cost in costs.items()
    ]
    found = Table([_METHOD, *(Column(name, spec) for name, spec in columns.values())], rows)
    return ["### Calls and time", said, f"On {words(setting.name)}:", _shown(results, found)]


def _redrawn(results: Results, _: Sequence[Setting]) -> list[str]:
    rows: list[list[_Cell]] = []
    for name, found in results.redrawn.items():
        scores = {key: Estimate(*x) for key, x in found["estimates"].items()}
        lines = [scores[key] for key in ("fixed", "hindsight", "survives")]
        apart = [scores["hindsight minus fixed"], scores["survives minus fixed"]]
        rows.append([name, found["users"], *lines, *apart])
    said = (
        "*hindsight* is every test user's best prompt, known from the answer; *what survives* is "
        "the same prompt for the same user and target when the other candidates and their order "
        "are drawn again. What is lost was luck with the candidates; what is left may still be "
        "luck with the one target."
    )
    columns = [Column("setting"), Column("users", ",")]
    columns += [Column("best fixed"), Column("hindsight"), Column("what survives")]
    columns += [Column("hindsight minus fixed", "+.3f"), Column("survives minus fixed", "+.3f")]
    return _titled("How much of hindsight is luck", said, Table(columns, rows))


def _sure(results: Results, settings: Sequence[Setting]) -> list[str]:
    text = []
    for setting in settings:
        if count := results.unsure(setting):
            every, sure = results, results.only_sure()
            rows: list[list[_Cell]] = [
                [label, *(one.score(setting, label) for one in (every, sure))]
                for label in results.labels(setting)
            ]
            columns = [_METHOD, Column("all"), Column("without them")]
            title = f"{words(setting.name)} without ties"
            text += _titled(title, TIES.format(count=count), Table(columns, rows))
    return text


def _titled(title: str, said: str, found: Table, level: int = 3) -> list[str]:
    """A section of a report, unless it has nothing to show."""
    return [f"{'#' * level} {title}", said, found.markdown()] if found.rows else []


# ---------------------------------------------------------------------------------------- a bench


def _bench_head(results: Results) -> list[str]:
    bench = as_bench(results.plan)
    crossed = "every seed in every world" if bench.design == "crossed" else "each seed in one world"
    worlds = {run.draw for run, _ in results.finished}
    seeds = {run.seed for run, _ in results.finished}
    users = {len(run.per_user(result)["score"]) for run, result in results.finished}
    few = len(seeds) < FEWEST_SEEDS and not bench.tunes
    return [
        f"# Bench {code(bench.name)}",
        f"{len(results.settings)} environment{_s(results.settings)}, {len(seeds)} training "
        f"seed{_s(seeds)}, {len(worlds)} world{_s(worlds)} ({crossed}), "
        f"{_steps(bench)}.{_state(results)} Trained on {_trained(bench)}; scored "
        f"on {' or '.join(f'{count:,}' for count in sorted(users))} {bench.split} users, all of "
        "them, by the greedy actions of the policy at the end of training (Q learners: epsilon 0)."
        + (f" **Fewer than {FEWEST_SEEDS} seeds: a sketch.**" if few else ""),
        HOW_TO_READ_A_BENCH,
    ]


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
        return f"all train users (baselines: {bench.train_users:,})"
    return f"{bench.train_users:,} users" + (f", {words(', '.join(live))} on all" if live else "")


def _s(things: Collection[Any]) -> str:
    return "" if len(things) == 1 else "s"


def _environments(results: Results, drawn: Drawn) -> list[str]:
    """Return the sections of a bench."""
    text: list[str] = []
    for setting in results.settings:
        text += [f"## {words(setting.name)}", *_environment(results, setting)]
        text += drawn(f"curves-{slug(setting.name)}".__eq__)
    return text


def _environment(results: Results, setting: Setting) -> list[str]:
    text = [_described(setting), _shown(results, _environment_table(results, setting))]
    if results.levels_of(setting) and not results.has_gap(setting):
        text.append(
            "No gain is given: the observable reference is not significantly above the best fixed "
            f"prompt (difference {results.minus(setting, 'reference', 'fixed')})."
        )
    if not results.plan.tunes:
        text.append(_pairs(results, setting))
    return text


def _environment_table(results: Results, setting: Setting) -> Table:
    """Return a table of an environment's algorithms and baselines."""
    levels = list(results.levels_of(setting).values())
    steps = max((found["steps"] for found in levels), default=1)
    ends = {"first": "step 1", "last": f"step {steps}"} if steps > 1 else {}
    gap, others = results.has_gap(setting), results.compared(setting)
    columns = [Column("algorithm", kind="text"), Column("NDCG@10")]
    columns += [Column(name, kind="number") for name in ends.values()]
    columns += [Column("gain")] * gap
    columns += [Column(f"minus {name}", "+.3f") for name in others]
    columns += [Column("steps/s", ",.0f", "count"), Column("runs", "d", "count")]
    rows: list[list[_Cell]] = []
    for row in results.rows(setting, [*results.labels(setting), *(LEVELS if levels else ())]):
        gain: _Cell = row.gain
        if row.method is None and row.gain is not None:
            gain = row.gain.value
        rows.append(
            [
                row.label if row.method is not None else LEVELS[row.label],
                row.scores["score"],
                *(row.scores[part].value for part in ends),
                *([gain] if gap else []),
                *(row.minus[name] for name in others),
                row.cost.get("steps/s"),
                row.runs or None,
            ]
        )
    if levels:
        chance: list[_Cell] = ["chance", levels[0]["scores"]["chance"]]
        rows.append([*chance, *[None] * (len(columns) - 2)])
    baselines = len(rows) - len(results.labels(setting))
    return Table(columns, rows, baselines, setting.name, _described(setting))


def _described(setting: Setting) -> str:
    problem = problem_of(setting)
    options = "".join(f", {key} {words(value)}" for key, value in problem["options"].items())
    live = ", trained on all train users, asking the model" if setting.live else ""
    return (
        f"{code(setting.dataset)}, {code(problem['rules'])}, {setting.observe} "
        f"observations{options}{live}."
    )


def _pairs(results: Results, setting: Setting) -> str:
    labels = results.labels(setting)
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


def _provenance(results: Results, out: Path) -> list[str]:
    bench = as_bench(results.plan)
    rows = []
    for algorithm in bench.methods:
        config = algorithm.config
        cost = [found["seconds"] for run, found in results.finished if run.method == algorithm]
        rows.append(
            [
                algorithm.label,
                config["trainer"],
                _options(config["options"]),
                {"mean": "the mean of its items", "sequence": "a sequence"}[config["ranking"]],
                str(config["num_envs"]),
                f"{sum(cost) / 3600:.2f}",
            ]
        )
    names = ["algorithm", "trainer", "options set by the bench", "sees the last ranking as"]
    columns = [Column(name) for name in (*names, "environments at once", "hours")]
    versions = sorted(
        {", ".join(f"{k} {v}" for k, v in r["versions"].items()) for _, r in results.finished}
    )
    seeds, worlds = (", ".join(map(str, numbers)) for numbers in (bench.seeds, bench.worlds))
    said = (
        f"Training seeds {seeds}; worlds {worlds}. {words('; '.join(versions))}. Every option of "
        "every run, and the digests of its tables, are in `results.jsonl`."
    )
    text = [_shown(results, Table(columns, rows)), said]
    failed = sorted(path.relative_to(out) for path in out.glob("cells/**/*.failed.txt"))
    if failed:
        lines = "\n".join(f"- {code(str(line))}" for line in failed)
        text.append(f"Failed runs, which no number above holds:\n\n{lines}")
    return text


# ---------------------------------------------------------------------------- tasks, and grids


def _over_tasks(results: Results) -> list[str]:
    tasks = results.tasks
    if len(tasks) < FEWEST_TASKS:
        few = f"{len(tasks)} with a significant gap, of at least {FEWEST_TASKS}"
        return [f"There are too few tasks for aggregates over tasks: {few}."]
    rows: list[list[_Cell]] = []
    for method in results.plan.methods:
        draws = results.common_draws([method.label], tasks)
        if not draws:
            continue
        gains = results.gains(method.label, draws)
        narrow = stratified_bootstrap(statistics.iqm, gains)
        over_tasks = partial(results.over_tasks, method.label, draws)
        rows.append(
            [
                method.label,
                over_tasks(statistics.iqm),
                f"[{narrow.low:.3f}, {narrow.high:.3f}]",
                over_tasks(optimality_gap),
                over_tasks(np.mean),
                str(sum(map(len, gains))),
            ]
        )
    named = "IQM of the gain", "these worlds and users", "optimality gap", "mean", "runs"
    said = (
        f"Over {len(tasks)} tasks ({words(', '.join(task.name for task in tasks))}), of each run's "
        "gain over the best fixed prompt of its world. Intervals are by the jackknife over worlds "
        "(the same ones in every task) with Student's t; beside the first, how sure it would be of "
        "these worlds and users alone (Agarwal et al.'s stratified bootstrap: runs within each "
        "task)."
    )
    return [said, _shown(results, Table([_subject(results), *map(Column, named)], rows))]


def _improvements(results: Results) -> list[str]:
    settings, against = results.settings, results.against
    groups: list[Sequence[Setting]] = [[one] for one in settings]
    groups += [settings] * (len(settings) > 1)
    rows = []
    for method in results.plan.methods:
        if method.label != against:
            found = [results.improvement(method.label, group) for group in groups]
            rows += [[method.label, *found]] if any(found) else []
    if not rows:
        return [f"There is nothing to compare with {words(against)}."]
    said = (
        f"The probability that a run scores higher than a run of {words(against)} in the same "
        "world (ties half). It says how often, not by how much. Intervals are by the jackknife "
        "over worlds (the same ones in every task) with Student's t; one without width says that "
        "all worlds agree, not that others would."
    )
    named = [*(one.name for one in settings), *["all"] * (len(settings) > 1)]
    columns = [_subject(results), *(Column(name, ".2f") for name in named)]
    return [said, _shown(results, Table(columns, rows))]


def _grids(results: Results) -> str:
    """List the points of grids, and the best of each."""
    settings, methods = results.settings, results.plan.methods
    grids: dict[str, list[Method]] = {}
    for method in methods:
        if method.tunes is not None:
            grids.setdefault(method.tunes, []).append(method)
    if not grids:
        return "There are no grids."
    rows: list[list[_Cell]] = []
    for base, points in grids.items():
        # A study's methods may be run in some settings only.
        there = [one for one in settings if any(point.runs_in(one) for point in points)]
        scores = [[_score(results, setting, point) for setting in there] for point in points]
        means = [float(np.mean(row)) if row else math.nan for row in scores]
        complete = not any(map(math.isnan, means))
        best = int(np.argmax(means)) if complete else -1
        for i, (point, row, mean) in enumerate(zip(points, scores, means, strict=True)):
            of = dict(zip((setting.name for setting in there), row, strict=True))
            runs = sum(len(results.runs(setting, point.label)) for setting in there)
            numbers = [*(of.get(setting.name) for setting in settings), mean]
            mark = "**best**" if i == best else ""
            rows.append([base, str(i + 1), _options(point.point), *numbers, str(runs), mark])
    named = [*(setting.name for setting in settings), "mean"]
    columns = [_subject(results), Column("point"), Column("options")]
    columns += [*(Column(name, ".4f") for name in named), Column("runs"), Column("")]
    alike = len(set(map(len, grids.values()))) == 1
    subject = columns[0].name
    return (
        (f"Every {subject} has the same number of points. " if alike else "")
        + "The best has the highest mean over the environments of NDCG@10; nothing is marked while "
        "runs are missing.\n\n" + _shown(results, Table(columns, rows))
    )


def _score(results: Results, setting: Setting, method: Method) -> float:
    runs = results.runs(setting, method.label)
    return results.score(setting, method.label).value if runs else math.nan


def _options(told: Mapping[str, Any]) -> str:
    """Options in a line; those of a trainer stand beside a study's own."""
    found = [
        inner
        for key, value in told.items()
        for inner in (value.items() if isinstance(value, Mapping) else [(key, value)])
    ]
    return ", ".join(f"{key} {value}" for key, value in found)


def _subject(results: Results) -> Column:
    return Column("algorithm" if isinstance(results.plan, Bench) else "method")
