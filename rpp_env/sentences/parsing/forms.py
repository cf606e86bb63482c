"""Measure the parser on the surface forms in which language models write rankings.

`write_form` writes an order in one of `FORMS`, behind one of `LABELS` and inside one of
`WRAPPINGS`; `measure_reading` counts how many of such replies `parse_ranking` reads exactly. Forms
that the parser refuses on purpose are left out: a careful person would not be sure of them either,
or reading them would risk errors in a common form.
"""

# ruff: noqa: RUF001 - the forms contain signs of many scripts
from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidOption
from rpp_env.markdown import table
from rpp_env.options import unknown
from rpp_env.sentences.parsing.reader import parse_order

__all__ = ["FORMS", "LABELS", "WRAPPINGS", "ReadingShares", "measure_reading", "write_form"]

Writer = Callable[[Sequence[str], Sequence[int]], str]
"""Maps titles in order, and their candidate numbers, to a reply."""


def _lines(template: str, first: int = 1) -> Writer:
    """Return a writer with one line per item: {i} rank, {t} title, {n} candidate number."""

    def write(titles: Sequence[str], numbers: Sequence[int]) -> str:
        return "\n".join(
            _fill(template, rank, title, number, len(titles) + first - rank)
            for rank, (title, number) in enumerate(zip(titles, numbers, strict=True), first)
        )

    return write


def _row(between: str, template: str = "{t}", around: str = "{}") -> Writer:
    """Return a writer with all items in one line."""

    def write(titles: Sequence[str], numbers: Sequence[int]) -> str:
        items = (
            _fill(template, rank, title, number, len(titles) + 1 - rank)
            for rank, (title, number) in enumerate(zip(titles, numbers, strict=True), 1)
        )
        return around.replace("{}", between.join(items))

    return write


def _fill(template: str, rank: int, title: str, number: int, left: int) -> str:
    marks = {
        "i": str(rank),
        "n": str(number),
        "left": str(left),
        "a": chr(96 + rank) if rank <= 26 else str(rank),
        "roman": _roman(rank),
        "wide": str(rank).translate(_WIDE),
        "widen": str(number).translate(_WIDE),
        "round": _ROUND[rank - 1] if 0 < rank <= 20 else f"({rank})",
        "roundn": _ROUND[number - 1] if number <= 20 else f"({number})",
        "key": "".join(f"{digit}\ufe0f\u20e3" for digit in str(rank)) if rank != 10 else "🔟",
        "th": f"{rank}{_TH.get(rank, 'th')}",
        "json": json.dumps(title, ensure_ascii=False),
        "t": title,
    }
    return re.sub(r"\{(\w+)\}", lambda hole: marks[hole[1]], template)


_WIDE = str.maketrans("0123456789", "０１２３４５６７８９")
_ROUND = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"
_TH = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}


def _roman(rank: int) -> str:
    tens, ones = divmod(rank, 10)
    return "X" * tens + ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"][ones]


def _table(head: str, template: str) -> Writer:
    columns = head.count("|") - 1
    rows = _lines(template)
    return lambda titles, numbers: f"{head}\n{'|---' * columns}|\n{rows(titles, numbers)}"


def _tiers(lead: Sequence[str], template: str) -> Writer:
    """Return a writer of a list in parts under headings, each with ranks from 1."""

    def write(titles: Sequence[str], numbers: Sequence[int]) -> str:
        size = -(-len(titles) // len(lead))
        parts = [slice(start, start + size) for start in range(0, len(titles), size)]
        return "\n\n".join(
            f"{heading}\n{_lines(template)(titles[part], numbers[part])}"
            for heading, part in zip(lead, parts, strict=False)
        )

    return write


_WHY = "fits what this user liked before"

FORMS: dict[str, Writer] = {
    # lists of titles
    "1. title": _lines("{i}. {t}"),
    "1) title": _lines("{i}) {t}"),
    "(1) title": _lines("({i}) {t}"),
    "1: title": _lines("{i}: {t}"),
    "1 - title": _lines("{i} - {t}"),
    "1 | title": _lines("{i} | {t}"),
    "1 -> title": _lines("{i} -> {t}"),
    "1 = title": _lines("{i} = {t}"),
    "1, title": _lines("{i},{t}"),
    "1 TAB title": _lines("{i}\t{t}"),
    "#1: title": _lines("#{i}: {t}"),
    "No. 1: title": _lines("No. {i}: {t}"),
    "Rank 1: title": _lines("Rank {i}: {t}"),
    "1st: title": _lines("{th}: {t}"),
    "1st place: title": _lines("{th} place: {t}"),
    "0. title": _lines("{i}. {t}", first=0),
    "title": _lines("{t}"),
    "- title": _lines("- {t}"),
    "* title": _lines("* {t}"),
    "- [ ] title": _lines("- [ ] {t}"),
    "a) title": _lines("{a}) {t}"),
    "I. title": _lines("{roman}. {t}"),
    "Title: title": _lines("Title: {t}"),
    "Rank: 1, Title: title": _lines("Rank: {i}, Title: {t}"),
    # marked up
    "1. **title**": _lines("{i}. **{t}**"),
    "**1.** title": _lines("**{i}.** {t}"),
    "**1. title**": _lines("**{i}. {t}**"),
    "### 1. title": _lines("### {i}. {t}\nIt " + _WHY + ".\n"),
    '1. "title"': _lines('{i}. "{t}"'),
    "1. `title`": _lines("{i}. `{t}`"),
    "1\\. title": _lines("{i}\\. {t}"),
    "> 1. title": _lines("> {i}. {t}"),
    "<li>title</li>": lambda titles, _: "<ol>" + "".join(f"<li>{t}</li>" for t in titles) + "</ol>",
    "<title>title</title>": _lines("<item><rank>{i}</rank><title>{t}</title></item>"),
    "| 1 | title |": _table("| Rank | Title |", "| {i} | {t} |"),
    "| title | 1 |": _table("| Title | Rank |", "| {t} | {i} |"),
    "| 1 | title | why |": _table("| # | Title | Reason |", "| {i} | {t} | " + _WHY + " |"),
    "\\item title": lambda titles, _: (
        "\\begin{enumerate}\n"
        + "\n".join(f"\\item {title}" for title in titles)
        + "\n\\end{enumerate}"
    ),
    # with more around a title
    "1. title - why": _lines("{i}. {t} - " + _WHY),
    "1. title: why": _lines("{i}. {t}: " + _WHY),
    "1. title (why)": _lines("{i}. {t} (" + _WHY + ")"),
    "1. title, since": _lines("{i}. {t}, because it " + _WHY),
    "1. title, why below": _lines("{i}. {t}\n   It " + _WHY + ".\n"),
    "1. title, - why below": _lines("{i}. {t}\n   - Reason: " + _WHY),
    "1. title, 1. why below": _lines("{i}. {t}\n   1. Same mood\n   2. " + _WHY),
    "title, why below": _lines("{t}\nIt " + _WHY + ".\n"),
    "1. title [3]": _lines("{i}. {t} [{n}]"),
    "1. [3] title": _lines("{i}. [{n}] {t}"),
    "3. title": _lines("{n}. {t}"),
    "[3] title": _lines("[{n}] {t}"),
    "1. title (score: 9)": _lines("{i}. {t} (score: {left})"),
    # one line
    "title > title": _row(" > "),
    "title → title": _row(" → "),
    "title; title": _row("; "),
    "title | title": _row(" | "),
    "1. title 2. title": _row(" ", "{i}. {t}"),
    "1) title, 2) title": _row(", ", "{i}) {t}"),
    '"title", "title"': _row(", ", '"{t}"'),
    # lists in parts
    "tiers, 1. title": _tiers(("Most likely:", "Less likely:"), "{i}. {t}"),
    "tiers, - title": _tiers(("**High**", "**Middle**", "**Low**"), "- {t}"),
    # candidate numbers
    "3": _lines("{n}"),
    "[3]": _lines("[{n}]"),
    "#3": _lines("#{n}"),
    "1. 3": _lines("{i}. {n}"),
    "1: 3": _lines("{i}: {n}"),
    "1 -> 3": _lines("{i} -> {n}"),
    "1 TAB 3": _lines("{i}\t{n}"),
    "Candidate 3": _lines("Candidate {n}"),
    "Movie 3": _lines("Movie {n}"),
    "Item #3": _lines("- Item #{n}"),
    "ID: 3": _lines("ID: {n}"),
    "1. Candidate 3": _lines("{i}. Candidate {n}"),
    "Rank 1: Candidate 3": _lines("Rank {i}: Candidate {n}"),
    "Doc: 3, Relevance: 7": _lines("Doc: {n}, Relevance: {left}"),
    "3 - why": _lines("{n} - " + _WHY),
    "3: why": _lines("{n}: " + _WHY),
    "[3] > [1]": _row(" > ", "[{n}]"),
    "3 > 1": _row(" > ", "{n}"),
    "3, 1": _row(", ", "{n}"),
    "3 1": _row(" ", "{n}"),
    "Candidate 3 > Candidate 1": _row(" > ", "Candidate {n}"),
    "`[3] > [1]`": _row(" > ", "[{n}]", "`{}`"),
    '"3, 1"': _row(", ", "{n}", '"{}"'),
    "$\\boxed{3, 1}$": _row(", ", "{n}", "$\\boxed{{}}$"),
    "3 \\succ 1": _row(" \\succ ", "{n}", "\\({}\\)"),
    "3 > 1 (best first)": _row(" > ", "{n}", "{} (best first)"),
    "| 1 | 3 |": _table("| Rank | Candidate |", "| {i} | {n} |"),
    # JSON and its kin
    '["title"]': _row(", ", "{json}", "[{}]"),
    '```json ["title"] ```': _row(",\n  ", "{json}", "```json\n[\n  {}\n]\n```"),
    '["title",] // why': _row(" // " + _WHY + "\n", "{json},", "[\n{}\n]"),
    "['title']": lambda titles, _: repr(list(titles)),
    '{"ranking": ["title"]}': _row(", ", "{json}", '{"ranking": [{}]}'),
    '{"rank": 1, "title": ..}': _row(",\n", '{"rank": {i}, "title": {json}}', "[{}]"),
    '{"rank": 1, "id": 3}': _row(",\n", '{"rank": {i}, "id": {n}}', "[{}]"),
    '{"id": 3, "score": 9}': _row(",\n", '{"id": {n}, "score": {left}.5}', "[{}]"),
    '{"title": .., "why": ..}': _row("\n", '{"title": {json}, "reason": "' + _WHY + '"}'),
    '{"1": "title"}': _row(", ", '"{i}": {json}', "{{}}"),
    '{"1": 3}': _row(", ", '"{i}": {n}', "{{}}"),
    "[3, 1]": _row(", ", "{n}", "[{}]"),
    "- title: title": _lines("- rank: {i}\n  title: {t}\n  reason: " + _WHY),
    # other scripts
    "1、title": _lines("{i}、{t}"),
    "1．title (full width)": _lines("{wide}．{t}"),
    "（1）title": _lines("（{i}）{t}"),
    "① title": _lines("{round} {t}"),
    "①title②title": _row("", "{round}{t}"),
    "1️⃣ title": _lines("{key} {t}"),
    "🎬 title": _lines("🎬 {t}"),
    "第1位：title": _lines("第{i}位：{t}"),
    "1위: title": _lines("{i}위: {t}"),
    "1. 《title》": _lines("{i}. 《{t}》"),
    "「title」": _lines("「{t}」"),
    "【1】title": _lines("【{i}】{t}"),
    "・title": _lines("・{t}"),
    "《title》、《title》。": _row("、", "《{t}》", "{}。"),
    "title，why": _lines("{i}. 《{t}》：很适合这位用户"),
    "３": _lines("{widen}"),
    "③ > ①": _row(" > ", "{roundn}"),
    "3、1": _row("、", "{n}", "{}。"),
    "候选3": _lines("候选{n}"),
}
"""Forms by name; in the names, 1 is a rank and 3 a candidate number."""

LABELS: dict[str, str] = {
    "none": "",
    "Ranking:": "Ranking: ",
    "Ranking: (own line)": "Ranking:\n",
    "Answer:": "Answer: ",
    "**Final ranking:**": "**Final ranking:** ",
    "Sure!": "Sure! ",
    "Assistant:": "Assistant: ",
    "=>": "=> ",
    "Here is ..:": "Here is the ranking of the candidates, from most to least likely: ",
    "Sure! .. (own line)": "Sure! Here is my ranking for this user:\n\n",
    "Classement :": "Classement : ",
    "Antwort:": "Antwort: ",
    "排名：": "排名：",
    "ランキング：": "ランキング：",
    "순위:": "순위: ",
}
"""Texts before a list, by name."""

WRAPPINGS: dict[str, str] = {
    "none": "{}",
    "<think>": "<think>\nA draft:\n{draft}\n</think>\n\n{}",
    "</think>": "A draft:\n{draft}\n</think>\n\n{}",
    "[THINK]": "[THINK]A draft:\n{draft}[/THINK]{}",
    "◁think▷": "◁think▷A draft:\n{draft}◁/think▷{}",
    "<|begin_of_thought|>": "<|begin_of_thought|>\n{draft}\n<|end_of_thought|>\n"
    "<|begin_of_solution|>\n{}\n<|end_of_solution|>",
    "channels": "<|channel|>analysis<|message|>{draft}<|end|><|start|>assistant"
    "<|channel|>final<|message|>{}<|return|>",
    "channels, stripped": "analysisThe draft:\n{draft}assistantfinal{}",
    "<reasoning>, <answer>": "<reasoning>\n{draft}\n</reasoning>\n<answer>\n{}\n</answer>",
    "closed again": "{}\n</think>",
    "end of text": "{}</s>",
    "afterword": "{}\n\nI hope that this helps. Let me know what you think!",
    "another exercise": "{}\n\nUser: Now rank these films.\n1. Some Film\n2. A Film\n{draft}\n"
    "Assistant: 1. A Film",
}
"""Texts around a reply, by name; {draft} is replaced by the list of the prompt."""


def write_form(
    order: Sequence[int],
    candidates: Sequence[str],
    form: str,
    *,
    label: str = "none",
    wrapping: str = "none",
) -> str:
    """Write a ranking in one of the forms.

    Parameters
    ----------
    order : sequence of int
        Positions in `candidates`, best first.
    candidates : sequence of str
        Titles as the prompt shows them.
    form : str
        Key of `FORMS`.
    label : str
        Key of `LABELS`.
    wrapping : str
        Key of `WRAPPINGS`.

    Returns
    -------
    str

    Raises
    ------
    InvalidOption
        For an unknown form, label or wrapping.
    """
    known: dict[str, Collection[str]] = {"form": FORMS, "label": LABELS, "wrapping": WRAPPINGS}
    for what, name in (("form", form), ("label", label), ("wrapping", wrapping)):
        if name not in known[what]:
            raise InvalidOption(unknown(what, name, known[what]))
    written = FORMS[form]([candidates[i] for i in order], [i + 1 for i in order])
    draft = "\n".join(f"{i}. {title}" for i, title in enumerate(candidates, 1))
    whole = WRAPPINGS[wrapping]
    return whole.replace("{draft}", draft).replace("{}", LABELS[label] + written, 1)


@dataclass(frozen=True)
class ReadingShares:
    """Counts of replies that were read exactly, by form, label and wrapping."""

    replies: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of replies, by kind ("form", "label" or "wrapping") and name."""
    exact: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many of them were read as exactly the order that was written."""
    missed: dict[tuple[str, str], tuple[str, str, str]] = field(default_factory=dict)
    """Form, label and wrapping of the first reply that was not."""

    def share(self, kind: str, name: str) -> float:
        """Share of the replies that were read exactly."""
        return self.exact[kind, name] / max(self.replies[kind, name], 1)

    @property
    def total(self) -> float:
        """Share over all forms."""
        forms = [key for key in self.replies if key[0] == "form"]
        return sum(self.exact[key] for key in forms) / sum(self.replies[key] for key in forms)

    def markdown(self) -> str:
        """Return tables of the forms, labels and wrappings as Markdown."""
        tables = []
        for kind in ("form", "label", "wrapping"):
            rows = [
                (name, f"{count:,}", f"{self.exact[kind, name]:,}", f"{self.share(kind, name):.3f}")
                for (of, name), count in self.replies.items()
                if of == kind
            ]
            tables.append(table([(kind, "replies", "read exactly", "share"), *rows]))
        return "\n\n".join([*tables, f"Share of all forms: {self.total:.4f}."]) + "\n"

    def save(self, path: Path) -> None:
        """Write the numbers to a JSON file."""
        numbers: dict[str, dict[str, dict[str, int]]] = {}
        for (kind, name), count in self.replies.items():
            row = {"replies": count, "exact": self.exact[kind, name]}
            numbers.setdefault(kind, {})[name] = row
        with whole_file(path) as file:
            file.write(json.dumps(numbers, indent=2, ensure_ascii=False).encode() + b"\n")


def measure_reading(
    titles: Sequence[str],
    *,
    candidates: int = 20,
    replies: int = 100,
    seed: int = 0,
    parse: Callable[[str, tuple[str, ...]], tuple[tuple[int, ...], int]] = parse_order,
) -> ReadingShares:
    """Write replies in every form, parse them, and count those read exactly.

    Each reply ranks candidates drawn from `titles`, the target first; every title has its turn as
    the target. Half of the replies have a label, and half a wrapping, drawn at random.

    Parameters
    ----------
    titles : sequence of str
        Distinct titles of a dataset.
    candidates : int
        Candidates of a task; at least 3.
    replies : int
        Replies in each form.
    seed : int
        Seed of the tasks, labels and wrappings.
    parse : callable
        The parser of a reply, with the signature of `rpp_env.sentences.parsing.parse_order`.

    Returns
    -------
    ReadingShares

    Raises
    ------
    InvalidOption
        For fewer titles than `candidates`, fewer than 3 candidates, or no replies.
    """
    if not 3 <= candidates <= len(titles):
        raise InvalidOption(
            f"candidates must be at least 3 and at most the {len(titles)} titles, not {candidates}"
        )
    if replies < 1:
        raise InvalidOption(f"replies must be at least 1, not {replies}")
    rng = random.Random(seed)  # noqa: S311 - no secret
    shares = ReadingShares()
    for kind, names in (("form", FORMS), ("label", LABELS), ("wrapping", WRAPPINGS)):
        shares.replies.update(dict.fromkeys(((kind, name) for name in names), 0))
    targets = rng.sample(list(titles), len(titles))
    turn = 0
    for form in FORMS:
        for _ in range(replies):
            target = targets[turn % len(targets)]
            turn += 1
            others = [title for title in rng.sample(titles, candidates) if title != target]
            shown = [target, *others[: candidates - 1]]
            rng.shuffle(shown)
            order = [
                place
                for place in rng.sample(range(candidates), candidates)
                if shown[place] != target
            ]
            order.insert(0, shown.index(target))
            label = rng.choice(list(LABELS)) if rng.random() < 0.5 else "none"
            wrapping = rng.choice(list(WRAPPINGS)) if rng.random() < 0.5 else "none"
            reply = write_form(order, shown, form, label=label, wrapping=wrapping)
            right = parse(reply, tuple(shown)) == (tuple(order), candidates)
            for key in (("form", form), ("label", label), ("wrapping", wrapping)):
                shares.replies[key] += 1
                shares.exact[key] += right
                if not right:
                    shares.missed.setdefault(key, (form, label, wrapping))
    return shares
