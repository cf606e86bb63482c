"""PeaPOD's solver: trained weights, played and scored prompts, patience, controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from rpp_agents import Random, load_policy
from rpp_agents.cli import main
from rpp_agents.solvers import controls
from rpp_agents.solvers.peapod import AttentionPolicy, Config, Solver, pretrained, train, tune
from rpp_agents.trainers import find_trainer, trainer_names
from rpp_env import RPPEnv
from rpp_env.data import load_dataset
from rpp_env.data.clicks import training_clicks
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.recommenders import t5
from rpp_env.recommenders.t5 import T5
from rpp_env.vectors import PrefixPrompts

SIZE: dict[str, Any] = {"num_users": 240, "num_items": 180}
OWN: dict[str, Any] = {"heads": 2, "vectors": 6, "neighbours": 4}
SHORT = Config(
    total_steps=256,
    batch=64,
    evaluations=1,
    eval_episodes=32,
    tensorboard=False,
    learning_rate=0.05,
)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPP_ENV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model() -> T5:
    data = load_dataset("movieworld", **SIZE)
    config = t5.Config(dim=16, layers=1, heads=2, feed_forward=32, negatives=9, batch=32, epochs=1)
    return t5.train(data, training_clicks(data), config)


def made(model: Any, split: str = "train", **options: Any) -> RPPEnv:
    given = {"num_envs": 32, "seed": 0, "model": model, "split": split, **SIZE, **OWN, **options}
    return RPPEnv.make(rules="PeaPOD-v0", **given)


def test_it_trains_the_attention_alone(model: T5) -> None:
    before, env = model.digest, made(model)
    composer = env.space.around.composer.digest
    solver = Solver(env, SHORT)
    begun = {name: w.clone() for name, w in solver.attention.state_dict().items()}
    losses = [solver.iterate(0.0)["loss"] for _ in range(3)]
    assert model.digest == before
    assert env.space.around.composer.digest == composer
    assert np.isfinite(losses).all()
    changed = {n for n, w in solver.attention.state_dict().items() if not torch.equal(w, begun[n])}
    assert {"query.weight", "key.weight"} <= changed
    assert solver.iterate(0.0)["info/gradient_calls"] == 4 * 64
    fresh = Solver(env, Config(initial="random")).attention.state_dict()
    assert not torch.equal(fresh["query.weight"], begun["query.weight"])


def test_played_prompts_equal_scored_prompts(model: T5) -> None:
    for split in ("train", "test"):
        env, solver = made(model, split), Solver(made(model), SHORT)
        for _ in range(3):
            solver.iterate(0.0)
        scores = solver.scores(env).detach().numpy()
        observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
        actions, _ = solver.policy.act(observations)
        assert np.abs(actions).max() <= 1
        orders = env.step(actions).orders
        # Sums differ in their last bits, and near ties with them.
        assert np.mean(orders == np.argsort(-scores, axis=1, kind="stable")) > 0.97


def test_gradients_lower_the_loss_of_a_fixed_batch(model: T5) -> None:
    solver = Solver(made(model), SHORT)
    rows = np.arange(64)
    position = torch.from_numpy(solver.tasks.position[rows])[:, None]
    losses = []
    for _ in range(8):
        loss = -solver.scores(solver.env, rows).gather(1, position).mean()
        solver.optimizer.zero_grad()
        loss.backward()
        solver.optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_patience_starts_again_with_each_better_epoch(
    model: T5, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rpp_agents.solvers import peapod

    values = iter([0.1, 0.0, 0.2, 0.0, 0.3, 0.0, 0.0, 0.9])
    monkeypatch.setattr(peapod, "ndcg", lambda ranks, k: np.array([next(values)]))
    monkeypatch.setattr(Solver, "iterate", lambda self, progress: {})
    seen: list[Any] = []
    config = Config(total_steps=10_000, batch=64)
    found = tune(
        made(model), made(model, "validation"), config, patience=2,
        progress=lambda epoch, value: seen.append(value),
    )  # fmt: skip
    assert seen == [0.0, 0.2, 0.0, 0.3, 0.0, 0.0]
    assert (found.epoch, found.validation) == (4, 0.3)


@pytest.mark.parametrize("joint", [False, True])
def test_frozen_weights_stay_to_the_bit_and_joint_training_moves_all(
    model: T5, joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rpp_agents.solvers import peapod

    # The last epoch is kept, whatever it is worth.
    values = iter(range(10_000))
    monkeypatch.setattr(peapod, "ndcg", lambda ranks, k: np.array([next(values)]))
    env, validation = made(model), made(model, "validation")
    around, before = env.space.around, model.digest
    composer, first = around.composer.digest, dict(around.composer.weights)
    found = tune(env, validation, replace(SHORT, learning_rate=0.01), patience=9, joint=joint)
    # The environment's own never change.
    assert model.digest == before
    assert around.composer.digest == composer
    moved = {
        name for name, w in found.composer.weights.items() if not np.array_equal(w, first[name])
    }
    assert found.epoch == 1
    if not joint:
        assert found.model is model
        assert {"query.weight", "key.weight"} <= moved
        assert not [name for name in moved if name.startswith(("value", "project"))]
        return
    assert {f"{part}.weight" for part in ("query", "key", "value", "project")} <= moved
    weights = found.model.weights
    assert weights.keys() == model.weights.keys()
    assert not [name for name, w in weights.items() if torch.equal(w, model.weights[name])]
    assert not [name for name, w in weights.items() if w.requires_grad]


def test_joint_training_ends_where_its_scores_were_best(model: T5) -> None:
    """The policy, T5 and composer that are returned give the scores that chose the epoch."""
    env, validation = made(model), made(model, "validation")
    found = tune(env, validation, replace(SHORT, learning_rate=0.01), joint=True)
    tasks, around = validation.tasks, validation.space.around
    observations, _ = validation.reset(options={"users": np.arange(len(tasks))})
    actions, _ = found.policy.act(observations)
    shares = torch.from_numpy(actions * float(validation.space.decoder[0, 0])).softmax(dim=2)
    values = found.composer.part("value", around.pool[around.near])
    prefix = found.composer.prefix(shares.numpy(), values)
    ranks = found.model.rank(PrefixPrompts(prefix, tasks)).ranks(tasks.position)
    assert ndcg(ranks, 10).mean() == pytest.approx(found.validation, abs=0.01)


def test_the_control_of_joint_training_is_a_t5_that_is_trained_without_prefixes(
    model: T5, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rpp_agents.solvers import peapod

    env, validation = made(model), made(model, "validation")
    rows = np.arange(40)
    bare = model.scores(PrefixPrompts(None, env.tasks.subset(rows)))
    assert torch.allclose(peapod.BareSolver(env, SHORT).scores(env, rows), bare, atol=1e-5)
    # The last epoch is kept, whatever it is worth.
    values = iter(range(10_000))
    monkeypatch.setattr(peapod, "ndcg", lambda ranks, k: np.array([next(values)]))
    before, composer = model.digest, env.space.around.composer.digest
    found = tune(env, validation, SHORT, patience=9, joint=True, prompt=False)
    assert found.epoch == 1
    assert (model.digest, found.composer.digest) == (before, composer)
    weights = found.model.weights
    assert not [name for name, w in weights.items() if torch.equal(w, model.weights[name])]
    with pytest.raises(InvalidOption, match="joint=True"):
        tune(env, validation, SHORT, prompt=False)


def test_controls_are_policies(model: T5) -> None:
    env, other = made(model, "test"), made(model, "test", whose="another")
    choosing = made(model, "test", actions="neighbour")
    players = (controls.zero(env), Random(env.action_spaces, seed=0), pretrained(env))
    for policy, place in (*((policy, env) for policy in players), (pretrained(other), other)):
        observations, _ = place.reset(options={"users": np.arange(len(place.tasks))})
        assert 0 < place.step(policy.act(observations)[0]).rewards.mean() < 1
    observations, _ = choosing.reset()
    actions, _ = pretrained(choosing).act(observations)
    assert actions.dtype.kind == "i"
    assert actions.max() < 4
    bare = controls.without_prompt(env)
    assert bare.shape == (len(env.tasks),)
    assert 0 < bare.mean() < 1


def test_it_is_a_trainer(model: T5, tmp_path: Path) -> None:
    assert "peapod" in trainer_names()
    found = find_trainer("peapod")
    assert found.config is Config
    env, held_out = made(model), made(model, "validation")
    policy = found.train(env, SHORT, run_dir=tmp_path, eval_env=held_out, progress=False)
    kept = load_policy(tmp_path / "policy.safetensors")
    assert isinstance(kept, AttentionPolicy)
    observations, _ = held_out.reset(seed=0)
    assert np.array_equal(kept.act(observations)[0], policy.act(observations)[0])
    with pytest.raises(InvalidOption, match="another shape"):
        kept.act(observations[:, :, :20])


def test_a_stopped_run_ends_with_the_same_bits(model: T5, tmp_path: Path) -> None:
    config = Config(total_steps=384, batch=64, checkpoint_every=2, evaluations=0, tensorboard=False)
    whole = train(made(model), config, progress=False)

    def stop(row: Any, policy: Any) -> None:
        if row["steps"] >= 192:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made(model), config, run_dir=tmp_path, callbacks=[stop], progress=False)
    again = train(made(model), config, run_dir=tmp_path, resume=True, progress=False)
    for name, weight in whole.attention.state_dict().items():
        assert torch.equal(weight, again.attention.state_dict()[name]), name


def test_unreadable_environments_are_refused(model: T5, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="NeighbourPrompts"):
        Solver(made(model, actions="neighbour"), SHORT)
    env = made(model)
    pretrained(env).save(tmp_path / "p")
    model.save(tmp_path / "t5")
    with pytest.raises(InvalidData, match="not a policy"):
        AttentionPolicy.load(tmp_path / "t5")
    with pytest.raises(InvalidOption, match="learning_rate"):
        Config(learning_rate=0.0)
    with pytest.raises(InvalidOption, match="use PeaPOD-v0"):
        pretrained(RPPEnv.make(num_users=60, num_items=130, num_envs=2))


def test_the_command_trains_and_evaluates_it(
    model: T5, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "t5")
    monkeypatch.chdir(tmp_path)
    options = [
        *("--rules", "PeaPOD-v0", "--num-users", "240", "--num-items", "180"),
        *("--heads", "2", "--vectors", "6", "--neighbours", "4", "--model", "checkpoint:t5"),
        *("--total-steps", "128", "--evaluations", "1", "--eval-episodes", "32"),
        *("--num-envs", "32", "--run-dir", "run"),
    ]
    assert main(["train", "peapod", *options]) == 0
    assert "PeaPOD's own solver: NDCG@10" in capsys.readouterr().out
    assert main(["evaluate", "run", "--model", "checkpoint:t5"]) == 0
    assert "run: NDCG@10" in capsys.readouterr().out
