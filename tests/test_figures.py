"""Figures of README and site are those of the result files that they come from."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def rows(text: str) -> Iterator[list[str]]:
    """Cells of the lines of Markdown tables."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip().strip("*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def section(page: str, heading: str) -> str:
    """What stands between a heading and the next one."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"{page} has no heading {heading!r}"
    return found[1]


def close(shown: str, value: float) -> bool:
    """Whether a printed number, or the first one of a cell, is `value` rounded."""
    number = re.match(r"[-+]?\d+(?:\.(\d+))?", shown)
    assert number is not None, shown
    digits = len(number[1] or "")
    return abs(float(number[0]) - value) <= 0.5 * 10**-digits + 1e-9


# ---- benches ----

BENCHES = {
    "movieworld-all": {"movieworld": "All users of movieworld"},
    "movieworld": {
        name: name
        for name in (
            "movieworld",
            "movieworld-bandit",
            "hard",
            "hard-bandit",
            "drift",
            "drift-bandit",
        )
    },
    "movieworld-private": {
        f"{name}-private": f"{name}, private" for name in ("movieworld", "hard", "drift")
    },
}
"""By result file: its tasks, and the headings of their tables in docs/results.md."""


def runs(file: str, task: str) -> dict[str, float]:
    """Mean NDCG@10 of each algorithm, over its runs."""
    text = (RESULTS / f"{file}.marl_eval.json").read_text(encoding="utf-8")
    return {
        name: statistics.fmean(run["absolute_metrics"]["ndcg_10"][0] for run in seeds.values())
        for name, seeds in json.loads(text)["rpp_env"][task].items()
    }


@pytest.mark.parametrize(
    ("file", "task", "heading"),
    [(file, task, heading) for file, tasks in BENCHES.items() for task, heading in tasks.items()],
)
def test_tables_of_benches_are_those_of_their_runs(file: str, task: str, heading: str) -> None:
    means = runs(file, task)
    shown = {row[0]: row[1] for row in rows(section("results.md", heading)) if row[0] in means}
    assert set(shown) == set(means)
    wrong = {
        name: (shown[name], means[name]) for name in means if not close(shown[name], means[name])
    }
    assert not wrong


# ---- one table across the systems ----


def test_the_table_across_the_systems_is_that_of_its_runs() -> None:
    found = json.loads((RESULTS / "systems.json").read_text(encoding="utf-8"))
    head, *body = rows(section("systems.md", "The table"))
    checked = 0
    for method, *cells in body:
        for setting, cell in zip(head[1:], cells, strict=True):
            if method in found["scores"][setting]:
                assert close(cell, found["scores"][setting][method]), (method, setting)
                checked += 1
            elif method != "chance":
                assert cell == ("refused" if method in found["refused"].get(setting, {}) else "")
    assert checked == sum(map(len, found["scores"].values()))


def test_reasons_of_refusals_are_those_of_the_runs() -> None:
    found = json.loads((RESULTS / "systems.json").read_text(encoding="utf-8"))["refused"]
    why = {reason for by_method in found.values() for reason in by_method.values()}
    for row in list(rows(section("systems.md", "Refused")))[1:]:
        assert row[2] in why


# ---- the study ----


def study(name: str = "study") -> dict[tuple[str, str], float]:
    """Mean score of each setting and method, over its draws and seeds."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        run: dict[str, Any] = json.loads(line)
        scores[run["setting"], run["method"]].append(run["score"])
    return {key: statistics.fmean(values) for key, values in scores.items()}


def test_the_studys_main_table_is_that_of_its_runs() -> None:
    found, checked = study(), 0
    head, *body = rows(section("study.md", "Main table"))
    for method, *cells in body:
        for setting, cell in zip(head[1:], cells, strict=True):
            if cell and method != "chance":
                assert close(cell, found[setting, method]), (method, setting, cell)
                checked += 1
    assert checked > 120


def test_the_tables_of_smollm2_are_those_of_its_runs() -> None:
    found = study("smollm2")
    shown = {
        (setting, row[0]): row[1]
        for heading, setting in (
            ("Table", "SmolLM2, ml-1m"),
            ("Negatives by popularity", "SmolLM2, ml-1m, popular negatives"),
        )
        for row in list(rows(section("smollm2.md", heading)))[1:]
    }
    assert set(shown) == set(found)
    assert all(close(shown[key], value) for key, value in found.items())


def test_luck_with_smollm2s_candidates_is_that_of_its_run() -> None:
    found = json.loads((RESULTS / "luck.json").read_text(encoding="utf-8"))
    said = " ".join(section("smollm2.md", "Findings").split())
    for name in ("hindsight minus fixed", "survives minus fixed"):
        assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found[name]) in said, name
    assert found["survives minus fixed"]["value"] < 0.5 * found["hindsight minus fixed"]["value"]


def test_the_table_of_rewriting_by_smollm2_is_that_of_its_run() -> None:
    found = json.loads((RESULTS / "rewriting.json").read_text(encoding="utf-8"))
    text = section("rewriting.md", "By a small real language model")
    shown = {row[0]: row[1:] for row in list(rows(text))[1:]}
    interval = "{value:.3f} [{low:.3f}, {high:.3f}]"
    assert shown == {
        name: [interval.format(**one[key]) for key in ("before", "after", "difference")]
        for name, one in found["cells"].items()
    }
    said = found["sentences"]
    for name in ("changed", "refused"):
        assert f"{said[name] / said['sentences']:.0%} were {name}" in " ".join(text.split())
    assert f"{said['users']} validation users" in text


def test_the_table_of_retrieved_lists_is_that_of_its_run() -> None:
    found = json.loads((RESULTS / "retrieved.json").read_text(encoding="utf-8"))
    text = section("smollm2.md", "Lists that SASRec retrieved")
    shown = {row[0]: row[1:] for row in list(rows(text))[1:]}
    assert set(shown) == set(found["means"])
    for name, (inside, minus, every) in shown.items():
        for cell, key, sign in (
            (inside, "means", ""),
            (minus, "best minus", "+"),
            (every, "all users", ""),
        ):
            one = found[key][name]
            spec = f"{sign}.3f"
            wanted = " ".join(format(one[at], spec) for at in ("value", "low", "high"))
            assert not cell or re.sub(r"[\[\],]", "", cell) == wanted, (name, key)
    said = " ".join(text.split())
    for part in ("", "train "):
        assert f"{found[f'{part}retrieved']} of {found[f'{part}users']} " in said
    assert f'"{found["best"]}"' in said


def test_the_table_of_two_models_is_that_of_its_run() -> None:
    file = (RESULTS / "two-models.json").read_text(encoding="utf-8")
    found = json.loads(file.replace("smollm2-ml-1m", "SmolLM2").replace("gemma3-270m", "Gemma 3"))
    text = section("smollm2.md", "Another model: Gemma 3 270M")
    shown = {row[0]: row[1:] for row in rows(text)}
    models = ("SmolLM2", "Gemma 3")
    interval = "{value:.3f} [{low:.3f}, {high:.3f}]"
    signed = "{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    wanted = {"mean of 63 prompts": [interval.format(**found["mean"][one]) for one in models]}
    for way in ("best fixed prompt", "supervised"):
        for model in models:
            scores = [found["scores"][f"{way} / {model} / {played}"] for played in models]
            wanted[f"{way}, fitted on {model}"] = [interval.format(**one) for one in scores]
    wanted |= {name: [signed.format(**one)] for name, one in found["contrasts"].items()}
    assert {name: shown[name] for name in wanted} == wanted
    said = " ".join(text.split())
    primary = found["contrasts"]["supervised: own minus other's"]
    assert f"**{signed.format(**primary)}**" in said
    assert "{value:.2f} [{low:.2f}, {high:.2f}]".format(**found["rank correlation"]) in said
    assert f"{found['train users']} train and the first {found['users']} test users" in said


def test_the_table_of_a_t5_on_beauty_is_that_of_its_run() -> None:
    found = json.loads((RESULTS / "t5-beauty.json").read_text(encoding="utf-8"))
    text = section("t5.md", "Beauty, without a prompt")
    shown = [row for row in rows(text) if row[0] != "ranked among"]
    lists = {"1 + 99": "sampled", "all items": "all", "new items": "new"}
    wanted = [
        [said, name, *(f"{value:.4f}" for value in scores.values())]
        for said, which in lists.items()
        for name, scores in found["scores"][which].items()
    ]
    assert shown == wanted
    for which in ("sampled", "new"):
        gap = found["differences"][which]["the T5, without a prompt minus SASRec"]
        assert "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**gap) in text


def test_the_table_of_ways_is_that_of_its_run() -> None:
    found = json.loads((RESULTS / "ways.json").read_text(encoding="utf-8"))["ways"]
    page = (ROOT / "docs" / "real-llm.md").read_text(encoding="utf-8")
    shown = {row[0]: row[1:] for row in rows(page) if len(row) == 7}
    del shown["way"]
    assert set(shown) == set(found)
    for name, (score, _, named, first, tokens, seconds) in shown.items():
        one = found[name]
        assert close(score, one["ndcg"]["value"])
        assert named == f"{one['named']:.0%}"
        assert first == f"{one['first shown']:.0%}"
        assert close(tokens.replace(",", ""), one["tokens"])
        assert close(seconds, one["cpu seconds"])


def test_the_speed_of_vllm_is_that_of_its_run() -> None:
    found = json.loads((RESULTS / "vllm.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    named = {
        "direct calls / `VLLMModel`": "bare / VLLMModel: at least 0.97",
        "direct calls / `OpenAIModel`, through a server": "bare / OpenAIModel: at least 0.90",
        "one request after another / `OpenAIModel`": "one request after another / OpenAIModel: at "
        "least 5",
        "`generate` / `logprobs`": "generate / logprobs, 32 prompts: at least 2",
    }
    shown = {row[0]: row[1:] for row in rows(page) if row[0] in named and len(row) == 3}
    assert shown == {
        name: [
            "{:.2f} [{:.2f}, {:.2f}]".format(one["ratio"], *one["interval"])
            for one in (found[f"{what}, clock"], found[f"{what}, processors"])
        ]
        for name, what in named.items()
    }
    ratios = {row[0]: row[1] for row in rows(page) if len(row) == 2}
    rates = {row[0]: row[1:] for row in rows(page) if len(row) == 3}
    compared = {
        "likelihood, each title with its whole prompt / `VLLMModel`": "each title with its whole "
        "prompt / VLLMModel",
        "likelihood by `VLLMModel`, blocks of 128 tokens / of 32": "likelihood, blocks of 128 "
        "tokens / of 32",
    }
    for way in ("likelihood", "logprobs", "generate"):
        compared[f"`{way}`, transformers / `VLLMModel`"] = f"transformers / VLLMModel, {way}"
        spent = found[f"prompts per processor second, {way}"]
        assert rates[f"`{way}`"] == [f"{rate:.2f}" for rate in spent]
    for name, what in compared.items():
        one = found[f"{what}, processors"]
        assert ratios[name] == "{:.2f} [{:.2f}, {:.2f}]".format(one["ratio"], *one["interval"])
    shown = {row[0]: row[1:] for row in rows(page) if len(row) == 6}
    for name, what in (
        ("a step, each of 32 users another", "a step, each user another"),
        ("a table, 225 prompts of each of 4 users", "a table, 225 prompts a user"),
    ):
        counted = found[f"prefix cache, {what}, by size of block"]
        shares = [found[f"prefix cache, {what}"], *(counted[b] for b in ("128", "64", "32", "16"))]
        assert shown[name] == [f"{share:.1%}" for share in shares]


# ---- README ----

ALL, STUDY = runs("movieworld-all", "movieworld"), study()
CLAIMS = {
    r"MAPPO ends at ([\d.]+\d)": ALL["MAPPO"],
    r"with discount 0 at ([\d.]+\d)": ALL["discount 0"],
    r"LinUCB reaches ([\d.]+\d)": STUDY["movieworld", "LinUCB"],
    r"LinUCB reaches \S+ the best fixed prompt ([\d.]+\d)": STUDY[
        "movieworld", "best fixed (all asked)"
    ],
    r"MAPPO's four agents ([\d.]+\d)": STUDY["movieworld", "RPP (MAPPO)"],
}
BASELINES = {
    r"discount 0 at \S+ the best fixed prompt has ([\d.]+\d)": "best fixed prompt",
    r"full information ([\d.]+\d)": "observable reference",
}
"""Baselines of the bench over all users; its file has none, so they are read from the page."""


@pytest.mark.parametrize("pattern", [*CLAIMS, *BASELINES])
def test_a_figure_of_the_readme_is_that_of_its_file(pattern: str) -> None:
    found = re.search(pattern, README)
    assert found is not None, f"README no longer says {pattern!r}: mend this list"
    if pattern in CLAIMS:
        assert close(found[1], CLAIMS[pattern])
    else:
        shown = {row[0]: row[1] for row in rows(section("results.md", BENCHES_ALL))}
        assert shown[BASELINES[pattern]].startswith(found[1])


BENCHES_ALL = BENCHES["movieworld-all"]["movieworld"]


def test_every_figure_of_the_readme_has_a_source() -> None:
    """A number with three decimals is checked above, or stands in the table of the task cards."""
    text = re.sub(r"<!-- made: cards -->.*?<!-- end -->", "", README)
    # What a real language model reached was printed by commands, into its pages.
    real = "".join((ROOT / "docs" / f"{x}.md").read_text("utf-8") for x in ("real-llm", "smollm2"))
    line = re.search(r"- \*\*A real language model.*?(?=- \*\*|## )", text)
    assert line is not None
    assert figures(line[0]) <= figures(real)
    known = [re.search(pattern, README) for pattern in [*CLAIMS, *BASELINES]]
    assert figures(text.replace(line[0], "")) == {found[1] for found in known if found}


def figures(text: str) -> set[str]:
    return set(re.findall(r"\b0\.\d{3}\b", text))


# ---- prose ----


@pytest.mark.parametrize("setting", ["movieworld", "ml-1m", "lastfm", "games"])
def test_a_settings_table_is_that_of_its_runs(setting: str) -> None:
    found = study()
    head, *body = rows(section("study.md", setting))
    assert head[1] == "score"
    for row in body:
        assert close(row[1], found[setting, row[0]]), row[0]
    assert len(body) > 25


@pytest.mark.parametrize("page", ["study.md", "results.md", "feedback.md", "session.md"])
def test_figures_in_sentences_stand_in_a_table_of_the_page(page: str) -> None:
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    sentences = [line for line in lines if not line.startswith("|")]
    numbers = {
        kind: set(re.findall(r"\b\d\.\d{3}\b", "\n".join(text)))
        for kind, text in (("tables", tables), ("sentences", sentences))
    }
    assert numbers["sentences"] <= numbers["tables"]


def test_sentences_about_personal_words_are_those_of_their_file() -> None:
    """Of docs/environments/paprec-v0.md, whose tables tests/test_site.py compares."""
    found = json.loads((RESULTS / "pap_rec.json").read_text(encoding="utf-8"))
    text = " ".join(section("environments/paprec-v0.md", "Selection noise").split())
    gains = {kind: one["gains"] for kind, one in found.items()}

    def number(kind: str, name: str, click: str) -> str:
        return "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**gains[kind][name][click])

    own, better = "the user's word", "the user's minus another's"
    for said in (
        f"{number('surrogate', own, 'accepting')} on the click that accepted it",
        f"{number('surrogate', own, 'other')} on the other one",
        f"{number('surrogate', own, 'test')} on the test click",
        f"{number('surrogate', better, 'test')} better than another user's",
        "{value:.2f} [{low:.2f}, {high:.2f}] of the gain".format(**found["surrogate"]["noise"]),
        f"{number('likelihood', own, 'other')} on the other click",
        f"{number('likelihood', own, 'test')} on the test click",
        f"{found['surrogate']['about']['users']:,} users",
        f"{len(found['surrogate']['searches'])} seeds",
    ):
        assert said in text, said


# ---- task cards ----


def test_the_card_of_rpp_has_the_published_diagnosis() -> None:
    """docs/movieworld.md prints what `rpp-env diagnose` found; the card is of the same run."""
    found = json.loads((RESULTS / "cards.json").read_text(encoding="utf-8"))["RPP-v0"]["diagnosis"]
    shown = {row[0]: row[1] for row in rows(section("movieworld.md", "movieworld"))}
    for name, value in {**found["lines"], **found["gaps"]}.items():
        assert close(shown[name], value["value"]), name
    for name, value in found["agents"]["observable"].items():
        assert close(shown[name], value["value"] if isinstance(value, dict) else value), name
    assert close(shown["planning minus greedy (myopia gap)"], found["myopia"]["value"])


# ---- prefixes ----

GAIN = re.compile(r"([-+][\d.]+) \[([-+][\d.]+), ([-+][\d.]+)\]")
PPR = (ROOT / "docs" / "ppr.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("dataset", ["ml-100k", "ml-1m", "arrivals"])
def test_pictures_of_prefixes_agree_with_their_tables(dataset: str) -> None:
    found = json.loads((RESULTS / f"ppr-{dataset}.json").read_text(encoding="utf-8"))
    clicks = {row[0]: row[1:] for row in rows(section("ppr-tables.md", f"{dataset}, Clicks known"))}
    few = rows(section("ppr-tables.md", f"{dataset}, few-shot"))
    gains = {row[0]: row[1] for row in few if len(row) == 4}  # minus pre-train
    noise = list(rows(section("ppr-tables.md", f"{dataset}, History items replaced at random")))
    levels = {
        row[0]: row[1:] for row in noise[: [row[0] for row in noise].index("light, n = 4") + 1]
    }
    for name, along in found["clicks"].items():
        for shown, (_, values) in zip(clicks[name][1:], along.items(), strict=True):
            numbers = GAIN.match(shown)
            assert numbers is not None
            assert all(map(close, numbers.groups(), values)), (name, shown, values)
    for name, along in found["noise"].items():
        for shown, bare, (value, *_) in zip(
            levels[name], levels["pre-train"], along.values(), strict=True
        ):
            assert abs(float(shown) - float(bare) - value) < 1.01e-4, (name, shown, bare)
    for length, (value, *_) in found["length"]["light"].items():
        assert close(gains["light" if length == "1" else f"light, n = {length}"], value)
    for what, of_rows in found.items():
        alt = re.search(rf"!\[([^\]]*)\]\(images/ppr-{what}\.png\)", PPR)
        assert alt is not None
        for name, along in of_rows.items():
            said = ", ".join(f"{values[0]:+.4f} at {at}" for at, values in along.items())
            assert f"{name} on {dataset} {said}" in alt[1]


def test_the_summary_of_prefixes_agrees_with_their_tables() -> None:
    """Scores and differences above all text are cells of the full tables."""
    cells: dict[tuple[str, str, str], str] = {}
    for dataset in ("ml-100k", "ml-1m", "arrivals"):
        for shots in ("zero-shot", "few-shot"):
            where = f"{dataset}, {shots}"
            for row in rows(section("ppr-tables.md", where)):
                if row[0] in ("", "NDCG@10"):
                    head = row
                for title, cell in zip(head[1:], row[1:], strict=True):
                    cells[title, row[0], where] = cell
            popular, found = rows(section("ppr-tables.md", f"{dataset}, Popularity"))
            cells["NDCG@10", "popularity", where] = found[popular.index(shots)].split(" [")[0]
    head, checked = [], 0
    for row in rows(section("ppr.md", "What it shows")):
        if row[0] in {title for title, _, _ in cells}:
            head = row
            continue
        named = re.search(r"\((.*)\)", row[0])
        name = row[0] if named is None else named[1]
        for where, cell in zip(head[1:], row[1:], strict=True):
            assert cell == cells[head[0], name, where], (head[0], name, where)
            checked += 1
    assert checked >= 80


def test_the_table_of_the_study_of_prefixes_is_that_of_its_runs() -> None:
    found = study("ppr-study")
    head, *body = rows(section("ppr.md", "As a study"))
    shown = {
        (setting, method): cell
        for method, *cells in body
        for setting, cell in zip(head[1:], cells, strict=True)
        if cell and method != "chance"
    }
    assert set(shown) == set(found)
    assert all(close(shown[key], value) for key, value in found.items())


def test_the_table_of_explanations_is_the_results() -> None:
    found = json.loads((RESULTS / "explanations.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "t5.md").read_text(encoding="utf-8")
    for name, scores in found["scores"].items():
        assert f"| {name} | {' | '.join(f'{score:.1f}' for score in scores.values())} |" in page
    for gap in found["differences"].values():
        assert "{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(**gap) in page
    assert f"clicks of {found['about']['users']} users" in page
