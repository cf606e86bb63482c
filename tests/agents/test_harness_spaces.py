"""The harness on other prompts than sentences: codebooks, tokens and vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.jobs import refusal
from rpp_agents.experiments.methods import METHODS, method
from rpp_agents.experiments.methods.fixed import constant
from rpp_agents.experiments.plan import SPLITS, Study
from rpp_agents.experiments.problem import Counted, Problem, Users, remade
from rpp_agents.experiments.report import write_report
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.run import make_tables, replay, run_all
from rpp_env import Rankings, RPPEnv, tabulate
from rpp_env.episode import Episode, Feedback
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.table import RewardTable
from rpp_env.tokens import SlotPrompts, TokenPrompts
from rpp_env.vectors import CodebookPrompts, PrefixPrompts, VectorPrompts

WORDS = ("manual", "grips", "gepa", "capo", "evoprompt", "opro", "llmrank")
FINITE = [name for name in METHODS if name not in (*WORDS, "rpp")]
RESPONSES = ("posterior", "keep_best", "explore_commit", "step_posterior")
"""Methods that read users' responses; they play episodes and choose no cells."""
CONFIG: dict[str, dict[str, Any]] = {
    "groups": {"groups": 2},
    "step_posterior": {"prompts": 4},
    "supervised": {"members": 1, "components": 4},
    "neural_bandit": {"members": 2, "batch": 16},
    "linucb": {"batch": 16},
}


class Leaning:
    """Ranks candidates by their places, turned by the sum of what the prompt holds."""

    def __init__(self, reads: type) -> None:
        self.reads = reads

    def rank(self, prompts: Any) -> Rankings:
        tasks = prompts.tasks
        held = prompts.ids if isinstance(prompts, SlotPrompts) else prompts.prefix
        turn = np.rint(np.asarray(held).reshape(len(tasks), -1).sum(axis=1)).astype(int)
        K = tasks.num_candidates
        order = (np.arange(K) + turn[:, None]) % K
        return Rankings(order, np.full(len(tasks), K))


def made(kind: str, split: str, users: int, feedback: Feedback = "none") -> Users:
    space: Any = {
        "codebook": CodebookPrompts(np.arange(12.0).reshape(6, 2), ("a", "b")),
        "one": CodebookPrompts(np.arange(12.0).reshape(6, 2), ("a",)),
        "many": TokenPrompts(np.arange(101), np.eye(101), agents=("a", "b", "c")),
        "tokens": TokenPrompts(np.arange(5), np.eye(5), agents=("slot_0", "slot_1", "slot_2")),
        "vectors": VectorPrompts(np.eye(2), ("a",)),
    }[kind]
    reads = SlotPrompts if kind in ("tokens", "many") else PrefixPrompts
    options: dict[str, Any] = {"num_users": 400, "num_items": 100, "num_candidates": 10}
    options |= {"space": space, "max_users": users}
    options["rules"] = Episode("Test-v0", 2, feedback=feedback)
    live = RPPEnv.make("movieworld", Leaning(reads), split, **options)
    if kind in ("vectors", "many"):
        return Users(live, live)
    return Users(_replayed(live), live)


def _replayed(live: RPPEnv) -> RPPEnv:
    return RPPEnv(
        live.tasks,
        rules=live.episode,
        space=live.space,
        embeddings=live.embeddings,
        table=tabulate(live),
    )


@pytest.fixture(scope="module", params=["codebook", "one", "tokens"])
def problem(request: pytest.FixtureRequest) -> Problem:
    sizes = {"train": 24, "validation": 4, "test": 16}
    return Problem(**{split: made(request.param, split, n) for split, n in sizes.items()})


def fit(problem: Problem, name: str, budget: int = 400) -> Any:
    config = CONFIG.get(name, {})
    return method(name)(problem, seed=0, budget=budget, watch=lambda *_: None, **config)


@pytest.mark.parametrize("name", [name for name in FINITE if name not in RESPONSES])
def test_every_method_that_is_not_about_sentences_plays_any_finite_space(
    problem: Problem, name: str
) -> None:
    fresh = Problem(problem.train.uncounted(), problem.validation, problem.test.uncounted())
    played = fit(fresh, name).play(fresh.test, 0)
    assert played.cells is not None
    assert played.cells.max() < fresh.test.cells
    assert all(np.isfinite(column).all() for column in played.scores.values())
    assert fresh.test.ledger.calls == played.ranks.size
    # What it is paid is what its cells are paid, where the candidates keep their order.
    if name not in ("merged_fixed", "merged_random"):
        paid = np.take_along_axis(fresh.test.rewards, played.cells, axis=1)
        np.testing.assert_allclose([call.rewards for call in played.calls], paid.T, atol=1e-6)


@pytest.mark.parametrize("reads_order", [True, False])
def test_other_orders_of_the_candidates_are_shown_only_to_who_reads_them(
    reads_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, asked, rank = made("codebook", "test", 16), [], Leaning.rank
    monkeypatch.setattr(Leaning, "reads_order", reads_order, raising=False)
    monkeypatch.setattr(Leaning, "rank", lambda self, p: asked.append(p) or rank(self, p))
    played = constant(7, 5, merge=True).play(users, 0)
    assert len(asked) == (4 if reads_order else 0)  # else from the table
    assert (users.ledger.calls, users.ledger.unique) == (5 * 16, (5 if reads_order else 1) * 16)
    assert (played.orders == played.orders[:, :1]).all() != reads_order


@pytest.mark.parametrize("reads_order", [True, False])
def test_a_table_in_place_of_the_model_plays_other_orders_if_nobody_reads_them(
    reads_order: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leaning, "reads_order", reads_order, raising=False)
    live = made("codebook", "test", 16)
    assert live.env.table is not None
    live.env.table.save(tmp_path / "t.rpptable")
    table = RewardTable.load(tmp_path / "t.rpptable")
    alone = Users(*[remade(live.env, table=table)] * 2)
    assert table.reads_order is reads_order
    if reads_order:
        with pytest.raises(InvalidOption, match="show the candidates in another order"):
            constant(7, 5, merge=True).play(alone, 0)
    else:
        played = constant(7, 5, merge=True).play(alone, 0)
        assert (played.orders == constant(7, 5, merge=True).play(live, 0).orders).all()


@pytest.mark.parametrize("kind", ["codebook", "one", "tokens"])
@pytest.mark.parametrize("name", RESPONSES)
def test_methods_that_read_responses_play_any_finite_space(kind: str, name: str) -> None:
    users = {split: made(kind, split, 16, feedback="reward") for split in SPLITS}
    played = fit(Problem(**users), name).play(users["test"], 0)
    assert played.cells is not None
    assert played.cells.max() < users["test"].cells
    paid = np.take_along_axis(users["test"].rewards, played.cells, axis=1)
    np.testing.assert_allclose([call.rewards for call in played.calls], paid.T, atol=1e-6)


@pytest.mark.parametrize("name", RESPONSES)
def test_methods_that_read_responses_refuse_episodes_that_show_none(name: str) -> None:
    users = made("codebook", "train", 16)
    with pytest.raises(InvalidOption, match="Test-v0 shows no response here"):
        fit(Problem(users, users, users), name)


@pytest.mark.parametrize("name", ["enumerate_all", "merged_best", "supervised"])
def test_the_best_prompt_of_a_codebook_is_found(problem: Problem, name: str) -> None:
    """All answers follow from one number of the prompt, so one prompt is best for a place."""
    means = problem.train.rewards.mean(axis=0)
    played = fit(problem, name).play(problem.train.uncounted(), 0)
    assert played.scores["score"].mean() >= means.max() - 1e-6


def test_playing_is_counted_by_cells(problem: Problem) -> None:
    users = problem.train.uncounted()
    env = Counted(users.environment(num_envs=len(users)), users)
    env.reset(seed=0, options={"users": users.rows})
    actions = np.ones((len(users), len(env.agents)), np.int64)
    env.step(actions)
    env.step(actions)
    assert (users.ledger.calls, users.ledger.unique) == (2 * len(users), len(users))
    users.ask(users.rows, np.full(len(users), users.cell(*actions[0])))
    assert users.ledger.unique == len(users)


@pytest.mark.parametrize("name", [name for name in FINITE if name != "random"])
def test_infinitely_many_prompts_are_refused_with_a_sentence(name: str) -> None:
    users = made("vectors", "train", 16)
    with pytest.raises(InvalidOption, match="VectorPrompts has infinitely many"):
        fit(Problem(users, users, users), name)
    assert users.ledger.calls == 0


@pytest.mark.parametrize("name", FINITE)
def test_more_prompts_than_can_be_looked_at_are_refused_with_a_sentence(name: str) -> None:
    users = made("many", "train", 16)
    with pytest.raises(InvalidOption, match="TokenPrompts has 1,030,301, which is more than"):
        fit(Problem(users, users, users), name)


@pytest.mark.parametrize("kind", ["codebook", "vectors"])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("manual", {}),
        ("llmrank", {}),
        ("grips", {}),
        ("gepa", {}),
        ("capo", {}),
        ("evoprompt", {}),
        ("opro", {}),
        ("rpp", {"only": "role_playing"}),
        ("rpp", {"rewrite": "embedded"}),
    ],
)
def test_methods_about_sentences_refuse_other_prompts(
    kind: str, name: str, config: dict[str, Any]
) -> None:
    users = made(kind, "train", 4)
    with pytest.raises(InvalidOption, match="is for prompts of sentences, and those of"):
        method(name)(
            Problem(users, users, users), seed=0, budget=9, watch=lambda *_: None, **config
        )


@pytest.mark.parametrize("kind", ["codebook", "vectors"])
def test_a_trainer_plays_any_space(kind: str) -> None:
    problem = Problem(*(made(kind, split, 16) for split in ("train", "validation", "test")))
    config = {"num_envs": 16, "options": {"hidden": [8]}}
    player = method("rpp")(problem, seed=0, budget=64, watch=lambda *_: None, **config)
    played = player.play(problem.test, 0)
    assert played.ranks.shape == (16, 2)
    assert (played.cells is None) == (kind == "vectors")
    ledger = problem.train.ledger
    assert ledger.calls >= 64
    assert 0 < ledger.unique <= ledger.calls


# ---- the id PPR-v0, with a codebook ----

SMALL = {"num_users": 600, "num_items": 200, "num_candidates": 20}
PPR = {
    "name": "cold",
    "dataset": "arrivals",
    "model": "",
    "draws": [0, 1],
    "train_users": 12,
    "validation_users": 3,
    "test_users": 8,
    "options": {"rules": "PPR-v0", "codebook": 4, "shots": "zero", **SMALL},
}
METHODS_OF_ALL = [
    {"label": "Random", "method": "random"},
    {"label": "fixed", "method": "enumerate_all"},
    {"label": "LinUCB", "method": "linucb"},
    {"label": "supervised", "method": "supervised", "config": {"members": 1}},
    {"label": "MAPPO", "method": "rpp", "config": {"num_envs": 12, "options": {"hidden": [8]}}},
]


PLANS = ("seeds", "budget", "methods", "refusals")


def study(**changes: Any) -> Study:
    content: dict[str, Any] = {"seeds": [0, 1], "budget": 40, "points": 2}
    content["methods"] = METHODS_OF_ALL
    content |= {key: changes.pop(key) for key in PLANS if key in changes}
    return Study.parse(content | {"settings": [PPR | changes]}, "cold")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_study_runs_and_reports_ppr(tmp_path: Path) -> None:
    plan = study()
    setting = plan.settings[0]
    assert (setting.steps, setting.candidates) == (1, 20)
    jobs = plan.runs()
    make_tables(jobs, tmp_path)
    assert [outcome.error for outcome in run_all(jobs, tmp_path)] == [""] * len(jobs)
    report = write_report(plan, tmp_path).read_text()
    assert "| LinUCB |" in report
    results = Results.read(plan, tmp_path)
    found = results.runs(setting, "fixed")[0][1]
    assert list(found["choices"]["shares"]) == ["prefix_0"]
    assert len(found["choices"]["shares"]["prefix_0"][0]) == 4
    page = (tmp_path / "index.html").read_text()
    assert "option 4" in page


def test_several_tasks_of_a_user_are_one_number(tmp_path: Path) -> None:
    """Intervals are over users: the clicks of one are not as many users."""
    options = {"rules": "PPR-v0", "codebook": 2, "shots": "joint", **SMALL}
    plan = study(options=options, test_users=5)
    cells = plan.runs(["cold/Random"])[:1]
    make_tables(cells, tmp_path)
    (outcome,) = run_all(cells, tmp_path)
    assert outcome.error == ""
    assert outcome.found is not None
    assert len(outcome.found["scores"]["score"]) == 5
    assert len(outcome.found["cells"]) == 5
    table = cells[0].tables[2]
    tasks = replay(table, tmp_path).tasks
    assert len(tasks) > 5
    assert (tmp_path / "users").is_dir()


def test_recommenders_are_not_fitted_on_targets() -> None:
    pop = {"label": "Pop", "method": "recommender", "config": {"name": "pop"}}
    with pytest.raises(InvalidOption, match="'Pop' would be fitted on clicks that are targets"):
        Study.parse({"settings": [PPR], "methods": [pop]}, "x")
    Study.parse({"settings": [{"name": "movieworld"}], "methods": [pop]}, "x")
    likelihood = {"name": "s", "model": "", "options": {"rules": "RPPLikelihood-v0"}}
    Study.parse({"settings": [likelihood], "methods": [pop]}, "x")


def test_a_bench_plans_ppr() -> None:
    content = {
        "total_steps": 64,
        "seeds": [0],
        "worlds": [0],
        "environments": [
            {
                "name": "cold",
                "dataset": "arrivals",
                "rules": "PPR-v0",
                "options": {"codebook": 4},
            }
        ],
        "algorithms": [{"label": "MAPPO", "trainer": "mappo"}],
    }
    bench = Bench.parse(content, "cold")
    (cell,) = bench.runs()
    assert cell.tables[0].shown is None
    assert cell.tables[0].problem["rules"] == "PPR-v0"
    assert cell.setting.model == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rules": "PPR-v1"}, "'PPR-v1' is not known; did you mean 'PPR-v0'"),
        ({"rules": "PPR-v0", "negatives": "retrieved"}, "negatives"),
        ({"rules": "PPR-v0", "book": "movies"}, "option 'book' is not known"),
        ({"rules": "PPR-v0", "task_seed": 3}, "option 'task_seed' is not known"),
        ({"codebook": 4}, "option 'codebook' is not known"),
    ],
)
def test_mistakes_get_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        study(options=options)


def test_the_embedded_model_reads_no_vectors() -> None:
    with pytest.raises(InvalidOption, match="the embedded model reads sentences"):
        study(model="embedded")


def test_a_study_of_infinitely_many_prompts_is_played_live(tmp_path: Path) -> None:
    plan = study(options={"rules": "PPR-v0", "shots": "zero", **SMALL}, refusals=True)
    jobs = plan.jobs(plan.runs())
    assert make_tables(jobs, tmp_path) == []
    outcomes = {outcome.job.method.label: outcome for outcome in run_all(jobs, tmp_path)}
    assert [label for label, one in outcomes.items() if one.found] == ["Random", "MAPPO"]
    assert not any(one.error for one in outcomes.values())
    assert "VectorPrompts has infinitely many" in outcomes["fixed"].refusal
    report = write_report(plan, tmp_path).read_text()
    assert "| MAPPO |" in report
    assert "**Not complete" not in report


def test_what_a_method_cannot_choose_is_a_sentence_of_the_report(tmp_path: Path) -> None:
    options = {"rules": "PPR-v0", "shots": "zero", **SMALL}
    runs = study(options=options).runs(["cold/LinUCB"])[:1]
    (failed,) = run_all(runs, tmp_path)  # unless the study expects it
    assert "InvalidOption: a bandit chooses" in failed.error
    plan = study(options=options, refusals=True)
    runs = plan.runs(["cold/Random", "cold/LinUCB"])
    list(run_all(runs, tmp_path))
    text = " ".join(write_report(plan, tmp_path).read_text().split())
    assert "| LinUCB | cold | a bandit chooses one of a finite number of prompts" in text
    # What was not run is not refused, and a run that succeeds is no longer refused.
    assert "**Not complete: 4 of 10 runs.**" in text
    reason = tmp_path / runs[1].folder / "s0.refused.txt"
    assert refusal(runs[1], tmp_path)
    (tmp_path / runs[0].folder / "s0.refused.txt").write_text("once")
    (tmp_path / runs[0].file).unlink()
    list(run_all(runs[:1], tmp_path))
    assert refusal(runs[0], tmp_path) == ""
    reason.write_bytes(b"\xff")
    with pytest.raises(InvalidData, match="holds no reason"):
        refusal(runs[1], tmp_path)


def test_an_unexpected_error_of_a_method_is_a_failure_and_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr("rpp_agents.experiments.run.method", lambda _: broken)
    runs = study().runs(["cold/Random"])[:1]
    make_tables(runs, tmp_path)
    (outcome,) = run_all(runs, tmp_path)
    assert "ValueError: broken" in outcome.error
    assert not outcome.refusal


STREAMS: list[dict[str, Any]] = [
    {"dataset": "arrivals", "options": {"rules": "PPRStream-v0", "codebook": 4, **SMALL}},
    {"dataset": "arrivals", "options": {"rules": "PPRStream-v0", **SMALL}},
    {"dataset": "movieworld-drift", "options": {"rules": "RPPSession-v0", "num_users": 300}},
    {"dataset": "movieworld", "options": {"rules": "RPPPaper-v0", "num_users": 300}},
]


@pytest.mark.slow
@pytest.mark.parametrize("which", STREAMS, ids=lambda one: one["options"]["rules"])
def test_episodes_that_no_table_holds_are_played_whole(
    which: dict[str, Any], tmp_path: Path
) -> None:
    small: dict[str, Any] = {"hidden": [8]}
    methods = [
        {"label": "Random", "method": "random"},
        {"label": "fixed", "method": "enumerate"},
        {"label": "LinUCB", "method": "linucb"},
        {"label": "MAPPO", "method": "rpp", "config": {"num_envs": 4, "options": small}},
        {
            "label": "recurrent",
            "method": "rpp",
            "config": {"num_envs": 4, "options": small | {"memory": 4}},
        },
    ]
    plan = study(methods=methods, budget=240, seeds=[0], refusals=True, **which)
    (setting,) = plan.settings
    jobs = plan.jobs(plan.runs())
    assert make_tables(jobs, tmp_path) == []
    outcomes = {outcome.job.method.label: outcome for outcome in run_all(jobs, tmp_path)}
    assert not any(one.error for one in outcomes.values())
    refused = {label for label, one in outcomes.items() if one.refusal}
    infinite = setting.options["rules"] == "PPRStream-v0" and "codebook" not in setting.options
    assert refused == {"LinUCB", *(["fixed"] if infinite else [])}
    for label, outcome in outcomes.items():
        if outcome.found is None:
            continue
        assert outcome.found["testing"]["calls"] == setting.steps
        scores = outcome.found["scores"]
        if not setting.episode.one_task:  # lists for other items are not merged
            assert scores["merged"] == scores["score"]
        spent = outcome.found["training"]
        assert spent["calls"] <= 240
        assert 0 < spent["unique"] <= spent["calls"] or label == "Random"
    report = write_report(plan, tmp_path).read_text()
    assert f"{setting.dataset}, {setting.recommender} (generate)" in report
    trained = [outcomes[label].found for label in ("MAPPO", "recurrent")]
    assert [one["training"]["calls"] for one in trained if one] == [240, 240]


def test_a_bench_still_refuses_what_no_table_holds() -> None:
    environment = {"name": "stream", "dataset": "arrivals", "rules": "PPRStream-v0"}
    content: dict[str, Any] = {"total_steps": 64, "seeds": [0], "worlds": [0]}
    content |= {"environments": [environment], "algorithms": [{"label": "A", "trainer": "mappo"}]}
    with pytest.raises(InvalidOption, match="PPRStream-v0 asks for another item at every step"):
        Bench.parse(content, "x")
