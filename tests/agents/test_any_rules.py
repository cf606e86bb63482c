"""The command plays every id: its own options, dataset and model; runs save and restore."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents import SOLVERS, TRAINERS
from rpp_agents.cli import main, parse
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.plan import Setting, Study
from rpp_agents.testing import check_rules
from rpp_agents.trainers import find_trainer
from rpp_agents.world import World
from rpp_env import Rankings, ppr, tabulate
from rpp_env.data import load_dataset, split_arrivals
from rpp_env.errors import BrokenContract, InvalidOption, TableMismatch
from rpp_env.recommenders.sasrec import Config, train
from rpp_env.rules import IDS, System, find_system
from tests.brought import PARTS, declare

pytestmark = pytest.mark.usefixtures("one_network")


class RandomOrder:
    """Ranks the candidates as they stand."""

    def rank(self, prompts: Any) -> Rankings:
        count, K = len(prompts.tasks), prompts.tasks.num_candidates
        return Rankings(np.tile(np.arange(K), (count, 1)), np.full(count, K))


SMALL = "--num-users 600 --num-items 200".split()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SASRec of the small world, trained in a second."""
    data = load_dataset("arrivals", num_users=600, num_items=200)
    config = Config(dim=16, blocks=1, max_length=20, rate=5e-3, batch=64, epochs=1)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    sasrec = train(split_arrivals(data).interactions(data), config, catalog=data.catalog_digest)
    sasrec.save(path)
    return path


@pytest.fixture
def words(checkpoint: Path) -> list[str]:
    return ["--rules", "PPR-v0", *SMALL, "--model", f"checkpoint:{checkpoint}"]


def world_of(*words: str) -> World:
    bound: Any = parse(["play", "random", *words])
    assert isinstance(bound, partial)
    world: World = bound.keywords["world"]
    return world


# ---- which options there are ----


@pytest.mark.parametrize("rules", IDS)
def test_each_id_has_its_own_options_and_defaults(rules: str) -> None:
    world = world_of("--rules", rules)
    system = IDS[rules]
    assert (world.rules, world.dataset, world.model) == (rules, system.dataset, system.model)
    assert world == World.of(rules)
    assert world_of(f"--rules={rules}", "--num-users", "7").options.num_users == 7


@pytest.mark.parametrize("rules", IDS)
def test_no_option_of_an_id_has_the_name_of_a_trainers_or_a_verbs(rules: str) -> None:
    own = {one.name for one in dataclasses.fields(World.of(rules).options)}
    others = {
        name: {one.name for one in dataclasses.fields(find_trainer(name).config())}
        for name in (*TRAINERS, *SOLVERS)
    } | {
        verb: {*inspect.signature(import_module(f"rpp_agents.commands.{verb}").run).parameters}
        for verb in ("play", "train", "evaluate", "diagnose", "pilot", "tabulate")
    }
    assert not {name: taken for name, of in others.items() if (taken := own & of)}


def test_an_id_refuses_the_options_of_another() -> None:
    for given in (["--codebook", "8"], ["--rules", "PPR-v0", "--rank-by", "logprobs"]):
        with pytest.raises(SystemExit):
            parse(["play", "random", *given])
    assert world_of("--rules", "PPR-v0", "--codebook", "8").options.codebook == 8
    assert world_of("--rank-by", "logprobs").options.rank_by == "logprobs"


def test_options_round_trip_through_the_command_line() -> None:
    made = world_of(
        *("--thinking", "<a>", "</a>", "[b]", "[/b]", "--model-options", '{"timeout": 3}'),
        *("--fractions", "0.5", "0.2", "0.3", "--candidates", "7", "--unfiltered", "True"),
    ).options
    assert made.thinking in [[("<a>", "</a>"), ("[b]", "[/b]")], (("<a>", "</a>"), ("[b]", "[/b]"))]
    assert (made.model_options, made.fractions) == ({"timeout": 3}, (0.5, 0.2, 0.3))
    assert (made.num_candidates, made.unfiltered) == (7, True)
    assert world_of("--rules", "PPR-v0", "--candidates", "None").options.num_candidates is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--rules", "PPR-v1"], "did you mean 'PPR-v0'"),
        (["--rules", "ppr"], "rules 'ppr' is not known"),
        (["--rules", "os:abort"], "must be an rpp_env.rules.System"),
        (["--rules", "nowhere:NAME"], "cannot import nowhere"),
        (["--rules", "PPR-v0", "--codebook", "1"], "codebook must lie in 2.."),
        (["--rules", "PPR-v0", "--codes", "2", "--codebook", "4"], "give one of"),
        (["--model-options", "[1]"], "model options are not a JSON object"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(
    given: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", "random", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


# ---- saved beside a run ----


def test_a_world_is_restored_as_it_was(tmp_path: Path) -> None:
    for given in (
        ["--rules", "PPR-v0", "--codebook", "8", "--profile", "age", "--shots", "3"],
        ["--rules", "PPRStream-v0", "--crop", "4"],
        ["--rules", "RPPLikelihood-v0", "--score", "mean"],
        ["--thinking", "<a>", "</a>", "--model-options", '{"timeout": 3}', "--book", "my.toml"],
    ):
        world = world_of(*given)
        world.save(tmp_path)
        again = World.load(tmp_path)
        assert json.loads(json.dumps(dataclasses.asdict(again))) == json.loads(
            json.dumps(dataclasses.asdict(world))
        )
        assert type(again.options) is type(world.options)


def test_options_of_another_id_in_a_world_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / World.FILE).write_text('{"rules": "RPP-v0", "codebook": 8}')
    assert main(["play", str(tmp_path)]) == 2
    assert "key 'codebook' is not known" in capsys.readouterr().err


def test_a_run_behind_other_options_is_not_taken_for_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    World.of("RPPBandit-v0").save(tmp_path)
    assert main(["play", "--split", "test", str(tmp_path)]) == 2
    assert "name the run first" in capsys.readouterr().err


# ---- played ----


def test_vectors_go_the_whole_way(words: list[str]) -> None:
    check_rules(*words[1:], tables=False)


@pytest.mark.slow
def test_a_codebook_works_with_every_command(words: list[str]) -> None:
    check_rules(*words[1:], "--codebook", "3", "--prefix", "2")


def test_a_stream_is_played_and_has_no_tables(words: list[str]) -> None:
    check_rules("PPRStream-v0", *words[2:], "--codebook", "4", tables=False)


def test_a_session_is_trained_evaluated_and_played(tmp_path: Path) -> None:
    """By the command; `check_rules` would search among all its prompts."""
    small = "--max-users 12 --budget 1600".split()
    words = ["--rules", "RPPSession-v0", "--num-users", "200", "--num-items", "120"]
    train = "--num-envs 12 --total-steps 48 --hidden 8 --evaluations 0".split()
    assert main(["train", "mappo", *words, *small, *train, "--run-dir", str(tmp_path)]) == 0
    assert main(["evaluate", str(tmp_path), *small]) == 0
    assert main(["play", str(tmp_path)]) == 0
    assert main(["tabulate", str(tmp_path / "t"), *words]) == 2


def test_vectors_cannot_be_played_by_hand(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", *words]) == 2
    assert "which cannot be typed" in capsys.readouterr().err


def test_a_codebook_is_played_by_hand(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["9\n", "3\n"])
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines, ""))
    assert main(["play", *words, "--codebook", "4"]) == 0
    out = capsys.readouterr().out
    assert "prefix_0 has no option '9': type 0 to 3" in out
    assert "1 of 1 steps" in out


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (["PPR-v0"], "1 vector before the history, 100 candidates"),
        (["PPR-v0", "--prefix", "2", "--shift"], "2 vectors before the history and 1 vector added"),
        (["PPR-v0", "--codebook", "4"], "1 vector before the history"),
        (["PPRStream-v0"], "no history: a new user"),
    ],
)
def test_a_step_with_vectors_renders_without_a_reply(
    rules: list[str],
    says: str,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The prompt is vectors and a history, the answer a ranking: no words, and 80 columns."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["play", "random", "--rules", *rules, *words[2:]]) == 0
    out = capsys.readouterr().out
    assert says in " ".join(out.split())  # lines are wrapped
    assert "ranking  from a recommender without replies" in out
    assert re.search(r"^1\. .+\n2\. .+", out, re.MULTILINE)
    for wrong in ("reply is empty", "tokens", "shown as number", "Prompts", "rung"):
        assert wrong not in out
    assert all(len(line) <= 80 and line == line.rstrip() for line in out.splitlines())


def test_a_cached_table_belongs_to_one_recommender(
    words: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    """Also where another one is written to the same place."""
    from rpp_env.recommenders.sasrec import SASRec

    path = tmp_path / "own.safetensors"
    sasrec = SASRec.load(checkpoint)
    sasrec.save(path)
    given = ["--rules", "PPR-v0", *SMALL, "--model", f"checkpoint:{path}", "--codebook", "4"]
    first = world_of(*given).tabulated("test", 6, processes=1)
    weights = dict(sasrec.weights)
    last = next(name for name in reversed(list(weights)) if name != "items.weight")
    weights[last] = weights[last] + 1
    SASRec(sasrec.config, weights, sasrec.catalog).save(path)
    second = world_of(*given).tabulated("test", 6, processes=1)
    assert first.table is not None
    assert second.table is not None
    live = world_of(*given).env("test", max_users=6)
    actions = live.actions.drawn(np.random.default_rng(0), (live.num_envs, 1))
    for env in (live, second):
        env.reset(seed=0)
    assert live.step(actions).orders.tolist() == second.step(actions).orders.tolist()


def test_parts_of_a_table_belong_to_one_recommender(
    words: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    """Two with the same codebook, of which the second would else find the first one's answers."""
    from rpp_env.recommenders.sasrec import SASRec

    live = world_of(*words, "--codebook", "4").env("test", max_users=3)
    tabulate(live, tmp_path / "t.rpptable")
    sasrec = SASRec.load(checkpoint)
    weights = {name: tensor * 2 for name, tensor in sasrec.weights.items()}
    other = live.remade(recommender=SASRec(sasrec.config, weights, sasrec.catalog))
    with pytest.raises(TableMismatch):
        tabulate(other, tmp_path / "t.rpptable")


# ---- benches and studies ----

BENCH = """
total_steps = 48
num_envs = 12
evaluations = 2
train_users = 16
test_users = 12
seeds = [0]
worlds = [101]
[[environments]]
name = "vectors"
rules = "PPR-v0"
options = { num_users = 600, num_items = 200 }
[[algorithms]]
label = "MAPPO"
trainer = "mappo"
"""
STUDY = """
budget = 60
points = 1
seeds = [0]
[[settings]]
name = "vectors"
draws = [41]
train_users = 6
validation_users = 3
test_users = 4
options = { rules = "PPR-v0", num_users = 600, num_items = 200 }
[[methods]]
label = "MAPPO"
method = "rpp"
config = { trainer = "mappo" }
[[methods]]
label = "LinUCB"
method = "linucb"
"""


def test_plans_take_the_dataset_and_the_recommender_of_their_rules() -> None:
    study = Study.parse(tomllib.loads(STUDY), "s")
    bench = Bench.parse(tomllib.loads(BENCH), "b")
    assert [(plan.settings[0].dataset, plan.settings[0].model) for plan in (study, bench)] == [
        ("arrivals", "")
    ] * 2
    for text, name in ((STUDY, "s"), (BENCH, "b")):
        form: Any = Study if name == "s" else Bench
        sentences = form.parse(tomllib.loads(text.replace("PPR-v0", "RPPBandit-v0")), name)
        assert (sentences.settings[0].dataset, sentences.settings[0].model) == (
            "movieworld",
            "embedded",
        )
        with pytest.raises(InvalidOption, match="did you mean 'PPR-v0'"):
            form.parse(tomllib.loads(text.replace("PPR-v0", "PPR-v1")), name)


def test_a_bench_of_infinitely_many_prompts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ppr, "_pretrained", lambda *_: RandomOrder())
    (tmp_path / "b.toml").write_text(BENCH)
    words = ["bench", str(tmp_path / "b.toml"), "--out", str(tmp_path / "out"), "--processes", "1"]
    assert main(words) == 2
    assert "VectorPrompts has infinitely many" in capsys.readouterr().err


# ---- ids from outside ----

OWN = '''

from dataclasses import replace

from rpp_env import Episode, factory
from rpp_env.rules import System
from rpp_env.vectors import CodebookPrompts, PrefixPrompts
from rpp_env.prompting import Rankings


@dataclass(frozen=True, kw_only=True)
class Options(factory.Options):
    turns: int = 3
    """How many turns there are to choose among."""


class Turning:
    reads = PrefixPrompts

    def rank(self, prompts):
        K = prompts.tasks.num_candidates
        turn = np.rint(prompts.prefix.sum(axis=(1, 2))).astype(int)
        return Rankings((np.arange(K) + turn[:, None]) % K, np.full(len(turn), K))


def turning():
    return Turning()


def assemble(dataset, model, split, max_users, max_cycles, options):
    episode = Episode("Turning-v0", max_cycles or 1)
    parts = factory.assemble(
        dataset, model, split, episode, max_users, None, options, sentences=False, kind=Options
    )
    turns = np.arange(Options(**options).turns, dtype=float)[:, None]
    return replace(parts, space=CodebookPrompts(turns, ("left", "right")))


TURNING = System(
    "elsewhere:assemble", "elsewhere:Options", "elsewhere:tiny_world", "elsewhere:turning"
)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere.py").write_text(PARTS + OWN)
    declare(tmp_path, "rpp_env.rules", **{"Turning-v0": "elsewhere:TURNING"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(sys.modules, "elsewhere", None)
    monkeypatch.delitem(sys.modules, "elsewhere")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("own")
def test_an_id_from_outside_works_with_every_command() -> None:
    for rules in ("Turning-v0", "elsewhere:TURNING"):
        assert isinstance(find_system(rules), System)
        assert world_of("--rules", rules, "--turns", "4").options.turns == 4
    check_rules("elsewhere:TURNING", "--num-users", "200", "--turns", "3")


def test_two_options_of_one_name_are_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (own / "elsewhere.py").read_text().replace("turns: int", "max_users: int")
    (own / "elsewhere.py").write_text(code)
    assert main(["train", "mappo", "--rules", "elsewhere:TURNING"]) == 2
    assert "both have an option --max-users" in capsys.readouterr().err


@pytest.mark.parametrize(("episode", "steps"), [("", 1), (', episode=Episode("Turning-v0", 3)', 3)])
def test_a_study_reads_the_steps_of_an_id_from_outside(own: Path, episode: str, steps: int) -> None:
    code = (own / "elsewhere.py").read_text()
    assert '"elsewhere:turning"\n)' in code
    code = code.replace('"elsewhere:turning"\n)', f'"elsewhere:turning"{episode}\n)')
    (own / "elsewhere.py").write_text(code)
    for rules in ("Turning-v0", "elsewhere:TURNING"):
        assert Setting(name="s", options={"rules": rules}).steps == steps
        assert Setting(name="s", options={"rules": rules, "max_cycles": 2}).steps == 2


def test_the_episode_of_a_system_is_one() -> None:
    with pytest.raises(InvalidOption, match="episode"):
        System("a:b", "a:C", "data", "model", episode=3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("own")
def test_a_misspelt_id_from_outside_is_suggested() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'Turning-v0'"):
        find_system("Turning-v1")


def test_an_id_in_a_file_is_code_that_must_be_confirmed(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "run").mkdir()
    (own / "run" / World.FILE).write_text('{"rules": "elsewhere:TURNING"}')
    assert main(["play", str(own / "run")]) == 2
    assert "--trust elsewhere:TURNING" in capsys.readouterr().err
    assert main(["train", "mappo", "--run-dir", str(own / "run")]) == 2
    assert "asks for what lies outside it: --rules elsewhere:TURNING" in capsys.readouterr().err
    assert "elsewhere" not in sys.modules


@pytest.mark.usefixtures("own")
def test_the_check_fails_where_the_command_does(words: list[str]) -> None:
    with pytest.raises(BrokenContract, match="ended in 2: rpp-env: codebook=400"):
        check_rules(*words[1:], "--codebook", "400")
    with pytest.raises(BrokenContract, match=r"tabulate .* must be refused in one line"):
        check_rules("elsewhere:TURNING", "--num-users", "200", tables=False)
