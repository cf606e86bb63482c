"""Report a plan's finished runs: tables, JSON, raw scores, pictures and a page.

=================  ==============================================================================
file               holds
=================  ==============================================================================
report.md          the tables
results.jsonl      a line for each run and a bench's baselines; no users
scores.npz         every user's scores in every run: `rpp_agents.experiments.raw`
plots/*.png, svg   scores, learning curves, sweeps
marl_eval.json     of a bench: the format of ``id-marl-eval`` (Gorsane et al. 2022)
index.html         of a study: everything in one page, `rpp_agents.experiments.page`
=================  ==============================================================================
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rpp_agents.experiments import plots, tables
from rpp_agents.experiments.bench import LEVELS, Bench
from rpp_agents.experiments.page import write_page
from rpp_agents.experiments.plan import Plan
from rpp_agents.experiments.raw import raw_lines, read_raw, write_raw
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.show import page_data
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidOption
from rpp_env.markdown import words
from rpp_env.options import unknown

__all__ = ["Options", "marl_eval", "raw_tables", "summary", "write_report"]


@dataclass(frozen=True)
class Options:
    """Optional parts of a report, besides its tables and pictures."""

    page: bool = True
    """The page, ``index.html``."""
    users: bool = True
    """Single users of generated worlds on the page; those of real data are never shown."""
    marl_eval: bool = False
    """``marl_eval.json``; a bench always has it."""
    iqm: bool = False
    """Aggregates over tasks: inter-quartile mean of the gain, optimality gap, probability of
    improvement; a bench without grids always has them."""
    grids: bool = False
    """The points of grids and the best of each; a bench with grids always has them."""

    def of(self, plan: Plan) -> Options:
        """Add the parts that reports of such plans always have."""
        bench = isinstance(plan, Bench)
        return replace(
            self,
            marl_eval=self.marl_eval or bench,
            iqm=self.iqm or (bench and not plan.tunes),
            grids=self.grids or (bench and plan.tunes),
        )


def write_report(plan: Plan, out: Path, options: Options | None = None) -> Path:
    """Write the report of all finished runs.

    Parameters
    ----------
    plan : Plan
    out : Path
        Its folder.
    options : Options, optional

    Returns
    -------
    Path
        Of ``report.md``.

    Raises
    ------
    InvalidOption
        If no run is finished.
    """
    options = (options or Options()).of(plan)
    results = Results.read(plan, out)
    if not results.finished:
        raise InvalidOption(f"no run of this {plan.FORM} is finished in {out}: run it first")
    _write(out / "results.jsonl", _lines(results))
    write_raw(results, out)
    if options.marl_eval:
        _write(out / "marl_eval.json", json.dumps(marl_eval(results), indent=1) + "\n")
    pictures = plots.draw_all(results, out / "plots", over_tasks=options.iqm)
    if options.page:
        write_page(page_data(results, out, users=options.users), out / "index.html")
    text = tables.markdown(results, pictures, out, iqm=options.iqm, grids=options.grids)
    # Last: that it is there says that all is.
    _write(out / "report.md", text)
    return out / "report.md"


def summary(plan: Plan, out: Path) -> str:
    """Return the summary for the terminal: a bench's tables."""
    return tables.summary(Results.read(plan, out)) if isinstance(plan, Bench) else ""


def raw_tables(path: Path, against: str | None = None) -> str:
    """Tables of a file of raw scores alone: every method's score, and its lead over another's.

    Parameters
    ----------
    path : Path
        A ``scores.npz``, as every report writes it.
    against : str, optional
        Label of the method, or name of the baseline, that the others are compared with.

    Raises
    ------
    InvalidData
        For a file that holds no raw scores.
    InvalidOption
        Where no setting has a method `against`.
    """
    raw = read_raw(path)
    if against is not None and against not in raw["method"]:
        known = list(dict.fromkeys(raw["method"].tolist()))
        raise InvalidOption(unknown("against", against, known))
    text = []
    for setting in dict.fromkeys(raw["setting"].tolist()):
        lines = raw_lines(raw, setting)
        labels = dict.fromkeys(raw["method"][raw["setting"] == setting].tolist())
        found = tables.of_lines(lines, list(labels), against)
        text += [f"## {words(setting)}", found.markdown(padded=True)]
    return "\n\n".join(text) + "\n"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def _lines(results: Results) -> str:
    """A JSON line for each run, and before them for each of a bench's baselines."""
    rows: list[dict[str, Any]] = []
    for (name, draw), found in results.levels.items():
        row = {"kind": "levels", "environment": name, "world": draw}
        rows.append(row | {key: x for key, x in found.items() if key != "users"})
    for run, found in results.finished:
        if run.levels is not None:
            share = results.run_gain(run, found["score"])
            row = {"kind": "run", "environment": run.setting.name, "algorithm": run.method.label}
            row |= {"world": run.draw, "seed": run.seed}
            row |= {"gain": round(share, 6) if math.isfinite(share) else None}
            rows.append(row | {key: x for key, x in found.items() if key != "users"})
            continue
        scores = {
            column: round(sum(values) / len(values), 6)
            for column, values in found["scores"].items()
        }
        row = {"setting": run.setting.name, "method": run.method.label, "draw": run.draw}
        row |= {"seed": run.seed, "users": len(found["scores"]["score"])} | scores
        hidden = ("scores", "prompts", "unsure")
        rows.append(row | {key: x for key, x in found.items() if key not in hidden})
    return "".join(json.dumps(row) + "\n" for row in rows)


def marl_eval(results: Results) -> dict[str, Any]:
    """Environment -> task -> algorithm -> run -> ``step_k``, as ``id-marl-eval`` reads it.

    Lists of metrics hold one number, the mean over all users. ``absolute_metrics`` are the final
    policy's: the best policy on the way, which the format has in mind, is never looked for. Level
    lines are algorithms whose score does not change, with the same runs as all others.
    """
    found: dict[str, Any] = {}
    crossed = isinstance(results.plan, Bench) and results.plan.design == "crossed"
    for run, result in results.finished:
        name = f"world_{run.draw}_seed_{run.seed}" if crossed else f"seed_{run.seed}"
        task = found.setdefault(_safe(run.setting.name), {})
        at, scores = run.path(result)
        lines = {run.method.label: scores}
        if (run.setting.name, run.draw) in results.levels:
            levels = results.levels[run.setting.name, run.draw]["scores"]
            lines |= {label: [levels[name]] * len(at) for name, label in LEVELS.items()}
        for label, several in lines.items():
            steps = {
                f"step_{i}": {"step_count": step, "ndcg_10": [score]}
                for i, (step, score) in enumerate(zip(at, several, strict=True))
            }
            runs = task.setdefault(_safe(label), {})
            runs[name] = steps | {"absolute_metrics": {"ndcg_10": [several[-1]]}}
    return {"rpp_env": found}


def _safe(name: str) -> str:
    return name.replace(",", ";")
