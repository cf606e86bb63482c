"""The command: its output, its files, and its errors."""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

import rpp_agents.commands
from rpp_agents import mappo, plots
from rpp_agents.cli import COMMANDS, main
from rpp_agents.commands import console, experiments
from rpp_agents.commands import play as play_module
from rpp_agents.world import World
from rpp_env import Ranking
from rpp_env.data import cache_dir
from rpp_env.evaluation.baselines import Random
from rpp_env.recommenders.llm import LLMRecommender
from rpp_env.table import RewardTable

pytestmark = pytest.mark.usefixtures("one_network")

TRAIN = (
    "train mappo --rules RPPBandit-v0 --total-steps 2560 --num-envs 128 --max-users 200 "
    "--eval-users 60 --budget 1600 --threads 1 --evaluations 1 --eval-episodes 60 --hidden 16"
).split()
SMALL = [*"--eval-users 60 --max-users 200".split()]


@pytest.fixture
def rpp(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; its exit code, output and error output."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*TRAIN, "--run-dir", str(folder)]) == 0
    return folder


# ---- help ----


def test_help_lists_every_verb(rpp: Any) -> None:
    code, out, _ = rpp("--help")
    assert code == 0
    assert (0, out, "") == rpp()
    for verb, said in COMMANDS.items():
        assert re.search(rf"^  {verb} +{re.escape(said)}$", out, re.MULTILINE)
    assert "examples:\n  rpp-env demo\n" in out
    found = {module.name for module in pkgutil.iter_modules(rpp_agents.commands.__path__)}
    assert found - {"console", "cost", "experiments", "options"} == set(COMMANDS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_help_that_begins_with_its_line(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module(f"rpp_agents.commands.{verb}").run
    assert run.__doc__.splitlines()[0] == COMMANDS[verb]
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"usage: rpp-env {verb}" in out
    assert COMMANDS[verb] in out


def test_training_has_a_flag_for_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "mappo", "--help"])
    out = capsys.readouterr().out
    for name in mappo.Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in out


# ---- errors ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trains", "did you mean 'train'?"),
        ("train", "name an algorithm first"),
        ("train mapo", "did you mean 'mappo'?"),
        ("play --user nobody", "user 'nobody' has no task here"),
        ("play somebody", "give hand, random"),
        ("play --model gpt", "model 'gpt' is not known"),
        ("play --dataset nowhere", "dataset 'nowhere' is not known"),
        ("evaluate nowhere", "neither a policy's file nor the folder of a run"),
        ("data get", "which one?"),
        ("data list ml-1m", "list takes no name"),
        ("data get netflix", "'netflix' is not known"),
        ("tabulate x.rpptable --rules RPPPaper-v0", "reorders the candidates"),
        ("play random --dataset movieword", "did you mean 'movieworld'"),
        ("play random --model embeded", "did you mean 'embedded'"),
        ("play random --data-seed -1", "seed"),
        ("play random --book nowhere.toml", "nowhere.toml cannot be read: No such file"),
        ("play random --book movi", "book 'movi' is not known; did you mean 'movies'"),
        ("evaluate POLICY --seed -1", "seed must be a whole number of 0 or more, not -1"),
        ("evaluate POLICY --train-users 5", "a reference needs 11 train users or more"),
        ("diagnose --rules RPPBandit-v0 --seed -3 --train-users 11 --users 9", "not -3"),
        ("bench mine.toml", "there is no file mine.toml"),
        ("bench smok", "did you mean 'smoke'"),
        ("study prompt", "did you mean 'prompts'"),
        ("train elsewhere:train", "cannot import elsewhere"),
        (f"play random --root {'y' * 5000} --dataset ml-1m", "File name too long"),
        ("play random --dataset FILE", "is a file, and a dataset is a folder"),
        ("train mappo --run-dir FILE/x", "FILE is a file and no folder"),
        ("evaluate POLICY --json FILE/x.json", "FILE is a file and no folder"),
        ("diagnose --json .", "is a folder"),
        ("demo --out FILE/x --train-users 40 --processes 1", "FILE is a file and no folder"),
        ("bench smoke --out FILE/x", "Not a directory"),
        ("tabulate FILE/x --max-users 2", "FILE is a file and no folder"),
    ],
)
def test_user_errors_are_one_line(
    rpp: Any, words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("a file\n")
    Random((5, 5, 9, 5), seed=0).save("POLICY")
    code, _, err = rpp(*words.split())
    assert code == 2
    err = err.lstrip("\n")  # rich before 14.3 ends an unused progress bar with an empty line
    assert err.startswith("rpp-env: ")
    assert err.count("\n") == 1
    assert said in err


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\rgone\u202e\u2028\ud800"


def test_an_error_cannot_steer_the_terminal(rpp: Any) -> None:
    code, _, err = rpp("play", "--user", HOSTILE)
    assert code == 2
    assert not set(err) & set(HOSTILE) - set("]0;owned[2J31mgone")
    assert r"\x1b]0;owned" in err


def test_nothing_printed_can_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", out)
    console.say(HOSTILE, console.columns([[HOSTILE, 1]]))
    with pytest.raises(SystemExit):
        experiments._end([HOSTILE], tmp_path)
    out.flush()
    assert not set(written.getvalue()) - set(range(32, 127)) - {10}


def test_a_reply_cannot_steer_the_terminal(rpp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(self: Any, prompts: Sequence[Any]) -> list[Ranking]:
        count = len(prompts[0].task.candidates)
        return [Ranking(tuple(range(count)), count, f"1. {HOSTILE}\n\n2. \x1b[8m") for _ in prompts]

    monkeypatch.setattr(LLMRecommender, "rank", reply)
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, out, err = rpp("play", "random", "--steps", "1")
    assert code == 0, err
    assert r"1. \x1b]0;owned\x07\x1b[2J\x9b31m\rgone\u202e\u2028\ud800" in out
    assert r"2. \x1b[8m" in out
    assert not set(out) & set(HOSTILE) - set("]0;owned[2J31mgone")


@pytest.mark.filterwarnings("always::UserWarning")
def test_dropped_repeats_are_reported_in_one_line(rpp: Any, tmp_path: Path) -> None:
    folder = tmp_path / "doubled"
    folder.mkdir()
    rows = [f"u{u}\ti{(u + 3 * k) % 40}\t{k}\n" * 2 for u in range(20) for k in range(5)]
    (folder / "doubled.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(rows)
    )
    titles = [f"i{i}\tFilm number {i}\n" for i in range(40)]
    (folder / "doubled.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(titles))
    words = ["play", "random", "--steps", "1", "--split", "train", "--dataset", str(folder)]
    code, _, err = rpp(*words)
    assert code == 0, err
    assert "rpp-env: warning: doubled: 14 of 14 users chose their target before" in err
    assert err.count("\n") == 1
    code, _, err = rpp(*words, "--repeats", "refuse")
    assert code == 2
    assert "pass repeats='drop'" in err
    code, _, err = rpp(*words, "--repeats", "keep")
    assert (code, err) == (0, "")


def test_bytes_that_are_no_text_are_no_choice(rpp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"\xff\x1b[2J\n1 1 1 1\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    code, out, err = rpp("play", "--steps", "1")
    assert code == 0, err
    assert "has no option" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--budget 500", "budget=500 episodes cannot try 1125 candidates once each: give 1125"),
        ("--train-users 10", "a reference needs 11 train users or more, not 10"),
        ("--seeds 1 1", "seeds must be different numbers, not 1 1"),
        ("--seeds 1 -1", "seed must be 0 or more, not -1"),
        ("--processes 0", "processes must be at least 1, not 0"),
    ],
)
def test_options_used_after_training_are_checked_before_it(
    rpp: Any, more: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("rpp_agents.trainers.mappo.train", train)
    code, _, err = rpp(*TRAIN, "--run-dir", str(tmp_path), *more.split())
    assert (code, said in err) == (2, True), err


def test_bugs_of_the_package_show_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(play_module, "render", broken)
    with pytest.raises(ZeroDivisionError):
        main(["play", "random"])


def test_terms_must_be_accepted(rpp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, out, err = rpp("data", "get", "ml-1m", "--root", "somewhere")
    assert code == 2
    assert "GroupLens" in out
    assert "--yes" in err


# ---- the verbs ----


def test_doctor_and_data_list_what_is_installed(
    rpp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ML-1M").mkdir()
    (tmp_path / "ML-1M" / "ml-1m.inter").write_bytes(b"x" * 2_500_000)
    monkeypatch.setenv("RPP_ENV_DATA", str(tmp_path))
    code, out, _ = rpp("doctor")
    assert code == 0
    for word in ("rpp_env", "Python", "cores", "torch", "movieworld", "caches in"):
        assert word in out
    found = f"{tmp_path / 'ML-1M'} (2.5 MB)"
    assert found in out
    assert found in rpp("data", "list")[1]
    assert re.search(
        r"^ml-latest-small +movies +not here: rpp-env data get",
        rpp("data", "list")[1],
        re.MULTILINE,
    )


def test_a_game_can_be_piped(rpp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1 4 9 2\n4 2\n\n1\n?\n2\n2,3 1\nq\n"))
    code, out, err = rpp("play", "--user", "u00047")
    assert code == 0, err
    assert "reasoning_guidance has no option '9': type 0 to 8" in out
    assert out.count("You are a film recommender") >= 2  # the menu, and again when asked for
    assert re.findall(r"step \d of 5", out) == ["step 1 of 5", "step 2 of 5"]
    chosen = re.findall(r"^(?:role|history|reasoning|output)\w+ +(\d)  \S", out, re.MULTILINE)
    assert chosen == list("14421122")
    assert "\x1b" not in out
    assert "2 of 5 steps: mean NDCG@10" in out


def test_an_empty_line_repeats_a_choice(rpp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1 4 8 2\n" + "\n" * 4))
    _, out, _ = rpp("play", "--steps", "2")
    assert len(re.findall(r"^reasoning_guidance +8 ", out, re.MULTILINE)) == 2
    assert "2 of 2 steps" in out


def test_random_play_is_seeded(rpp: Any) -> None:
    first, again, other = (rpp("play", "random", "--seed", seed)[1] for seed in "778")
    assert first == again != other
    assert "5 of 5 steps" in first


def test_a_table_is_written_and_replayed(rpp: Any, tmp_path: Path) -> None:
    path = tmp_path / "small.rpptable"
    words = ["tabulate", str(path), "--split", "test", "--max-users", "3", "--processes", "1"]
    words += ["--shown", *"1 2 3 5 8 10 13 20".split()]
    code, out, err = rpp(*words)
    assert code == 0, err
    assert f"{3 * 1800:,} answers of 3 tasks" in out
    assert len(RewardTable.load(path)) == 3
    assert rpp(*words)[0] == 0  # it is there already
    for rules in ("RPP-v0", "RPPBandit-v0"):
        code, out, _ = rpp("play", "random", "--model", f"table:{path}", "--rules", rules)
        assert code == 0
        assert "replayed from a table" in out


ROUTE = (
    "--rules RPPBandit-v0 --total-steps 640 --num-envs 32 --threads 1 --evaluations 1 "
    "--eval-episodes 20 --hidden 16"
).split()


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tables by split."""
    folder = tmp_path_factory.mktemp("route") / "tables"
    words = "--rules RPPBandit-v0 --max-users 12 --processes 1 --split train validation test"
    assert main(["tabulate", str(folder), *words.split()]) == 0
    return folder


@pytest.mark.slow
def test_tables_by_split_train_evaluate_and_diagnose(
    tables: Path, rpp: Any, tmp_path: Path
) -> None:
    """The walk of docs/cli.md."""
    assert sorted(path.name for path in tables.iterdir()) == [
        "test.rpptable",
        "train.rpptable",
        "validation.rpptable",
    ]
    run, model = tmp_path / "run", f"--model=table:{tables}"
    code, out, err = rpp("train", "mappo", model, "--run-dir", str(run), *ROUTE)
    assert code == 0, err
    assert "MAPPO: NDCG@10" in out
    assert "chosen exactly, from a table for 12 training tasks with 0 calls" in out
    assert "no validation users" not in out
    code, _, err = rpp("evaluate", str(run))
    assert code == 2  # a folder names a path outside itself
    assert f"--model table:{tables}" in err
    code, out, err = rpp("evaluate", str(run), model, "--train-users", "12")
    assert code == 0, err
    assert "12 tasks of 20 candidates" in out
    assert "observable reference" in out
    code, out, err = rpp("diagnose", model, "--rules", "RPPBandit-v0")
    assert code == 0, err
    assert "hindsight minus best fixed prompt" in out


def test_a_table_of_training_users_trains_without_evaluations_with_a_message(
    tables: Path, rpp: Any, tmp_path: Path
) -> None:
    table, run = f"--model=table:{tables / 'train.rpptable'}", tmp_path / "run"
    code, out, err = rpp("train", "mappo", table, "--run-dir", str(run), *ROUTE)
    assert code == 0, err
    assert "holds no validation users, so this run has no evaluations and no report." in out
    assert "--validation-model" in out
    assert (run / "policy.safetensors").is_file()
    assert not (run / "report.md").exists()
    code, out, err = rpp("train", "mappo", table, "--run-dir", str(run), "--final", *ROUTE)
    assert code == 0, err
    assert "holds no validation and no test users, so this run has no evaluations and no" in out
    for words in (["evaluate", str(run)], ["diagnose", "--rules", "RPPBandit-v0"]):
        code, _, err = rpp(*words, table)
        assert code == 2
        assert "users of another split" in err
        assert "tabulate FOLDER --split train validation test" in err


def test_validation_users_may_have_a_different_model(
    tables: Path, rpp: Any, tmp_path: Path
) -> None:
    words = ["train", "mappo", f"--model=table:{tables / 'train.rpptable'}", *ROUTE]
    held_out = f"--validation-model=table:{tables / 'validation.rpptable'}"
    code, out, err = rpp(*words, held_out, "--run-dir", str(tmp_path / "one"))
    assert code == 0, err
    assert "MAPPO: NDCG@10" in out
    code, out, err = rpp(
        *words, "--validation-model=embedded", "--eval-users=12", "--run-dir", str(tmp_path / "two")
    )
    assert code == 0, err
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("one", "two")]
    reports[0]["lines"].pop("hindsight")  # which only a table can tell
    assert reports[0]["lines"] == reports[1]["lines"]  # the same answers, live and replayed


def test_tables_with_other_embeddings_are_not_mixed(tables: Path, rpp: Any, tmp_path: Path) -> None:
    table = RewardTable.load(tables / "validation.rpptable")
    other = replace(table.embeddings, items=table.embeddings.items[:, ::-1].copy())
    provenance = {**table.provenance, "embeddings": other.digest}
    replace(table, embeddings=other, provenance=provenance).save(tmp_path / "v.rpptable")
    code, _, err = rpp(
        *["train", "mappo", f"--model=table:{tables / 'train.rpptable'}", *ROUTE],
        *[f"--validation-model=table:{tmp_path / 'v.rpptable'}", "--run-dir", str(tmp_path / "r")],
    )
    assert code == 2
    assert "other embeddings for the validation users" in err


def test_test_users_without_training_users_are_scored_without_a_fixed_prompt(
    tables: Path, trained: Path, rpp: Any
) -> None:
    model = f"--model=table:{tables / 'test.rpptable'}"
    code, out, err = rpp("evaluate", str(trained), model, "--rules", "RPPBandit-v0")
    assert code == 0, err
    assert "holds no training users: the best fixed prompt" in out
    assert "| best fixed prompt |" not in out
    assert "| random prompt |" in out


def test_a_folder_without_the_table_states_how_to_make_it(
    tables: Path, rpp: Any, tmp_path: Path
) -> None:
    shutil.copy(tables / "train.rpptable", tmp_path)
    code, _, err = rpp("diagnose", f"--model=table:{tmp_path}", "--rules", "RPPBandit-v0")
    assert code == 2
    assert f"holds no test.rpptable: make it with `rpp-env tabulate {tmp_path} --split test`" in err


def test_warnings_are_sentences(tables: Path, rpp: Any, tmp_path: Path) -> None:
    """As of a table without a digest."""
    path = tmp_path / "old.rpptable"
    with np.load(tables / "test.rpptable") as file, path.open("wb") as out:
        np.savez(out, **{name: file[name] for name in file.files})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "catch_warnings", warnings_shown)
        words = ["--model", f"table:{path}", "--rules", "RPPBandit-v0"]
        code, _, err = rpp("play", "random", *words)
    assert code == 0
    assert f"rpp-env: warning: {path} has no digest" in err
    assert "RPPWarning" not in err


class warnings_shown(warnings.catch_warnings):  # noqa: N801
    """As outside of tests, where a warning is no error."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.resetwarnings()


def test_diagnose_measures_the_reading_of_a_datasets_titles(rpp: Any, tmp_path: Path) -> None:
    kept = tmp_path / "shares.json"
    words = "diagnose --reading --replies 1 --candidates 5 --data-seed 3 --json".split()
    code, out, err = rpp(*words, str(kept))
    assert (code, err) == (0, "")
    assert out.startswith("Titles of `movieworld`.\n\n| form ")
    assert re.search(r"\n\| 1\. title +\| +1 \| +1 \| 1\.000 \|\n", out)
    assert re.search(r"\nShare of all forms: (1\.0000|0\.99\d\d)\.\n$", out)
    assert json.loads(kept.read_text())["form"]["1. title"] == {"replies": 1, "exact": 1}
    code, _, err = rpp("diagnose", "--reading", "--replies", "0")
    assert code == 2
    assert "replies must be at least 1, not 0" in err


def test_diagnose_keeps_its_tables(rpp: Any, tmp_path: Path) -> None:
    words = "diagnose --rules RPPBandit-v0 --train-users 30 --users 10 --processes 1".split()
    code, out, err = rpp(*words, "--json", str(tmp_path / "d.json"))
    assert code == 0, err
    assert "| observable reference |" in out
    assert "best fixed prompt" in json.loads((tmp_path / "d.json").read_text())["lines"]
    kept = sorted((cache_dir() / "tables").glob("movieworld-*.rpptable"))
    when = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) >= 2
    assert rpp(*words)[1] == out
    assert [path.stat().st_mtime_ns for path in kept] == when
    # A table from another version, under the same name, is made anew.
    RewardTable.load(kept[0]).subset([0]).save(kept[1])
    assert rpp(*words)[1] == out


def weights(path: Path) -> dict[str, bytes]:
    """The bytes of each tensor: safetensors writes the keys of a header in any order."""
    return {name: tensor.tobytes() for name, tensor in load(path.read_bytes()).items()}


def test_a_run_keeps_everything(trained: Path, rpp: Any) -> None:
    names = "policy.safetensors checkpoint.safetensors progress.csv config.json world.json "
    names += "report.json report.md learning_curve.png"
    for name in names.split():
        assert (trained / name).stat().st_size > 0
    assert any((trained / "tensorboard").iterdir())
    report = json.loads((trained / "report.json").read_text())
    assert report["name"] == "MAPPO"
    assert report["about"]["rules"] == "RPPBandit-v0"
    assert report["about"]["users"] == 60
    # The same command again: nothing is left to train, the result is the same.
    policy = weights(trained / "policy.safetensors")
    assert rpp(*TRAIN, "--run-dir", str(trained))[0] == 0
    assert weights(trained / "policy.safetensors") == policy
    assert json.loads((trained / "report.json").read_text()) == report


def test_a_run_is_played_and_evaluated_in_its_world(trained: Path, rpp: Any) -> None:
    code, out, err = rpp("play", str(trained))
    assert code == 0, err
    assert "RPPBandit-v0" in out
    evaluate = ("evaluate", str(trained), "--max-users", "40", "--budget", "1600")
    code, out, err = rpp(*evaluate)
    assert code == 0, err
    assert "`movieworld`, `RPPBandit-v0`" in out
    assert "40 users" in out
    assert "| first " in out
    code, out, err = rpp(*evaluate, "--train-users", "30", "--processes", "1")
    assert code == 0, err
    assert "observable reference" in out


def test_a_run_is_not_mixed_with_another(trained: Path, rpp: Any) -> None:
    code, _, err = rpp("train", "mappo", "--run-dir", str(trained), *SMALL)
    assert (code, "another world" in err) == (2, True)
    code, _, err = rpp(*TRAIN, "--run-dir", str(trained), "--epochs", "1")
    assert (code, "cannot be resumed with another config" in err) == (2, True)
    assert World.load(trained).rules == "RPPBandit-v0"


def test_a_run_restores_its_rewriter(rpp: Any, tmp_path: Path) -> None:
    code, _, err = rpp(*TRAIN, "--rewrite", "embedded", "--train-users", "30")
    assert (code, "leave out --train-users" in err) == (2, True)
    code, _, err = rpp(*TRAIN, "--rewrite", "embedded", "--run-dir", str(tmp_path))
    assert code == 0, err
    assert World.load(tmp_path).rewrite == "embedded"
    assert "rewritten by paraphraser-v0" in (tmp_path / "report.md").read_text()
    assert "info/rewritten" in (tmp_path / "progress.csv").read_text().splitlines()[0]
    code, out, err = rpp("play", str(tmp_path), "--user", "u00047")
    assert code == 0, err
    assert re.search(r"── prompt  \d rewritten, 0 rewrites refused", out)
    code, _, err = rpp("evaluate", str(tmp_path), "--max-users", "40", "--train-users", "30")
    assert (code, "--rewrite rewrites them" in err) == (2, True)
    code, _, err = rpp(*TRAIN, "--run-dir", str(tmp_path))
    assert (code, "another world" in err) == (2, True)


def test_seeds_make_runs_beside_each_other(rpp: Any, tmp_path: Path) -> None:
    code, out, err = rpp(*TRAIN, "--run-dir", str(tmp_path), "--seeds", "3", "4", "--final")
    assert code == 0, err
    assert {path.name for path in tmp_path.iterdir()} == {"seed-3", "seed-4", "learning_curve.png"}
    config = json.loads((tmp_path / "seed-4" / "config.json").read_text())
    assert config["seed"] == 4
    assert re.search(r"^seed 3: MAPPO: NDCG@10 ", out, re.MULTILINE)


def test_interrupted_training_states_how_to_resume(
    rpp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rpp_agents.trainers.mappo.train", stop)
    code, _, err = rpp(*TRAIN, "--run-dir", str(tmp_path))
    assert code == 130
    assert f"the same command resumes from the last checkpoint in {tmp_path}" in err
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is not finished: resume it"):
        console.find_policy(tmp_path)


@pytest.mark.slow
def test_the_demo_ends_with_its_gain(
    rpp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    save = plots.save
    monkeypatch.setattr(
        plots, "save", lambda figure, *more: drawn.append(figure) or save(figure, *more)
    )
    words = "demo --total-steps 2560 --train-users 40 --processes 1".split()
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "progress.csv").write_text("of an earlier demo\n")
    code, out, err = rpp(*words, "--out", str(tmp_path))
    assert code == 0, err
    for name in ("curve.png", "report.md", "report.json", "policy.safetensors"):
        assert (tmp_path / name).stat().st_size > 0
    last = out.splitlines()[-1]
    number = r"-?\d+\.\d{3}"
    # With so little nothing need be learned, nor the reference be good.
    assert re.fullmatch(rf"gain={number} \[{number}, {number}\]", last) or "no gain" in last
    for line in ("chance", "random prompt", "best fixed prompt", "MAPPO", "observable reference"):
        assert f"| {line} " in out
    assert drawn[-1].axes[0].get_ylabel() == "NDCG@10, mean over the steps"


def test_a_name_that_no_file_system_takes_ends_in_a_sentence(capsys) -> None:
    assert main(["play", "x" * 5000]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert len(shown) < 1500
