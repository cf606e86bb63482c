"""The one interface of all trainers, and the run that they share."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rpp_agents
from rpp_agents import load_policy, mappo
from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.training import RunConfig, check_numbers
from rpp_env.errors import InvalidData, InvalidOption

SMALL: dict[str, Any] = {
    "total_steps": 64 * 5 * 4,
    "checkpoint_every": 2,
    "evaluations": 2,
    "eval_episodes": 64,
    "hidden": (16,),
    "tensorboard": False,
    "threads": 1,
}


@pytest.fixture(params=rpp_agents.TRAINERS)
def algorithm(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"rpp_agents.{request.param}")


def test_every_trainer_has_the_same_interface(algorithm: Any) -> None:
    config = algorithm.Config()
    assert isinstance(config, RunConfig)
    assert inspect.signature(algorithm.train).parameters.keys() == (
        inspect.signature(mappo.train).parameters.keys()
    )
    assert algorithm.train.__doc__
    assert {"Parameters", "Returns", "Raises"} <= set(algorithm.train.__doc__.split())
    assert getattr(rpp_agents, algorithm.__name__.rpartition(".")[2]) is algorithm


def test_every_trainer_gives_a_policy_that_can_be_kept(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any
) -> None:
    env, held_out = toys.Contextual(64), toys.Contextual(64, seed=1)
    policy = algorithm.train(
        env, algorithm.Config(**SMALL), run_dir=tmp_path, eval_env=held_out, progress=False
    )
    observations, _ = held_out.reset(seed=0)
    masks = held_out.action_masks()
    expected, _ = policy.act(observations, masks, greedy=True)
    assert expected.shape == (64, 4)
    assert (expected < held_out.nvec).all()
    again = load_policy(tmp_path / "policy.safetensors")
    np.testing.assert_array_equal(again.act(observations, masks, greedy=True)[0], expected)
    assert (tmp_path / "learning_curve.png").stat().st_size > 1000


def test_the_same_seed_gives_the_same_run_whatever_torch_drew_before(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any
) -> None:
    kept = []
    for name, before in (("one", 1), ("two", 2)):
        torch.manual_seed(before)
        algorithm.train(
            toys.Contextual(64),
            algorithm.Config(**SMALL, seed=3),
            run_dir=tmp_path / name,
            progress=False,
        )
        kept.append(read_tensors(tmp_path / name / "checkpoint.safetensors")[0])
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


class Stop:
    """Interrupts a run as Ctrl-C would, after some iterations."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, row: Any, policy: Any) -> None:
        if row["iteration"] == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 3])
def test_every_trainer_goes_on_as_if_it_had_not_been_stopped(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any, stop: int
) -> None:
    def train(name: str, **options: Any) -> Any:
        config = algorithm.Config(**SMALL)
        env = toys.Contextual(64)
        folder = tmp_path / name
        return algorithm.train(env, config, run_dir=folder, progress=False, **options)

    train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", callbacks=[Stop(stop)])
    left = read_tensors(tmp_path / "parts" / "checkpoint.safetensors")[1]
    assert left["iteration"] == stop // 2 * 2
    train("parts", resume=True)
    whole, parts = (
        read_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_checkpoint_of_another_layout_is_refused(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any
) -> None:
    config = algorithm.Config(**SMALL)
    algorithm.train(toys.Contextual(64), config, run_dir=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    write_tensors(path, {f"old.{name}": tensor for name, tensor in tensors.items()}, about)
    with pytest.raises(InvalidData, match="of this version"):
        algorithm.train(toys.Contextual(64), config, run_dir=tmp_path, resume=True, progress=False)


def test_divergence_is_an_error(toys: SimpleNamespace, algorithm: Any) -> None:
    class Broken(toys.Contextual):  # type: ignore[misc, name-defined]
        def step(self, actions: Any) -> Any:
            step = super().step(actions)
            step.rewards[:] = np.inf
            return step

    with pytest.raises(FloatingPointError, match="learning_rate"):
        algorithm.train(Broken(64), algorithm.Config(**SMALL), progress=False)


def test_a_config_says_what_its_numbers_may_be() -> None:
    config = mappo.Config()
    with pytest.raises(InvalidOption, match=r"gamma must lie in 0\.\.1, not 1\.5"):
        replace(config, gamma=1.5)
    with pytest.raises(InvalidOption, match="total_steps must be 1 or more, not 0"):
        replace(config, total_steps=0)
    with pytest.raises(InvalidOption, match="learning_rate must be above 0, not 0"):
        replace(config, learning_rate=0)
    with pytest.raises(InvalidOption, match="seed must be 0 or more, not nan"):
        check_numbers(SimpleNamespace(seed=float("nan")), 0, "seed")


def test_every_field_of_every_config_is_explained(algorithm: Any) -> None:
    for config in (RunConfig, algorithm.Config):
        lines = inspect.getsource(config).splitlines()
        own = [field.name for field in fields(config) if field.name in config.__annotations__]
        for name in own:
            at = next(i for i, line in enumerate(lines) if line.startswith(f"    {name}:"))
            said = next(line for line in lines[at + 1 :] if line.lstrip().startswith('"""'))
            assert len(said) > 15, name
