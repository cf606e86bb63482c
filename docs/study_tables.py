"""The tables of a published study with one setting, from `docs/results` alone.

python docs/study_tables.py feedback
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from rpp_agents.experiments.plan import Study
from rpp_agents.experiments.raw import raw_lines, read_raw
from rpp_agents.experiments.statistics import holm
from rpp_env.markdown import table

RESULTS = Path(__file__).with_name("results")


def label_of(study: Study, *methods: str) -> str | None:
    """Return the label of the first of some methods, in their order, that a study has."""
    labels = {method.method: method.label for method in reversed(study.methods)}
    return next((labels[name] for name in methods if name in labels), None)


def contrasts(name: str) -> str:
    """Return the table of the contrasts that a study named, significance by Holm's correction.

    It is made over all of them: if some are not finished, nothing is called significant.
    """
    study = Study.load(name)
    lines = raw_lines(read_raw(RESULTS / f"{name}.scores.npz"), study.settings[0].name)
    found = {
        one: lines.minus((one.method, "score"), (one.against, "score"))
        for one in study.contrasts
        if (one.method, "score") in lines and (one.against, "score") in lines
    }
    whole = len(found) == len(study.contrasts)
    rows = [["method", "minus", "NDCG@10", *(["significant (Holm)"] if whole else [])]]
    for (one, value), significant in zip(found.items(), holm([*found.values()]), strict=True):
        row = [one.method, one.against, f"{value:+.3f}"]
        rows.append([*row, *(["yes" if significant else "no"] if whole else [])])
    return table(rows, padded=False)


def scores(name: str) -> str:
    """Return the main table of a study: the methods that have a finished run."""
    study = Study.load(name)
    (setting,) = study.settings
    lines = raw_lines(read_raw(RESULTS / f"{name}.scores.npz"), setting.name)
    fixed = label_of(study, "enumerate_all", "enumerate")
    reference = label_of(study, "supervised")
    trained, calls = defaultdict(list), {}
    for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        trained[run["method"]].append(run["curve"][-1]["train"])
        calls[run["method"]] = run["testing"]["calls"]
    labels = [method.label for method in study.methods if method.label in trained]
    others = [label for label in labels if label != fixed] if fixed else []
    apart = [lines.minus((label, "score"), (str(fixed), "score")) for label in others]
    significant = dict(zip(others, holm(apart), strict=True))
    minus = dict(zip(others, apart, strict=True))
    head = ["method", "NDCG@10"]
    head += ["minus best fixed", "significant (Holm)"] if fixed else []
    head += ["gain"] if reference else []
    rows = [[*head, "step 1", f"step {setting.steps}", "on train users"]]
    for label in labels:
        row = [label, str(lines.mean((label, "score")))]
        if label in minus:
            row += [f"{minus[label]:+.3f}", "yes" if significant[label] else "no"]
        elif fixed:
            row += ["", ""]
        if reference:
            sides = [(str(one), "score") for one in (label, fixed, reference)]
            row.append("" if label == fixed else f"{lines.gain(*sides):.2f}")
        for column in ("first", "last"):
            several = calls[label] > 1
            row.append(f"{lines.mean((label, column)).value:.3f}" if several else "")
        rows.append([*row, f"{np.mean(trained[label]):.3f}"])
    return table(rows, padded=False)


if __name__ == "__main__":
    print(contrasts(sys.argv[1]), scores(sys.argv[1]), sep="\n\n")
