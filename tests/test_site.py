"""The site and README: every page is reachable, links lead somewhere, and tables are the program's.

Where a table differs, ``RPP_WRITE_DOCS=1 python -m pytest tests/test_site.py`` writes it anew. The
task cards are made from docs/results/cards.json, which ``benchmarks/cards.py`` measures.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from letters import Letters
from real_models import real_model

import rpp_env
from rpp_env.episode import Episode, Grouped
from rpp_env.rules import IDS, RULES, SYSTEMS, episode_of
from rpp_env.sentences.leads import Closing, Form

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CARDS: dict[str, Any] = json.loads((DOCS / "results" / "cards.json").read_text(encoding="utf-8"))
PAGES = sorted(
    path
    for end in ("md", "rst")
    for path in DOCS.rglob(f"*.{end}")
    if "generated" not in path.parts
)
LIKELIHOOD = "RPPLikelihood-v0"
"""An id with a real default model, which may be missing."""
SESSION = "RPPSession-v0"
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
    "response": "the user's response to the last list: its reward",
    "best_response": "the best response of the episode so far",
    "best_sentences": "the sentences of the prompt that first had it",
    "best_shown": "history items that this prompt showed / 50",
    "best_level": "where the history agent stood / the highest place",
    "step": "steps taken / steps of an episode",
    "own_action": "the agent's own last action, one-hot",
}
HOLDS_LEADS = HOLDS | {"sentences": "the opening, form and closing of the last prompt"}
HOLDS_VECTORS = HOLDS | {
    "profile": "the user's profile, one-hot; a missing field is 0",
    "prompt": "the last codes of all agents; 0 before the step",
    "own_action": "the agent's own last code",
}
HOLDS_TOKENS = HOLDS_VECTORS | {
    "who": "which user it is, as bits of the user's row",
    "candidates": "the words to choose among, along the main directions of the words' embeddings",
    "prompt": "the words that the agents chose last; 0 before the step",
    "shared": "the shared words",
    "own_action": "the agent's own last action, one-hot",
}
HOLDS_GROUP = HOLDS_TOKENS | {
    "user": "the users of the group, from their histories",
}
HOLDS_NEIGHBOURS = HOLDS_VECTORS | {
    "vector": "the user's own vector, of length 1",
    "neighbours": "the neighbours' vectors, the most similar first",
    "similarity": "their cosines with the user's own",
    "prompt": "the last logits of all heads; 0 before the step",
    "own_action": "the head's own last logits",
}


def table(*rows: tuple[object, ...]) -> str:
    head, *body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


T5S = ("PAPRec-v0", "PAPRecShared-v0", "PeaPOD-v0")
"""Ids with a recommender that needs transformers, which the oldest tested environment lacks."""


def made_env(rules: str) -> rpp_env.RPPEnv:
    given: dict[str, Any] = {"model": Letters()} if rules == LIKELIHOOD else {}
    dataset = None if rules in SYSTEMS else "movieworld"
    if rules in T5S:
        pytest.importorskip("transformers")
    return rpp_env.RPPEnv.make(
        dataset, rules=rules, split="test", max_users=20, num_envs=2, **given
    )


def system_facts(rules: str) -> str:
    if rules not in (LIKELIHOOD, SESSION):
        pytest.importorskip("torch")
    env = made_env(rules)
    spaces = env.action_spaces
    shapes = [f"`Box(-1, 1, {space.shape}, float32)`" for space in spaces if space.shape]
    paid = "the group's mean NDCG@10" if isinstance(env.episode, Grouped) else "NDCG@10"
    sizes = ", ".join(str(space.n) for space in spaces if not space.shape)
    return table(
        ("", ""),
        ("agents", ", ".join(f"`{agent}`" for agent in env.agents)),
        ("actions", ", ".join(shapes) or f"`Discrete`: {sizes}"),
        ("observations", f"`Box(-1, 1, ({env.observation_width},), float32)`"),
        ("state", f"`Box(-1, 1, ({env.state_width},), float32)`"),
        ("reward", f"{paid}, in [0, 1], the same for all agents"),
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
    holds = {
        LIKELIHOOD: HOLDS_LEADS,
        SESSION: HOLDS,
        "PAPRec-v0": HOLDS_TOKENS,
        "PAPRecShared-v0": HOLDS_GROUP,
        "PeaPOD-v0": HOLDS_NEIGHBOURS,
    }.get(rules, HOLDS_VECTORS if rules in SYSTEMS else HOLDS)
    if rules in SYSTEMS:
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


# ---- task cards ----

NOT = "not measured"


def number(value: Mapping[str, float] | float | None) -> str:
    """Format an estimate with its interval, a plain number, or None."""
    if value is None:
        return NOT
    if isinstance(value, float):
        return f"{value:.2f}"
    value = {name: abs(x) if f"{x:.3f}" == "-0.000" else x for name, x in value.items()}
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**value)


def discounts(card: Mapping[str, Any]) -> dict[float, list[Mapping[str, Any]]]:
    """The runs of MAPPO with each discount, the best one first."""
    runs: dict[float, list[Mapping[str, Any]]] = {}
    for run in card["training"]["runs"]:
        runs.setdefault(run["discount"], []).append(run)

    def mean(discount: float) -> float:
        return statistics.fmean(run["validation"] for run in runs[discount])

    return {discount: runs[discount] for discount in sorted(runs, key=mean, reverse=True)}


def card(rules: str) -> dict[str, str]:
    """The lines of a task card."""
    card = CARDS.get(rules)
    if card is None:
        env = made_env(rules)
        steps, agents = env.max_cycles, list(env.agents)
    else:
        steps, agents = card["steps"], card["agents"]
    lines = dict.fromkeys(LINES, NOT)
    lines["steps of an episode"] = str(steps)
    lines["agents"] = str(len(agents))
    if episode_of(rules).feedback == "none":
        lines |= dict.fromkeys(LOOPS, f"{NOT} (no response is seen)")
    if steps == 1:
        for name in ("myopia gap", "memory gain", "exploration gain"):
            lines[name] = "0 (one step)"
        lines[DISCOUNT] = f"{default_discount(rules):g} (one step: no effect)"
    if card is None:
        return lines | one_agent(agents)
    for names, why in ((DIAGNOSED, "why_no_table"), (TRAINED, "why_no_training")):
        if card.get(why):
            lines |= {name: f"{NOT} ({card[why]})" for name in names if lines[name] == NOT}
    if rules == "PPRStream-v0":
        # Clicks come in the user's own order, and no prompt changes what is read at the next one.
        lines["myopia gap"] = "0 (independent steps)"
    lines |= one_agent(agents)
    if "call" in card:
        call = card["call"]
        read, written = call["prompt_tokens"], call["completion_tokens"]
        verb = "scored" if rules == LIKELIHOOD else "written"
        tokens = f"{read:.0f} tokens read, {written:.0f} {verb}; " if read else "no tokens; "
        lines["one call"] = f"{tokens}{duration(call['milliseconds'])}"
    found = card.get("diagnosis")
    if found is not None and len(agents) > 1:
        needs = found["agents"]["observable"]
        played = with_options(found)
        lines["coordination loss"] = number(needs["loss of choosing agent by agent"]) + played
        lines["additive share"] = number(needs["additive share of the variance"]) + played
        if steps > 1:
            lines["myopia gap"] = number(found["myopia"]) + played
        gaps = {name: found["gaps"].get(gap) for name, gap in LOOPS.items()}
        lines |= {name: number(gap) for name, gap in gaps.items() if gap is not None}
    if card.get("training") is None:
        if lines[DISCOUNT].startswith(NOT):
            lines[DISCOUNT] = f"{default_discount(rules):g}, {lines[DISCOUNT]}"
        return lines
    return lines | trained(rules, card, steps)


def trained(rules: str, card: Mapping[str, Any], steps: int) -> dict[str, str]:
    """The lines of a card about a training."""
    lines = {}
    (_, runs), *_ = tried = list(discounts(card).items())
    if len(tried) > 1:
        found = ", ".join(f"{d:g}" for d, _ in sorted(tried))
        lines[DISCOUNT] = f"{default_discount(rules):g} (tried: {found})"
    elif steps > 1:
        lines[DISCOUNT] = f"{default_discount(rules):g}, {NOT} (too few validation users)"
    lines["MAPPO's budget"] = f"{card['training']['steps']:,} calls"
    minutes = statistics.fmean(run["minutes"] for run in runs)
    lines["minutes to a policy"] = f"{minutes:.1f}"
    scores = " and ".join(f"{run['score']['value']:.3f}" for run in runs)
    played = with_options(card["training"])
    lines["NDCG@10 of the policy"] = scores + played
    lines["NDCG@10 of random prompts"] = f"{runs[0]['random']['value']:.3f}" + played
    return lines


def with_options(found: Mapping[str, Any]) -> str:
    """Format the options with which figures were measured, where they are not the id's own."""
    options = ", ".join(f"{name}={value!r}" for name, value in found.get("options", {}).items())
    return f" ({options})" if options else ""


def default_discount(rules: str) -> float:
    return episode_of(rules).discount


@pytest.mark.parametrize("rules", IDS)
def test_the_default_discount_is_the_best_one_of_the_card(rules: str) -> None:
    card, steps = CARDS.get(rules, {}), episode_of(rules).max_cycles
    if steps == 1:  # there is no later reward, so no discount is better than another
        assert default_discount(rules) == 0
    elif card.get("training") is None or len(discounts(card)) == 1:
        assert default_discount(rules) == Episode.discount
    else:
        assert default_discount(rules) == next(iter(discounts(card)))


def one_agent(agents: list[str]) -> dict[str, str]:
    """What follows from there being no other agent."""
    if len(agents) > 1:
        return {}
    return {"coordination loss": "0 (one agent)", "additive share": "1 (one agent)"}


def duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2g} s" if milliseconds >= 100 else f"{milliseconds:.2g} ms"


DISCOUNT = "default discount"
LINES = (
    "steps of an episode",
    "agents",
    "one call",
    "myopia gap",
    "memory gain",
    "exploration gain",
    "coordination loss",
    "additive share",
    DISCOUNT,
    "MAPPO's budget",
    "minutes to a policy",
    "NDCG@10 of the policy",
    "NDCG@10 of random prompts",
)


LOOPS = {"memory gain": "memory minus none", "exploration gain": "exploring minus greedy"}
"""Gaps of a diagnosis where the agents see responses."""
DIAGNOSED = ("myopia gap", *LOOPS, "coordination loss", "additive share")
TRAINED = LINES[LINES.index(DISCOUNT) :]


def cards(page: Path) -> str:
    """The cards of all ids, an id in each line; reasons stand on the id's own page."""
    link = f"{repository()}/blob/main/docs/environments/" if page.name == "README.md" else ""
    rows = [
        (f"[`{name}`]({link}{name.lower()}.md)", *(brief(card(name)[line]) for line in LINES))
        for name in IDS
    ]
    return table(("", *LINES), *rows)


def brief(line: str) -> str:
    """A line of a card without its reason; a dash for what is not measured."""
    return re.sub(NOT, "\N{EN DASH}", line.partition(" (")[0].removesuffix(f", {NOT}"))


def one_card(rules: str) -> str:
    return table(("task card", ""), *card(rules).items())


def repository() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def noise(rules: str) -> str:
    """What PAP-REC's words gain on clicks of three kinds, from docs/results/pap_rec.json."""
    assert rules == "PAPRec-v0"
    results = json.loads((DOCS / "results" / "pap_rec.json").read_text(encoding="utf-8"))
    clicks = ("accepting", "other", "test")

    def gap(one: Mapping[str, float]) -> str:
        return "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**one)

    written = []
    for criterion, found in results.items():
        rows: list[tuple[object, ...]] = [(f"kept by {criterion}", *clicks)]
        for name, score in found["scores"].items():
            rows.append((name, *(f"{score[kind]:.4f}" for kind in clicks)))
        gains: list[tuple[object, ...]] = [("gain", *clicks)]
        for name, some in found["gains"].items():
            gains.append((name, *(gap(some[kind]) for kind in clicks)))
        written.append(f"{table(*rows)}\n{table(*gains)}")
    return "\n".join(written)


WRITERS = {
    "noise": noise,
    "facts": facts,
    "actions": actions,
    "observations": observations,
    "card": one_card,
}


def made(page: Path) -> Iterator[tuple[str, str]]:
    for name in [name for name, _ in MADE.findall(page.read_text(encoding="utf-8"))]:
        what, _, rules = name.partition(" ")
        if what == "cards":
            yield name, cards(page)
        else:
            yield name, WRITERS[what](rules) if rules else ids()


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted(DOCS.glob("environments/*.md"))],
    ids=lambda page: page.stem,
)
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
        "cards",
        *(name.lower() for name in IDS),
    }


def test_every_page_is_reachable() -> None:
    reached, todo = set(), [DOCS / "index.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        for entries in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            lines = [line for line in entries.splitlines() if line and not line.startswith(":")]
            names = [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
            for name in names:
                (found,) = [p for p in PAGES if p.with_suffix("") == page.parent / name]
                todo += [found] if found not in reached else []
    assert sorted(reached) == PAGES


# ---- code ----

MARKED = re.compile(r"(?:<!-- (not run|run by): (.+?) -->\n)?```python\n(.*?)```", re.DOTALL)
TEXTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("checkpoints/*/*.md"), *(p for p in PAGES if p.suffix == ".md")]
)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_code_blocks_that_are_not_run_state_the_reason() -> None:
    for page in TEXTS:
        for how, why, _ in MARKED.findall(page.read_text(encoding="utf-8")):
            if how == "run by":
                assert (ROOT / why.partition(",")[0]).is_file(), f"{page.name}: {why}"


@pytest.mark.timeout(600)  # a page may train, on a busy machine
@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [code for how, _, code in MARKED.findall(page.read_text("utf-8")) if not how]
    if not blocks:
        pytest.skip("no code that is run here")
    if any(word in "".join(blocks) for word in ("rpp_agents", "PPR", "sasrec")):
        pytest.importorskip("torch")
    if page.stem == "t5" or page.stem in {name.lower() for name in T5S}:
        pytest.importorskip("transformers")
    if any(LIKELIHOOD in block for block in blocks):
        (tmp_path / "models").symlink_to(real_model("smollm2").parent, target_is_directory=True)
        monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:  # one after the other, as a reader types them
        exec(block, names)  # noqa: S102 - our own page


# ---- links ----

LINK = re.compile(r"(?<!\\)\]\(([^()\s]+(?:\([^()]*\))?)\)|(?:src|srcset|href)=\"([^\"]+)\"")
FENCED = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub and MyST make of a page's headings."""
    text = FENCED.sub(
        lambda found: found[0].strip("`") if "\n" not in found[0] else "", page.read_text("utf-8")
    )
    heads = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
    return {
        slug if slugs[:i].count(slug) == 0 else f"{slug}-{slugs[:i].count(slug)}"
        for i, slug in enumerate(slugs)
    }


def links(page: Path) -> list[str]:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return [one or other for one, other in LINK.findall(text)]


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    here = repository()
    prefixes = (
        f"{here}/blob/main/",
        f"{here.replace('//github', '//raw.githubusercontent')}/main/",
    )
    for link in links(page):
        target, _, anchor = link.partition("#")
        own = next((prefix for prefix in prefixes if target.startswith(prefix)), None)
        if re.match(r"[a-z]+:", target) and own is None:
            assert not target.startswith(f"{here}/blob"), link
            continue
        path = (
            ROOT / target.removeprefix(own) if own else (page.parent / target if target else page)
        )
        assert path.exists(), f"{page.name}: {link} leads nowhere"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {link}: {path.name} has no such heading"


def test_the_readme_survives_on_a_package_index() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert text.index("pip install") < 2600  # on the first screen
    found = links(ROOT / "README.md")
    assert len(found) > 20
    assert all(link.startswith("https://") for link in found), found
    ours = [link for link in found if "rpp_env" in link]
    owner = repository().removeprefix("https://github.com/")
    assert all(owner in link for link in ours), (
        "not every link is to the repository of [project.urls]"
    )
    for line in text.splitlines():
        if "git+https" in line:
            assert f"git+{repository()}" in line


def test_no_old_address_is_left() -> None:
    """All addresses of a repository called rpp_env are the one of [project.urls]."""
    for page in [*TEXTS, ROOT / "CITATION.cff", ROOT / "pyproject.toml"]:
        for owner in re.findall(r"github\.com/([\w.-]+)/rpp_env\b", page.read_text("utf-8")):
            assert f"github.com/{owner}/rpp_env" in repository(), page.name


def test_a_card_gives_a_figure_or_its_reason() -> None:
    """Every id is measured, and nothing is "not measured" without a reason."""
    assert set(CARDS) == set(IDS)
    assert not [
        (rules, name) for rules in IDS for name, value in card(rules).items() if value == NOT
    ]
    for rules, one in CARDS.items():
        trained = one.get("training") is not None
        assert trained is not bool(one["why_no_training"]), rules
        assert "call" in one, rules
