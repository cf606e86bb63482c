"""How much there is to gain from personal prompts, and how much the agents need each other.

Everything is computed on reward tables: what is chosen is chosen on train users, and scored on
other users, each with a paired bootstrap interval over these users. A *cell* is one prompt: a level
of the history agent, a role, a reasoning and an output sentence. The score of a cell for a user is
the mean NDCG@10 over an episode's steps in which the cell is reached as fast as the rules allow.

Lines
    *chance* (a random ranking), *random prompt* (uniform actions), *best fixed prompt* (the best
    cell on train users), *observable reference* (a supervised model from the first observation to
    the table, fitted on train users; it plays each user's best predicted cell), *type reference*
    (the best cell per latent habit, where the dataset has habits), *hindsight* (each user's best
    sequence of actions, known only afterwards: luck included).
Neither reference is a ceiling.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.evaluation.baselines import Fixed
from rpp_env.interrupts import heed_interrupts
from rpp_env.intervals import Estimate, Means, estimate, gain, has_gap
from rpp_env.markdown import code, table, words
from rpp_env.metrics import chance_ndcg
from rpp_env.options import check_seed
from rpp_env.rules import Rules
from rpp_env.sentences import AGENTS

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

# A table's axes are levels, roles, reasonings, outputs; the agents come in another order.
_AXES = {"role_playing": 1, "history_records": 0, "reasoning_guidance": 2, "output_format": 3}


def episode_scores(rewards: Floats, rules: Rules) -> NDArray[np.float32]:
    """Scores of every cell for every user, the way to its level included.

    Parameters
    ----------
    rewards : (T, levels, roles, reasonings, outputs) array
        From `RewardTable.rewards`.
    rules : Rules

    Returns
    -------
    Array of the same shape.
    """
    scores = np.empty(rewards.shape, dtype=np.float32)
    for level in range(rewards.shape[1]):
        levels = rules.route(level)[1]
        scores[:, level] = sum(rewards[:, at] for at in levels) / len(levels)
    return scores


def hindsight_scores(rewards: Floats, rules: Rules) -> Floats:
    """(T,) the most that any actions could have earned each user; luck included.

    `rewards` are as `episode_scores` takes them.
    """
    return _planned(rewards, rewards, rules)


class Reference:
    """The observable reference: from a user's first observation to the rewards of all cells.

    A supervised model with full information, fitted on the train users' complete table: principal
    components of the table, each predicted by an ensemble of small neural networks (scikit-learn).
    It says how much of the gain can be seen in the observation at all. It plays one of the cells
    that it chose most often for the train users (`portfolio`): choosing the best of a thousand
    predictions is choosing luck.
    """

    def __init__(
        self,
        predict: Callable[[Floats], Floats],
        rules: Rules,
        sizes: tuple[int, ...],
        portfolio: Ints,
    ) -> None:
        self._predict = predict
        self.rules = rules
        self.sizes = sizes
        self.portfolio = portfolio

    def rewards(self, observations: Floats) -> Floats:
        """(B, levels, roles, reasonings, outputs) predicted rewards, up to a constant per user.

        `observations` (B, n, d) are those of `RPPEnv.reset`.
        """
        return self._predict(observations[:, 0]).reshape(-1, *self.sizes)

    def cells(self, observations: Floats) -> Ints:
        """(B, 4) each user's best predicted cell: level, role, reasoning, output."""
        best = self.choose(episode_scores(self.rewards(observations), self.rules))
        return np.stack(np.unravel_index(best, self.sizes), axis=1)

    def choose(self, scores: Floats) -> Ints:
        """(B,) the flat cell of the portfolio that predicted `scores` put first."""
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
        """Play each user's cell; `memory` (B, 5) holds the cells and the steps played."""
        if memory is None:
            cells = self.cells(observations)
            memory = np.concatenate([cells, np.zeros((len(cells), 1), np.int64)], axis=1)
        routes = np.stack([self.rules.route(level)[0] for level in range(self.sizes[0])])
        level, role, reasoning, output, step = memory.T
        history = routes[level, np.minimum(step, self.rules.max_cycles - 1)]
        actions = np.stack([role, history, reasoning, output], axis=1)
        return actions, np.concatenate([memory[:, :4], memory[:, 4:] + 1], axis=1)


FEWEST_USERS = 11
"""Train users of a reference: a tenth of them is held out while the networks are fitted."""


def check_reference_users(users: int) -> None:
    """Refuse too few train users for `fit_reference`; before they are tabulated.

    Raises
    ------
    InvalidOption
    """
    if users < FEWEST_USERS:
        raise InvalidOption(
            f"a reference is fitted on {FEWEST_USERS} train users at least, not {users}: tabulate "
            "more"
        )


@heed_interrupts()
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

    Interrupted (Ctrl-C), it raises, and gives no reference that was fitted in part.

    Parameters
    ----------
    env : RPPEnv
        Of train users.
    components : int
        Principal components of the table that are predicted.
    members : int
        Networks of the ensemble.
    portfolio : int
        Cells that it may play.
    seed : int
        Of the networks' first weights.
    progress : callable, optional
        Called with the networks that are fitted, and all.

    Raises
    ------
    MissingExtra
        Without scikit-learn: ``pip install 'rpp-env[agents]'``.
    InvalidOption
        For fewer than 11 users, of whom a tenth is held out while the networks are fitted.
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
    # A user who is easy for every prompt says nothing about which prompt to take.
    table = table - table.mean(axis=1, keepdims=True)
    if not np.ptp(table, axis=1).any():  # all prompts are worth the same, and any cell will do
        everywhere = np.zeros(table.shape[1], dtype=np.float32)
        return Reference(
            lambda observations: np.tile(everywhere, (len(observations), 1)),
            env.rules,
            rewards.shape[1:],
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
        with heed_interrupts():  # it would stop here with what it has, and the next one begin
            networks.append(network.fit(scale.transform(seen), wanted / unit))
    if progress is not None:
        progress(members, members)

    def predict(observations: Floats) -> Floats:
        scaled = scale.transform(observations)
        found = np.mean([network.predict(scaled) for network in networks], axis=0) * unit
        return np.asarray(principal.inverse_transform(found), dtype=np.float32)

    chosen = _argmax(episode_scores(predict(seen).reshape(rewards.shape), env.rules))
    often = np.bincount(chosen, minlength=table.shape[1]).argsort(kind="stable")[::-1]
    return Reference(predict, env.rules, rewards.shape[1:], often[:portfolio])


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes
    ----------
    about : dict
        Dataset, rules, model, numbers of users, the best fixed cell.
    lines : dict of Estimate
        Mean NDCG@10 over the episode's steps of scored users, per line.
    gaps : dict of Estimate
        Differences of lines; and the observable gap as a share of the type gap, where there is one.
    agents : dict of dict of Estimate, float or None
        Per reference (``"observable"``, ``"type"``): what is left of its gap with one agent frozen
        (None without a gap, see `rpp_env.intervals.has_gap`), and how far choosing agent by agent
        falls short.
    myopia : Estimate
        Planning against greedy choices, both on the observable reference's predictions.
    """

    about: dict[str, Any]
    lines: dict[str, Estimate]
    gaps: dict[str, Estimate]
    agents: dict[str, dict[str, Estimate | float | None]]
    myopia: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for `json.dump`."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the JSON, whole or not at all."""
        with whole_file(Path(path)) as file:
            file.write(json.dumps(self.to_json(), indent=1).encode() + b"\n")

    def markdown(self) -> str:
        """The tables, as Markdown."""
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
        if self.myopia.value < 0.02:
            text.append("The myopia gap is below 0.02: this task is nearly a bandit.")
        return "\n".join(text) + "\n"


@heed_interrupts()
def diagnose(  # noqa: PLR0915 - one report, line after line
    train: RPPEnv,
    scored: RPPEnv,
    *,
    reference: Reference | None = None,
    resamples: int = 2000,
    seed: int = 0,
    split: str = "test",
    negatives: str = "uniform",
) -> Diagnosis:
    """Describe a task.

    Parameters
    ----------
    train, scored : RPPEnv
        Over complete tables of train users and of the users to be scored; disjoint.
    reference : Reference, optional
        A fitted one; fitted on `train` by default.
    resamples, seed : int
        Of the bootstrap; `seed` also of the reference.
    split, negatives : str
        Said in the report.

    Raises
    ------
    InvalidOption
        Where an environment has no table, or a user is in both.
    """
    check_seed(seed)
    shared = set(train.tasks.users.tolist()) & set(scored.tasks.users.tolist())
    if train.tasks.dataset is scored.tasks.dataset and shared:
        raise InvalidOption(f"{len(shared)} users are in both environments; take disjoint splits")
    rules = train.rules
    reference = fit_reference(train, seed=seed) if reference is None else reference
    fitted = episode_scores(_rewards(train), rules)
    rewards = _rewards(scored)
    scores = episode_scores(rewards, rules)
    shape = scores.shape[1:]
    everyone = np.arange(len(scores))
    flat = scores.reshape(len(scores), -1)

    fixed = int(fitted.reshape(len(fitted), -1).mean(axis=0).argmax())
    predicted = reference.rewards(_first_observations(scored))
    wished = episode_scores(predicted, rules)
    columns: dict[str, Floats] = {
        "random prompt": _random_scores(rewards, rules),
        "best fixed prompt": flat[:, fixed],
        "observable reference": flat[everyone, reference.choose(wished)],
        "hindsight": _planned(rewards, rewards, rules),
    }
    agents: dict[str, dict[str, Any]] = {}
    wants = {"observable": wished}
    habits = train.tasks.dataset.habits
    if habits is not None and scored.tasks.dataset is train.tasks.dataset:
        ours, theirs = habits[train.tasks.users], habits[scored.tasks.users]
        means = np.zeros((int(habits.max()) + 1, *shape), dtype=np.float32)
        for habit in np.unique(ours):
            means[habit] = fitted[ours == habit].mean(axis=0)
        wants["type"] = means[theirs]
        columns["type reference"] = flat[everyone, _argmax(wants["type"])]
    statistics = {name: itemgetter(name) for name in columns}
    gaps = {
        f"{left} minus {right}": _difference(left, right)
        for left, right in (
            ("best fixed prompt", "random prompt"),
            ("observable reference", "best fixed prompt"),
            ("type reference", "best fixed prompt"),
            ("hindsight", "best fixed prompt"),
        )
        if left in columns
    }
    for kind, want in wants.items():
        # What the choice is made from on the train users, to freeze each agent at its best value.
        basis = (
            episode_scores(reference.rewards(_first_observations(train)), rules)
            if kind == "observable"
            else means[ours]
        )
        agents[kind] = {}
        for agent in AGENTS:
            cells = _frozen(basis, fitted, want, _AXES[agent])
            columns[f"{kind}: {agent} frozen"] = flat[everyone, cells]
        columns[f"{kind}: additive"] = flat[everyone, _argmax(_additive(want))]
    lines = estimate(columns, statistics, resamples=resamples, seed=seed)
    found = estimate(columns, gaps, resamples=resamples, seed=seed)
    if has_gap(found.get("type reference minus best fixed prompt")):
        share = _ratio("observable reference", "best fixed prompt", "type reference")
        name = "observable gap / type gap"
        found |= estimate(columns, {name: share}, resamples=resamples, seed=seed)
    for kind, want in wants.items():
        gap = found[f"{kind} reference minus best fixed prompt"]
        top = f"{kind} reference"
        if has_gap(gap):
            agents[kind].update(
                estimate(
                    columns,
                    {
                        f"gap left with {agent} frozen": _ratio(
                            f"{kind}: {agent} frozen", "best fixed prompt", top
                        )
                        for agent in AGENTS
                    },
                    resamples=resamples,
                    seed=seed,
                )
            )
        else:
            agents[kind].update(dict.fromkeys(f"gap left with {agent} frozen" for agent in AGENTS))
        agents[kind].update(
            estimate(
                columns,
                {"loss of choosing agent by agent": _difference(top, f"{kind}: additive")},
                resamples=resamples,
                seed=seed,
            )
        )
        # Users of one habit have one table between them; a sample of the others is enough.
        some = want[np.random.default_rng(seed).permutation(len(want))[:300]]
        agents[kind]["additive share of the variance"] = _additive_share(some)
        agents[kind]["starts from which coordinate ascent gets stuck"] = _stuck(some)
    columns["planning"] = _planned(predicted, rewards, rules)
    columns["greedy"] = _planned(predicted, rewards, rules, greedy=True)
    myopia = estimate(
        columns, {"": _difference("planning", "greedy")}, resamples=resamples, seed=seed
    )[""]
    chance = chance_ndcg(scored.tasks.num_candidates)
    assert train.table is not None
    level, role, reasoning, output = map(int, np.unravel_index(fixed, shape))
    prompt = Fixed.prompt(rules, level=level, role=role, reasoning=reasoning, output=output)
    return Diagnosis(
        about={
            "dataset": scored.tasks.dataset.name,
            "rules": rules.id,
            "model": train.table.provenance.get("model"),
            "negatives": negatives,
            "split": split,
            "train_users": len(fitted),
            "users": len(scores),
            "num_candidates": scored.tasks.num_candidates,
            "best_fixed": prompt.described(rules),
        },
        lines={"chance": Estimate(chance, chance, chance), **lines},
        gaps=found,
        agents=agents,
        myopia=myopia,
    )


# ---------------------------------------------------------------- parts


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


def _random_scores(rewards: Floats, rules: Rules) -> Floats:
    """(T,) expected score of uniform actions: the level walks, the sentences are drawn anew."""
    by_level = rewards.mean(axis=(2, 3, 4))
    levels = np.arange(rewards.shape[1])
    options = np.arange(len(rules.history_options))
    at = np.zeros(len(levels))
    at[rules.start if rules.history != "choose" else 0] = 1.0
    total = np.zeros(len(rewards))
    for _ in range(rules.max_cycles):
        after = np.zeros(len(levels))
        for option in options:
            np.add.at(
                after, rules.next_level(levels, np.full(len(levels), option)), at / len(options)
            )
        at = after
        total += by_level @ at
    return total / rules.max_cycles


def _planned(wanted: Floats, paid: Floats, rules: Rules, *, greedy: bool = False) -> Floats:
    """(T,) mean of `paid` over an episode whose actions are best by `wanted` (dynamic programming).

    `greedy` looks one step ahead only; ties keep the history where it is.
    """
    users, levels = wanted.shape[:2]
    flat = wanted.reshape(users, levels, -1)
    pick = flat.argmax(axis=2)
    best = np.take_along_axis(flat, pick[..., None], axis=2)[..., 0]  # (T, levels)
    gets = np.take_along_axis(paid.reshape(users, levels, -1), pick[..., None], axis=2)[..., 0]
    every = np.arange(levels)
    options = sorted(range(len(rules.history_options)), key=lambda i: abs(rules.history_options[i]))
    moves = np.stack([rules.next_level(every, np.full(levels, option)) for option in options])
    value = np.zeros((users, levels))  # of being on a level with the steps that are left
    earned = np.zeros((users, levels))
    for _ in range(rules.max_cycles):
        ahead = best if greedy else best + value
        choice = ahead[:, moves].argmax(axis=1)  # (T, levels) of moves (options, levels)
        to = moves[choice, every]
        value = np.take_along_axis(best + value, to, axis=1)
        earned = np.take_along_axis(gets + earned, to, axis=1)
    start = rules.start if rules.history != "choose" else 0
    return earned[:, start] / rules.max_cycles


def _frozen(basis: Floats, fitted: Floats, want: Floats, axis: int) -> Ints:
    """(T,) cells that are best by `want` with one agent kept at one value for all users.

    The value is the one with which choosing by `basis` pays the train users most.
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
    """The sum of main effects, one agent at a time, of each user's scores."""
    axes = range(1, scores.ndim)
    mean = scores.mean(axis=tuple(axes), keepdims=True)
    effects = [
        scores.mean(axis=tuple(a for a in axes if a != axis), keepdims=True) - mean for axis in axes
    ]
    total: Floats = mean + effects[0] + effects[1] + effects[2] + effects[3]
    return total


def _additive_share(scores: Floats) -> float:
    """Mean over users of the share of the cells' variance that main effects explain."""
    axes = tuple(range(1, scores.ndim))
    variance = scores.var(axis=axes)
    rest = ((scores - _additive(scores)) ** 2).mean(axis=axes)
    differ = variance > 1e-9
    return float(np.mean(1 - rest[differ] / variance[differ])) if differ.any() else 1.0


def _stuck(scores: Floats, tolerance: float = 0.01) -> float:
    """Share of (user, start) from which agents that improve in turn end below the best cell."""
    users, *sizes = scores.shape
    rows = np.arange(users)[:, None]
    flat = scores.reshape(users, -1)
    cell = np.stack(np.unravel_index(np.arange(flat.shape[1]), sizes))  # (4, starts)
    at = [np.broadcast_to(c, (users, flat.shape[1])).copy() for c in cell]
    before = flat - 1.0
    now = flat
    while (now > before + 1e-9).any():
        before = now
        for agent in AGENTS:
            axis = _AXES[agent]
            others = [at[a] for a in range(4) if a != axis]
            best = scores.argmax(axis=1 + axis)
            at[axis] = best[rows, others[0], others[1], others[2]]
        now = scores[rows, at[0], at[1], at[2], at[3]]
    return float((now < flat.max(axis=1, keepdims=True) - tolerance).mean())
