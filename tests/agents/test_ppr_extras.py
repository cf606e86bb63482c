"""Cross-domain prompts, and the prediction of a profile's field from clicks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents import load_policy
from rpp_agents.solvers.attributes import Predictor, predict, without_field
from rpp_agents.solvers.controls import Shuffled, source_vector
from rpp_agents.solvers.domains import UserVectors, split_domains, with_source
from rpp_agents.solvers.ppr import Config, Solver, train
from rpp_env import Dataset, RPPEnv
from rpp_env.data import Interactions, load_dataset, split_arrivals
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.recommenders import sasrec
from rpp_env.recommenders.sasrec import SASRec

SMALL = sasrec.Config(dim=16, blocks=1, max_length=20, loss="cross_entropy", rate=5e-3, epochs=4)
SHORT = Config(total_steps=4_000, batch=64, evaluations=1, tensorboard=False, contrastive=0.0)


def twins(users: int = 600) -> Dataset:
    """Users of two kinds: those of one kind click items 0-9 of genre A and 20-29 of genre B."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(2, size=users)
    firsts = np.stack([rng.permutation(10)[:6] for _ in range(users)]) + 10 * kinds[:, None]
    items = np.stack([firsts, firsts + 20], axis=2).reshape(users, -1)  # A and B in turn
    tokens = tuple(f"i{i}" for i in range(40))
    return Dataset(
        name="twins",
        domain="movies",
        titles=tuple(f"Film {i}" for i in range(40)),
        item_tokens=tokens,
        genres=(("A",),) * 20 + (("B",),) * 20,
        user_tokens=tuple(f"u{i}" for i in range(users)),
        indptr=np.arange(users + 1) * 12,
        items=items.ravel().astype(np.int32),
        habits=kinds,
        habit_names=("one", "two"),
    )


def fitted(dataset: Dataset) -> SASRec:
    histories = split_arrivals(dataset).interactions(dataset)
    return sasrec.train(histories, SMALL, catalog=dataset.catalog_digest)


@pytest.fixture(scope="module")
def domains() -> tuple[Dataset, Dataset, SASRec]:
    source, target = split_domains(twins(), ["B"])
    whole = Interactions(source.indptr, source.items, source.num_items)
    return source, target, sasrec.train(whole, SMALL, catalog=source.catalog_digest)


def made(dataset: Dataset, model: SASRec, split: str = "train", **options: Any) -> RPPEnv:
    chosen = {"num_candidates": 10, "shots": "zero", "num_envs": 32, "seed": 0, **options}
    return RPPEnv.make(rules="PPR-v0", dataset=dataset, model=model, split=split, **chosen)


def score(policy: Any, env: RPPEnv) -> float:
    seen, _ = env.reset(options={"users": np.arange(len(env.tasks))})
    return float(ndcg(env.step(policy.act(seen, greedy=True)[0]).infos["rank"]).mean())


# -------------------------------------------------------------------------------- cross-domain


def test_domains_share_users_and_no_item() -> None:
    whole = twins()
    source, target = split_domains(whole, ["B"])
    assert not set(source.item_tokens) & set(target.item_tokens)
    assert source.num_items + target.num_items == whole.num_items
    assert source.user_tokens == target.user_tokens == whole.user_tokens
    for user in (0, 7):
        mixed = [whole.item_tokens[i] for i in whole.sequence(user)]
        for part in (source, target):
            own = [part.item_tokens[i] for i in part.sequence(user)]
            assert own == [token for token in mixed if token in part.item_tokens]
    for genres, said in (
        (["C"], "genre 'C' is not known"),
        (["A", "B"], "both domains need items"),
    ):
        with pytest.raises(InvalidOption, match=said):
            split_domains(whole, genres)


def test_a_source_vector_is_observed_and_informative(
    domains: tuple[Dataset, Dataset, SASRec],
) -> None:
    source, target, model = domains
    data = with_source(target, source, model)
    assert isinstance(data.profiles, UserVectors)
    lengths = np.linalg.norm(data.profiles.vectors, axis=1)
    assert lengths == pytest.approx(np.ones(len(lengths)), abs=1e-4)
    target_model = fitted(target)
    env = made(data, target_model)
    seen, _ = env.reset(options={"users": np.arange(8)})
    at = env.observer.layout["profile"]
    assert np.array_equal(seen[:, 0, at], data.profiles.vectors[env.tasks.users[:8]])
    test = made(data, target_model, "test")
    config = replace(SHORT, loss="cross_entropy", learning_rate=5e-3)
    policy = train(env, config, progress=False)
    constant = train(env, replace(config, constant=True), progress=False)
    assert score(policy, test) > score(constant, test) + 0.1
    assert score(policy, test) > score(Shuffled(policy, test), test) + 0.1


def test_the_given_prompt_is_the_source_vector_and_full_mode_trains_the_target(
    domains: tuple[Dataset, Dataset, SASRec], tmp_path: Any
) -> None:
    source, target, model = domains
    data = with_source(target, source, model)
    env = made(data, fitted(target))
    solver = Solver(env, replace(SHORT, given=True), mode="full")
    seen, _ = env.reset(options={"users": np.arange(16)})
    raw, _ = source_vector(env).act(seen)
    given, _ = solver.policy.act(seen)
    assert np.array_equal(raw, given)
    inputs = env.recommender.weights["items.weight"].detach().numpy() * 4
    length = np.linalg.norm(env.space.decode(raw)[:, 0], axis=1)
    assert length == pytest.approx(np.full(16, np.sqrt((inputs**2).mean() * 16)), rel=1e-3)
    before = solver.recommender.weights["items.weight"].detach().clone()
    solver.iterate(0.0)
    assert not torch.equal(solver.recommender.weights["items.weight"], before)
    assert torch.equal(env.recommender.weights["items.weight"], before)
    solver.policy.save(tmp_path / "given.safetensors")
    assert np.array_equal(load_policy(tmp_path / "given.safetensors").act(seen)[0], given)


def test_vectors_are_shuffled_and_mistakes_have_sentences(
    domains: tuple[Dataset, Dataset, SASRec],
) -> None:
    source, target, model = domains
    data = with_source(target, source, model)
    assert data.profiles is not None
    users = np.arange(40)
    mixed = data.profiles.shuffled(users)
    assert not np.array_equal(mixed.one_hot(users), data.profiles.one_hot(users))
    assert np.array_equal(mixed.one_hot()[40:], data.profiles.one_hot()[40:])
    assert mixed.digest != data.profiles.digest
    with pytest.raises(InvalidData, match="are in both domains"):
        with_source(target, twins(), model)
    with pytest.raises(InvalidData, match="same users"):
        with_source(split_domains(twins(500), ["B"])[1], source, model)
    with pytest.raises(InvalidOption, match="given=True takes a profile of 16"):
        Solver(made(data, fitted(target), codes=4), replace(SHORT, given=True), mode="full")
    with pytest.raises(InvalidOption, match="leave out"):
        Config(given=True, constant=True)


# -------------------------------------------------------------------------- profile prediction


@pytest.fixture(scope="module")
def world() -> tuple[Dataset, np.ndarray, SASRec]:
    data, labels = without_field(
        load_dataset("arrivals", num_users=2400, num_items=200), "occupation"
    )
    return data, labels, fitted(data)


def test_the_predicted_field_is_nowhere_in_the_environment(world: Any) -> None:
    data, labels, model = world
    whole = load_dataset("arrivals", num_users=2400, num_items=200)
    assert "occupation" not in data.profiles.fields
    assert np.array_equal(
        labels, whole.profiles.codes[:, whole.profiles.fields.index("occupation")]
    )
    env = made(data, model)
    assert env.observer.layout["profile"].stop - env.observer.layout["profile"].start == (
        whole.profiles.width - labels.max()
    )
    with pytest.raises(InvalidOption, match="profile field 'hair'"):
        without_field(whole, "hair")
    with pytest.raises(InvalidOption, match="is the only field"):
        without_field(replace(data, profiles=data.profiles.select(["age"])), "age")


@pytest.mark.parametrize("prompt", [True, False])
def test_clicks_predict_a_field_better_than_its_commonest_value(world: Any, prompt: bool) -> None:
    data, labels, model = world
    before = model.digest
    env = made(data, model, shots=9, cold=0.6, num_candidates=20)
    validation, test = (
        made(data, model, split, shots=9, cold=0.6, num_candidates=20).tasks
        for split in ("validation", "test")
    )
    config = replace(SHORT, total_steps=20_000, learning_rate=1e-2)
    found = predict(env, labels, validation, config, prompt=prompt)
    truth = labels[test.users]
    commonest = (truth[truth > 0] == np.bincount(labels[env.tasks.users])[1:].argmax() + 1).mean()
    assert found.predictor.accuracy(test) > commonest + 0.1
    assert found.epoch > 0
    assert model.digest == before
    assert found.predictor.uses_prompt == prompt


def test_labels_of_other_users_are_refused(world: Any) -> None:
    data, labels, model = world
    env = made(data, model)
    with pytest.raises(InvalidData, match="take both from without_field"):
        Predictor(env, labels[1:], SHORT)
    with pytest.raises(InvalidData, match="no training user"):
        Predictor(env, np.zeros_like(labels), SHORT)
