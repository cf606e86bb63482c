"""A study's page: its content, and its behaviour in a real browser.

The tests in a browser need Debian's ``chromium`` (or any Chromium that ``$CHROMIUM`` names) and the
package playwright, which is set to download none; they are skipped, by name, without either.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents.experiments.page import write_page

TABS = ("Results", "Curves", "Choices", "Users")
METHODS = ("Manual", "Random", "Enumerate", "GRIPS", "LinUCB", "MAPPO")
KINDS = ("follows a series", "keeps to old genres", "drifts to new ones", "follows the crowd")
HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "Line\u2028separator\u2029and \ud800 half a pair & &lt;b&gt; <!-- <script>",
    "{{data}} {{policy}} javascript:window.broken=3",
)
OPTIONS: dict[str, list[str]] = {
    "role_playing": [
        "",
        "You are an expert with a deep knowledge of films.",
        "You are a film recommender who suggests what is popular and widely liked.",
        "You are a ranker who matches films to the personal interest of this viewer.",
        "You have a feel for people's tastes.",
    ],
    "history_records": [f"the last {n} titles" for n in (1, 3, 5, 10, 20)],
    "reasoning_guidance": [
        "Please rank the 20 candidate films in order of priority, from high to low.",
        "Please rank the 20 candidate films according to my viewing history.",
        "Consider only the preferences that are visible in my viewing history.",
        "Think step by step.",
        "First infer my long-standing preferences, then rank the 20 candidate films by them.",
        "Update my preferences with the latest part of my viewing history, then rank the films.",
        "Compute the similarity of each of the 20 candidate films to my preferences.",
        "Compute a similarity score for each film, then rank the films by this score.",
        "Please rank the 20 candidate films, then check your ranking before you answer.",
    ],
    "output_format": [
        "Give only the 20 results, one per line, as a numbered list of titles.",
        "Give only the 20 results, one title per line.",
        "Give only the candidate numbers of the 20 results!",
        "Give the 20 results as a JSON list of titles.",
        "Write every line in the template rank | title.",
    ],
}
FIRST = ("Quiet", "Northern", "Paper", "Second", "Glass", "Hollow", "Red", "Borrowed", "Distant")
LAST = ("Harbour", "Winter", "Orchard", "Signal", "Machines", "Letters", "River", "Promise", "Tide")


def titles(rng: np.random.Generator, count: int) -> list[str]:
    names = [
        f"{'The ' if i % 3 else ''}{FIRST[i % 9]} {LAST[(i * 5 + i // 9) % 9]} ({1960 + i % 55})"
        for i in rng.choice(200, count, replace=False)
    ]
    return [f"{name} {i}" if name in names[:i] else name for i, name in enumerate(names)]


def numbered(items: list[str]) -> str:
    return "\n".join(f"{i}. {title}" for i, title in enumerate(items, 1))


def view(rng: np.random.Generator, method: str, user: dict[str, Any], step: int) -> dict[str, Any]:
    pick = {name: int(rng.integers(len(options))) for name, options in OPTIONS.items()}
    if method == "Manual":
        pick = dict.fromkeys(OPTIONS, 0) | {"history_records": 3}
    shown = (1, 3, 5, 10, 20)[pick["history_records"]]
    said = {name: OPTIONS[name][i] for name, i in pick.items()}
    paragraphs = [
        {"part": "role_playing", "text": said["role_playing"]},
        {
            "part": "history_records",
            "text": "I have watched these films, from the earliest to the most recent:\n"
            + numbered(user["history"][-shown:]),
        },
        {
            "part": "candidates",
            "text": "These are the 20 candidate films:\n" + numbered(user["candidates"]),
        },
        {"part": "reasoning_guidance", "text": said["reasoning_guidance"]},
        {"part": "output_format", "text": said["output_format"]},
        {"part": "contract", "text": "Format of each line: <rank>. <title>"},
    ]
    order = [int(i) for i in rng.permutation(len(user["candidates"]))]
    if method == "MAPPO":  # what it has learnt: the target comes early
        order.remove(user["target"])
        order.insert(int(rng.integers(4)), user["target"])
    place = order.index(user["target"]) + 1
    named = 20 if rng.random() < 0.8 else int(rng.integers(4, 20))
    rank = place if place <= named else 0
    return {
        "method": method,
        "step": step,
        "paragraphs": [item for item in paragraphs if item["text"]],
        "reply": numbered([user["candidates"][i] for i in order[:named]]),
        "order": order,
        "named": named,
        "rank": rank,
        "ndcg": 1 / math.log2(rank + 1) if 0 < rank <= 10 else 0.0,
    }


def study(users: int = 24) -> dict[str, Any]:
    """What a report hands over, with invented titles and numbers."""
    rng = np.random.default_rng(3)

    def interval(middle: float) -> list[float]:
        return [middle, middle - 0.012, middle + 0.013]

    scores = {"Manual": 0.431, "Random": 0.36, "Enumerate": 0.464, "GRIPS": 0.47, "LinUCB": 0.552}
    scores |= {"MAPPO": 0.607}
    rows: list[list[Any]] = [
        [
            name,
            setting,
            interval(score - 0.05 * i),
            None if name == "Manual" else interval(score - 0.431),
            None if name in {"Manual", "Random"} else 60_000 * (i + 1),
            score * 10,
        ]
        for i, setting in enumerate(("movieworld", "ml-1m"))
        for name, score in scores.items()
    ]
    rows.append(["not run yet", "ml-1m", None, None, None, None])
    columns = [
        {"name": "Method", "kind": "text", "help": ""},
        {"name": "Setting", "kind": "text", "help": "data and model"},
        {"name": "NDCG@10", "kind": "interval", "help": "mean over test users"},
        {"name": "Gain over Manual", "kind": "interval", "help": "paired over users"},
        {"name": "Training calls", "kind": "count", "help": "answers of the model"},
        {"name": "Seconds", "kind": "number", "help": "wall clock"},
    ]
    x = [500, 1000, 2000, 5000, 10_000, 20_000, 60_000]

    def series(name: str) -> dict[str, Any]:
        y = [0.36 + (scores[name] - 0.36) * (i / 6) ** 0.5 for i in range(7)]
        low, high = [v - 0.01 for v in y], [v + 0.01 for v in y]
        banded = name != "GRIPS"
        return {
            "name": name,
            "x": x,
            "y": y,
            "low": low if banded else None,
            "high": high if banded else None,
        }

    lines = [
        {"name": "chance", "value": 0.227},
        {"name": "random prompts", "value": 0.36},
        {"name": "best fixed prompt", "value": 0.464},
    ]
    choices = []
    for setting in ("movieworld", "ml-1m"):
        for name in ("LinUCB", "MAPPO"):
            parts = []
            for agent, options in OPTIONS.items():
                shares = rng.dirichlet(np.full(len(options), 0.35), len(KINDS))
                parts.append({"agent": agent, "options": options, "shares": shares})
            choices.append(
                {
                    "setting": setting,
                    "method": name,
                    "kinds": list(KINDS),
                    "counts": [int(n) for n in rng.integers(80, 700, len(KINDS))],
                    "parts": parts,
                }
            )
    people: list[dict[str, Any]] = []
    for i in range(users):
        person: dict[str, Any] = {
            "setting": "ml-1m" if i % 3 else "movieworld",
            "user": f"user {1000 + 37 * i}",
            "kind": KINDS[i % len(KINDS)],
            "history": titles(rng, int(rng.integers(20, 31))),
            "candidates": titles(rng, 20),
            "target": int(rng.integers(20)),
        }
        person["views"] = [view(rng, "Manual", person, 1)] + [
            view(rng, name, person, step) for name in ("LinUCB", "MAPPO") for step in (1, 5)
        ]
        people.append(person)
    return {
        "title": "Does personalising an LLM recommender's prompt pay?",
        "found": [
            "Not shown: the interval holds 0 and effects that would matter.",
            "On ml-1m, 2 of 5 ways to prompt score significantly above the best fixed prompt.",
        ],
        "about": [
            "Four agents each choose one part of a user's prompt; a frozen model ranks candidates.",
            "Everything was chosen on train users and scored once on test users.",
        ],
        "primary": {
            "text": "MAPPO against the best fixed prompt on ml-1m: difference in NDCG@10, paired "
            "over 2,000 test users.",
            "estimate": [0.0134, -0.0011, 0.0271],
            "smallest": 0.01,
        },
        "tables": [
            {
                "id": "main",
                "title": "All methods on all settings",
                "note": "Policies act greedily. The gain is paired over users.",
                "columns": columns,
                "rows": rows,
            },
            {
                "id": "cost",
                "title": "What it cost",
                "note": "",
                "columns": [columns[0], columns[4]],
                "rows": [[name, 1000 * i] for i, name in enumerate(METHODS)],
            },
        ],
        "curves": [
            {
                "id": f"curve-{setting}",
                "title": f"NDCG@10 on validation users, {setting}",
                "xlabel": "calls of the model",
                "ylabel": "NDCG@10",
                "log": setting == "movieworld",
                "lines": lines,
                "series": [series(name) for name in ("GRIPS", "LinUCB", "MAPPO")],
            }
            for setting in ("movieworld", "ml-1m")
        ],
        "choices": choices,
        "users": people,
    }


def embedded(page: str) -> Any:
    """The data of a page, read as a browser does: up to the first end of a script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_shows_the_given_values(tmp_path: Path) -> None:
    data = study(3)
    path = write_page(data, tmp_path / "new" / "page.html")
    assert path == tmp_path / "new" / "page.html"
    read = embedded(path.read_text(encoding="utf-8"))
    assert read["users"] == data["users"]
    shares = data["choices"][1]["parts"][2]["shares"]
    np.testing.assert_array_equal(read["choices"][1]["parts"][2]["shares"], shares)


def test_numbers_of_all_sorts_are_taken_and_no_nan_is_written(tmp_path: Path) -> None:
    row = [float("nan"), np.float32(0.5), np.int64(3), [np.inf, 1, True], ("a", None)]
    read = embedded(write_page({"tables": row}, tmp_path / "page.html").read_text())
    assert read["tables"] == [None, 0.5, 3, [None, 1, True], ["a", None]]


def test_no_text_breaks_out_of_the_page(tmp_path: Path) -> None:
    data = study(2)
    data["title"] = HOSTILE[0]
    data["users"][0]["history"] = list(HOSTILE)
    page = write_page(data, tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.isascii()
    assert len(re.findall("<script", page)) == len(re.findall("</script", page)) == 2
    assert "<img" not in page
    assert "<!--" not in page
    assert embedded(page)["users"][0]["history"] == list(HOSTILE)
    assert "<title>&lt;/script&gt;&lt;script&gt;window.broken = 1" in page


def test_a_page_names_nothing_outside_itself(tmp_path: Path) -> None:
    page = write_page({}, tmp_path / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r"[a-z]+://[^\"'\s)]+", page)) == {"http://www.w3.org/2000/svg"}  # a name
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", page)
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:,\")|\ssrc=|@import|url\(", page)
    assert "default-src 'none'; script-src 'sha256-" in page


def test_the_published_pages_policy_allows_its_script() -> None:
    page = (Path(__file__).parents[2] / "docs" / "study.html").read_text(encoding="utf-8")
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page({"title": "kept"}, tmp_path / "page.html")
    with pytest.raises(TypeError, match="got object"):
        write_page({"title": object(), "about": ["lost", object()]}, path)
    assert embedded(path.read_text())["title"] == "kept"
    assert os.listdir(tmp_path) == ["page.html"]  # noqa: PTH208 - hidden files too


class Visitor:
    """Opens pages, and keeps what they complained of and asked for."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.contexts: list[Any] = []

    def __call__(self, data: dict[str, Any], part: str = "", *, width: int = 1280) -> Any:
        path = write_page(data, self.folder / "page.html")
        context = self.browser.new_context(
            viewport={"width": width, "height": 844},
            color_scheme="light",
            reduced_motion="reduce",
            offline=True,
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(f"{path.as_uri()}#{part}")
        return page


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Visitor]:
    """To open a page; afterwards, that it had nothing to say and asked for nothing but itself."""
    visitor = Visitor(browser, tmp_path)
    yield visitor
    for context in visitor.contexts:
        context.close()
    assert visitor.complaints == []
    assert {url.partition("#")[0] for url in visitor.asked} <= {
        (tmp_path / "page.html").as_uri(),
        "data:,",
    }


def column(page: Any, table: str, number: int) -> list[str]:
    cells = page.locator(f".block[data-id={table}] tbody tr > :nth-child({number})")
    shown: list[str] = [text.strip() for text in cells.all_text_contents()]
    return shown


def head(page: Any, table: str, number: int) -> Any:
    return page.locator(f".block[data-id={table}] thead th:nth-child({number})")


def test_the_primary_result_comes_first(visit: Visitor) -> None:
    page = visit(study(2))
    assert (
        page.title()
        == page.inner_text("h1")
        == "Does personalising an LLM recommender's prompt pay?"
    )
    primary = page.locator("#primary")
    assert primary.locator(".number").inner_text() == "+0.013"
    assert "[\u22120.001, +0.027]" in primary.inner_text()
    found = page.locator("#found li")
    assert found.all_text_contents() == study(2)["found"]
    assert found.first.bounding_box()["y"] < primary.bounding_box()["y"]
    label = primary.locator("svg").get_attribute("aria-label")
    assert "against 0 and 0.010" in label


def test_tables_sort_numbers_intervals_and_text(visit: Visitor) -> None:
    page = visit(study(2))
    given = column(page, "main", 3)
    assert given[0].startswith("0.431 [0.419, 0.444]")
    for number, kind in ((3, "interval"), (4, "interval with nulls"), (5, "count"), (6, "number")):
        button = head(page, "main", number).get_by_role("button")
        for way in ("descending", "ascending"):
            button.click()
            assert head(page, "main", number).get_attribute("aria-sort") == way, kind
            shown = column(page, "main", number)
            numbers = [re.match(r"[\u2212\d.,]+", cell) for cell in shown]
            values = [float(t[0].replace("\u2212", "-").replace(",", "")) for t in numbers if t]
            assert values == sorted(values, reverse=way == "descending"), kind
            assert [t is None for t in numbers] == sorted(t is None for t in numbers), (
                kind
            )  # nulls last
            assert len(values) < 13
        button.click()
        assert head(page, "main", number).get_attribute("aria-sort") == "none"
        assert column(page, "main", 3) == given
    head(page, "main", 1).get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head(page, "main", 1).get_attribute("aria-sort") == "ascending"
    assert column(page, "main", 1)[:3] == ["Enumerate", "Enumerate", "GRIPS"]
    assert page.locator("[aria-sort=ascending], [aria-sort=descending]").count() == 1


def test_rows_are_filtered_and_intervals_drawn_on_one_scale(visit: Visitor) -> None:
    page = visit(study(2))
    table = page.locator(".block[data-id=main]")
    drawn = table.locator("tbody tr > :nth-child(3) svg")
    assert drawn.count() == 12
    lengths = drawn.evaluate_all("all => all.map(one => one.children[1].getBBox().width)")
    assert min(lengths) == pytest.approx(max(lengths), abs=0.3)  # all are as wide: 0.025
    table.get_by_label("Filter rows").fill("MAPPO ml")
    assert column(page, "main", 1) == ["MAPPO"]
    assert "1 of 13 rows" in table.inner_text()
    table.get_by_label("Filter rows").fill("")
    assert len(column(page, "main", 1)) == 13


def test_curves_are_drawn_hidden_and_read(visit: Visitor) -> None:
    page = visit(study(2), "curves")
    chart = page.locator(".chart").first
    assert page.locator(".chart").count() == 2
    assert chart.locator("path.line").count() == 3
    assert chart.locator("path.band").count() == 2  # GRIPS has none
    assert chart.locator(".level").count() == 3
    assert "best fixed prompt 0.464" in chart.inner_text()
    assert "log scale" in chart.inner_text()
    assert "log scale" not in page.locator(".chart").nth(1).inner_text()
    assert "0.607 [0.597, 0.617]" in chart.inner_text()
    visible = chart.locator("path.line:visible")
    button = chart.get_by_role("button", name="MAPPO")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert visible.count() == 2
    assert page.locator(".chart").nth(1).locator("path.line:visible").count() == 3
    button.click()
    assert visible.count() == 3
    # On a log scale 500, 1,000 and 2,000 are as far apart.
    steps = chart.locator("path.line").first.get_attribute("d")
    places = [float(x) for x in re.findall(r"[ML]([\d.]+)", steps)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    drawing = chart.locator("svg[role=img]")
    box = drawing.bounding_box()
    drawing.hover(position={"x": places[0] * box["width"] / 580, "y": 60})
    assert "At calls of the model 500" in chart.inner_text()
    drawing.focus()
    page.keyboard.press("ArrowRight")
    assert "At calls of the model 1,000" in chart.inner_text()
    assert chart.locator(".cross").evaluate("node => node.style.display") == ""


def test_the_heat_map_shows_shares_and_sentences(visit: Visitor) -> None:
    data = study(2)
    page = visit(data, "choices")
    page.get_by_label("Setting").select_option("ml-1m")
    page.get_by_label("Method").select_option("MAPPO")
    wanted = data["choices"][3]
    assert page.url.endswith("#choices/ml-1m/MAPPO")
    for part in wanted["parts"]:
        table = page.locator(f".heat [data-agent={part['agent']}]")
        rows = table.locator("tbody tr")
        assert rows.count() == len(KINDS)
        for i, shares in enumerate(part["shares"]):
            shown = [int(text) for text in rows.nth(i).locator("td").all_text_contents()]
            assert shown == pytest.approx(100 * np.asarray(shares), abs=0.51)
    cell = page.locator("[data-agent=reasoning_guidance] tbody tr").nth(1).locator("td").nth(5)
    cell.hover()
    readout = page.locator(".readout")
    assert f"reasoning 5: {OPTIONS['reasoning_guidance'][5]}" in readout.inner_text()  # the action
    assert "keeps to old genres" in readout.inner_text()
    cell.click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert OPTIONS["reasoning_guidance"][6] in readout.inner_text()
    assert "follows a series" in readout.inner_text()
    listed = page.locator(".lists").inner_text()
    assert all(text in listed for texts in OPTIONS.values() for text in texts)
    assert "(no sentence)" in listed
    full = page.locator(".heat td", has_text=re.compile(r"^[5-9]\d$")).first
    colours = [
        one.evaluate("node => getComputedStyle(node).backgroundColor")
        for one in (full, page.locator(".heat td.none").first)
    ]
    assert colours[0] != colours[1]


def test_a_user_before_and_after(visit: Visitor) -> None:
    data = study(4)
    page = visit(data, "users")
    for i, user in enumerate(data["users"]):
        if i:
            page.get_by_role("button", name="Next user").click()
        assert page.locator(".who h3").inner_text() == user["user"]
        assert f"{i + 1} of 4" in page.locator(".count").inner_text()
        views = page.locator(".view")
        for side, wanted in enumerate((user["views"][0], user["views"][-1])):
            shown = views.nth(side)
            assert shown.get_attribute("data-method") == ("Manual", "MAPPO, step 5")[side]
            classes = shown.locator(".para:not(.absent)").evaluate_all(
                "all => all.map(one => one.className.replace('para p-', ''))"
            )
            assert classes == [item["part"] for item in wanted["paragraphs"]]
            texts = shown.locator(".para:not(.absent) .said").all_text_contents()
            assert texts == [item["text"] for item in wanted["paragraphs"]]
            assert shown.locator(".reply .said").inner_text() == wanted["reply"]
            target = shown.locator(".ranked .target")
            assert user["candidates"][user["target"]] in target.inner_text()
            place = wanted["order"].index(user["target"]) + 1
            assert target.get_attribute("data-place") == str(place)
            items = shown.locator(".ranked [data-place] > span:nth-child(2)").all_text_contents()
            assert items == [user["candidates"][k] for k in wanted["order"]]
            result = shown.locator(".result").inner_text()
            assert (f"in place {wanted['rank']} " if wanted["rank"] else "not named") in result
            assert f"{wanted['ndcg']:.3f}" in result
            assert (shown.locator(".break").count() == 1) == (wanted["named"] < 20)
    assert page.get_by_role("button", name="Next user").is_disabled()
    page.get_by_role("button", name="Previous user").click()
    assert page.locator(".who h3").inner_text() == data["users"][2]["user"]


def test_words_that_differ_are_marked(visit: Visitor) -> None:
    data = study(1)
    before, after = data["users"][0]["views"][:2]
    before["paragraphs"] = [
        {"part": "history_records", "text": "Films:\n1. The Quiet Tide\n2. Red Letters"},
        {"part": "reasoning_guidance", "text": "Please rank the films in order."},
    ]
    after["paragraphs"] = [
        {"part": "role_playing", "text": "You are an expert."},
        {
            "part": "history_records",
            "text": "Films:\n1. Glass River\n2. The Quiet Tide\n3. Red Letters",
        },
        {"part": "reasoning_guidance", "text": "Please rank the best films in order."},
    ]
    data["users"][0]["views"] = [before, after]
    page = visit(data, "users")
    views = page.locator(".view")
    assert views.nth(0).locator("mark").all_text_contents() == []
    assert views.nth(1).locator("mark").all_text_contents() == ["Glass River", "best"]
    assert views.nth(0).locator(".para.absent.p-role_playing").count() == 1
    tops = [views.nth(side).locator(".p-reasoning_guidance").bounding_box()["y"] for side in (0, 1)]
    assert tops[0] == tops[1]  # the same parts stand side by side


def test_users_are_found_ordered_and_kept_in_the_address(visit: Visitor) -> None:
    data = study(9)
    page = visit(data, "users")
    page.get_by_label("Setting").select_option("movieworld")
    assert "1 of 3" in page.locator(".count").inner_text()
    page.get_by_label("Setting").select_option("")
    page.get_by_label("Find").fill("CROWD")
    assert page.locator(".step option").count() == 2
    page.get_by_label("Find").fill("nobody")
    assert "No user fits." in page.locator("#users").inner_text()
    page.get_by_label("Find").fill("")
    page.get_by_label("Before").select_option("LinUCB, step 1")
    page.get_by_label("Order").select_option("gain")
    gains = {
        user["user"]: user["views"][4]["ndcg"] - user["views"][1]["ndcg"] for user in data["users"]
    }
    assert gains[page.locator(".who h3").inner_text()] == max(gains.values())
    page.get_by_label("Order").select_option("")
    page.locator(".step select").select_option("4")
    address = page.url
    assert address.endswith("#users/ml-1m/user%201148/LinUCB%2C%20step%201/MAPPO%2C%20step%205")
    page.get_by_role("tab", name="Curves").click()
    assert page.locator("#users").is_hidden()
    page.go_back()
    assert page.locator(".who h3").inner_text() == "user 1148"
    page.reload()
    assert page.locator(".who h3").inner_text() == "user 1148"
    assert page.locator(".view").first.get_attribute("data-method") == "LinUCB, step 1"


def many_lines(count: int = 12) -> dict[str, Any]:
    data = study(1)
    curve = data["curves"][1]
    curve["series"] = [
        {
            "name": f"method {i}",
            "x": [5000, 20_000, 40_000],
            "y": [0.5, 0.52 + 0.001 * i, 0.54 + 0.002 * i],
            "low": [0.49, 0.51, 0.53] if i else None,
            "high": [0.51, 0.55, 0.57] if i else None,
        }
        for i in range(count)
    ]
    curve["lines"] = [
        {"name": "chance", "value": 0.2},
        {"name": "best fixed", "value": 0.53},
        {"name": "above all", "value": 0.9},
    ]
    return data


def test_many_lines_have_a_panel_each(visit: Visitor) -> None:
    page = visit(many_lines(), "curves")
    chart = page.locator(".chart").nth(1)
    panels = chart.locator(".panels li")
    names = panels.locator(".name").all_text_contents()
    assert names == [f"method {i}" for i in reversed(range(12))]  # the highest at the end first
    assert panels.first.locator("path.own").count() == 1
    assert panels.first.locator("path.other").count() == 11
    assert panels.first.locator("path.band").count() == 1
    assert panels.last.locator("path.band").count() == 0
    assert panels.first.locator(".value").inner_text() == "0.562 [0.530, 0.570]"
    assert "method 11: 0.500 at 5,000, 0.562 at 40k" in panels.first.locator(
        "svg[role=img]"
    ).get_attribute("aria-label")
    # What is far from the curves is named and does not press them together.
    assert panels.first.locator(".level").count() == 1
    levels = chart.locator(".levels").inner_text()
    assert "chance 0.200 (below the axis)" in levels
    assert "above all 0.900 (above the axis)" in levels
    assert "best fixed 0.530" in levels
    drawing = panels.nth(3).locator("svg[role=img]")
    box = drawing.bounding_box()
    drawing.hover(position={"x": box["width"] * 0.99 - 5, "y": 20})
    assert "At calls of the model 40k" in chart.inner_text()
    drawing.hover(position={"x": 34, "y": 20})
    assert "At calls of the model 5,000" in chart.inner_text()
    assert panels.first.locator(".value").inner_text() == "0.500 [0.490, 0.510]"
    assert page.locator(".chart").first.locator(".panels").count() == 0  # three lines in one plot


def test_names_of_baselines_stand_on_no_curve(visit: Visitor) -> None:
    page = visit(study(1), "curves", width=390)
    chart = page.locator(".chart").first
    assert chart.locator("path.line").count() == 3
    assert chart.locator(".level-name").count() == 0
    listed = chart.locator(".levels")
    assert "best fixed prompt 0.464" in listed.inner_text()
    assert listed.bounding_box()["y"] > chart.locator("svg[role=img]").bounding_box()["y"] + 200
    page.set_viewport_size({"width": 1280, "height": 844})
    page.evaluate("new Promise((done) => setTimeout(done, 60))")  # drawn anew
    names = chart.locator(".level-name")
    assert names.count() == 2
    assert "(below the axis)" in listed.inner_text()  # the third
    end = "node => node.getBBox().x + node.getBBox().width"
    right = chart.locator("path.line").first.evaluate(end)
    starts = names.evaluate_all("all => all.map(node => node.getBBox().x)")
    assert min(starts) > right


def test_no_page_is_wider_than_its_screen(visit: Visitor) -> None:
    data = many_lines()
    data["users"][0]["candidates"][0] = "Un" + "pronounce" * 30 + "able"
    data["users"][0]["kind"] = "a_kind_" * 20
    data["about"].append("https-" * 60)
    data["choices"][0]["kinds"][0] = "a_kind_" * 20
    data["tables"][0]["rows"][0][0] = "a method with a long name " * 4
    page = visit(data, width=390)
    scroll = page.locator(".scroll").first
    assert scroll.evaluate("node => node.scrollWidth > node.clientWidth")
    scroll.evaluate("node => { node.scrollLeft = 200; }")
    first = page.locator(".block[data-id=main] tbody th").nth(1).bounding_box()
    assert first["x"] == pytest.approx(scroll.bounding_box()["x"], abs=1)  # it sticks
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        for name in TABS:
            page.get_by_role("tab", name=name).click()
            page.evaluate("new Promise((done) => setTimeout(done, 60))")  # figures are drawn anew
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_text_can_be_read_in_light_and_dark(visit: Visitor) -> None:
    page = visit(many_lines())
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(CONTRAST) == [], (name, scheme)


CONTRAST = r"""() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.e-]+/g).map(Number);
    const most = text.startsWith("color(") ? 255 : 1;
    return [r * most, g * most, b * most, a];
  };
  const over = (top, under) =>
    [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) =>
    [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(c[i] / 255), 0.05);
  const ground = (node) => node
    ? over(parse(getComputedStyle(node).backgroundColor), ground(node.parentElement))
    : [255, 255, 255, 1];
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.disabled) continue;
    if (node.closest("script, style, .skip")) continue;
    const style = getComputedStyle(node), under = ground(node);
    const ink = over(parse(node instanceof SVGElement ? style.fill : style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    if (a / b < 4.5) bad.push([node.tagName, node.textContent.slice(0, 30), a / b]);
  }
  return bad;
}"""


def test_hostile_titles_are_inert(visit: Visitor) -> None:
    data = study(2)
    hostile = list(HOSTILE)
    data["title"] = hostile[0]
    data["about"] = hostile
    data["found"] = hostile
    data["tables"][0]["rows"][0][0] = hostile[1]
    data["tables"][0]["columns"][0]["help"] = hostile[1]
    data["tables"][0]["id"] = hostile[1]
    data["curves"][0]["series"][0]["name"] = hostile[1]
    data["curves"][0]["lines"][0]["name"] = hostile[0]
    for choice in data["choices"]:
        choice["setting"], choice["method"] = hostile[1], hostile[0]
        choice["kinds"][0] = hostile[1]
        choice["parts"][0]["agent"] = 'x"><script>'
        choice["parts"][1]["options"][0] = hostile[0]
    for user in data["users"]:
        user["user"], user["kind"], user["setting"] = hostile[1], hostile[0], hostile[3]
        user["history"] += hostile
        user["candidates"][:4] = hostile
        for shown in user["views"]:
            shown["method"], shown["reply"] = hostile[1], "\n".join(hostile)
            shown["paragraphs"][0] = {"part": '"><img>', "text": hostile[1]}
    page = visit(data)
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        assert page.locator("main script, main img, header script, header img").count() == 0
    assert page.evaluate("window.broken") is None
    assert page.locator("h1").text_content() == hostile[0]
    assert page.locator(".titles li span + *").count() < 5
    assert hostile[1] in page.locator(".view").first.text_content()
    page.locator(".heat td").first.evaluate("node => node.click()")
    assert page.evaluate("window.broken") is None


def test_the_policy_forbids_the_network_and_markup(visit: Visitor) -> None:
    page = visit({})
    refused = page.evaluate(
        """async () => {
          const seen = [];
          addEventListener(
            "securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
          await fetch("http://127.0.0.1:9/").catch(() => {});
          const image = new Image();
          image.src = "http://127.0.0.1:9/x.png";
          try { document.body.innerHTML = "<b>x</b>"; } catch (error) { seen.push(error.name); }
          try {
            const script = document.createElement("script");
            script.textContent = "window.broken = 1";
            document.body.append(script);
          } catch (error) { seen.push(error.name); }
          await new Promise((done) => setTimeout(done, 100));
          return [seen, window.broken];
        }"""
    )
    assert {"connect-src", "img-src", "TypeError"} <= set(refused[0])
    assert refused[1] is None
    visitor_said = [text for text in visit.complaints if "violates" in text or "requires" in text]
    assert visitor_said == visit.complaints
    visit.complaints.clear()
    visit.asked[:] = visit.asked[:1]  # the browser tells of the image that it did not fetch


@pytest.mark.parametrize(
    "data",
    [
        {"title": None, "primary": None, "tables": None, "users": None},
        {
            "title": "",
            "about": [],
            "primary": {"text": "", "estimate": None, "smallest": None},
            "tables": [
                {"id": "a", "title": "", "note": "", "columns": [], "rows": []},
                {
                    "id": "b",
                    "title": "all null",
                    "note": "",
                    "columns": [{"name": k, "kind": k} for k in ("text", "number", "interval")],
                    "rows": [[None, None, None], [None, None, [None, None, None]]],
                },
            ],
            "curves": [
                {"id": "a", "title": "", "lines": [], "series": [], "log": True},
                {"id": "b", "title": "", "lines": [{"name": "x", "value": None}]}
                | {"series": [{"name": "y", "x": [], "y": [], "low": None, "high": None}]},
                {"id": "c", "title": "one point", "lines": [], "log": True}
                | {"series": [{"name": "y", "x": [0, 10], "y": [1, 1], "low": None, "high": None}]},
            ],
            "choices": [
                {"setting": "s", "method": "m", "kinds": [], "counts": [], "parts": []},
                {"setting": "s", "method": "n", "kinds": ["k"], "counts": [0]}
                | {"parts": [{"agent": "role_playing", "options": [""], "shares": [[None]]}]},
            ],
            "users": [
                {"setting": "s", "user": "u", "kind": "", "history": [], "candidates": []}
                | {"target": None, "views": []},
                {"setting": "s", "user": "v", "kind": "", "history": [], "candidates": ["a", "b"]}
                | {
                    "target": 0,
                    "views": [
                        {"method": "m", "step": None, "paragraphs": [], "reply": "", "order": []}
                        | {"named": 0, "rank": 0, "ndcg": None}
                    ],
                },
            ],
        },
    ],
    ids=["nothing", "hollow"],
)
def test_empty_data_makes_a_page_too(visit: Visitor, data: dict[str, Any]) -> None:
    page = visit(data)
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        assert page.get_by_role("tabpanel").inner_text().strip()
    if data.get("users"):
        page.get_by_role("button", name="Next user").click()
        assert "not named of 2" in page.locator(".view").inner_text()
        page.get_by_role("tab", name="Choices").click()
        page.get_by_label("Method").select_option("n")
        assert page.locator(".heat td").count() == 1
        page.get_by_role("tab", name="Results").click()
        for button in page.locator(".data thead button").all():
            button.click()


def test_tabs_by_keyboard_and_everything_in_print(visit: Visitor) -> None:
    page = visit(study(1))
    page.get_by_role("tab", name="Results").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Curves").get_attribute("aria-selected") == "true"
    assert page.get_by_role("tabpanel").count() == 1
    page.get_by_role("link", name="To the content").press("Enter")
    assert page.evaluate("document.activeElement.id") == "panels"
    assert page.get_by_role("tab", name="Curves").get_attribute("aria-selected") == "true"
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".panel:visible").count() == 4
    assert page.locator(".tabs").is_hidden()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".panel:visible").count() == 1


@pytest.mark.slow
def test_hundreds_of_users_stay_quick(visit: Visitor) -> None:
    data = study(4)
    data["users"] *= 100
    page = visit(data, "users")
    assert page.locator(".view").count() == 2  # made for one user at a time
    assert page.locator("body *").count() < 1500
