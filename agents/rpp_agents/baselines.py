"""Policies that know nothing of the user: `Random`, `Fixed`, and the search for the best one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.rollout import BatchedEnv, reset_ended
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.rules import Rules

__all__ = ["Fixed", "Random", "fixed_prompts", "search_fixed"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Random:
    """Every agent chooses uniformly among the actions that it may choose.

    Parameters
    ----------
    nvec : sequence of int
        Number of actions of each agent.
    seed : int
    """

    def __init__(self, nvec: Sequence[int] | Ints, *, seed: int = 0) -> None:
        self.nvec = np.asarray(nvec, dtype=np.int64)
        self._legal = np.arange(self.nvec.max()) < self.nvec[:, None]
        self._rng = np.random.default_rng(seed)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,  # noqa: ARG002 (there is nothing to be greedy about)
        memory: Any = None,
    ) -> tuple[Ints, Any]:
        """See `rpp_agents.policy.Policy.act`."""
        legal = self._legal if masks is None else self._legal & (np.asarray(masks) != 0)
        draws = self._rng.random((len(observations), *self._legal.shape))
        return np.where(legal, draws, -1.0).argmax(-1), memory

    def save(self, path: str | Path) -> None:
        """Write the sizes; the state of the random numbers is not kept."""
        write_tensors(path, {}, {"kind": "random", "nvec": self.nvec.tolist()})

    @classmethod
    def load(cls, path: str | Path) -> Random:
        """Read what `save` wrote."""
        return cls(_about(path, "random")["nvec"])


class Fixed:
    """The same actions for every user: step t plays row t of a plan, later steps its last row.

    The step is counted in `memory`, one number per user.

    Parameters
    ----------
    plan : (S, n) ints
    """

    def __init__(self, plan: Sequence[Sequence[int]] | Ints) -> None:
        self.plan = np.array(plan, dtype=np.int64)
        if self.plan.ndim != 2 or not self.plan.size or self.plan.min() < 0:
            raise InvalidOption(
                f"a plan holds one row of actions (0 or more) for each step, not {plan!r}"
            )

    @classmethod
    def prompt(cls, rules: Rules, *, level: int, role: int, reasoning: int, output: int) -> Fixed:
        """One prompt: these three sentences always, and `level` reached as fast as `rules` allow.

        Parameters
        ----------
        rules : Rules
        level : int
            The level to reach and keep, as `Rules` counts levels: a rung, an option, or items.
        role, reasoning, output : int
            The other three agents' actions.

        Raises
        ------
        InvalidOption
            For a level that cannot be reached.
        """
        history = _path(rules, level)
        plan = np.empty((len(history), 4), np.int64)
        plan[:] = role, 0, reasoning, output
        plan[:, 1] = history
        return cls(plan)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,  # noqa: ARG002 (a plan is legal by itself)
        greedy: bool = False,  # noqa: ARG002 (there is nothing to sample)
        memory: Any = None,
    ) -> tuple[Ints, Any]:
        """See `rpp_agents.policy.Policy.act`; `memory`, int64 (B,), counts the steps played."""
        step = np.zeros(len(observations), np.int64) if memory is None else np.asarray(memory)
        return self.plan[np.minimum(step, len(self.plan) - 1)], step + 1

    def save(self, path: str | Path) -> None:
        """Write the plan."""
        write_tensors(path, {}, {"kind": "fixed", "plan": self.plan.tolist()})

    @classmethod
    def load(cls, path: str | Path) -> Fixed:
        """Read what `save` wrote."""
        return cls(_about(path, "fixed")["plan"])


def _about(path: str | Path, kind: str) -> dict[str, Any]:
    _, about = read_tensors(path)
    if about.get("kind") != kind:
        raise InvalidData(f"{path} holds a {about.get('kind')!r} policy, not a {kind!r} one")
    return about


def _levels(rules: Rules) -> list[int]:
    """Levels that can be reached and kept: all of them, but where items only ever grow."""
    lowest = rules.start if rules.history == "grow" else 0
    return list(range(lowest, rules.max_level + 1))


def _path(rules: Rules, target: int) -> Ints:
    """The history agent's actions from the start to the level `target`, the last one keeping it."""
    if target not in _levels(rules):
        raise InvalidOption(
            f"level {target} cannot be reached under {rules.id}: "
            f"levels run from {_levels(rules)[0]} to {rules.max_level}"
        )
    # The option that changes least stands first among equals: at the ends, clipping keeps the level
    # under several.
    options = np.array(
        sorted(range(len(rules.history_options)), key=lambda i: abs(rules.history_options[i]))
    )
    level, actions = np.int64(rules.start), []
    for _ in range(rules.max_cycles):
        after = rules.next_level(np.full(len(options), level), options)
        nearest = int(np.abs(after - target).argmin())
        actions.append(int(options[nearest]))
        if level == target and after[nearest] == target:
            break
        level = after[nearest]
    return np.array(actions)


# The best fixed prompt


def fixed_prompts(rules: Rules, sizes: Sequence[int]) -> list[Fixed]:
    """Every fixed prompt under `rules`: all levels with all roles, reasonings and outputs.

    `sizes` are the four agents' numbers of options; the second is not used, levels take its place.
    """
    roles, _, reasonings, outputs = (range(int(size)) for size in sizes)
    return [
        Fixed.prompt(rules, level=level, role=role, reasoning=reasoning, output=output)
        for level, role, reasoning, output in itertools.product(
            _levels(rules), roles, reasonings, outputs
        )
    ]


def search_fixed(
    env: BatchedEnv,
    *,
    budget: int = 40_000,
    seed: int = 0,
    candidates: Sequence[Fixed] | None = None,
) -> tuple[Fixed, float]:
    """The fixed prompt with the highest mean reward over the episode's steps, on `env`'s users.

    From a reward table (``env.table``) the answer is exact: every prompt, every user. Otherwise by
    successive halving: all candidates play the same few users, the better quarter plays more of
    them, and so on, so that most of the budget goes to the prompts that are worth it.

    Give it training users: the choice is part of training.

    Parameters
    ----------
    env : BatchedEnv
        An ``RPPEnv``, or another environment together with `candidates`.
    budget : int
        Episodes to play at most (not used with a table). One for every candidate is the least.
    seed : int
        Which users are played first.
    candidates : sequence of Fixed, optional
        What to choose from; by default every prompt that ``env.rules`` and ``env.book`` allow, or
        every joint action where the environment has no rules.

    Returns
    -------
    (Fixed, float)
        The best one, and its mean reward on the users that were asked.

    Raises
    ------
    InvalidOption
        For a budget below the number of candidates.
    """
    rules = getattr(env, "rules", None)
    if candidates is None:
        candidates = (
            [Fixed([joint]) for joint in itertools.product(*(range(int(n)) for n in env.nvec))]
            if rules is None
            else fixed_prompts(rules, env.book.sizes)  # type: ignore[attr-defined]
        )
    horizon = int(env.max_cycles)
    rows = np.minimum(
        np.arange(horizon), np.array([len(fixed.plan) for fixed in candidates])[:, None] - 1
    )
    plans = np.stack([fixed.plan[row] for fixed, row in zip(candidates, rows, strict=True)])
    if rules is not None and getattr(env, "table", None) is not None:
        means = _table_means(env, rules, plans)
        best = int(means.argmax())
        return candidates[best], float(means[best])
    if budget < len(plans):
        raise InvalidOption(
            f"budget={budget} episodes cannot try {len(plans)} candidates once each"
        )
    return _halving(env, candidates, plans, budget, seed)


def _halving(
    env: BatchedEnv, candidates: Sequence[Fixed], plans: Ints, budget: int, seed: int
) -> tuple[Fixed, float]:
    tasks = getattr(env, "tasks", None)
    users = None if tasks is None else np.random.default_rng(seed).permutation(len(tasks))
    env.reset(seed=seed)
    rounds = max(1, math.ceil(math.log(len(plans), 4)))
    left = np.arange(len(plans))
    total, played = np.zeros(len(plans)), 0
    for i in range(rounds):
        share = budget // (rounds - i) // len(left)
        fresh = max(share, 1 if played == 0 else 0)
        if users is not None:
            fresh = min(fresh, len(users) - played)
        if fresh:
            # The same users for every candidate: what differs between users cancels out.
            pairs = np.tile(left, fresh)
            who = None if users is None else np.repeat(users[played : played + fresh], len(left))
            rewards = _episodes(env, plans[pairs], who).reshape(fresh, len(left))
            total[left] += rewards.sum(axis=0)
            played += fresh
            budget -= rewards.size
        keep = max(1, math.ceil(len(left) / 4)) if i < rounds - 1 else 1
        left = left[np.argsort(-total[left], kind="stable")[:keep]]
    return candidates[int(left[0])], float(total[left[0]] / played)


def _episodes(env: BatchedEnv, plans: Ints, users: Ints | None) -> Floats:
    """Mean reward per step of one episode for each row of `plans` (N, horizon, n)."""
    size = env.num_envs
    scores: list[Floats] = []
    for begin in range(0, len(plans), size):
        part = plans[begin : begin + size]
        if users is None:
            # The environment chooses who plays, always a whole batch; surplus rows repeat the last.
            env.reset()
            chosen = part[np.minimum(np.arange(env.num_envs), len(part) - 1)]
        else:
            env.reset(options={"users": users[begin : begin + size]})
            chosen = part
        total, length = np.zeros(len(chosen)), np.zeros(len(chosen))
        running = np.ones(len(chosen), np.bool_)
        for t in range(chosen.shape[1]):
            step = env.step(chosen[:, t])
            rewards = np.asarray(step.rewards, np.float64).reshape(len(chosen), -1).mean(axis=1)
            total[running] += rewards[running]
            length[running] += 1
            ended = step.terminated | step.truncated
            running &= ~ended
            if not running.any():
                break
            reset_ended(env, step.observations, ended)
        scores.append((total / length)[: len(part)])
    return np.concatenate(scores)


def _table_means(env: Any, rules: Rules, plans: Ints) -> Floats:
    """Mean reward of every plan over all users, looked up."""
    level = np.full(len(plans), rules.start)
    levels = np.empty(plans.shape[:2], np.int64)
    for t in range(plans.shape[1]):
        level = rules.next_level(level, plans[:, t, 1])
        levels[:, t] = level
    # Plans share their cells: each (level, role, reasoning, output) is looked up once.
    keys = np.concatenate([levels[..., None], plans[..., [0, 2, 3]]], axis=-1).reshape(-1, 4)
    cells, where = np.unique(keys, axis=0, return_inverse=True)
    everyone = np.arange(len(env.tasks))
    means = np.array([_cell_mean(env, everyone, cell) for cell in cells])
    result: Floats = means[where.reshape(plans.shape[:2])].mean(axis=1)
    return result


def _cell_mean(env: Any, everyone: Ints, cell: Ints) -> float:
    level, role, reasoning, output = cell.tolist()
    choices = np.empty((len(everyone), 4), np.int64)
    choices[:] = role, 0, reasoning, output
    order, named, *_ = env.table.lookup(everyone, np.full(len(everyone), level), choices)
    place = (order == np.asarray(env.tasks.position)[:, None]).argmax(axis=1)
    return float(np.mean(ndcg(np.where(place < named, place + 1, 0), 10)))
