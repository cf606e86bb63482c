"""Tables of a study's report, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rpp_agents.experiments.plan import PARTS, Setting
from rpp_agents.experiments.results import Results, Row
from rpp_agents.plots import Picture
from rpp_env.intervals import Estimate
from rpp_env.markdown import code, words
from rpp_env.markdown import table as write_table

__all__ = ["findings", "markdown"]

HOW_TO_READ = (
    "NDCG@10 on test users that no method was fitted on. *score* is what a method is compared "
    "by: the mean over its calls (never the best of them), or the one order that its calls are "
    "merged to by Borda count; *first* and *last* are single calls, *merged* all calls merged. "
    "*minus fixed* compares with the best prompt for everybody, chosen by asking all "
    "prompts about all train users; *minus rival* with the same prompt asked as often as the "
    "multi-step methods ask, in other orders of the candidates, and merged. *significant (Holm)* "
    "is yes where the latter is not 0 after Holm's correction over all methods of the table. "
    "*gain* is the share of what the supervised policy (which is fitted on all answers about the "
    "train users) gains over the best fixed prompt; none is given where that is not significantly "
    "above 0. "
    "In brackets: 95% intervals by Student's t over draws, and over users where draws share them."
)
"""Under every report's head."""


TIES = (
    "For {count} of the test users several items carry the last time, and which of them is the "
    "target hangs on how the source breaks ties."
)


def table(rows: Sequence[Sequence[object]]) -> str:
    """A table whose lines do not change with the seconds in it."""
    return write_table(rows, padded=False)


def markdown(results: Results, pictures: Sequence[Picture], out: Path) -> str:
    """The report."""
    study = results.plan
    done, planned = len(results.cells), results.planned
    state = "" if done == planned else f" **Not complete: {done} of {planned} runs.**"
    text = [
        f"# {words(study.title)}",
        (
            f"Study {code(study.name)}: {len(results.settings)} settings, {len(study.methods)} "
            f"methods, {len(study.seeds)} seeds.{state}"
        ),
        *_found(results),
        *_primary(results),
        HOW_TO_READ,
    ]
    for part, title in PARTS.items():
        settings = results.part(part)
        if not settings:
            continue
        text.append(f"## {title}")
        if len(settings) > 1 or part not in ("main", "models"):
            text.append(_overview(results, settings))
        for setting in settings:
            if part in ("main", "models", "time"):
                text += _setting(results, setting)
        if part == "main":
            text += _merged(results, settings)
            text += _rewritten(results, settings)
            text += _patterns(results, settings)
            text += _costs(results, settings)
            text += _redrawn(results)
            text += _sure(results, settings)
        mine = (one for one in pictures if one.path.name.startswith(f"{part}-"))
        text += [picture.markdown(out) for picture in mine]
    return "\n\n".join(text) + "\n"


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


def _found(results: Results) -> list[str]:
    found = findings(results)
    return ["\n".join(f"- {words(sentence)}" for sentence in found)] if found else []


def findings(results: Results) -> list[str]:
    """What was found: a sentence for the primary contrast, and one for each main setting."""
    text = []
    if results.primary is not None:
        setting, method, against, found = results.primary
        text.append(
            f"On {setting.name}, {method} minus {against} is {found:+.3f} NDCG@10. "
            f"{verdict(found, results.plan.smallest)}"
        )
    for setting in results.part("main"):
        rows = [
            row
            for row in results.rows(setting, results.tabled(setting))
            if row.minus_rival is not None and row.cost["calls"] > 0
        ]
        if not rows:
            continue
        above = [row for row in rows if row.significant and _apart(row) > 0]
        said = f"On {setting.name}, {len(above) or 'none'} of {len(rows)} ways to prompt "
        said += f"score{'s' * (len(above) < 2)} significantly above {results.rival(setting)}"
        if above:
            best = max(above, key=_apart)
            said += f"; the highest is {best.method.label} ({_signed(best.minus_rival)})"
        text.append(f"{said}.")
    return text


def _apart(row: Row) -> float:
    return 0.0 if row.minus_rival is None else row.minus_rival.value


def verdict(found: Estimate, smallest: float) -> str:
    """What an interval says beside the smallest difference that matters."""
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


def _intro(results: Results, setting: Setting) -> str:
    draws = {cell.draw for cell, _ in results.cells if cell.setting == setting}
    made = "data_seed" in setting.problem(0)
    several = "" if len(draws) == 1 else "s"
    fixed = f"world{several}" if made else f"draw{several} of candidates and train users"
    budget = setting.budget or results.plan.budget
    return (
        f"{words(setting.dataset)}, {words(setting.model)} ({setting.rank_by}); "
        f"{results.train_users(setting):,} train and {results.users(setting):,} test users, "
        f"{len(draws)} {fixed}, "
        f"{setting.candidates} candidates "
        f"({words(setting.options.get('negatives', 'uniform'))}); {budget:,} calls of training. "
        f"Chance: {setting.chance:.3f}."
    )


def _setting(results: Results, setting: Setting) -> list[str]:
    rows = results.rows(setting, results.tabled(setting))
    gap = results.gap(setting)
    text = [f"### {words(setting.name)}", _intro(results, setting)]
    if gap is not None:
        none = "" if results.has_gap(setting) else ": not significant, so no gains are reported"
        text.append(f"Supervised policy minus best fixed prompt: {gap}{none}.")
    head = ["method", "score", "minus fixed", "minus rival", "significant (Holm)", "gain"]
    text.append(table([[*head, "first", "last", "merged"], *map(_row, rows)]))
    planned = Counter(c.method.label for c in results.plan.cells() if c.setting == setting)
    if fewer := [
        f"{row.method.label} {row.runs} of {planned[row.method.label]}"
        for row in rows
        if row.runs < planned[row.method.label]
    ]:
        text.append(f"Not all runs are there: {words(', '.join(fewer))}.")
    return text


def _merged(results: Results, settings: Sequence[Setting]) -> list[str]:
    """The rival's calls are merged to one order; so are those of whoever else makes several."""
    rows = []
    for setting in settings:
        rivals = [results.rival(setting), results.label_of(setting, "merged_best")]
        if rivals[0] is None:
            continue
        for label in results.tabled(setting):
            if label in rivals or results.cost(setting, label)["calls"] <= 1:
                continue
            apart = [
                None if rival is None else results.minus(setting, label, rival, "merged")
                for rival in rivals
            ]
            rows.append([setting.name, label, *map(_signed, apart)])
    if not rows:
        return []
    said = (
        "*score* is the mean over single calls where a method is not merged by itself. Here all "
        "of its calls are merged, as the rivals' are. Without a correction over methods."
    )
    head = ["setting", "method", "merged, minus rival", "merged, minus best five merged"]
    return ["### Merged on both sides", said, table([head, *rows])]


def _rewritten(results: Results, settings: Sequence[Setting]) -> list[str]:
    """RPP+ minus RPP, trainer by trainer."""
    rows = []
    for setting in settings:
        for method in results.methods(setting):
            plain = results.counterpart(setting, method, "rewrite")
            if plain is not None:
                difference = _signed(results.minus(setting, method.label, plain))
                rows.append([f"{setting.name}: {method.label} minus {plain}", difference])
    if not rows:
        return []
    said = "At equal calls of the recommender; the rewriter's own calls come on top."
    return ["### RPP+ against RPP", said, table([["", "NDCG@10"], *rows])]


def _patterns(results: Results, settings: Sequence[Setting]) -> list[str]:
    """RPP-Ro, RPP-Hi, RPP-Re, RPP-Ou: the other three agents on the manual prompt."""
    text: list[str] = []
    for setting in settings:
        tabled = set(results.tabled(setting))
        labels = [m.label for m in results.methods(setting) if m.label not in tabled]
        if labels:
            head = ["method", "score", "minus fixed", "minus rival", "significant (Holm)"]
            rows = [
                [*_row(row)[:5], _signed(_minus_all_four(results, setting, row))]
                for row in results.rows(setting, labels)
            ]
            text += [f"On {words(setting.name)}:", table([[*head, "minus all four"], *rows])]
    if text:
        said = "One agent chooses; the other three stay on the manual prompt."
        text = ["### One pattern at a time", said, *text]
    return text


def _minus_all_four(results: Results, setting: Setting, row: Row) -> Estimate | None:
    whole = results.counterpart(setting, row.method, "only")
    return None if whole is None else results.minus(setting, row.method.label, whole)


def _row(row: Row) -> list[str]:
    several = row.cost["calls"] > 1
    return [
        row.method.label,
        str(row.scores["score"]),
        _signed(row.minus_fixed),
        _signed(row.minus_rival),
        "" if row.minus_rival is None else "yes" if row.significant else "no",
        "" if row.gain is None else f"{row.gain:.2f}",
        *(f"{row.scores[c].value:.3f}" if several else "" for c in ("first", "last", "merged")),
    ]


def _signed(value: Estimate | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _overview(results: Results, settings: Sequence[Setting]) -> str:
    labels = [
        method.label
        for method in results.plan.methods
        if any(method.label in results.tabled(setting) for setting in settings)
    ]
    columns = results.beside(settings)
    rows = [["chance", *(f"{setting.chance:.3f}" for setting in columns)]]
    for label in labels:
        cells = [
            str(results.score(setting, label)) if results.runs(setting, label) else ""
            for setting in columns
        ]
        rows.append([label, *cells])
    return table([["method", *(setting.name for setting in columns)], *rows])


def _costs(results: Results, settings: Sequence[Setting]) -> list[str]:
    said = (
        "Means over runs. *unique*: what a cache leaves to pay for. *different*: distinct "
        "questions about a test user. *seconds* are of training on this machine, answers from "
        "tables except where prompts are rewritten or reordered, and say little of a real model's."
    )
    text = ["### Calls and time", said]
    setting = settings[0]
    rows = []
    for method in results.methods(setting):
        cost = results.cost(setting, method.label)
        rows.append(
            [
                method.label,
                f"{cost['training calls']:,.0f}",
                f"{cost['unique']:,.0f}",
                f"{cost['calls']:g}",
                f"{cost['different']:.1f}",
                f"{cost['tokens']:,.0f}",
                f"{cost['seconds']:,.1f}",
            ]
        )
    head = ["method", "training calls", "unique", "calls per test user", "different"]
    text.append(f"On {words(setting.name)}:")
    text.append(table([[*head, "tokens per test user", "seconds"], *rows]))
    return text


def _redrawn(results: Results) -> list[str]:
    if not results.redrawn:
        return []
    head = ["setting", "users", "best fixed", "hindsight", "what survives"]
    rows = []
    for name, found in results.redrawn.items():
        told = {key: Estimate(*x) for key, x in found["estimates"].items()}
        rows.append(
            [
                name,
                f"{found['users']:,}",
                str(told["fixed"]),
                str(told["hindsight"]),
                str(told["survives"]),
                _signed(told["hindsight minus fixed"]),
                _signed(told["survives minus fixed"]),
            ]
        )
    said = (
        "*hindsight* is every test user's best prompt, known from the answer; *what survives* is "
        "the same prompt for the same user and target when the other candidates and their order "
        "are drawn again. What is lost was luck with the candidates; what is left may still be "
        "luck with the one target."
    )
    return [
        "### How much of hindsight is luck",
        said,
        table([[*head, "hindsight minus fixed", "survives minus fixed"], *rows]),
    ]


def _sure(results: Results, settings: Sequence[Setting]) -> list[str]:
    text = []
    for setting in settings:
        if count := results.unsure(setting):
            sure = results.only_sure()
            rows = [
                [
                    method.label,
                    str(results.score(setting, method.label)),
                    str(sure.score(setting, method.label)),
                ]
                for method in results.methods(setting)
            ]
            text += [
                f"### {words(setting.name)} without ties",
                TIES.format(count=count),
                table([["method", "all", "without them"], *rows]),
            ]
    return text
