"""The site: every page is reachable, and the tables of the environments' pages are the program's.

Where a table differs, ``RPP_WRITE_DOCS=1 python -m pytest tests/test_site.py`` writes it anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from letters import Letters
from real_models import real_model

import rpp_env
from rpp_env.rules import RULES, SYSTEMS
from rpp_env.sentences.leads import Closing, Form

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(
    path
    for end in ("md", "rst")
    for path in DOCS.rglob(f"*.{end}")
    if "generated" not in path.parts
)
LIKELIHOOD = "RPPLikelihood-v0"
"""Its default model is a real one, which need not be here."""
MADE = re.compile(r"<!-- made: (.*?) -->\n(.*?)<!-- end -->", re.DOTALL)

HOLDS = {
    "user": "the user, from the history",
    "recency": "how alike the last items are, in what people chose together",
    "content": "the same in genres and words of titles",
    "popularity": "mean popularity of the last 20 items, and of the last 3",
    "length": "items of the history / 50",
    "sentences": "the role, reasoning and output sentences of the last prompt",
    "ranking": "the items of the last ranking, their mean weighted by place",
    "named": "share of the candidates that the last reply named",
    "shown": "history items that the last prompt showed / 50",
    "level": "where the history agent stands / the highest place",
    "step": "steps taken / steps of an episode",
    "own_action": "the agent's own last action, one-hot",
}
HOLDS_LEADS = HOLDS | {"sentences": "the opening, form and closing of the last prompt"}
HOLDS_VECTORS = HOLDS | {
    "profile": "the user's profile, one-hot; a missing field is 0",
    "prompt": "the last codes of all agents; 0 before the step",
    "own_action": "the agent's own last code",
}


def table(*rows: tuple[object, ...]) -> str:
    head, *body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def made_env(rules: str) -> rpp_env.RPPEnv:
    given: dict[str, Any] = {"model": Letters()} if rules == LIKELIHOOD else {}
    dataset = None if rules in SYSTEMS else "movieworld"
    return rpp_env.RPPEnv.make(
        dataset, rules=rules, split="test", max_users=20, num_envs=2, **given
    )


def system_facts(rules: str) -> str:
    if rules != LIKELIHOOD:
        pytest.importorskip("torch")
    env = made_env(rules)
    spaces = env.action_spaces
    shapes = [f"`Box(-1, 1, {space.shape}, float32)`" for space in spaces if space.shape]
    sizes = ", ".join(str(space.n) for space in spaces if not space.shape)
    return table(
        ("", ""),
        ("agents", ", ".join(f"`{agent}`" for agent in env.agents)),
        ("actions", ", ".join(shapes) or f"`Discrete`: {sizes}"),
        ("observations", f"`Box(-1, 1, ({env.observation_width},), float32)`"),
        ("state", f"`Box(-1, 1, ({env.state_width},), float32)`"),
        ("reward", "NDCG@10, in [0, 1], the same for all agents"),
        (
            "end",
            "terminated after 1 step"
            if env.episode.bandit
            else f"truncated after {env.max_cycles} steps",
        ),
        ("candidates", f"{env.tasks.num_candidates}, one seeded order for each task"),
        ("infos", "numbers, the same keys at reset and step"),
        ("render modes", "`ansi`, `human`, `rgb_array`"),
    )


def facts(rules: str) -> str:
    if rules in SYSTEMS:
        return system_facts(rules)
    env, of = made_env(rules), RULES[rules]
    sizes = ", ".join(str(space.n) for space in env.action_spaces)
    end = (
        "terminated after 1 step" if of.episode.bandit else f"truncated after {of.max_cycles} steps"
    )
    order = {"task": "one seeded order for each task", "step": "shuffled at each step"}[of.order]
    decoding = of.generation
    warm = f"temperature {decoding.temperature}, top-p {decoding.top_p}"
    return table(
        ("", ""),
        ("agents", ", ".join(f"`{agent}`" for agent in env.agents)),
        ("actions", f"`Discrete`: {sizes}"),
        ("observations", f"`Box(-1, 1, ({env.observation_width},), float32)`"),
        ("state", f"`Box(-1, 1, ({env.state_width},), float32)`"),
        ("reward", "NDCG@10, in [0, 1], the same for all agents"),
        ("end", end),
        ("candidates", f"{of.num_candidates}, {order}"),
        ("decoding", warm if decoding.temperature else "greedy"),
        ("infos", "numbers, the same keys at reset and step"),
        ("render modes", "`ansi`, `human`, `rgb_array`"),
    )


def lead_actions() -> str:
    """The catalog of RPPLikelihood-v0: forms with a history of A and B."""
    env = made_env(LIKELIHOOD)
    catalog, history = env.space.book, env.space.history

    def code(text: str) -> str:
        return "`" + text.replace("\n", "\\n").replace("|", "\\|") + "`"

    def form(one: Form) -> str:
        lead = one.lead(("A", "B"))
        parts = [f"a question, through the chat template: {code(lead.text)}"]
        parts += [f"the answer begins with {code(lead.begun)}"] * bool(lead.begun)
        said = "; ".join(parts) if lead.chat else code(lead.text)
        return f"{one.name}: {said}; a title ends with {code(one.after)}"

    def closing(one: Closing) -> str:
        return f"{code(one.line)}; within a sentence {code(one.phrase)}" if one.line else "(none)"

    lengths = ", ".join(map(str, history.rungs))
    meant = (
        [code(text) if text else "(none)" for text in catalog.openings],
        [f"move by {move:+d} on the lengths {lengths}" for move in history.options],
        list(map(form, catalog.forms)),
        list(map(closing, catalog.closings)),
    )
    rows: list[tuple[object, ...]] = [("agent", "option", "what it means")]
    for agent, options in zip(env.agents, meant, strict=True):
        rows += [(f"`{agent}`", i, text) for i, text in enumerate(options)]
    return table(*rows)


def actions(rules: str) -> str:
    if rules == LIKELIHOOD:
        return lead_actions()
    of, book = RULES[rules], made_env(rules).book
    history = {
        "rungs": lambda move: f"move by {move:+d} on the lengths {', '.join(map(str, of.rungs))}",
        "choose": lambda items: f"show {items} item{'s' * (items > 1)}",
        "grow": lambda more: f"show {more} more item{'s' * (more != 1)}",
    }[of.history]
    rows: list[tuple[object, ...]] = [("agent", "option", "what it means")]
    rows += [("`role_playing`", i, text or "(no role)") for i, text in enumerate(book.role_playing)]
    rows += [("`history_records`", i, history(x)) for i, x in enumerate(of.history_options)]
    rows += [("`reasoning_guidance`", i, text) for i, text in enumerate(book.reasoning_guidance)]
    outputs = [one.text.replace("|", "\\|") for one in book.output_format]
    rows += [("`output_format`", i, text) for i, text in enumerate(outputs)]
    return table(*rows)


def observations(rules: str) -> str:
    holds = {LIKELIHOOD: HOLDS_LEADS}.get(rules, HOLDS_VECTORS if rules in SYSTEMS else HOLDS)
    if holds is HOLDS_VECTORS:
        pytest.importorskip("torch")
    layout = made_env(rules).observer.layout
    assert set(layout) <= set(holds)
    rows = [(f"`{name}`", at.stop - at.start, holds[name]) for name, at in layout.items()]
    return table(("block", "width", "holds"), *rows)


def ids() -> str:
    rows: list[tuple[object, ...]] = [("id", "steps", "history agent", "candidates", "decoding")]
    moves = {"rungs": "moves on a scale", "choose": "chooses the length", "grow": "adds items"}
    for name, of in RULES.items():
        decoding = "sampled" if of.generation.temperature else "greedy"
        link = f"[`{name}`]({name.lower()}.md)"
        rows.append((link, of.max_cycles, moves[of.history], of.num_candidates, decoding))
    return table(*rows)


WRITERS = {"facts": facts, "actions": actions, "observations": observations}


def made(page: Path) -> Iterator[tuple[str, str]]:
    for name in [name for name, _ in MADE.findall(page.read_text(encoding="utf-8"))]:
        what, _, rules = name.partition(" ")
        yield name, WRITERS[what](rules) if rules else ids()


@pytest.mark.parametrize("page", sorted(DOCS.glob("environments/*.md")), ids=lambda page: page.stem)
def test_the_tables_are_the_programs(page: Path) -> None:
    tables, text = dict(made(page)), page.read_text(encoding="utf-8")
    assert tables
    written = MADE.sub(
        lambda found: f"<!-- made: {found[1]} -->\n{tables[found[1]]}<!-- end -->", text
    )
    if os.environ.get("RPP_WRITE_DOCS"):
        page.write_text(written, encoding="utf-8")
    assert written == text, f"{page.name} is not what the program says: see the top of this file"


def test_every_id_has_a_page() -> None:
    assert {path.stem for path in DOCS.glob("environments/*.md")} == {
        "index",
        *(name.lower() for name in (*RULES, *SYSTEMS)),
    }


def test_every_page_is_reachable() -> None:
    reached, todo = set(), [DOCS / "index.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        for entries in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            names = [line for line in entries.splitlines() if line and not line.startswith(":")]
            for name in names:
                (found,) = [p for p in PAGES if p.with_suffix("") == page.parent / name]
                todo += [found] if found not in reached else []
    assert sorted(reached) == PAGES


@pytest.mark.parametrize("page", ["index", "first-steps"])
def test_the_code_of_the_first_pages_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), re.DOTALL)
    if "rpp_agents" in "".join(blocks):
        pytest.importorskip("torch")
    assert blocks
    for block in blocks:
        exec(block, {})  # noqa: S102 - our own page
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", sorted(DOCS.glob("environments/*-v0.md")), ids=lambda p: p.stem)
def test_the_code_of_an_environments_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    if "PPR" in block:
        pytest.importorskip("torch")
    if LIKELIHOOD in block:
        (tmp_path / "models").symlink_to(real_model("smollm2").parent, target_is_directory=True)
        monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    exec(block, {})  # noqa: S102 - our own page
