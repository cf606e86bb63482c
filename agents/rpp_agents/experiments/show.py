"""Data of a report's page: tables, curves, choices, and single users of generated worlds.

Users of real data are never shown: most of their terms forbid it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpp_agents.experiments.methods.sentences import page as sentences
from rpp_agents.experiments.plan import Run, Setting
from rpp_agents.experiments.problem import Users
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.run import live_of
from rpp_agents.experiments.tables import findings, of_page, rounded
from rpp_env.data import KNOWN
from rpp_env.errors import InvalidData
from rpp_env.metrics import ndcg
from rpp_env.rewriting import open_rewriter
from rpp_env.rules import Rules
from rpp_env.sentences.space import SentencePrompts
from rpp_env.sim.movieworld import LEVELS

__all__ = ["page_data"]

_VIEWS = ("manual", "enumerate_all", "rpp")
"""Methods whose prompts the user browser compares."""
_MOST_VIEWS = 6


_WHAT = (
    "A frozen recommender ranks a user's candidates; methods differ in the prompt that it is given "
    "for this user. Scores are NDCG@10 of what the user really chose next, on users that no method "
    "was fitted on. The best of several calls is never reported."
)
_INTERVALS = "Intervals are 95%, by Student's t over draws, and over users where draws share them."
_STAND_IN = (
    "The embedded model is a stand-in for a language model, made so that prompts matter: it says "
    "how methods compare, and nothing about real language models."
)


def page_data(results: Results, out: Path, *, users: bool = True) -> dict[str, Any]:
    """Return the data of the page, for `write_page`."""
    stands_in = any(setting.model == "embedded" for setting in results.settings)
    return {
        "title": results.plan.title,
        "found": findings(results),
        "about": [_WHAT, _INTERVALS, *([_STAND_IN] if stands_in else [])],
        "primary": _primary(results),
        "tables": of_page(results),
        "curves": [
            _curve(results, setting)
            for setting in results.settings
            if results.learners(setting) and setting.part in ("main", "models")
        ],
        "choices": _choices(results),
        "users": _users(results, out) if users else [],
    }


def _primary(results: Results) -> dict[str, Any] | None:
    if results.primary is None:
        return None
    setting, method, against, found = results.primary
    return {
        "text": f"{method} minus {against}, {setting.name}, NDCG@10",
        "estimate": [rounded(x) for x in (found.value, found.low, found.high)],
        "smallest": results.plan.smallest,
    }


def _curve(results: Results, setting: Setting) -> dict[str, Any]:
    lines = [{"name": n, "value": value} for n, value in results.baselines(setting).values()]
    series = []
    for label in results.learners(setting):
        calls, scores = results.curve(setting, label)
        several = len(scores) > 1
        series.append(
            {
                "name": label,
                "x": calls.round(),
                "y": scores.mean(axis=0).round(4),
                "low": scores.min(axis=0) if several else None,
                "high": scores.max(axis=0) if several else None,
            }
        )
    return {
        "id": f"curve-{setting.name}",
        "title": f"{setting.name}: score against calls (bands: range of the runs)",
        "xlabel": results.plan.UNIT,
        "ylabel": f"NDCG@10, {results.plan.split} users",
        "log": False,
        "lines": lines,
        "series": series,
    }


def _choices(results: Results) -> list[dict[str, Any]]:
    found = []
    for setting in results.part("main"):
        options = _sentences(setting)
        # What was learned first, what is the same for everybody last.
        for method in sorted(results.methods(setting), key=lambda m: m.method != "rpp"):
            finished = [
                (run, result)
                for run, result in results.runs(setting, method.label)
                if result.get("choices", {}).get("shares")
            ]
            runs = [result["choices"] for _, result in finished]
            if not runs:
                continue
            for run, result in finished:
                _check_choices(run, result["choices"], runs[0], options)
            counts = np.array([choice["counts"] for choice in runs], np.float64)
            total = np.maximum(counts.sum(axis=0), 1)
            parts = []
            for agent in runs[0]["shares"]:
                # Users of all draws together.
                shares = np.array([choice["shares"][agent] for choice in runs])
                mean = (shares * counts[:, :, None]).sum(axis=0) / total[:, None]
                parts.append(
                    {
                        "agent": agent,
                        "options": _as_many(options.get(agent, []), mean.shape[1]),
                        "shares": mean.round(4),
                    }
                )
            found.append(
                {
                    "setting": setting.name,
                    "method": method.label,
                    "kinds": runs[0]["kinds"],
                    "counts": counts.sum(axis=0).astype(int),
                    "parts": parts,
                }
            )
    return found


def _as_many(options: list[str], count: int) -> list[str]:
    """Return the sentences, or numbers if another catalog than the dataset's was played."""
    return options if len(options) == count else [f"option {i + 1}" for i in range(count)]


def _check_choices(
    run: Run, choice: dict[str, Any], first: dict[str, Any], options: dict[str, list[str]]
) -> None:
    """Check that shares have the layout of the first run's, so that they can be averaged.

    Where the agents' `options` are known, the shares are of these agents.
    """

    def layout(one: dict[str, Any]) -> Any:
        widths = {agent: len(shares[0]) for agent, shares in one["shares"].items() if shares}
        return one["kinds"], widths

    others = options and choice["shares"].keys() != options.keys()
    if others or layout(choice) != layout(first):
        raise InvalidData(
            f"{run.file} holds choices among other sentences than the other runs of "
            f"{run.method.label!r}: delete it to run it again"
        )


def _sentences(setting: Setting) -> dict[str, list[str]]:
    """Return the options of each agent in words, if there are any."""
    rules = setting.rules
    if not isinstance(rules, Rules):
        return {}
    known = KNOWN.get(setting.dataset.lower())
    domain = setting.options.get("domain") or (known.domain if known else "movies")
    book = str(setting.options.get("book") or domain)
    return sentences.options(rules, book, setting.candidates)


# Users


def _users(results: Results, out: Path) -> list[dict[str, Any]]:
    """Return the first test users of generated worlds, with some methods' prompts for them."""
    found = []
    for setting in results.part("main"):
        if setting.dataset.lower() not in LEVELS or setting.model != "embedded":
            continue
        chosen = [
            (run, result)
            for method in results.methods(setting)
            if method.method in _VIEWS and "only" not in method.config
            for run, result in results.runs(setting, method.label)[:1]
            if _asked(result) and run.draw == setting.draws[0]
        ][:_MOST_VIEWS]
        if chosen:
            found += _browsed(results, setting, chosen, out)
    return found


def _browsed(
    results: Results, setting: Setting, chosen: Sequence[tuple[Run, dict[str, Any]]], out: Path
) -> list[dict[str, Any]]:
    env = live_of(results.plan.table(setting, setting.draws[0], "test"), out, setting.test_users)
    tasks, dataset, space = env.tasks, env.tasks.dataset, env.space
    if not isinstance(space, SentencePrompts):
        return []
    cells = [_cells(run, result, space, len(tasks)) for run, result in chosen]
    count = min(map(len, cells))
    kinds = dataset.habits[tasks.users] if dataset.habits is not None else np.zeros(len(tasks), int)
    names = dataset.habit_names or ("all users",)
    shown: list[dict[str, Any]] = [
        {
            "setting": setting.name,
            "user": tasks.task(row).user,
            "kind": names[int(kinds[row])],
            "history": tasks.task(row).history,
            "candidates": tasks.task(row).candidates,
            "target": int(tasks.position[row]),
            "views": [],
        }
        for row in range(count)
    ]
    rows, users = np.arange(count), Users(env, env)
    for (run, _), numbers in zip(chosen, cells, strict=True):
        prompts = users.prompts(rows, numbers[:count, -1])
        rewrite = open_rewriter(run.method.config.get("rewrite"))
        if rewrite is not None:
            prompts = list(rewrite(prompts))
        assert env.recommender is not None
        rankings = env.recommender.rank(prompts)
        for row, (prompt, ranking) in enumerate(zip(prompts, rankings, strict=True)):
            rank = ranking.rank(int(tasks.position[row]))
            shown[row]["views"].append(
                {
                    "method": run.method.label,
                    "step": numbers.shape[1],
                    "paragraphs": sentences.paragraphs(prompt),
                    "reply": ranking.text,
                    "order": list(ranking.order),
                    "named": ranking.named,
                    "rank": rank,
                    "ndcg": rounded(float(ndcg(rank))),
                }
            )
    return shown


def _asked(found: dict[str, Any]) -> Any:
    """Return the saved prompts of the first test users."""
    return found.get("cells") or found.get("prompts")


def _cells(run: Run, found: dict[str, Any], space: SentencePrompts, users: int) -> Any:
    """(users, calls) prompt indices, checked against the catalog and the users of a study."""
    if "cells" in found:
        cells: Any = np.array(found["cells"], np.int64)
        fine = cells.max() < np.prod(space.shape)
    else:
        cells = sentences.cells_of_before(found["prompts"], space)
        fine = cells is not None
    if not fine or len(cells) > users:
        raise InvalidData(
            f"{run.file} holds prompts that this study cannot have asked: delete it to run it again"
        )
    return cells
