from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rpp_env.errors import InvalidOption
from rpp_env.sentences import SentenceCatalog
from rpp_env.sentences import prompt as prompts
from rpp_env.sentences.parsing import FORMATS, parse_ranking, write_ranking
from rpp_env.sentences.prompt import Prompt
from rpp_env.task import Ranking, RankingTask

TASK = RankingTask(
    user="7",
    history=("Alien", "Up", "Heat {k}"),
    candidates=("Big", "1984", "M"),
    target="M",
)
BOOK = SentenceCatalog.load("movies")


def prompt(role: int = 1, reasoning: int = 0, output: int = 0, shown: int = 2) -> Prompt:
    return Prompt(TASK, BOOK.choose([[role, 0, reasoning, output]])[0], shown)


def test_a_whole_prompt() -> None:
    assert prompt(role=3, reasoning=4, output=4).text == (
        "You are a ranker who matches films to the personal interest of this viewer.\n"
        "\n"
        "I have watched these films, from the earliest to the most recent:\n"
        "1. Up\n"
        "2. Heat {k}\n"
        "\n"
        "These are the 3 candidate films:\n"
        "1. Big\n"
        "2. 1984\n"
        "3. M\n"
        "\n"
        "First infer my long-standing preferences from my viewing history, then rank the 3 "
        "candidate films by them.\n"
        "\n"
        "Give only the 3 results, one per line, and write every line in the template "
        "rank | title.\n"
        "Format of each line: <rank> | <title>"
    )


@pytest.mark.parametrize("whole", [False, True])
def test_letters_change_nothing_but_names_and_contract(whole: bool) -> None:
    numbered = prompt(role=3, reasoning=4, output=4)
    lettered = numbered.lettered(whole)
    numbers = numbered.text.split("\n")
    lines = lettered.split("\n")
    assert len(lines) == len(numbers)
    changed = [i for i, pair in enumerate(zip(numbers, lines, strict=True)) if len(set(pair)) > 1]
    first = numbers.index("1. Big")
    assert changed == [first, first + 1, first + 2, len(lines) - 1]
    assert lines[first : first + 3] == ["A. Big", "B. 1984", "C. M"]
    assert lines[-1].endswith("<letter>")
    assert prompt().lettered(True) != prompt().lettered(False)


@pytest.mark.parametrize("shown", [1, 2, 3])
def test_the_most_recent_items_are_shown_the_most_recent_last(shown: int) -> None:
    history = prompt(shown=shown).text.split("\n\n")[1].split("\n")[1:]
    titles = TASK.history[3 - shown :]
    assert history == [f"{i}. {title}" for i, title in enumerate(titles, 1)]


def test_paragraphs_that_are_empty_are_left_out() -> None:
    assert len(prompt().text.split("\n\n")) == 5
    without_role = prompt(role=0).text
    assert without_role == prompt().text.partition("\n\n")[2]
    without_history = prompt(shown=0).text.split("\n\n")
    assert without_history == [p for i, p in enumerate(prompt().text.split("\n\n")) if i != 1]


@pytest.mark.parametrize("shown", [-1, 4])
def test_shown_must_fit_the_history(shown: int) -> None:
    with pytest.raises(InvalidOption, match=r"shown must lie in 0\.\.3, .* user '7'; got"):
        prompt(shown=shown)


def test_messages_are_one_message_of_the_user() -> None:
    assert prompt().messages == ({"role": "user", "content": prompt().text},)


def test_instructions_are_the_three_sentences_alone() -> None:
    one = prompt(role=2, reasoning=7, output=3)
    expected = " ".join(
        [BOOK.role_playing[2], BOOK.reasoning_guidance[7], BOOK.output_format[3].text]
    )
    assert one.instructions == expected.replace("{k}", "3")
    assert prompt(role=0).instructions.startswith("Please rank the 3 candidate films")
    other = replace(TASK, history=("Jaws",), candidates=("A", "B", "C"), target="A")
    assert replace(one, task=other, shown=1).instructions == one.instructions


def test_a_rewrite_reaches_the_text_but_not_the_contract_line() -> None:
    one = prompt(role=1, reasoning=2, output=3)
    rewritten = one.choice.rewritten(
        role="You {love} films.", reasoning="Take {k} films {0}.", output="Write JSON."
    )
    text = replace(one, choice=rewritten).text.split("\n\n")
    assert text[0] == "You {love} films."
    assert text[1:3] == one.text.split("\n\n")[1:3]
    assert text[3] == "Take 3 films {0}."
    assert text[4].split("\n") == ["Write JSON.", one.choice.contract]


def test_every_choice_of_sentences_is_another_prompt() -> None:
    rows = [[r, 0, g, o] for r in range(5) for g in range(9) for o in range(5)]
    assert len({Prompt(TASK, choice, 2).text for choice in BOOK.choose(rows)}) == 225


def test_lists_may_be_long() -> None:
    titles = tuple(f"Film {i}" for i in range(1200))
    task = replace(TASK, candidates=titles, target="Film 3")
    assert "\n1200. Film 1199\n\n" in replace(prompt(), task=task).text


def test_caches_are_bounded() -> None:
    for cache in (prompts._frame, prompts._instructions, prompts._listed):
        assert cache.cache_info().maxsize is not None


def test_the_page_about_prompts_shows_real_prompts() -> None:
    page = (Path(__file__).parents[1] / "docs" / "prompts.md").read_text(encoding="utf-8")
    blocks = [block.split("\n```", 1)[0] for block in page.split("```text\n")[1:]]
    task = RankingTask(
        user="1",
        history=("First Snow", "The Lantern Keeper", "Salt Road"),
        candidates=("12 Quiet Nights", "Copper Rain", "1907", "Salt Roads", "Zoë's Island"),
        target="Salt Roads",
    )
    assert blocks[0] == Prompt(task, BOOK.choose([[3, 3, 5, 0]])[0], 2).text
    order = (3, 1, 2, 0, 4)
    assert blocks[1:] == [write_ranking(order, task.candidates, form) for form in FORMATS]
    for reply, output in zip(blocks[1:], BOOK.output_format, strict=True):
        assert parse_ranking(reply, task.candidates) == Ranking(order, 5)
        assert f"contract line `{output.contract}`" in page
