"""What a plan's finished runs say: tables, JSON, raw scores, pictures and a page.

=================  ==============================================================================
file               holds
=================  ==============================================================================
report.md          the tables
results.jsonl      a line for each run and a bench's level lines; no users
scores.npz         every user's scores in every run: `rpp_agents.experiments.raw`
plots/*.png, svg   scores, learning curves, sweeps
marl_eval.json     of a bench: the format of ``id-marl-eval`` (Gorsane et al. 2022)
index.html         of a study: everything in one page, `rpp_agents.experiments.page`
=================  ==============================================================================
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rpp_agents.experiments import bench_plots, bench_tables, plots, study_tables
from rpp_agents.experiments.bench import LEVELS, Bench, as_bench
from rpp_agents.experiments.page import write_page
from rpp_agents.experiments.plan import Plan
from rpp_agents.experiments.raw import write_raw
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.show import page_data
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidOption

__all__ = ["marl_eval", "summary", "write_report"]


def write_report(plan: Plan, out: Path, *, page_users: bool = True) -> Path:
    """Write everything about what is finished.

    Parameters
    ----------
    plan : Plan
    out : Path
        Its folder.
    page_users : bool
        Show single users of made worlds on the page; those of real data never are.

    Returns
    -------
    Path
        Of ``report.md``.

    Raises
    ------
    InvalidOption
        Where no cell is finished.
    """
    results = Results.read(plan, out)
    if not results.cells:
        raise InvalidOption(f"no cell of this {plan.FORM} is finished in {out}: run it first")
    _write(out / "results.jsonl", _lines(results))
    write_raw(results, out)
    if isinstance(plan, Bench):
        pictures = bench_plots.draw_all(results, out / "plots")
        _write(out / "marl_eval.json", json.dumps(marl_eval(results), indent=1) + "\n")
        text = bench_tables.markdown(results, pictures, out)
    else:
        pictures = plots.draw_all(results, out / "plots")
        write_page(page_data(results, out, users=page_users), out / "index.html")
        text = study_tables.markdown(results, pictures, out)
    # Last: that it is there says that all is.
    _write(out / "report.md", text)
    return out / "report.md"


def summary(plan: Plan, out: Path) -> str:
    """What a run of the plan shows on the terminal: a bench's tables."""
    return bench_tables.summary(Results.read(plan, out)) if isinstance(plan, Bench) else ""


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def _lines(results: Results) -> str:
    """A JSON line for each run, and before them for each of a bench's level lines."""
    rows: list[dict[str, Any]] = []
    for (name, draw), found in results.levels.items():
        row = {"kind": "levels", "environment": name, "world": draw}
        rows.append(row | {key: x for key, x in found.items() if key != "users"})
    for cell, found in results.cells:
        if cell.levels is not None:
            share = results.run_gain(cell, found["score"])
            row = {"kind": "run", "environment": cell.setting.name, "algorithm": cell.method.label}
            row |= {"world": cell.draw, "seed": cell.seed}
            row |= {"gain": round(share, 6) if math.isfinite(share) else None}
            rows.append(row | {key: x for key, x in found.items() if key != "users"})
            continue
        scores = {
            column: round(sum(values) / len(values), 6)
            for column, values in found["scores"].items()
        }
        row = {"setting": cell.setting.name, "method": cell.method.label, "draw": cell.draw}
        row |= {"seed": cell.seed, "users": len(found["scores"]["score"])} | scores
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
    for cell, result in results.cells:
        crossed = as_bench(results.plan).design == "crossed"
        run = f"world_{cell.draw}_seed_{cell.seed}" if crossed else f"seed_{cell.seed}"
        task = found.setdefault(_safe(cell.setting.name), {})
        lines = {cell.method.label: (result["scores"], result["score"])}
        if (cell.setting.name, cell.draw) in results.levels:
            levels = results.levels[cell.setting.name, cell.draw]["scores"]
            count = len(result["points"])
            lines |= {label: ([levels[n]] * count, levels[n]) for n, label in LEVELS.items()}
        for label, (scores, last) in lines.items():
            steps = {
                f"step_{i}": {"step_count": at, "ndcg_10": [score]}
                for i, (at, score) in enumerate(zip(result["points"], scores, strict=True))
            }
            runs = task.setdefault(_safe(label), {})
            runs[run] = steps | {"absolute_metrics": {"ndcg_10": [last]}}
    return {"rpp_env": found}


def _safe(name: str) -> str:
    return name.replace(",", ";")
