"""Mixers: sums, and functions that increase with each agent's value."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents import PettingZooBatch, iql, qmix, vdn
from rpp_agents.trainers.value import ValueLearner
from rpp_env.errors import InvalidOption

NONLINEAR = np.array([[0.0, 3, 1], [0, 0, 0], [0, 6, 2]])
CLIMBING = np.array([[11.0, -30, 0], [-30, 7, 0], [0, 6, 5]])


def random_mixer(seed: int, agents: int = 4, state: int = 7) -> qmix.Monotonic:
    """Weights far from those that it starts with."""
    mixer = qmix.Monotonic(state, agents, embed=8, hyper=16)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return mixer


@pytest.mark.parametrize("seed", range(10))
def test_no_agents_value_lowers_the_teams(seed: int) -> None:
    mixer, generator = random_mixer(seed), torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(500, 4, generator=generator)
    state = 2 * torch.randn(500, 7, generator=generator)
    values.requires_grad_(True)
    (slopes,) = torch.autograd.grad(mixer(values, state).sum(), values)
    assert (slopes >= 0).all()
    assert (slopes > 0).float().mean() > 0.9
    # Not only in the small: any raise of any value.
    raised = values + 5 * torch.rand(500, 4, generator=generator)
    assert (mixer(raised, state) >= mixer(values, state) - 1e-4).all()


@pytest.mark.parametrize("mixer", [vdn.Sum(), *map(random_mixer, range(5))])
def test_the_agents_best_actions_are_the_best_of_all_joint_actions(mixer: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = (5, 5, 9, 5)
    joints = torch.tensor(list(itertools.product(*map(range, sizes))))
    assert len(joints) == 1125
    for _ in range(20):
        values = [2 * torch.randn(size, generator=generator) for size in sizes]
        chosen = torch.stack([v[joints[:, i]] for i, v in enumerate(values)], dim=1)
        state = torch.randn(1, 7, generator=generator).expand(1125, -1)
        with torch.no_grad():
            total = mixer(chosen, state)[:, 0]
        own = torch.stack([v.argmax() for v in values])
        best = total[(joints == own).all(1)]
        # The best, and within rounding the only one.
        assert best == total.max()
        assert torch.equal(joints[total.argmax()], own)


def test_the_state_determines_the_mixing_weights() -> None:
    mixer = random_mixer(0)
    values = torch.randn(1, 4).expand(50, -1)
    assert mixer(values, torch.randn(50, 7)).std() > 0.1


def test_vdn_adds_up_and_iql_leaves_alone() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [-1.0, 0.5, 0.0]])
    assert vdn.Sum()(values).tolist() == [[7.0], [-0.5]]
    assert iql.Separate()(values) is values


def test_qmix_begins_as_a_sum() -> None:
    mixer = qmix.Monotonic(7, 4, embed=32, hyper=64)
    values = 1 + 3 * torch.rand(200, 4)
    total = mixer(values, torch.randn(200, 7))
    torch.testing.assert_close(total, values.sum(-1, keepdim=True), rtol=0.15, atol=0.3)


def learnt_table(toys: Any, payoff: Any, module: Any, mixer: Any, steps: int) -> Any:
    """The team's value of every joint action, learnt from actions that are all random."""
    batch = PettingZooBatch(lambda: toys.MatrixGame(payoff), 32)
    config = module.Config(
        gamma=0.0,
        epsilon=1.0,
        epsilon_end=1.0,
        hidden=(32,),
        batch=128,
        learning_rate=1e-2,
        normalize_inputs=False,  # of what is always the same nothing would be left
        **({"slope": 0.0} if module is qmix else {}),
    )
    learner = ValueLearner(batch, config, mixer=mixer)
    learner.reset(0)
    for step in range(steps):
        learner.iterate(step / steps)
    values, _ = learner.policy.values(np.ones((1, 2, 1), np.float32))
    joints = torch.tensor(list(itertools.product(range(3), range(3))))
    chosen = torch.from_numpy(values)[0][torch.arange(2), joints]
    state = learner.state_norm(torch.ones(9, batch.state_width))
    with torch.no_grad():
        return learner.mixer(chosen, state).reshape(3, 3).numpy()


def best_sum(payoff: Any) -> Any:
    """The best additive fit: row means plus column means, less the mean."""
    return payoff.mean(1, keepdims=True) + payoff.mean(0, keepdims=True) - payoff.mean()


def test_qmix_learns_a_payoff_that_no_sum_expresses(toys: SimpleNamespace) -> None:
    # With the original's ELU: where one agent's action makes the other's worthless it must be flat.
    learnt = learnt_table(toys, NONLINEAR, qmix, qmix.monotonic, 20)
    np.testing.assert_allclose(learnt, NONLINEAR, atol=0.15)
    assert np.sqrt(np.mean((learnt - NONLINEAR) ** 2)) < 0.1


def test_vdn_learns_the_best_sum(toys: SimpleNamespace) -> None:
    learnt = learnt_table(toys, NONLINEAR, vdn, lambda *_: vdn.Sum(), 20)
    np.testing.assert_allclose(learnt, best_sum(NONLINEAR), atol=0.1)
    # By hand: the interactions' squares add up to 84/9, so that a sum is wrong by 1.02.
    error = np.sqrt(np.mean((best_sum(NONLINEAR) - NONLINEAR) ** 2))
    assert error == pytest.approx(np.sqrt(84 / 81), abs=1e-12)
    assert np.sqrt(np.mean((learnt - NONLINEAR) ** 2)) == pytest.approx(error, abs=0.05)


@pytest.mark.parametrize(
    ("module", "mixer"), [(vdn, lambda *_: vdn.Sum()), (qmix, qmix.monotonic)], ids=["vdn", "qmix"]
)
def test_neither_learns_the_climbing_game(toys: SimpleNamespace, module: Any, mixer: Any) -> None:
    """Which of an agent's actions is better depends on the other's: no order of them fits."""
    learnt = learnt_table(toys, CLIMBING, module, mixer, 20)
    error = np.sqrt(np.mean((learnt - CLIMBING) ** 2))
    # It does learn: predicting 0 everywhere has an error of 15, the best sum 13.
    assert 5 < error < 14.5 < np.sqrt(np.mean(CLIMBING**2))


@pytest.mark.parametrize("options", [{"embed": 0}, {"hyper": 0}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        qmix.Config(**options)
