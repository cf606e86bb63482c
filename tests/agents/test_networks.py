from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents.actors import Actor, entropy, sample
from rpp_agents.networks import FeatureNorm, ValueNorm, central_critic, local_critic
from rpp_agents.policy import NetworkPolicy, load_policy, read_tensors, write_tensors
from rpp_env.errors import InvalidData


def test_value_norm_is_the_debiased_running_mean_and_variance() -> None:
    rng = np.random.default_rng(0)
    norm, beta = ValueNorm(2, beta=0.9), 0.9
    weight, mean, square = 0.0, np.zeros(2), np.zeros(2)
    for i in range(5):
        batch = rng.normal(3.0 + i, [1.0, 10.0], (4, 7, 2))
        norm.update(torch.from_numpy(batch).float())
        weight = beta * weight + 1 - beta
        mean = beta * mean + (1 - beta) * batch.mean((0, 1))
        square = beta * square + (1 - beta) * (batch**2).mean((0, 1))
    expected = mean / weight
    deviation = np.sqrt(square / weight - expected**2)
    got_mean, got_deviation = norm.statistics()
    np.testing.assert_allclose(got_mean, expected, rtol=1e-5)
    np.testing.assert_allclose(got_deviation, deviation, rtol=1e-4)
    x = torch.tensor([[1.0, -20.0]])
    np.testing.assert_allclose(norm.normalize(x), (x.numpy() - expected) / deviation, rtol=1e-4)
    np.testing.assert_allclose(norm.denormalize(norm.normalize(x)), x, rtol=1e-4)


def test_value_norm_begins_unbiased_and_floors_the_variance() -> None:
    norm = ValueNorm(1)
    x = torch.tensor([[5.0]])
    assert norm.normalize(x).item() == 5.0
    norm.update(torch.full((100, 1), 3.0))
    mean, deviation = norm.statistics()
    assert mean.item() == pytest.approx(3.0)
    assert deviation.item() == pytest.approx(0.1)


def test_entropy_of_a_masked_uniform_is_the_log_of_the_legal_actions() -> None:
    actor = Actor(3, (2, 5, 4), hidden=(8,))
    for parameter in actor.net.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    masks = torch.ones(3, 5, dtype=torch.bool)
    masks[1, :2] = False
    log_probs = actor(torch.randn(6, 3, 3), masks)
    expected = torch.tensor([math.log(2), math.log(3), math.log(4)]).expand(6, 3)
    torch.testing.assert_close(entropy(log_probs), expected)
    alone = actor(torch.randn(6, 3, 3), torch.tensor([True, False, False, False, False]))
    torch.testing.assert_close(entropy(alone), torch.zeros(6, 3))
    entropy(log_probs).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in actor.parameters() if p.grad is not None)


@pytest.mark.parametrize("shared", [True, False])
def test_an_actor_begins_nearly_uniform_and_sees_only_its_own_observation(shared: bool) -> None:
    torch.manual_seed(0)
    actor = Actor(6, (3, 3), shared=shared)
    observations = torch.randn(4, 2, 6)
    before = actor(observations)
    assert (before.exp() - 1 / 3).abs().max() < 0.02
    changed = observations.clone()
    changed[:, 1] = torch.randn(4, 6)
    after = actor(changed)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])
    same = actor(observations[:, :1].expand(-1, 2, -1))
    assert not torch.allclose(same[:, 0], same[:, 1]), "agents must be able to differ"


def test_hidden_weights_are_orthogonal() -> None:
    critic = central_critic(10, 3, hidden=(16,), layer_norm=True)
    weight = critic.net[1].weight
    torch.testing.assert_close(weight.T @ weight, 2 * torch.eye(10), atol=1e-5, rtol=0)


def test_critics_give_one_value_per_agent() -> None:
    state, observations = torch.randn(5, 7, 11), torch.randn(5, 7, 3, 4)
    assert central_critic(11, 3, hidden=(8,), layer_norm=False)(state).shape == (5, 7, 3)
    for shared in (True, False):
        critic = local_critic(4, 3, hidden=(8,), layer_norm=True, shared=shared)
        assert critic(observations).shape == (5, 7, 3)


def test_masked_actions_are_never_sampled() -> None:
    class Zeros:
        """Draws that make every exponential race infinitely fast."""

        def standard_exponential(self, shape: Any, dtype: Any) -> Any:
            return np.zeros(shape, dtype)

    actor = Actor(2, (2, 4))
    policy = NetworkPolicy(actor, seed=0)
    observations = np.random.default_rng(0).normal(size=(3000, 2, 2)).astype(np.float32)
    masks = np.array([[1, 1, 1, 1], [0, 1, 0, 1]], np.int8)
    actions, memory = policy.act(observations, masks)
    assert set(actions[:, 0]) == {0, 1}, "padding is not an action"
    assert set(actions[:, 1]) == {1, 3}
    assert memory is None
    per_user = np.repeat(masks[None], 3000, axis=0)
    per_user[0, 1] = [0, 0, 1, 0]
    assert policy.act(observations, per_user)[0][0, 1] == 2
    greedy, _ = policy.act(observations, masks, greedy=True)
    assert set(greedy[:, 1]) <= {1, 3}
    log_probs, legal = policy.log_probs(observations, masks)
    worst = sample(log_probs, legal, Zeros())  # type: ignore[arg-type]
    assert set(worst[:, 1]) <= {1, 3}


def test_sampling_follows_the_probabilities() -> None:
    p = np.array([0.1, 0.2, 0.7], np.float32)
    draws = sample(np.log(np.tile(p, (60_000, 1))), np.ones(3, bool), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(draws) / 60_000, p, atol=0.01)


def test_a_saved_policy_acts_the_same(tmp_path: Any) -> None:
    actor = Actor(5, (3, 9), hidden=(16, 8), shared=False, layer_norm=False)
    policy = NetworkPolicy(actor)
    policy.save(tmp_path / "deep" / "policy.safetensors")
    again = load_policy(tmp_path / "deep" / "policy.safetensors")
    observations = np.random.default_rng(0).normal(size=(50, 2, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        policy.act(observations, greedy=True)[0], again.act(observations, greedy=True)[0]
    )
    assert isinstance(again, NetworkPolicy)
    np.testing.assert_array_equal(
        policy.log_probs(observations)[0], again.log_probs(observations)[0]
    )


def test_files_are_whole_or_refused(tmp_path: Any) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(3)}, {"kind": "other", "n": 2**80})
    tensors, about = read_tensors(path)
    assert tensors["a"].tolist() == [0, 1, 2]
    assert about == {"kind": "other", "n": 2**80}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(InvalidData, match="'other'"):
        load_policy(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InvalidData, match="not written by"):
        read_tensors(path)
    with pytest.raises(InvalidData, match="no file"):
        read_tensors(tmp_path / "none")


def test_feature_norm_is_the_mean_and_deviation_of_all_that_was_seen() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(i, [0.1, 1.0, 0.0], (5 + i, 2, 3)).astype(np.float32) for i in range(4)]
    each, together = FeatureNorm(2, 3), FeatureNorm(1, 3)
    inputs = torch.from_numpy(batches[0])
    assert torch.equal(each(inputs), inputs)  # before anything was seen
    for batch in batches:
        for norm in (each, together):
            norm.update(torch.from_numpy(batch))
    seen = np.concatenate(batches)
    for norm, axes in ((each, 0), (together, (0, 1))):
        mean, deviation = seen.mean(axes), np.maximum(seen.std(axes), 0.01)
        expected = np.clip((batches[0] - mean) / deviation, -5, 5)
        np.testing.assert_allclose(norm(inputs).numpy(), expected, atol=2e-3)
    assert each(torch.full((1, 2, 3), 1e6)).max() == 5


def test_a_normalising_actor_is_saved_with_its_statistics(tmp_path: Any) -> None:
    actor = Actor(3, [2, 4], hidden=(8,), shared=False, normalize=True)
    actor.norm.update(torch.randn(50, 2, 3) * 7 + 3)  # type: ignore[operator]
    NetworkPolicy(actor).save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    observations = np.random.default_rng(0).normal(3, 7, (9, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        again.log_probs(observations)[0],  # type: ignore[attr-defined]
        NetworkPolicy(actor).log_probs(observations)[0],
    )
