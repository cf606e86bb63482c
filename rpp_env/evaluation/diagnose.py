"""Measure how much personal prompts can gain, and how much the agents must coordinate.

Everything is computed on reward tables: choices are made on train users and scored on other users,
with paired bootstrap intervals over these users. A *cell* is one prompt of the prompt space; under
RPP's rules a history level, a role, a reasoning and an output sentence. The score of a cell for a
user is the mean NDCG@10 over the steps of an episode in which the cell is reached as fast as the
space's axes allow.

Lines
    *chance* (a random ranking), *random prompt* (uniform actions), *best fixed prompt* (the best
    cell on train users), *observable reference* (a supervised model from the first observation to
    the table, fitted on train users; it plays each user's best predicted cell), *type reference*
    (the best cell per latent habit, if the dataset has habits), *hindsight* (each user's best
    sequence of actions, known only afterwards, and so partly luck).
    Where the agents see the user's responses, also the policies of `rpp_env.evaluation.feedback`:
    *posterior, greedy* (plays what is best in expectation, given all responses so far),
    *exploring* (tries prompts first), *last response* (remembers no other). Their differences say
    what closing the loop, exploring and memory are worth to these named policies, which is a lower
    bound.
Neither reference is an upper bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.evaluation.baselines import Fixed
from rpp_env.evaluation.feedback import fit_posterior, responses, simulate
from rpp_env.interrupts import heed_interrupts
from rpp_env.intervals import Estimate, Means, estimate, gain, has_gap
from rpp_env.markdown import code, table, words
from rpp_env.metrics import chance_ndcg
from rpp_env.options import check_seed
from rpp_env.prompting import Axis
from rpp_env.threads import one_thread

if TYPE_CHECKING:
    from rpp_env.core import RPPEnv

__all__ = [
    "Diagnosis",
    "Reference",
    "check_reference_users",
    "diagnose",
    "episode_scores",
    "fit_reference",
    "hindsight_scores",
]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def episode_scores(rewards: Floats, axes: Sequence[Axis], steps: int) -> NDArray[np.float32]:
    """Compute the score of every cell for every user, including the steps to reach it.

    Parameters
    ----------
    rewards : (T, *shape) array
        From `RewardTable.rewards`.
    axes : sequence of Axis
        Axes of the prompt space, one per entry of its shape.
    steps : int
        Steps of an episode.

    Returns
    -------
    Array of the same shape.
    """
    ways = {
        i: np.stack([axis.route(at, steps)[1] for at in range(len(axis))])
        for i, axis in enumerate(axes, 1)
        if not axis.free
    }
    total: Any = 0
    for step in range(steps):
        there = rewards
        for i, way in ways.items():
            there = there.take(way[:, step], axis=i)
        total = total + there
    return np.asarray(total / steps, dtype=np.float32)


def hindsight_scores(rewards: Floats, axes: Sequence[Axis], steps: int) -> Floats:
    """(T,) the highest score that any actions could have earned each user; partly luck.

    The arguments are those of `episode_scores`.
    """
    return _planned(rewards, rewards, axes, steps)


class Reference:
    """The observable reference: predicts the rewards of all cells from a first observation.

    A supervised model with full information, fitted on the train users' complete table: principal
    components of the table, each predicted by an ensemble of small neural networks (scikit-learn).
    It estimates how much of the gain the observation allows. It plays only the cells that it chose
    most often for the train users (`portfolio`), because the maximum over a thousand noisy
    predictions overfits.
    """

    def __init__(
        self,
        predict: Callable[[Floats], Floats],
        axes: Sequence[Axis],
        steps: int,
        portfolio: Ints,
    ) -> None:
        self._predict = predict
        self.axes = tuple(axes)
        self.steps = steps
        self.sizes = tuple(map(len, axes))
        self.portfolio = portfolio

    def rewards(self, observations: Floats) -> Floats:
        """(B, *shape) predicted rewards, up to a constant per user.

        `observations` (B, n, d) are those of `RPPEnv.reset`.
        """
        return self._predict(observations[:, 0]).reshape(-1, *self.sizes)

    def cells(self, observations: Floats) -> Ints:
        """(B, axes) each user's best predicted cell, as positions on the axes."""
        best = self.choose(episode_scores(self.rewards(observations), self.axes, self.steps))
        return np.stack(np.unravel_index(best, self.sizes), axis=1)

    def choose(self, scores: Floats) -> Ints:
        """(B,) flat index of the best cell of the portfolio by the predicted `scores`."""
        best: Ints = self.portfolio[
            scores.reshape(len(scores), -1)[:, self.portfolio].argmax(axis=1)
        ]
        return best

    def act(
        self,
        observations: Floats,
        masks: Any = None,  # noqa: ARG002 - a cell is legal by itself
        greedy: bool = False,  # noqa: ARG002 - there is nothing to sample
        memory: Any = None,
    ) -> tuple[Ints, Any]:
        """Play each user's cell; `memory` (B, axes + 1) holds the cells and the steps played."""
        if memory is None:
            cells = self.cells(observations)
            memory = np.concatenate([cells, np.zeros((len(cells), 1), np.int64)], axis=1)
        step = np.minimum(memory[:, -1], self.steps - 1)
        actions = np.zeros((len(memory), 1 + max(axis.agent for axis in self.axes)), np.int64)
        for axis, position in zip(self.axes, memory.T, strict=False):
            routes = np.stack([axis.route(at, self.steps)[0] for at in range(len(axis))])
            actions[:, axis.agent] = routes[position, step]
        return actions, np.concatenate([memory[:, :-1], memory[:, -1:] + 1], axis=1)


FEWEST_USERS = 11
"""Fewest train users of a reference: a tenth of them is held out for early stopping."""


def check_reference_users(users: int) -> None:
    """Check the number of train users for `fit_reference`, before they are tabulated.

    Raises
    ------
    InvalidOption
    """
    if users < FEWEST_USERS:
        raise InvalidOption(
            f"a reference needs {FEWEST_USERS} train users or more, not {users}: tabulate more"
        )


@heed_interrupts()
@one_thread()
def fit_reference(
    env: RPPEnv,
    *,
    components: int = 16,
    members: int = 8,
    portfolio: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Reference:
    """Fit the observable reference on the users of `env`, which replays a complete table.

    Ctrl-C raises KeyboardInterrupt, so no partly fitted reference is returned. It uses one thread,
    so that the result does not depend on the number of cores.

    Parameters
    ----------
    env : RPPEnv
        The environment of the train users.
    components : int
        Number of principal components of the table that are predicted.
    members : int
        Number of networks in the ensemble.
    portfolio : int
        Number of cells that it may play.
    seed : int
        Seed of the networks' first weights.
    progress : callable, optional
        Called with (networks fitted, networks in all).

    Raises
    ------
    MissingExtra
        Without scikit-learn: ``pip install 'rpp-env[agents]'``.
    InvalidOption
        For fewer than 11 users: a tenth of them is held out for early stopping.
    """
    check_seed(seed)
    check_reference_users(len(env.tasks))
    try:
        from sklearn.decomposition import PCA
        from sklearn.neural_network import MLPRegressor
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtra("scikit-learn", "agents") from error
    rewards = _rewards(env)
    table = rewards.reshape(len(rewards), -1)
    # A user's mean over all prompts is no information about which prompt to take.
    table = table - table.mean(axis=1, keepdims=True)
    if not np.ptp(table, axis=1).any():  # all prompts are equally good, so any cell will do
        everywhere = np.zeros(table.shape[1], dtype=np.float32)
        return Reference(
            lambda observations: np.tile(everywhere, (len(observations), 1)),
            env.space.axes,
            env.max_cycles,
            np.zeros(1, dtype=np.int64),
        )
    seen = _first_observations(env)[:, 0]
    scale = StandardScaler().fit(seen)
    principal = PCA(
        min(components, len(table) - 1, table.shape[1]), random_state=seed % (1 << 32)
    ).fit(table)
    wanted = principal.transform(table)
    unit = wanted.std()
    networks = []
    for member in range(members):
        if progress is not None:
            progress(member, members)
        network = MLPRegressor(
            hidden_layer_sizes=(128, 128),
            alpha=5.0,
            learning_rate_init=1e-3,
            early_stopping=True,
            n_iter_no_change=15,
            max_iter=1000,
            random_state=(seed + member) % (1 << 32),
        )
        with heed_interrupts():  # scikit-learn would end this fit only, and the next would begin
            networks.append(network.fit(scale.transform(seen), wanted / unit))
    if progress is not None:
        progress(members, members)

    @one_thread()
    def predict(observations: Floats) -> Floats:
        scaled = scale.transform(observations)
        found = np.mean([network.predict(scaled) for network in networks], axis=0) * unit
        return np.asarray(principal.inverse_transform(found), dtype=np.float32)

    wished = predict(seen).reshape(rewards.shape)
    chosen = _argmax(episode_scores(wished, env.space.axes, env.max_cycles))
    often = np.bincount(chosen, minlength=table.shape[1]).argsort(kind="stable")[::-1]
    return Reference(predict, env.space.axes, env.max_cycles, often[:portfolio])


@dataclass(frozen=True)
class Diagnosis:
    """Result of `diagnose`.

    Attributes
    ----------
    about : dict
        Dataset, rules, model, numbers of users, the best fixed cell.
    lines : dict of Estimate
        Per line, mean NDCG@10 over the episode's steps of the scored users.
    gaps : dict of Estimate
        Differences of lines; and the observable gap as a share of the type gap, if there is one.
    agents : dict of dict of Estimate, float or None
        Per reference (``"observable"``, ``"type"``): the share of its gap that is left with one
        agent frozen (None without a gap, see `rpp_env.intervals.has_gap`), and the loss of choosing
        agent by agent.
    myopia : Estimate
        Planning minus greedy choices, both on the observable reference's predictions.
    """

    about: dict[str, Any]
    lines: dict[str, Estimate]
    gaps: dict[str, Estimate]
    agents: dict[str, dict[str, Estimate | float | None]]
    myopia: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, for `json.dump`."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the JSON atomically."""
        with whole_file(Path(path)) as file:
            file.write(json.dumps(self.to_json(), indent=1).encode() + b"\n")

    def markdown(self) -> str:
        """Format the tables as Markdown."""
        a = self.about
        drawn = f"{words(a['negatives'])} candidates"
        myopia = ["planning minus greedy (myopia gap)", self.myopia]
        needs = [
            [name, *(_shown(by[name]) for by in self.agents.values())]
            for name in next(iter(self.agents.values()), {})
        ]
        text = [
            f"{code(a['dataset'])}, {code(a['rules'])}, model {code(a['model'])}, {drawn}.",
            f"{a['train_users']:,} train users, {a['users']:,} {a['split']} users.",
            "",
            table([["line", "NDCG@10, mean over the steps"], *self.lines.items()], padded=False),
            "",
            table([["gap", "NDCG@10"], *self.gaps.items(), myopia], padded=False),
            "",
            table([["how the agents need each other", *self.agents], *needs], padded=False),
        ]
        text += ["", f"Best fixed prompt on the train users: {a['best_fixed']}."]
        loop = self.gaps.get("closed loop minus best kept prompt")
        if has_gap(loop):
            text.append(
                "Responses pay: this task is no bandit, whatever the myopia gap is, which plans "
                "without them."
            )
        elif self.myopia.value < 0.02:
            text.append("The myopia gap is below 0.02: this task is nearly a bandit.")
        return "\n".join(text) + "\n"


@heed_interrupts()
def diagnose(
    train: RPPEnv,
    scored: RPPEnv,
    *,
    reference: Reference | None = None,
    resamples: int = 2000,
    seed: int = 0,
    split: str = "test",
    negatives: str = "uniform",
) -> Diagnosis:
    """Measure how much a task can gain from personal prompts; see the module's docstring.

    Parameters
    ----------
    train, scored : RPPEnv
        Environments over complete tables of train users and of the users to be scored; disjoint.
    reference : Reference, optional
        A fitted reference; by default it is fitted on `train`.
    resamples, seed : int
        Bootstrap samples and seed; `seed` is also the reference's.
    split, negatives : str
        Names for the report.

    Raises
    ------
    InvalidOption
        If an environment has no table, or a task of a user is in both.
    """
    check_seed(seed)
    shared = train.tasks.in_common(scored.tasks)
    if len(shared):
        raise InvalidOption(f"{len(shared)} users are in both environments; take disjoint splits")
    reference = fit_reference(train, seed=seed) if reference is None else reference
    axes, steps = train.space.axes, train.max_cycles
    fitted, rewards = episode_scores(_rewards(train), axes, steps), _rewards(scored)
    predicted = reference.rewards(_first_observations(scored))
    wishes = _wishes(train, scored, reference, fitted, episode_scores(predicted, axes, steps))
    fixed = int(fitted.reshape(len(fitted), -1).mean(axis=0).argmax())

    flat = episode_scores(rewards, axes, steps).reshape(len(rewards), -1)
    everyone = np.arange(len(flat))
    columns: dict[str, Floats] = {
        "random prompt": _random_scores(rewards, axes, steps),
        "best fixed prompt": flat[:, fixed],
        "observable reference": flat[everyone, reference.choose(wishes["observable"].scored)],
        "hindsight": _planned(rewards, rewards, axes, steps),
    }
    if "type" in wishes:
        columns["type reference"] = flat[everyone, _argmax(wishes["type"].scored)]
    if train.episode.feedback != "none":
        columns |= _closed_loop(train, scored, seed)
    bootstrap = partial(estimate, columns, resamples=resamples, seed=seed)
    lines = bootstrap({name: itemgetter(name) for name in columns})
    found = bootstrap(
        {
            f"{left} minus {right}": _difference(left, right)
            for left, right in (
                ("best fixed prompt", "random prompt"),
                ("observable reference", "best fixed prompt"),
                ("type reference", "best fixed prompt"),
                ("hindsight", "best fixed prompt"),
            )
            if left in columns
        }
        | {
            name: _difference(left, right)
            for name, (left, right) in _LOOPS.items()
            if left in columns
        }
    )
    if has_gap(found.get("type reference minus best fixed prompt")):
        share = _ratio("observable reference", "best fixed prompt", "type reference")
        found |= bootstrap({"observable gap / type gap": share})

    moved = {train.space.agents[axis.agent]: i for i, axis in enumerate(axes)}
    movers = {agent: moved[agent] for agent in train.space.agents if agent in moved}
    agents: dict[str, dict[str, Estimate | float | None]] = {}
    for kind, wish in wishes.items():
        for agent, axis in movers.items():
            cells = _frozen(wish.train, fitted, wish.scored, axis)
            columns[f"{kind}: {agent} frozen"] = flat[everyone, cells]
        columns[f"{kind}: additive"] = flat[everyone, _argmax(_additive(wish.scored))]
        top = f"{kind} reference"
        left = {
            f"gap left with {agent} frozen": _ratio(
                f"{kind}: {agent} frozen", "best fixed prompt", top
            )
            for agent in movers
        }
        gap = has_gap(found[f"{top} minus best fixed prompt"])
        agents[kind] = {
            **(bootstrap(left) if gap else dict.fromkeys(left)),
            **bootstrap({"loss of choosing agent by agent": _difference(top, f"{kind}: additive")}),
            **_interaction(wish.scored, tuple(movers.values()), seed),
        }
    columns["planning"] = _planned(predicted, rewards, axes, steps)
    columns["greedy"] = _planned(predicted, rewards, axes, steps, greedy=True)
    chance = chance_ndcg(scored.tasks.num_candidates)
    assert train.table is not None
    return Diagnosis(
        about={
            "dataset": scored.tasks.dataset.name,
            "rules": scored.episode.id,
            "model": train.table.provenance.get("model"),
            "negatives": negatives,
            "split": split,
            "train_users": len(fitted),
            "users": len(flat),
            "num_candidates": scored.tasks.num_candidates,
            "best_fixed": Fixed.of(train.space, fixed, steps).described(train.space),
        },
        lines={"chance": Estimate(chance, chance, chance), **lines},
        gaps=found,
        agents=agents,
        myopia=bootstrap({"": _difference("planning", "greedy")})[""],
    )


# ---------------------------------------------------------------- parts


_LOOPS = {
    "closed loop minus best kept prompt": ("posterior, greedy", "best fixed prompt"),
    "exploring minus greedy": ("posterior, exploring", "posterior, greedy"),
    "memory minus none": ("posterior, greedy", "posterior, last response"),
}
"""Gaps that responses open, as differences of lines."""


def _closed_loop(train: RPPEnv, scored: RPPEnv, seed: int) -> dict[str, Floats]:
    """Scores of the policies of `rpp_env.evaluation.feedback`, by line."""
    shown, worth = responses(scored)
    policies = {
        "posterior, exploring": fit_posterior(train, seed=seed),
        "posterior, greedy": fit_posterior(train, explore=1, seed=seed),
        "posterior, last response": fit_posterior(train, explore=1, recall=False, seed=seed),
    }
    return {
        name: simulate(policy, shown, worth, scored.max_cycles) for name, policy in policies.items()
    }


class _Wish(NamedTuple):
    """Scores of all cells that a reference expects: it plays each user's best.

    Attributes
    ----------
    train, scored : (T, *shape) arrays
        Those of the train users and of the users to be scored.
    """

    train: Floats
    scored: Floats


def _wishes(
    train: RPPEnv, scored: RPPEnv, reference: Reference, fitted: Floats, expected: Floats
) -> dict[str, _Wish]:
    """Return the wishes of the observable reference, and of the type reference if there are habits.

    Parameters
    ----------
    train, scored, reference
        See `diagnose`.
    fitted : (T, *shape) array
        Scores of the train users.
    expected : (T, *shape) array
        What the observable reference expects of the users to be scored.
    """
    dataset = train.tasks.dataset
    before = reference.rewards(_first_observations(train))
    basis = episode_scores(before, train.space.axes, train.max_cycles)
    found = {"observable": _Wish(basis, expected)}
    if dataset.habits is not None and scored.tasks.dataset is dataset:
        ours, theirs = (dataset.habits[env.tasks.users] for env in (train, scored))
        means = np.zeros((int(dataset.habits.max()) + 1, *fitted.shape[1:]), dtype=np.float32)
        for habit in np.unique(ours):
            means[habit] = fitted[ours == habit].mean(axis=0)
        found["type"] = _Wish(means[ours], means[theirs])
    return found


def _interaction(scores: Floats, order: Sequence[int], seed: int) -> dict[str, float]:
    """Measure how much the agents' choices depend on each other, on a sample of the users.

    `order` holds the agents' axes in the order of their turns.
    """
    # Users of one habit share one table; for the observable reference a sample is enough.
    some = scores[np.random.default_rng(seed).permutation(len(scores))[:300]]
    return {
        "additive share of the variance": _additive_share(some),
        "starts from which coordinate ascent gets stuck": _stuck(some, order),
    }


def _shown(value: Estimate | float | None) -> str:
    if value is None:
        return "no significant gap"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _rewards(env: RPPEnv) -> NDArray[np.float32]:
    if env.table is None:
        raise InvalidOption(
            "this needs a complete table: make one with `rpp-env tabulate`, "
            "and give model='table:PATH'"
        )
    return env.table.rewards()


def _first_observations(env: RPPEnv) -> NDArray[np.float32]:
    return env.reset(seed=0, options={"users": np.arange(len(env.tasks))})[0]


def _difference(left: str, right: str) -> Callable[[Means], NDArray[np.float64]]:
    return lambda m: m[left] - m[right]


def _ratio(score: str, low: str, high: str) -> Callable[[Means], NDArray[np.float64]]:
    return lambda m: gain(m[score], m[low], m[high])


def _argmax(scores: Floats) -> Ints:
    best: Ints = scores.reshape(len(scores), -1).argmax(axis=1)
    return best


def _dynamics(axes: Sequence[Axis], *, preferred: bool = True) -> tuple[Ints, int]:
    """Return where joint moves along the non-free axes lead, and the joint start position.

    Returns
    -------
    ((moves, positions) int64 array, int)
        Moves in their agents' order of preference, or by index.
    """
    bound = [axis for axis in axes if not axis.free]
    sizes = tuple(map(len, bound))
    if not bound:
        return np.zeros((1, 1), np.int64), 0
    at = np.indices(sizes).reshape(len(sizes), -1)
    orders = [axis.order if preferred else np.arange(len(axis.order)) for axis in bound]
    moves = [
        np.ravel_multi_index(
            tuple(axis.moves[at[i], move[i]] for i, axis in enumerate(bound)), sizes
        )
        for move in product(*orders)
    ]
    start = int(np.ravel_multi_index(tuple(axis.start for axis in bound), sizes))
    return np.stack(moves), start


def _by_position(scores: Floats, axes: Sequence[Axis]) -> Floats:
    """(T, positions, rest): the non-free axes, merged into one, before the others."""
    bound = [i for i, axis in enumerate(axes, 1) if not axis.free]
    front = np.moveaxis(scores, bound, range(1, 1 + len(bound)))
    return front.reshape(len(scores), math.prod(front.shape[1 : 1 + len(bound)]), -1)


def _random_scores(rewards: Floats, axes: Sequence[Axis], steps: int) -> Floats:
    """(T,) expected score of uniform actions: a random walk, with free axes drawn at each step."""
    free = tuple(i for i, axis in enumerate(axes, 1) if axis.free)
    by_position = _by_position(rewards.mean(axis=free, keepdims=True), axes)[..., 0]
    moves, start = _dynamics(axes, preferred=False)
    at = np.zeros(moves.shape[1])
    at[start] = 1.0
    total = np.zeros(len(rewards))
    for _ in range(steps):
        after = np.zeros(len(at))
        for to in moves:
            np.add.at(after, to, at / len(moves))
        at = after
        total += by_position @ at
    return total / steps


def _planned(
    wanted: Floats, paid: Floats, axes: Sequence[Axis], steps: int, *, greedy: bool = False
) -> Floats:
    """(T,) mean of `paid` over an episode whose actions are best by `wanted` (dynamic programming).

    `greedy` looks one step ahead only; ties go by the axes' order of preference.
    """
    flat, pays = _by_position(wanted, axes), _by_position(paid, axes)
    users, positions = flat.shape[:2]
    pick = flat.argmax(axis=2)
    best = np.take_along_axis(flat, pick[..., None], axis=2)[..., 0]  # (T, positions)
    gets = np.take_along_axis(pays, pick[..., None], axis=2)[..., 0]
    every = np.arange(positions)
    moves, start = _dynamics(axes)
    value = np.zeros((users, positions))  # of each position, with the steps that are left
    earned = np.zeros((users, positions))
    for _ in range(steps):
        ahead = best if greedy else best + value
        choice = ahead[:, moves].argmax(axis=1)  # (T, positions) of moves
        to = moves[choice, every]
        value = np.take_along_axis(best + value, to, axis=1)
        earned = np.take_along_axis(gets + earned, to, axis=1)
    return earned[:, start] / steps


def _frozen(basis: Floats, fitted: Floats, want: Floats, axis: int) -> Ints:
    """(T,) best cells by `want` with one agent frozen at one value for all users.

    The value is the one that pays the train users most when the choice is made by `basis`.
    """
    users = np.arange(len(fitted))
    flat = fitted.reshape(len(fitted), -1)
    index = np.arange(flat.shape[1]).reshape(fitted.shape[1:])
    earned = []
    for value in range(fitted.shape[1 + axis]):
        allowed = np.take(index, value, axis=axis).ravel()
        chosen = allowed[basis.reshape(len(basis), -1)[:, allowed].argmax(axis=1)]
        earned.append(flat[users, chosen].mean())
    allowed = np.take(index, int(np.argmax(earned)), axis=axis).ravel()
    cells: Ints = allowed[want.reshape(len(want), -1)[:, allowed].argmax(axis=1)]
    return cells


def _additive(scores: Floats) -> Floats:
    """Additive part of each user's scores: the sum of main effects, one agent at a time."""
    axes = range(1, scores.ndim)
    mean = scores.mean(axis=tuple(axes), keepdims=True)
    effects = [
        scores.mean(axis=tuple(a for a in axes if a != axis), keepdims=True) - mean for axis in axes
    ]
    total: Floats = mean
    for effect in effects:
        total = total + effect
    return total


def _additive_share(scores: Floats) -> float:
    """Mean over users of the share of the cells' variance that main effects explain."""
    axes = tuple(range(1, scores.ndim))
    variance = scores.var(axis=axes)
    rest = ((scores - _additive(scores)) ** 2).mean(axis=axes)
    differ = variance > 1e-9
    return float(np.mean(1 - rest[differ] / variance[differ])) if differ.any() else 1.0


def _stuck(scores: Floats, order: Sequence[int], tolerance: float = 0.01) -> float:
    """Share of (user, start) from which agents that improve in turn end below the best cell.

    `order` holds the agents' axes in the order of their turns.
    """
    users, *sizes = scores.shape
    rows = np.arange(users)[:, None]
    flat = scores.reshape(users, -1)
    cell = np.stack(np.unravel_index(np.arange(flat.shape[1]), sizes))  # (axes, starts)
    at = [np.broadcast_to(c, (users, flat.shape[1])).copy() for c in cell]
    before = flat - 1.0
    now = flat
    while (now > before + 1e-9).any():
        before = now
        for axis in order:
            others = [at[a] for a in range(len(sizes)) if a != axis]
            best = scores.argmax(axis=1 + axis)
            at[axis] = best[(rows, *others)]
        now = scores[(rows, *at)]
    return float((now < flat.max(axis=1, keepdims=True) - tolerance).mean())
