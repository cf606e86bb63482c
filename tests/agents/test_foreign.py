"""PettingZoo environments from outside: supported forms, and errors for the others."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Text, Tuple
from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers.base_parallel import BaseParallelWrapper

import rpp_env
from rpp_agents import mappo, qmix
from rpp_agents.baselines import Random
from rpp_agents.pettingzoo_batch import MAX_WIDTH, PettingZooBatch
from rpp_agents.plots import learning_curve
from rpp_agents.rollout import play
from rpp_agents.runs import read_progress
from rpp_env.errors import BrokenContract, InvalidOption, ResetNeeded

SHORT: dict[str, Any] = {"total_steps": 60, "tensorboard": False, "evaluations": 1}


class Tiny(ParallelEnv):  # type: ignore[misc]
    """Two agents, three steps, then truncated; a test changes what it is about."""

    metadata = {"name": "tiny"}  # noqa: RUF012
    paid: Any = 1.0
    see: Any = Box(-1, 1, (2,), np.float32)
    shown: Any = np.zeros(2, np.float32)
    act: Any = Discrete(3)
    mask: Any = None
    stays = False
    length = 3

    def __init__(self) -> None:
        self.possible_agents = ["a", "b"]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return self.see

    def action_space(self, agent: str) -> Any:
        return self.act

    def _each(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)

    def _infos(self) -> Any:
        return self._each({} if self.mask is None else {"action_mask": self.mask})

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.clock = self.possible_agents[:], 0
        return self._each(self.shown), self._infos()

    def step(self, actions: Any) -> Any:
        self.clock += 1
        over = self.clock >= self.length
        if over and not self.stays:
            self.agents = []
        seen, ended = self._each(self.shown), self._each(over)
        return seen, self._each(self.paid), self._each(False), ended, self._infos()


def made(**changes: Any) -> type[Tiny]:
    return type("Changed", (Tiny,), changes)


def batch(copies: int = 2, /, **changes: Any) -> PettingZooBatch:
    return PettingZooBatch(made(**changes), copies)


NONE = np.zeros((2, 2), int)


def test_it_is_trained_where_nothing_is_changed() -> None:
    for trainer, extra in ((mappo, {}), (qmix, {"batch": 4})):
        config = trainer.Config(**SHORT, **extra)  # type: ignore[attr-defined]
        trainer.train(batch(), config, eval_env=batch(), progress=False)  # type: ignore[attr-defined]


# ---- the state


@pytest.mark.parametrize("state", [{"clock": 0}, None, 3, np.zeros(4)], ids=type)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_that_is_an_attribute_is_ignored(state: Any, wrapped: bool) -> None:
    def make() -> Any:
        env = Tiny()
        env.state = state
        return BaseParallelWrapper(env) if wrapped else env

    env = PettingZooBatch(make, 2)
    env.reset(seed=0)
    assert env.state_width == 4
    assert env.state().shape == (2, 4)
    mappo.train(env, mappo.Config(**SHORT), progress=False)


@pytest.mark.parametrize(
    ("state", "why"),
    [({"a": np.zeros(2)}, "it is a dict"), (["a", "b"], "it is a list"), (None, None)],
    ids=["dict", "text", "none"],
)
def test_a_state_of_no_numbers_is_left_aside_with_a_warning(state: Any, why: str | None) -> None:
    if why is None:
        state, why = np.zeros((100, 100, 3)), r"it has 30,000 numbers"
    with pytest.warns(UserWarning, match=rf"state\(\) is not used, because {why}.*concatenated"):
        env = batch(state=lambda _: state)
    assert env.state_width == 4


def test_a_state_that_changes_its_size_is_refused() -> None:
    env = batch(state=lambda self: np.zeros(2 + self.clock))
    env.reset()
    env.step(NONE)
    with pytest.raises(BrokenContract, match=r"state\(\) returned 3 numbers; it must return 2"):
        env.state()


# ---- what agents see


@pytest.mark.parametrize(
    ("space", "width"),
    [
        (Box(0, 255, (457, 120, 3), np.uint8), "164,520"),
        (Box(0, 1, (MAX_WIDTH + 1,)), "4,097"),
        (Discrete(1_000_000), "1,000,000"),
        (Tuple([Box(0, 1, (3000,)), Box(0, 1, (3000,))]), "6,000"),
        (
            Dict({"observation": Box(0, 255, (84, 84), np.uint8), "action_mask": Box(0, 1, (3,))}),
            "7,056",
        ),
    ],
)
def test_images_are_refused_before_they_take_memory(space: Any, width: str) -> None:
    made_so_far = []

    def make() -> Any:
        made_so_far.append(1)
        return made(see=space)()

    with pytest.raises(InvalidOption, match=rf"'a' observes {width} numbers .*resize_v1.*max_w"):
        PettingZooBatch(make, 1000)
    assert len(made_so_far) == 1


def test_images_are_taken_with_a_warning_where_the_limit_is_raised() -> None:
    image = Box(0, 255, (40, 40, 3), np.uint8)
    changes = {"see": image, "shown": np.zeros((40, 40, 3), np.uint8)}
    with pytest.warns(UserWarning, match=r"shape \(40, 40, 3\): they are flattened to 4,800"):
        env = PettingZooBatch(made(**changes), 2, max_width=4800)
    assert env.observation_width == 4800
    board = {"see": Box(0, 1, (3, 3, 2)), "shown": np.zeros((3, 3, 2), np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batch(**board).observation_width == 18


@pytest.mark.parametrize("space", [Sequence(Box(0, 1)), Dict({"x": Sequence(Discrete(2))})])
def test_observations_that_are_not_vectors_are_refused(space: Any) -> None:
    with pytest.raises(InvalidOption, match="not a vector of fixed width"):
        batch(see=space)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (np.zeros(3, np.float32), "got an observation of 3 instead of 2 numbers"),
        (np.array([0, np.nan]), "2 numbers with nan among them"),
        (np.array([0, np.inf]), "2 numbers with inf among them"),
        (None, "got an observation of 1 instead of 2 numbers.*: None"),
        ("text", "got the observation 'text', which is not in"),
        ({"x": 1}, "which is not in its observation space"),
    ],
    ids=["width", "nan", "inf", "none", "text", "dict"],
)
def test_observations_outside_their_space_are_refused(shown: Any, why: str) -> None:
    with pytest.raises(BrokenContract, match=f"agent 'a' got .*|{why}") as found:
        batch(shown=shown).reset()
    assert re.search(why, str(found.value))


# ---- what agents do


@pytest.mark.parametrize("space", [MultiDiscrete([2, 3]), MultiBinary(3), Text(4), None], ids=str)
def test_actions_of_other_kinds_are_refused(space: Any) -> None:
    with pytest.raises(InvalidOption, match=r"'a' acts in .*; only Discrete and Box"):
        batch(act=space)


@pytest.mark.parametrize("space", [Box(0, 255, (2,), np.uint8), Box(0, 1, (0,))], ids=str)
def test_vectors_of_no_floats_are_refused(space: Any) -> None:
    with pytest.raises(InvalidOption, match=r"'a' acts in .* must hold one float or more"):
        batch(act=space)


def test_a_vector_cannot_be_masked() -> None:
    env = batch(act=Box(0, 1, (2,)), mask=[1, 0])
    with pytest.raises(BrokenContract, match=r"'a' acts in Box.*\[1, 0\]: only Discrete actions"):
        env.reset()


@pytest.mark.parametrize("where", ["info", "observation"])
@pytest.mark.parametrize("mask", [[1, 1], [1, 1, 0, 1], [[1, 1, 1]], 1, []], ids=str)
def test_a_mask_of_another_length_is_refused(mask: Any, where: str) -> None:
    changes: dict[str, Any] = {"mask": np.array(mask, np.int8)}
    if where == "observation":
        space = Dict({"observation": Tiny.see, "action_mask": Box(0, 1, (3,), np.int8)})
        changes = {"see": space, "shown": {"observation": Tiny.shown, "action_mask": mask}}
    with pytest.raises(BrokenContract, match=r"'a' has 3 actions, but its action_mask has the sh"):
        batch(**changes).reset()


@pytest.mark.parametrize("mask", [[1, 0, 1], [True, False, True], [1.0, 0.0, 0.5], (1, 0, 1)])
def test_a_mask_may_be_of_any_kind(mask: Any) -> None:
    env = batch(mask=mask)
    env.reset()
    assert env.action_masks().tolist() == [[[1, 0, 1]] * 2] * 2


# ---- ends


@pytest.mark.parametrize("kind", ["truncated", "terminated"])
def test_agents_that_are_named_after_their_end_have_left(kind: str) -> None:
    class Stays(made(stays=True)):  # type: ignore[misc]
        def step(self, actions: Any) -> Any:
            assert set(actions) == {"a", "b"}
            seen, paid, never, ended, infos = super().step(actions)
            return (
                (seen, paid, ended, never, infos)
                if kind == "terminated"
                else (seen, paid, never, ended, infos)
            )

    env = PettingZooBatch(Stays, 2)
    env.reset()
    for _ in range(3):
        step = env.step(NONE)
    assert step.truncated.all() == (kind == "truncated")
    assert step.terminated.all() == (kind == "terminated")
    with pytest.raises(ResetNeeded):
        env.step(NONE)
    assert play(Random(env.action_spaces), env, episodes=4).tolist() == [1.0] * 4
    mappo.train(env, mappo.Config(**SHORT), eval_env=PettingZooBatch(Stays, 2), progress=False)


def test_an_agent_that_left_gets_no_more_observations() -> None:
    class First(Tiny):
        def step(self, actions: Any) -> Any:
            _, paid, never, ended, infos = super().step(actions)
            ended["a"] = True
            return dict.fromkeys("ab", np.ones(2, np.float32)), paid, never, ended, infos

    env = PettingZooBatch(First, 2)
    env.reset()
    step = env.step(NONE)
    assert step.observations[0].any(axis=1).tolist() == [True, True]
    assert env.action_masks()[0].tolist() == [[1, 0, 0], [1, 1, 1]]
    step = env.step(NONE)
    assert step.observations[0].any(axis=1).tolist() == [False, True]
    assert not step.truncated.any()
    assert env.step(NONE).truncated.all()


def test_an_endless_environment_is_truncated_or_reported() -> None:
    endless = made(length=10**9)
    env = PettingZooBatch(endless, 2, max_cycles=4)
    assert play(Random(env.action_spaces), env, episodes=2).tolist() == [1.0, 1.0]
    env.reset()
    assert [env.step(NONE).truncated.all() for _ in range(4)] == [False] * 3 + [True]
    env = PettingZooBatch(made(length=10**9, max_cycles=2), 2)
    with pytest.raises(BrokenContract, match=r"not ended after 200 steps, .* as max_cycles"):
        play(Random(env.action_spaces), env, episodes=2)
    with pytest.raises(InvalidOption, match="max_cycles must be at least 1"):
        PettingZooBatch(endless, 1, max_cycles=0)


# ---- rewards


@pytest.mark.parametrize("paid", [np.inf, -np.inf, np.nan, None, "one", [1.0, 2.0], {}], ids=str)
def test_rewards_that_are_no_numbers_are_refused(paid: Any) -> None:
    env = batch(paid=paid)
    with pytest.raises(BrokenContract, match=r"rewards must be one finite number for each agent"):
        mappo.train(env, mappo.Config(**SHORT), progress=False)


@pytest.mark.parametrize("paid", [1, True, np.float32(1), np.array([1.0])], ids=str)
def test_rewards_may_be_numbers_of_any_kind(paid: Any) -> None:
    env = batch(paid=paid)
    env.reset()
    assert env.step(NONE).rewards.tolist() == [[1.0, 1.0]] * 2


# ---- other shapes of environments


def test_the_error_names_an_old_interface() -> None:
    old_reset = made(reset=lambda self, **_: {"a": Tiny.shown, "b": Tiny.shown})
    with pytest.raises(BrokenContract, match=r"reset\(\) of the environment returned a dict; .* 2"):
        PettingZooBatch(old_reset, 1).reset()
    old_step = made(step=lambda self, actions: ({}, {}, {}, {}))
    env = PettingZooBatch(old_step, 1)
    env.reset()
    with pytest.raises(BrokenContract, match=r"step\(\) of the environment returned 4 values"):
        env.step(NONE[:1])


def test_agents_missing_from_possible_agents_are_refused() -> None:
    class Unnamed(Tiny):
        def __init__(self) -> None:
            super().__init__()
            del self.possible_agents

    class Born(Tiny):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            seen, infos = super().reset()
            self.agents = ["a", "b", "c"]
            return seen, infos

    with pytest.raises(InvalidOption, match="names no possible_agents"):
        PettingZooBatch(Unnamed, 1)
    with pytest.raises(BrokenContract, match="agent 'c' is at play, but is not in possible"):
        PettingZooBatch(Born, 1).reset()


def test_an_active_agent_without_an_observation_is_an_error() -> None:
    class Hidden(Tiny):
        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            seen, infos = super().reset()
            del seen["b"]
            return seen, infos

    with pytest.raises(BrokenContract, match="agent 'b' is at play, but got no observation"):
        PettingZooBatch(Hidden, 1).reset()


def test_infos_may_be_missing() -> None:
    for infos in ({}, None, {"a": None}):
        env = batch(_infos=lambda self, infos=infos: infos)
        env.reset()
        env.step(NONE)


def test_one_environment_is_not_several_copies() -> None:
    env = Tiny()
    with pytest.raises(InvalidOption, match="the same environment twice"):
        PettingZooBatch(lambda: env, 2)
    PettingZooBatch(lambda: env, 1)


# ---- what trainers and judges are given


@pytest.mark.parametrize("name", ["env", "eval_env"])
def test_objects_that_are_not_batches_are_refused(name: str, toys: SimpleNamespace) -> None:
    given = {"env": toys.Contextual(4), "eval_env": toys.Contextual(4, seed=1)}
    for wrong in (Tiny(), rpp_env.parallel_env(num_users=60, num_items=100), None, "RPP-v0"):
        if name == "eval_env" and wrong is None:
            continue
        envs = given | {name: wrong}
        with pytest.raises(InvalidOption, match=rf"^{name} is a .*PettingZooBatch\(make_env"):
            mappo.train(
                envs["env"], mappo.Config(**SHORT), eval_env=envs["eval_env"], progress=False
            )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nvec": (5, 5, 5)}, "has 3 agents, and env has 4"),
        ({"nvec": (5, 5, 5, 5)}, r"has \[5, 5, 5, 5\] actions, and env has \[5, 5, 9, 5\]"),
        ({"padding": 3}, "has 12 numbers in an observation, and env has 9"),
    ],
)
def test_an_eval_env_of_another_shape_is_refused(
    toys: SimpleNamespace, changes: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match=why):
        mappo.train(
            toys.Contextual(4),
            mappo.Config(**SHORT),
            eval_env=toys.Contextual(4, **changes),
            run_dir=tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_a_policy_states_its_input_shape(toys: SimpleNamespace) -> None:
    other = toys.Contextual(4, padding=3)
    seen = other.reset(seed=0)[0]
    for trainer, extra in ((mappo, {}), (qmix, {"batch": 4})):
        config = trainer.Config(**SHORT, **extra)  # type: ignore[attr-defined]
        policy = trainer.train(toys.Contextual(4), config, progress=False)  # type: ignore[attr-defined]
        with pytest.raises(InvalidOption, match=r"4 agents with 9 numbers each.* 4, 12\)"):
            policy.act(seen)


@pytest.mark.parametrize("name", ["env", "train_env"])
def test_evaluate_refuses_environments_without_users(name: str, toys: SimpleNamespace) -> None:
    users = rpp_env.RPPEnv.make(num_users=60, num_items=100)
    for wrong in (batch(), Tiny(), toys.Contextual(4), rpp_env.parallel_env(num_users=60)):
        envs = {"env": users, "train_env": users} | {name: wrong}
        with pytest.raises(InvalidOption, match=rf"{name} is a .*rpp_agents\.play") as found:
            rpp_env.evaluate(Random([3, 3]), envs["env"], train_env=envs["train_env"])
        assert (f"{name}.core" in str(found.value)) == hasattr(wrong, "core")


# ---- what is reported


def test_greedy_and_sampled_rewards_are_reported_if_no_model_is_called(tmp_path: Path) -> None:
    mappo.train(batch(), mappo.Config(**SHORT), eval_env=batch(), run_dir=tmp_path, progress=False)
    rows = read_progress(tmp_path)
    assert rows["eval_reward"][-1] == rows["eval_sampled"][-1] == 1


class Choosy(Tiny):
    """Pays for action 0 only."""

    def step(self, actions: Any) -> Any:
        seen, _, never, ended, infos = super().step(actions)
        return seen, {a: float(x == 0) for a, x in actions.items()}, never, ended, infos


def test_sampled_returns_are_those_of_samples(tmp_path: Path) -> None:
    """An untrained policy always takes the same action, or any of three."""
    config = mappo.Config(**SHORT | {"total_steps": 6}, eval_episodes=300, learning_rate=1e-9)
    envs = PettingZooBatch(Choosy, 2), PettingZooBatch(Choosy, 50)
    mappo.train(envs[0], config, eval_env=envs[1], run_dir=tmp_path, progress=False)
    last = {key: column[-1] for key, column in read_progress(tmp_path).items()}
    assert last["eval_reward"] in (0.0, 0.5, 1.0)
    assert last["eval_sampled"] == pytest.approx(1 / 3, abs=0.05)


def test_a_resumed_run_samples_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    config = mappo.Config(
        total_steps=6 * 4, evaluations=4, checkpoint_every=1, eval_episodes=20, tensorboard=False
    )

    def train(name: str, **options: Any) -> list[float]:
        envs = PettingZooBatch(Choosy, 2, max_cycles=3), PettingZooBatch(Choosy, 10)
        folder = tmp_path / name
        mappo.train(envs[0], config, eval_env=envs[1], run_dir=folder, progress=False, **options)
        return list(read_progress(folder)["eval_sampled"])

    def stop(row: Any, _: Any) -> None:
        if row["iteration"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("parts", callbacks=[stop])
    whole = train("whole")
    assert train("parts", resume=True) == whole


def test_users_are_evaluated_once(tmp_path: Path) -> None:
    users: dict[str, Any] = {"num_users": 60, "num_items": 100, "num_envs": 4}
    train, held_out = (rpp_env.RPPEnv.make(split=x, **users) for x in ("train", "validation"))
    mappo.train(train, mappo.Config(**SHORT), eval_env=held_out, run_dir=tmp_path, progress=False)
    assert "eval_sampled" not in read_progress(tmp_path)


def words_of(picture: Path) -> str:
    return picture.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 2])
def test_learning_curves_speak_of_users_where_there_are_users(
    runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")
    users: dict[str, Any] = {"num_users": 60, "num_items": 100, "num_envs": 4}
    config = mappo.Config(**SHORT)
    folders: dict[str, list[Path]] = {"users": [], "tiny": []}
    for seed in range(runs):
        for name, make in (
            ("users", lambda: rpp_env.RPPEnv.make(**users)),
            ("tiny", batch),
        ):
            folder = tmp_path / f"{name}-{seed}"
            mappo.train(make(), config, eval_env=make(), run_dir=folder, progress=False)
            folders[name].append(folder)
            about = json.loads((folder / "config.json").read_text())
            assert about["unit"] == ("users" if name == "users" else None)
    drawn = {
        name: words_of(learning_curve(there, tmp_path / f"{name}.svg"))
        for name, there in folders.items()
    }
    assert "training users" in drawn["users"]
    assert "validation users (greedy)" in drawn["users"]
    assert "sampled" not in drawn["users"]
    assert "users" not in drawn["tiny"]
    assert "validation (greedy)" in drawn["tiny"]
    assert "validation (sampled)" in drawn["tiny"]
