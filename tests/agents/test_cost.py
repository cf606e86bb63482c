"""The number of calls of a paid model is announced beforehand, and never exceeded."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from letters import Letters

import rpp_env
from rpp_agents.cli import main
from rpp_agents.commands.cost import tokens_of
from tests.brought import PARTS

SMALL = (
    "--total-steps 256 --num-envs 64 --max-users 70 --eval-users 30 --budget 1200 "
    "--evaluations 2 --eval-episodes 60 --hidden 8 --run-dir run"
)
WORLD = "--model elsewhere:Model --rules RPPBandit-v0"


@pytest.fixture
def counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, int, str]]:
    """Runs a command: what it announced, what it asked, and all that it said."""
    (tmp_path / "elsewhere.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(words: str, *more: Any) -> tuple[int, int, str]:
        code = main([*words.split(), *map(str, more)])
        said = capsys.readouterr().err
        assert code == 0, said
        announced = sum(
            int(number.replace(",", ""))
            for number in re.findall(r"asks elsewhere:Model up to ([\d,]+) times", said)
        )
        module = sys.modules.get("elsewhere")
        return announced, module.Model.asked if module else 0, said

    return run


@pytest.mark.parametrize(
    "words",
    [
        f"play random {WORLD}",
        f"tabulate t.rpptable {WORLD} --max-users 3 --processes 1",
        f"diagnose {WORLD} --train-users 11 --users 9 --processes 1",
        f"train mappo {WORLD} {SMALL}",
    ],
    ids=lambda words: words.split()[0],
)
def test_no_more_calls_are_made_than_announced(words: str, counted: Any) -> None:
    announced, asked, said = counted(words)
    assert 0 < asked <= announced
    assert announced < 3 * asked + 1000
    assert re.search(r"some [\d,]+ tokens a prompt, up to 512 a reply", said)
    assert said.startswith("asks elsewhere:Model up to ")  # before anything else


def test_an_evaluation_prints_its_cost(counted: Any) -> None:
    counted(f"train mappo {WORLD} {SMALL}")
    sys.modules["elsewhere"].Model.asked = 0
    announced, asked, _ = counted(
        "evaluate run --max-users 20 --budget 1200 --trust elsewhere:Model"
    )
    assert 0 < asked <= announced < 2 * asked


@pytest.mark.slow
def test_a_study_prints_its_cost(counted: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        """
        budget = 300
        points = 2
        [[settings]]
        name = "tiny"
        model = "elsewhere:Model"
        draws = [41]
        train_users = 4
        validation_users = 3
        test_users = 4
        options = { num_users = 400, num_items = 100, fractions = [0.5, 0.2, 0.3] }
        [[methods]]
        label = "manual"
        method = "manual"
        [[methods]]
        label = "rewritten"
        method = "rpp"
        config = { rewrite = "embedded", num_envs = 4, options = { hidden = [4] } }
        """
    )
    announced, asked, said = counted(
        "study mine.toml --out out --processes 1 --trust elsewhere:Model"
    )
    assert 0 < asked <= announced
    assert re.search(r"\(tables [\d,]+, methods [\d,]+\), less what a recording keeps", said)


def test_a_model_that_scores_titles_is_trained_with_from_the_command(
    counted: Any, tmp_path: Path
) -> None:
    (tmp_path / "scoring.py").write_text(
        "from letters import Letters\nmodel = Letters()\ndef make(): return model\n"
    )
    *_, said = counted(
        "train mappo --rules RPPLikelihood-v0 --model scoring:make --num-users 60 --num-envs 8 "
        "--catalog films-forms --budget 63 --total-steps 80 --max-users 8 --eval-users 4 "
        "--evaluations 1 --eval-episodes 4 --hidden 8 --run-dir run"
    )
    announced = re.search(r"asks scoring:make up to ([\d,]+) times \(fewer with", said)
    assert announced is not None
    asked = sys.modules["scoring"].model.asked
    # A title without a history is one request more, the same for all prompts of a form.
    assert (
        0
        < len([r for r in asked if len(r.continuations) > 1])
        <= int(announced[1].replace(",", ""))
    )
    assert "tokens a prompt, titles included, and none written" in said
    assert "mappo" in (tmp_path / "run" / "report.md").read_text().lower()


def test_free_models_are_not_announced(counted: Any) -> None:
    assert "up to" not in counted("play random")[2]


def test_prompts_that_titles_continue_are_read_with_their_titles() -> None:
    made: dict[str, Any] = {"model": Letters(), "max_users": 4}
    env = rpp_env.RPPEnv.make("movieworld", rules="RPPLikelihood-v0", num_candidates=20, **made)
    few = rpp_env.RPPEnv.make("movieworld", rules="RPPLikelihood-v0", num_candidates=2, **made)
    titles = [len(title) for title in env.tasks.dataset.titles]
    more = tokens_of(env)[0] - tokens_of(few)[0]
    assert 18 * min(titles) / 4 <= more <= 18 * max(titles) / 4
