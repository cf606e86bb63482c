"""Baselines that ignore the user: `Random`, `Fixed`, and the search for the best fixed prompt."""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import read_small
from rpp_env.prompting import Axis, PromptSpace, walk
from rpp_env.rules import Rules
from rpp_env.spaces import BoxSpaces, DiscreteSpaces, bounds_of, spaces_of

__all__ = [
    "Batch",
    "Fixed",
    "Policy",
    "Random",
    "check_budget",
    "fixed_prompts",
    "halving",
    "load_baseline",
    "reachable",
    "search_fixed",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@runtime_checkable
class Policy(Protocol):
    """A policy: chooses actions for a batch of users."""

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[Ints, Any]:
        """Choose an action for every user and agent.

        Parameters
        ----------
        observations : float32 (B, n, d)
        masks : (n, A) or (B, n, A), optional
            Non-zero where an action may be chosen.
        greedy : bool
            Take the most probable action instead of sampling.
        memory
            The memory that the last call returned; ``None`` when episodes begin. If it is an array,
            its rows are the users, and a row of zeros marks a user whose episode begins.

        Returns
        -------
        actions : int64 (B, n)
        memory
            Pass it to the next call.
        """
        ...


class Batch(Protocol):
    """The parts of an environment that the search uses: an `rpp_env.RPPEnv`, or a similar class."""

    @property
    def num_envs(self) -> int: ...
    @property
    def agents(self) -> Sequence[str]: ...
    @property
    def action_spaces(self) -> Sequence[Space[Any]]: ...
    @property
    def max_cycles(self) -> int: ...

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any: ...
    def step(self, actions: Ints) -> Any: ...


_MOST_ACTIONS = 10_000_000
"""Limit on agents times the most actions of one: a file could otherwise claim any memory."""


class Random:
    """Policy in which every agent chooses uniformly among its legal actions.

    Numbers without two bounds are drawn from a standard normal distribution.

    Parameters
    ----------
    spaces : sequence of Discrete, Box or int
        Action space of each agent, as in ``env.action_spaces``, or its number of actions.
    seed : int
    """

    def __init__(self, spaces: Sequence[Space[Any] | int] | Ints, *, seed: int = 0) -> None:
        named = isinstance(spaces, Sequence) and any(isinstance(one, Space) for one in spaces)
        self._actions = spaces_of(range(len(spaces)), spaces) if named else _choices(spaces)
        self._rng = np.random.default_rng(seed)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,  # noqa: ARG002 (there is nothing to be greedy about)
        memory: Any = None,
    ) -> tuple[Ints, Any]:
        """See `Policy`."""
        legal = self._actions.legal
        if masks is not None:
            allowed = np.asarray(masks) != 0
            if allowed.shape[-2:] != legal.shape:
                raise InvalidOption(
                    f"this policy draws for {legal.shape[0]} agents among up to {legal.shape[1]} "
                    f"actions, and the environment has {allowed.shape[-2]} agents and up to "
                    f"{allowed.shape[-1]} actions"
                )
            legal = legal & allowed
        return self._actions.random(self._rng, len(observations), legal), memory

    def save(self, path: str | Path) -> None:
        """Write sizes or bounds as JSON; the state of the random generator is not saved."""
        _write(path, {"kind": "random", self._actions.key: self._actions.description})

    @classmethod
    def load(cls, path: str | Path) -> Random:
        """Read a policy that `save` wrote."""
        about = _read(path, "random")
        spaces = about.get(DiscreteSpaces.key)
        if BoxSpaces.key in about:
            spaces = _made(_boxes, path, about[BoxSpaces.key])
        return _made(cls, path, spaces)


class Fixed:
    """Policy with the same actions for every user: step t plays row t of a plan, or its last row.

    The step is counted in `memory`, one number per user.

    Parameters
    ----------
    plan : (S, n) ints
    """

    def __init__(self, plan: Sequence[Sequence[int]] | Ints) -> None:
        rows = np.array(plan)
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "iu" or rows.min() < 0:
            raise InvalidOption(
                f"a plan holds one row of actions (0 or more) for each step, not {str(plan)[:60]}"
            )
        self.plan = rows.astype(np.int64)

    @classmethod
    def prompt(cls, rules: Rules, *, level: int, role: int, reasoning: int, output: int) -> Fixed:
        """Make the policy of one prompt: three fixed sentences, and the history level `level`.

        Parameters
        ----------
        rules : Rules
        level : int
            The history level to reach as fast as `rules` allow and to keep: an index into `rungs`,
            an option, or a number of items, depending on the rules.
        role, reasoning, output : int
            The other three agents' actions.

        Raises
        ------
        InvalidOption
            For a level that cannot be reached.
        """
        actions, _ = rules.lengths.route(level)
        plan = np.empty((len(actions), 4), np.int64)
        plan[:] = role, 0, reasoning, output
        plan[:, 1] = actions
        return cls(plan)

    @classmethod
    def of(cls, space: PromptSpace[Any, Any], cell: int, steps: int) -> Fixed:
        """Make the policy that reaches a space's prompt `cell` as fast as possible and keeps it."""
        assert space.shape is not None
        plan = np.zeros((steps, len(space.agents)), np.int64)
        for axis, position in zip(space.axes, np.unravel_index(cell, space.shape), strict=True):
            plan[:, axis.agent] = axis.route(int(position), steps)[0]
        return cls(plan)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,  # noqa: ARG002 (a plan is legal by itself)
        greedy: bool = False,  # noqa: ARG002 (there is nothing to sample)
        memory: Any = None,
    ) -> tuple[Ints, Any]:
        """See `Policy`; `memory`, int64 (B,), counts the steps played."""
        step = np.zeros(len(observations), np.int64) if memory is None else np.asarray(memory)
        return self.plan[np.minimum(step, len(self.plan) - 1)], step + 1

    def described(self, space: PromptSpace[Any, Any]) -> str:
        """Describe the prompt of the last step in words."""
        if space.shape is None:
            return f"the actions {self.plan[-1].tolist()}"
        last = walk(space.axes, self.plan[None])[:, 0, -1]
        return space.described(int(np.ravel_multi_index(tuple(last), space.shape)))

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        _write(path, {"kind": "fixed", "plan": self.plan.tolist()})

    @classmethod
    def load(cls, path: str | Path) -> Fixed:
        """Read a plan that `save` wrote."""
        return _made(cls, path, _read(path, "fixed").get("plan"))


def load_baseline(path: str | Path) -> Random | Fixed:
    """Read a saved `Random` or `Fixed`.

    Raises
    ------
    InvalidData
        If the file is missing or holds neither.
    """
    kinds: dict[str, type[Random | Fixed]] = {"random": Random, "fixed": Fixed}
    kind = str(_read(path)["kind"])
    if kind not in kinds:
        raise InvalidData(f"{path} holds a {kind!r}; a baseline is one of {', '.join(kinds)}")
    return kinds[kind].load(path)


def _write(path: str | Path, about: dict[str, Any]) -> None:
    with whole_file(Path(path)) as file:
        file.write(json.dumps(about).encode() + b"\n")


def _read(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    try:
        about = json.loads(read_small(Path(path)))
        found = str(about["kind"])
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}") from error
    except InvalidData:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidData(f"{path} holds no saved baseline (JSON with a kind)") from error
    if kind is not None and found != kind:
        raise InvalidData(f"{path} holds a {found!r} policy, not a {kind!r} one")
    return dict(about)


def _choices(sizes: Any) -> DiscreteSpaces:
    """Make the description of agents with these numbers of actions, read from a file."""
    given = np.asarray(sizes)
    whole = given.ndim == 1 and given.size > 0 and given.dtype.kind in "iu"
    if not whole or given.min() < 1 or len(given) * int(given.max()) > _MOST_ACTIONS:
        raise InvalidOption(
            "the numbers of actions of the agents must be whole numbers from 1, which together "
            f"take up to {_MOST_ACTIONS:,} places; not {str(sizes)[:60]}"
        )
    return DiscreteSpaces((), given.tolist())


def _boxes(about: Any) -> list[Box]:
    """Make the spaces of a description, read from a file."""
    bounds = [bounds_of(box) for box in about]
    if len(bounds) * max(len(low) for low, _ in bounds) > _MOST_ACTIONS:
        raise InvalidOption(f"the agents' numbers take more than {_MOST_ACTIONS:,} places")
    return [Box(*np.array([low, high], np.float32)) for low, high in bounds]


B = TypeVar("B")


def _made(kind: Callable[[Any], B], path: str | Path, about: Any) -> B:
    try:
        return kind(about)
    except (InvalidOption, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InvalidData(f"{path} holds no policy that can be used: {error}") from error


# The best fixed prompt


def fixed_prompts(space: PromptSpace[Any, Any], steps: int) -> list[Fixed]:
    """List every fixed prompt of a space that can be reached, in the order of prompt indices.

    Raises
    ------
    InvalidOption
        If there are infinitely many.
    """
    if space.shape is None:
        raise InvalidOption(
            f"{type(space).__name__} has infinitely many prompts, so the best fixed one cannot be "
            "searched for: give candidates, or a policy as the baseline 'fixed'"
        )
    return [Fixed.of(space, cell, steps) for cell in reachable(space.axes).tolist()]


def reachable(axes: Sequence[Axis]) -> Ints:
    """(C,) indices of the prompts that can be reached on the axes of a space, in their order."""
    cells = np.arange(math.prod(map(len, axes))).reshape([len(axis) for axis in axes])
    for i, axis in enumerate(axes):
        cells = cells.take(np.arange(axis.lowest, len(axis)), axis=i)
    return cells.ravel()


def check_budget(env: Batch, budget: int) -> None:
    """Check that `search_fixed` can try every prompt once with this budget.

    Commands that train first call it early, so that they fail before training.

    Raises
    ------
    InvalidOption
    """
    space, table = getattr(env, "space", None), getattr(env, "table", None)
    if space is not None and table is None:
        _check_budget(budget, len(fixed_prompts(space, env.max_cycles)))


def _check_budget(budget: int, candidates: int) -> None:
    if budget < candidates:
        raise InvalidOption(
            f"budget={budget} episodes cannot try {candidates} candidates once each: give "
            f"{candidates} or more"
        )


def search_fixed(
    env: Batch,
    *,
    budget: int = 40_000,
    seed: int = 0,
    candidates: Sequence[Fixed] | None = None,
) -> tuple[Fixed, float]:
    """Find the fixed prompt with the highest mean reward over the episode's steps.

    With a reward table (``env.table``) the result is exact: every prompt, every user. Otherwise
    `halving` searches with the budget, as far as there are users.

    Use training users: the choice is part of training.

    Parameters
    ----------
    env : RPPEnv
        The environment of the users; may be another batched environment.
    budget : int
        Maximum number of episodes (unused with a table); at least one per candidate.
    seed : int
        Seed of the order of the users.
    candidates : sequence of Fixed, optional
        Fixed policies to choose from; by default every prompt of ``env.space``, or, without a
        prompt space, every joint action that the masks allow at first.

    Returns
    -------
    (Fixed, float)
        The best one, and its mean reward on the users that were played.

    Raises
    ------
    InvalidOption
        For a budget below the number of candidates, and for a space of infinitely many prompts.
    """
    space = getattr(env, "space", None)
    horizon = int(env.max_cycles)
    if candidates is None:
        candidates = (
            [Fixed([joint]) for joint in itertools.product(*_legal(env, seed))]
            if space is None
            else fixed_prompts(space, horizon)
        )
    rows = np.minimum(
        np.arange(horizon), np.array([len(fixed.plan) for fixed in candidates])[:, None] - 1
    )
    plans = np.stack([fixed.plan[row] for fixed, row in zip(candidates, rows, strict=True)])
    table = getattr(env, "table", None)
    if space is not None and table is not None:
        means = _planned_means(table.rewards().mean(axis=0, dtype=np.float64), space, plans)
        best = int(means.argmax())
        return candidates[best], float(means[best])
    _check_budget(budget, len(plans))
    tasks = getattr(env, "tasks", None)
    order = None if tasks is None else np.random.default_rng(seed).permutation(len(tasks))
    env.reset(seed=seed)
    size = env.num_envs

    def ask(start: int, stop: int, left: Ints) -> Floats:
        # The same users for every candidate, so that differences between users cancel out.
        who = None if order is None else np.repeat(order[start:stop], len(left))
        return _episodes(env, plans[np.tile(left, stop - start)], who, size).reshape(-1, len(left))

    users = budget if order is None else len(order)
    best, mean = halving(ask, np.arange(len(plans)), users, budget)
    env.reset(seed=seed)  # restores the original batch size
    return candidates[best], mean


def _planned_means(means: Floats, space: PromptSpace[Any, Any], plans: Ints) -> Floats:
    """Mean reward of every plan (N, steps, n), from a table's mean reward of every prompt."""
    total = np.zeros(len(plans))
    for positions in walk(space.axes, plans).transpose(2, 0, 1):
        total += means[tuple(positions)]
    found: Floats = total / plans.shape[1]
    return found


def _legal(env: Batch, seed: int) -> list[list[int]]:
    """Return per agent the actions that are legal at first in every row."""
    env.reset(seed=seed)
    actions = spaces_of(env.agents, env.action_spaces)
    if not isinstance(actions, DiscreteSpaces):
        raise InvalidOption(
            f"agent {actions.agents[0]!r} acts in {actions.spaces[0]}: the best fixed choice can "
            "be searched only among Discrete actions"
        )
    every = actions.legal
    masks = getattr(env, "action_masks", None)
    if masks is not None:
        every = every & (np.asarray(masks()) != 0).reshape(-1, *every.shape).all(axis=0)
    return [np.flatnonzero(row).tolist() for row in every]


def halving(
    ask: Callable[[int, int, Ints], Floats],
    candidates: Ints,
    users: int,
    budget: int,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[int, float]:
    """Find the candidate with the highest mean reward by successive halving, within a budget.

    All candidates are tried on the same few users, the better quarter of them on more users, and
    so on until one is left. Rounds get equal shares of the budget; if users run out in the later
    rounds, the earlier ones get the rest.

    Parameters
    ----------
    ask : callable
        ``ask(start, stop, left)`` returns the rewards (stop - start, len(left)) of the users number
        `start` to `stop` - 1 under the candidates `left`.
    candidates : (C,) ints
        Candidates to choose from; of equal ones the first wins.
    users : int
        Number of users available.
    budget : int
        Maximum number of (user, candidate) pairs to evaluate. With fewer than C, only the first
        `budget` candidates are tried.
    watch : callable, optional
        Called after every round with the pairs evaluated so far and the best candidate.

    Returns
    -------
    (int, float)
        The best candidate, and its mean reward over the users it was tried on.
    """
    left = np.asarray(candidates, np.int64)[:budget]
    total = dict.fromkeys(left.tolist(), 0.0)
    tried = asked = 0
    rounds = _rounds(len(left), users, budget)
    for i, fresh in enumerate(rounds):
        if fresh:
            sums = ask(tried, tried + fresh, left).sum(axis=0)
            for candidate, earned in zip(left.tolist(), sums.tolist(), strict=True):
                total[candidate] += earned
            tried += fresh
            asked += fresh * len(left)
        keep = math.ceil(len(left) / 4) if i < len(rounds) - 1 else 1
        scores = np.array([total[candidate] for candidate in left.tolist()])
        left = left[np.argsort(-scores, kind="stable")[:keep]]
        if watch is not None:
            watch(asked, int(left[0]))
    best = int(left[0])
    return best, total[best] / tried


def _rounds(candidates: int, users: int, budget: int) -> list[int]:
    """New users of each round of `halving`: the largest equal shares that the budget allows."""
    sizes = [candidates]
    while sizes[-1] > 4:
        sizes.append(math.ceil(sizes[-1] / 4))

    def plan(share: int) -> list[int]:
        found: list[int] = []
        for size in sizes:
            least = 0 if found else 1  # each candidate is tried once
            found.append(min(max(share // size, least), users - sum(found)))
        return found

    def cost(share: int) -> int:
        return sum(size * fresh for size, fresh in zip(sizes, plan(share), strict=True))

    # The cost rises with the share: bisect, up to all candidates tried on all users.
    shares = range(candidates * users + 1)
    return plan(bisect.bisect_right(shares, budget, key=cost) - 1)


def _episodes(env: Batch, plans: Ints, users: Ints | None, size: int) -> Floats:
    """Mean reward per step of one episode for each row of `plans` (N, horizon, n)."""
    scores: list[Floats] = []
    for begin in range(0, len(plans), size):
        chosen = plans[begin : begin + size]
        count = len(chosen)
        if users is None:
            # The environment chooses the users, a whole batch at a time; repeat the last plan.
            env.reset()
            chosen = chosen[np.minimum(np.arange(size), count - 1)]
        else:
            env.reset(options={"users": users[begin : begin + size]})
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
            if ended.any():
                env.reset(options={"reset_mask": ended})
        scores.append((total / length)[:count])
    return np.concatenate(scores)
