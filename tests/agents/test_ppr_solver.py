"""PPR's solver: trained weights, frozen weights, and learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents import load_policy
from rpp_agents.cli import main
from rpp_agents.recommenders.base import ranks_by
from rpp_agents.solvers.ppr import Config, PromptPolicy, Solver, _info_nce, train, tune
from rpp_agents.trainers import find_trainer, trainer_names
from rpp_env import Rankings, RPPEnv, evaluate
from rpp_env.data import TaskSet, load_dataset, split_arrivals
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.recommenders import sasrec
from rpp_env.recommenders.sasrec import SASRec
from rpp_env.vectors import PrefixPrompts

SIZE: dict[str, Any] = {"num_users": 2400, "num_items": 200}
SHORT = Config(total_steps=512, batch=64, evaluations=1, eval_episodes=32, tensorboard=False)


@pytest.fixture(scope="module")
def model() -> SASRec:
    data = load_dataset("arrivals", **SIZE)
    config = sasrec.Config(blocks=1, loss="cross_entropy", rate=3e-3, epochs=4)
    histories = split_arrivals(data, cold=0.6).interactions(data)
    return sasrec.train(histories, config, catalog=data.catalog_digest)


def made(model: Any, split: str = "train", **options: Any) -> RPPEnv:
    chosen = {"num_envs": 64, "seed": 0, "cold": 0.6, "shots": "zero", **SIZE, **options}
    return RPPEnv.make(rules="PPR-v0", model=model, split=split, **chosen)


# -------------------------------------------------------------------------------- what it trains


@pytest.mark.parametrize("mode", ["light", "full", "fine-tune", "pre-train"])
@pytest.mark.parametrize("shift", [True, False])
def test_only_full_and_fine_tune_change_the_recommender(
    model: SASRec, mode: Any, shift: bool
) -> None:
    before = {name: tensor.clone() for name, tensor in model.weights.items()}
    env = made(model, shift=True, shots="joint")
    solver = Solver(env, SHORT, mode=mode, shift=shift)
    begun = {name: x.clone() for name, x in solver.networks.state_dict().items()}
    for _ in range(3):
        solver.iterate(0.0)
    assert all(torch.equal(model.weights[name], before[name]) for name in before)
    assert not any(tensor.requires_grad for tensor in model.weights.values())
    own = solver.recommender
    moved = {name for name in before if not torch.equal(own.weights[name], before[name])}
    assert bool(moved) == (mode in ("full", "fine-tune"))
    assert (own is model) == (mode in ("light", "pre-train"))
    after = solver.networks.state_dict()
    learned = {
        name.partition(".")[0] for name in begun if not torch.equal(begun[name], after[name])
    }
    wanted = {"generator"} if mode in ("light", "full") else set()
    assert learned == wanted | ({"added"} if shift and mode != "pre-train" else set())


def test_in_light_mode_every_frozen_weight_keeps_its_bits(model: SASRec) -> None:
    before = {name: tensor.numpy().tobytes() for name, tensor in model.weights.items()}
    env = made(model, shift=True)
    tune(env, made(model, "validation").tasks, SHORT, mode="light", patience=2)
    train(env, SHORT, progress=False)
    assert {name: tensor.numpy().tobytes() for name, tensor in model.weights.items()} == before


def test_terms_can_be_switched_off(model: SASRec) -> None:
    env = made(model, shift=True, shots="joint")
    tasks = env.tasks
    none = model.scores(PrefixPrompts(None, tasks)).numpy()
    assert np.array_equal(Solver(env, SHORT, mode="pre-train").scores(tasks), none)
    for prompt, shift in ((True, False), (False, True), (True, True)):
        solver = Solver(env, SHORT, prompt=prompt, shift=shift)
        asked = solver.prompts(tasks, solver.hot)
        assert (asked.prefix is not None, asked.shift is not None) == (prompt, shift)
        assert not np.array_equal(solver.scores(tasks), none)
    with pytest.raises(InvalidOption, match="turn one of them on"):
        Solver(made(model), SHORT, prompt=False)


@pytest.mark.slow
def test_played_prompts_equal_scored_prompts(model: SASRec) -> None:
    """Its policy, played in the environment, ranks as the solver itself does."""
    for options in ({}, {"shift": True}, {"agents": "fields"}, {"codes": 8}, {"prefix": 2}):
        env = made(model, shots="joint", **options)
        solver = Solver(env, SHORT)
        for _ in range(5):
            solver.iterate(0.0)
        observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
        actions, _ = solver.policy.act(observations)
        assert actions.shape == (len(env.tasks), len(env.agents), env.action_spaces[0].shape[0])
        order = np.argsort(-solver.scores(env.tasks), axis=1, kind="stable")
        assert np.mean(env.step(actions).orders == order) > 0.995  # sums differ in their last bits


# ------------------------------------------------------------------------------------ its losses


def test_the_contrastive_loss_is_info_nce() -> None:
    rng = torch.Generator().manual_seed(0)
    user, view = torch.randn(5, 8, generator=rng), torch.randn(5, 8, generator=rng)
    wanted = 0.0
    for i in range(5):
        alike = torch.nn.functional.cosine_similarity(user[i : i + 1], view) / 0.5
        wanted -= float(alike[i] - alike.exp().sum().log()) / 5
    assert float(_info_nce(user, view, torch.arange(5), 0.5)) == pytest.approx(wanted, rel=1e-5)
    # The other task of the same user is no negative.
    same = _info_nce(user, view, torch.tensor([0, 0, 1, 2, 3]), 0.5)
    assert float(same) < wanted


def test_gradient_calls_count_augmented_users(model: SASRec) -> None:
    for contrastive, prompt, calls in ((0.0, True, 64), (0.1, True, 192), (0.1, False, 128)):
        config = Config(batch=64, contrastive=contrastive)
        solver = Solver(made(model, shift=True), config, prompt=prompt)
        assert solver.iterate(0.0)["info/gradient_calls"] == calls


def test_the_latest_item_is_never_masked(model: SASRec) -> None:
    env = made(model, shots="few")
    solver = Solver(env, Config(masked=0.99))
    rows = np.arange(50)
    seen = torch.from_numpy(env.tasks.padded_history(9, rows).astype(np.int64))
    view, other = solver._views(
        seen, solver.hot[rows], solver._decoded(solver.networks(solver.hot[rows]))[0]
    )
    alone = seen.clone()
    alone[:, :-1] = -1
    wanted = model.encode(alone, solver._decoded(solver.networks(solver.hot[rows]))[0])
    assert torch.isclose(view, wanted, atol=1e-5).all(1).float().mean() > 0.8
    assert not torch.equal(view, other)


def test_embeddings_begin_with_items(model: SASRec) -> None:
    env = made(model)
    solver = Solver(env, Config(initial="items"))
    men = env.tasks.dataset.profiles.codes[env.tasks.users, 0] == 1
    mean = model.embed(torch.from_numpy(env.tasks.targets[men].astype(np.int64))).mean(0)
    assert torch.allclose(solver.networks.generator.tables[0], mean, atol=1e-4)
    with pytest.raises(InvalidOption, match="hidden=64"):
        Solver(env, Config(initial="items", hidden=32))


# ------------------------------------------------------------------------------- as a trainer


def test_it_is_a_trainer(model: SASRec, tmp_path: Path) -> None:
    assert "ppr" in trainer_names()
    found = find_trainer("ppr")
    assert found.config is Config
    env, held_out = made(model), made(model, "validation")
    policy = found.train(env, SHORT, run_dir=tmp_path, eval_env=held_out, progress=False)
    kept = load_policy(tmp_path / "policy.safetensors")
    assert isinstance(kept, PromptPolicy)
    observations, _ = held_out.reset(seed=0)
    assert np.array_equal(kept.act(observations)[0], policy.act(observations)[0])
    report = evaluate(kept, held_out, baselines=("random",), name="PPR")
    assert "PPR: NDCG@10" in report.verdict
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert rows[0].count("gradient_calls")


def test_a_stopped_run_ends_with_the_same_bits(model: SASRec, tmp_path: Path) -> None:
    config = Config(total_steps=640, batch=64, checkpoint_every=2, evaluations=0, tensorboard=False)
    whole = train(made(model), config, progress=False)

    def stop(row: Any, policy: Any) -> None:
        if row["steps"] >= 320:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made(model), config, run_dir=tmp_path, callbacks=[stop], progress=False)
    again = train(made(model), config, run_dir=tmp_path, resume=True, progress=False)
    for name, weight in whole.networks.state_dict().items():
        assert torch.equal(weight, again.networks.state_dict()[name]), name
    other = train(made(model), Config(**{**vars(config), "seed": 1}), progress=False)
    assert not torch.equal(other.networks.generator.tables, whole.networks.generator.tables)


def test_it_learns(model: SASRec) -> None:
    env, held_out = made(model), made(model, "test")
    config = Config(total_steps=40_000, learning_rate=3e-3)
    found = tune(env, made(model, "validation").tasks, config, patience=20)
    tasks = held_out.tasks
    first = Solver(env, config)

    def score(solver: Solver, profiles: Any = None) -> np.ndarray[Any, Any]:
        ranks = ranks_by(solver.scores(tasks, profiles), tasks)
        return np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)

    better = score(found.solver) - score(first)
    assert better.mean() > 2 * better.std() / len(better) ** 0.5
    shuffled = tasks.dataset.profiles.shuffled(tasks.users)
    assert score(found.solver).mean() > score(found.solver, shuffled).mean()


# ------------------------------------------------------------------------------------ bad input


class Silent:
    reads = PrefixPrompts

    def rank(self, prompts: PrefixPrompts) -> Rankings:
        count, width = len(prompts), prompts.tasks.num_candidates
        return Rankings(np.tile(np.arange(width), (count, 1)), np.zeros(count, np.int64))


def test_unreadable_environments_are_refused(model: SASRec, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="gradients of a SASRec"):
        Solver(made(Silent()), SHORT)
    with pytest.raises(InvalidOption, match="CodebookPrompts"):
        Solver(made(model, codebook=3), SHORT)
    with pytest.raises(InvalidOption, match="shows no profile"):
        Solver(made(model, profile=()), SHORT)
    with pytest.raises(InvalidOption, match="columns of the profile"):
        Solver(made(model, profile=("age",)), SHORT)
    assert Solver(made(model, profile=()), Config(constant=True)).sizes == ()
    solver = Solver(made(model), SHORT)
    other: TaskSet = RPPEnv.make(
        rules="PPR-v0", split="test", num_users=900, num_items=160, shots="zero", model=Silent()
    ).tasks
    with pytest.raises(InvalidData, match="200 items"):
        solver.scores(other)
    solver.policy.save(tmp_path / "p.safetensors")
    with pytest.raises(InvalidOption, match="another shape"):
        load_policy(tmp_path / "p.safetensors").act(np.zeros((2, 1, 20), np.float32))
    with pytest.raises(InvalidOption, match="learning_rate"):
        Config(learning_rate=0.0)
    with pytest.raises(InvalidOption, match="masked"):
        Config(masked=1.0)


@pytest.mark.parametrize("rules", ["PPR-v0", "PPRStream-v0"])
def test_the_command_trains_and_evaluates_it(
    rules: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        *("--rules", rules, "--num-users", "600", "--num-items", "200", "--total-steps", "512"),
        *("--evaluations", "1", "--eval-episodes", "32", "--num-envs", "32", "--run-dir", "run"),
    ]
    assert main(["train", "ppr", *options]) == 0
    assert "PPR's own solver: NDCG@10" in capsys.readouterr().out
    assert main(["evaluate", "run"]) == 0
    assert "run: NDCG@10" in capsys.readouterr().out
