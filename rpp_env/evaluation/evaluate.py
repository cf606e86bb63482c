"""Evaluate a policy on held-out users against baselines, with paired bootstrap intervals.

`evaluate` plays every task of an environment once with the policy and with each baseline, on the
same users, candidates and orders, and reports means over users with paired bootstrap intervals.
The main metric is NDCG@10, the mean over the episode's steps; the first step (one call of the
model) and the last one are reported too. The best of several steps is never reported, because
choosing it would use the answer.

=====================  =========================================================================
line                   is
=====================  =========================================================================
chance                 a random ranking, by formula
random                 every agent chooses uniformly, seeded
fixed                  the single prompt that is best for the users of `train_env`
reference              a policy that measures how much of the gain the observations allow,
                       such as `rpp_env.evaluation.diagnose.Reference`
hindsight              each user's best actions, known only afterwards; where `env` replays a table
=====================  =========================================================================

::

    gain = (policy - fixed) / (reference - fixed)

of NDCG@10, printed beside NDCG@10 itself, and only if the reference is significantly better than
the fixed prompt (`rpp_env.intervals.has_gap`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Fixed, Policy, search_fixed
from rpp_env.evaluation.diagnose import hindsight_scores
from rpp_env.interrupts import heed_interrupts
from rpp_env.intervals import Estimate, Means, estimate, gain, has_gap
from rpp_env.markdown import code, table
from rpp_env.metrics import hit, mrr, ndcg
from rpp_env.options import check_seed, unknown

if TYPE_CHECKING:
    from rpp_env.core import RPPEnv
    from rpp_env.step import Step

__all__ = ["Report", "Scores", "episodes", "evaluate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_METRICS: dict[str, Callable[[Ints], Floats]] = {
    "ndcg@1": lambda ranks: ndcg(ranks, 1),
    "ndcg@5": lambda ranks: ndcg(ranks, 5),
    "ndcg@10": lambda ranks: ndcg(ranks, 10),
    "hit@10": lambda ranks: hit(ranks, 10),
    "mrr": mrr,
}
_LABELS = {
    "random": "random prompt",
    "fixed": "best fixed prompt",
    "reference": "observable reference",
}
_TAKEN = ("chance", "reference", "hindsight")


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-task results of one policy: T tasks, S steps.

    Attributes
    ----------
    ranks : (T, S) int64 array
        1-based rank of the target; 0 where it was not named.
    named : (T, S) float64 array
        Share of the candidates that the recommender placed, 0 to 1.
    tokens : (T, S) int64 array
        Tokens of prompt and reply together.
    masked : (T, S) float64 array
        Share of the agents' actions that were mapped by ``a % n``, 0 to 1.
    different : (T,) int64 array
        Number of different prompts among an episode's S calls: the requests left with a cache.
    """

    ranks: Ints
    named: Floats
    tokens: Ints
    masked: Floats
    different: Ints

    def metric(self, name: str) -> Floats:
        """(T, S) metric ``"ndcg@1"``, ``"ndcg@5"``, ``"ndcg@10"``, ``"hit@10"`` or ``"mrr"``."""
        return _METRICS[name](self.ranks)


@dataclass(frozen=True, eq=False)
class Report:
    """Result of `evaluate`.

    Attributes
    ----------
    name : str
        Name of the evaluated policy's line.
    about : dict
        Dataset, rules, model, numbers of users and tasks, how the fixed prompt was chosen.
    users : (T,) tuple of str
        The user of each row of `scores`.
    scores : dict of Scores
        Per-task results of each policy that was played.
    lines : dict of dict of Estimate
        Per line its metrics: ``"ndcg@10"`` and the others of `Scores.metric` (means over steps),
        ``"first"`` and ``"last"`` (NDCG@10 of these steps), ``"named"``, ``"masked"``,
        ``"calls"``, ``"different"`` and ``"tokens"`` (per user's episode).
    differences : dict of Estimate
        NDCG@10 of the policy minus that of each other line, over the same users.
    gap : Estimate or None
        NDCG@10 of the reference minus that of the best fixed prompt, if both were played.
    gain : Estimate or None
        The policy's share of `gap`; None without a gap (`rpp_env.intervals.has_gap`).
    """

    name: str
    about: dict[str, Any]
    users: tuple[str, ...]
    scores: dict[str, Scores]
    lines: dict[str, dict[str, Estimate]]
    differences: dict[str, Estimate]
    gap: Estimate | None
    gain: Estimate | None

    @property
    def verdict(self) -> str:
        """One sentence: the raw score, and the gain or why there is none."""
        raw = f"{self.name}: NDCG@10 {self.lines[self.name]['ndcg@10']}"
        if self.gain is not None:
            return f"{raw}; gain {self.gain} of what the observable reference gains."
        if self.gap is not None:
            return (
                f"{raw}; no gain is reported: the observable reference is not significantly better "
                f"than the best fixed prompt here (difference {self.gap})."
            )
        return f"{raw}."

    def markdown(self) -> str:
        """Format the tables as Markdown."""
        about, steps = self.about, self.about["steps"]
        intro = (
            "{dataset}, {rules}, model {model}: {users:,} users, {tasks:,} tasks of "
            "{candidates} candidates, {steps} step{s} an episode.".format(
                **about | {key: code(about[key]) for key in ("dataset", "rules", "model")},
                s="" if steps == 1 else "s",
            )
        )
        ends = {} if steps == 1 else {"first": "step 1", "last": f"step {steps}"}
        costs = {"named": "named", "calls": "calls", "different": "different", "tokens": "tokens"}
        if any(line["masked"].value > 0 for line in self.lines.values() if "masked" in line):
            costs["masked"] = "masked"
        others = {"ndcg@5": "NDCG@5", "ndcg@1": "NDCG@1", "hit@10": "hit@10", "mrr": "MRR"}
        main = [["", "NDCG@10", *ends.values()]]
        more, spent = [["", *others.values()]], [["", *costs.values()]]
        for name, line in self.lines.items():
            label = _LABELS.get(name, name)
            headline = _short(line, "ndcg@10") if name == "chance" else str(line["ndcg@10"])
            main.append([label, headline, *(_short(line, metric) for metric in ends)])
            if "mrr" in line:
                more.append([label, *(_short(line, metric) for metric in others)])
            if "calls" in line:
                spent.append([label, *(_short(line, metric) for metric in costs)])
        differences = [[f"{self.name} minus", "NDCG@10"]]
        differences += [[_LABELS.get(name, name), str(e)] for name, e in self.differences.items()]
        mean = "NDCG@10 is the mean over the steps, with a" if steps > 1 else "NDCG@10 has a"
        notes = (
            f"{mean} 95% interval (bootstrap over users, paired in the differences). Calls of "
            "the model, different prompts among them, and tokens are per user."
        )
        text = [intro, *map(table, (main, differences, more, spent)), self.verdict, notes]
        if "fixed_prompt" in about:
            how = f"; chosen {about['fixed_chosen']}" if "fixed_chosen" in about else ""
            text.append(f"Best fixed prompt: {about['fixed_prompt']}{how}.")
        return "\n\n".join(text) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers for `json.dump`: all attributes, and all ranks of every user."""
        per_step = {
            name: {m: scores.metric(m).mean(axis=0).tolist() for m in _METRICS}
            for name, scores in self.scores.items()
        }
        return {
            "name": self.name,
            "about": self.about,
            "lines": {n: {m: asdict(e) for m, e in line.items()} for n, line in self.lines.items()},
            "differences": {name: asdict(e) for name, e in self.differences.items()},
            "gap": None if self.gap is None else asdict(self.gap),
            "gain": None if self.gain is None else asdict(self.gain),
            "per_step": per_step,
            "users": list(self.users),
            "ranks": {name: scores.ranks.tolist() for name, scores in self.scores.items()},
        }

    def save(self, path: str | Path) -> None:
        """Write the JSON atomically."""
        # One line per key: short enough to read, without a line for each rank.
        rows = (f"{json.dumps(key)}: {json.dumps(x)}" for key, x in self.to_json().items())
        with whole_file(Path(path)) as file:
            file.write(("{\n" + ",\n".join(rows) + "\n}\n").encode())


@heed_interrupts()
def evaluate(
    policy: Policy,
    env: RPPEnv,
    *,
    baselines: Sequence[str] | Mapping[str, Policy | None] = ("random", "fixed"),
    train_env: RPPEnv | None = None,
    reference: Policy | None = None,
    name: str = "policy",
    seed: int = 0,
    greedy: bool = True,
    budget: int = 40_000,
    resamples: int = 2000,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Play every task of `env` once with the policy and with each baseline.

    Parameters
    ----------
    policy : Policy
        An object with ``act(observations, masks, greedy, memory)``.
    env : RPPEnv
        Environment of users that the policy was not trained on; played in batches of
        ``env.num_envs``. It is reset at the end.
    baselines : sequence of names, or mapping of names to policies
        Names: ``"random"`` and ``"fixed"``. A mapping may hold any policies, and None for these
        two; the entry ``"fixed"`` replaces the best fixed prompt in the gain.
    train_env : RPPEnv, optional
        For ``"fixed"``: the environment whose users the prompt is chosen for; exactly if it replays
        a table, else by `search_fixed`, which calls its model.
    reference : Policy, optional
        The observable reference; a gap is reported if it and ``"fixed"`` are played.
    name : str
        The policy's name in the report.
    seed : int
        Seed of the random choices, the environment, the search and the bootstrap.
    greedy : bool
        Whether the policies choose their most probable actions or sample.
    budget : int
        Maximum number of episodes of the search.
    resamples : int
        Bootstrap samples of the users.
    progress : callable, optional
        Called with (line, tasks done, tasks in all).

    Returns
    -------
    Report

    Raises
    ------
    InvalidOption
        For unknown baselines, for ``"fixed"`` without `train_env`, and for a `train_env` that
        shares tasks of a user with `env` or has other rules or sentences.
    """
    check_seed(seed)
    _check_users(env, "env")
    chosen = _baselines(baselines, name)
    if train_env is not None:
        _check_users(train_env, "train_env")
    if train_env is not None:
        _check_apart(train_env, env)
    elif chosen.get("fixed", policy) is None:
        raise InvalidOption(
            "the baseline 'fixed' is chosen on training users: give train_env=, or leave it out "
            "with baselines=('random',)"
        )
    about: dict[str, Any] = _about(env) | {"seed": seed, "greedy": greedy}
    if chosen.get("fixed", policy) is None:
        assert train_env is not None
        before = train_env.calls["prompts"]
        chosen["fixed"], _ = search_fixed(train_env, budget=budget, seed=seed)
        asked = train_env.calls["prompts"] - before
        how = "exactly, from a table" if train_env.table is not None else "by successive halving"
        about["fixed_chosen"] = (
            f"{how} for {len(train_env.tasks):,} training tasks with {asked:,} calls of the model"
        )
    if isinstance(fixed := chosen.get("fixed"), Fixed):
        about["fixed_plan"] = fixed.plan.tolist()
        about["fixed_prompt"] = fixed.described(env.space)
    if "random" in chosen and chosen["random"] is None:
        chosen["random"] = _Drawn(env, seed)
    players: dict[str, Policy] = {**chosen, name: policy}
    if reference is not None:
        players["reference"] = reference

    size = env.num_envs
    scores = {
        line: _played(player, env, size, greedy, seed, line, progress)
        for line, player in players.items()
    }
    env.reset(seed=seed)
    return _report(name, about, env, scores, resamples, seed)


class _Drawn:
    """Uniform choices that do not depend on the size of the batches; plays once."""

    def __init__(self, env: RPPEnv, seed: int) -> None:
        shape = len(env.tasks), env.max_cycles, len(env.agents)
        self._plan = env.observer.actions.drawn(np.random.default_rng(seed), shape)
        self._next = 0

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,  # noqa: ARG002 - drawn among existing actions
        greedy: bool = False,  # noqa: ARG002 - there is nothing to be greedy about
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        begin, step = (self._next, 0) if memory is None else memory
        end = begin + len(observations)
        self._next = end
        return self._plan[begin:end, step], (begin, step + 1)


def _baselines(given: Sequence[str] | Mapping[str, Policy | None], name: str) -> dict[str, Any]:
    """Return names and policies; None for those that are still to be made."""
    chosen: dict[str, Any] = (
        dict(given) if isinstance(given, Mapping) else dict.fromkeys(list(given))
    )
    made_here = {line for line, policy in chosen.items() if policy is None}
    if strangers := sorted(made_here - {"random", "fixed"}):
        raise InvalidOption(
            f"{unknown('baseline', strangers[0], ('random', 'fixed'))}; or give a mapping of names "
            "to policies"
        )
    taken = [
        line for line in (*chosen, name) if line in _TAKEN or (line == name and name in chosen)
    ]
    if taken:
        raise InvalidOption(f"two lines of the report would be called {taken[0]!r}: rename yours")
    return chosen


def _check_users(env: object, name: str) -> None:
    """Raise InvalidOption for environments without users whose next items could be ranked."""
    parts = ("tasks", "episode", "space", "num_envs")
    if all(hasattr(env, part) for part in parts):
        return
    core = getattr(env, "core", None)
    inside = all(hasattr(core, part) for part in parts)
    raise InvalidOption(
        f"{name} is a {type(env).__name__}; NDCG@10 is measured on the users of an rpp_env.RPPEnv"
        + (f", such as {name}.core" if inside else "")
        + ": make one with rpp_env.RPPEnv.make. For the rewards of other environments there is "
        "rpp_agents.play"
    )


def _check_apart(train: RPPEnv, env: RPPEnv) -> None:
    if train.rules != env.rules or dict(train.space.about) != dict(env.space.about):
        raise InvalidOption(
            f"train_env plays {train.episode.id} and env {env.episode.id}, or their prompts differ:"
            " a choice under other rules is not a baseline: give both the same rules and prompts"
        )
    shared = train.tasks.in_common(env.tasks)
    if len(shared):
        token = env.tasks.dataset.user_tokens[shared[0]]
        raise InvalidOption(
            f"{len(shared)} users are in train_env and in env (such as {token!r}): take disjoint "
            "splits, such as split='train' and split='test'"
        )


def episodes(
    policy: Policy,
    env: RPPEnv,
    *,
    size: int,
    greedy: bool = True,
    seed: int = 0,
    tasks: int | None = None,
) -> Iterator[tuple[Ints, int, Step]]:
    """Play every task, or the first `tasks`, once, `size` at a time.

    Yields task rows, the step from 0, and the result. Every policy begins with the same `seed`:
    rules that reorder candidates do so alike for all.
    """
    count = len(env.tasks) if tasks is None else tasks
    for begin in range(0, count, size):
        rows = np.arange(begin, min(begin + size, count))
        observations, _ = env.reset(seed if begin == 0 else None, {"users": rows})
        memory = None
        for t in range(env.max_cycles):
            actions, memory = policy.act(
                observations, env.action_masks(), greedy=greedy, memory=memory
            )
            step = env.step(actions)
            observations = step.observations
            yield rows, t, step


def _played(
    policy: Policy,
    env: RPPEnv,
    size: int,
    greedy: bool,
    seed: int,
    line: str,
    progress: Callable[[str, int, int], None] | None,
) -> Scores:
    tasks, steps = len(env.tasks), env.max_cycles
    infos = ("rank", "named", "prompt_tokens", "completion_tokens", "masked_actions", "shown")
    numbers = {key: np.zeros((tasks, steps), np.int64) for key in infos}
    prompts: dict[int, NDArray[Any]] = {}
    for rows, t, step in episodes(policy, env, size=size, greedy=greedy, seed=seed):
        for key, values in numbers.items():
            values[rows, t] = step.infos[key]
        keys = env.space.keys(step.state)
        kept = prompts.setdefault(t, np.zeros((tasks, *keys.shape[1:]), keys.dtype))
        kept[rows] = keys
        if progress is not None and t == steps - 1:
            progress(line, int(rows[-1]) + 1, tasks)
    new = np.ones((tasks, steps), bool)
    for t in range(1, steps):
        for earlier in range(t):
            new[:, t] &= (prompts[earlier] != prompts[t]).any(axis=1)
    return Scores(
        ranks=numbers["rank"],
        named=numbers["named"] / env.tasks.num_candidates,
        tokens=numbers["prompt_tokens"] + numbers["completion_tokens"],
        masked=numbers["masked_actions"] / len(env.agents),
        different=new.sum(axis=1),
    )


def _report(
    name: str,
    about: dict[str, Any],
    env: RPPEnv,
    scores: dict[str, Scores],
    resamples: int,
    seed: int,
) -> Report:
    # Several draws of a user are several tasks; the bootstrap resamples users.
    _, user = np.unique(env.tasks.users, return_inverse=True)
    count = np.bincount(user)

    def by_user(values: Floats | Ints) -> Floats:
        per_task = values if values.ndim == 1 else values.mean(axis=1)
        return np.bincount(user, weights=per_task) / count

    steps = env.max_cycles
    columns: dict[tuple[str, str], Floats] = {}
    for line, played in scores.items():
        gains = played.metric("ndcg@10")
        found: dict[str, Any] = {metric: played.metric(metric) for metric in _METRICS}
        found |= {"first": gains[:, 0], "last": gains[:, -1]}
        found |= {"named": played.named, "masked": played.masked}
        found |= {"calls": np.full(len(gains), steps), "different": played.different}
        found |= {"tokens": played.tokens.sum(axis=1)}
        columns |= {(line, metric): by_user(values) for metric, values in found.items()}
    if env.table is not None:
        columns["hindsight", "ndcg@10"] = by_user(
            hindsight_scores(env.table.rewards(), env.space.axes, env.max_cycles).astype(np.float64)
        )

    def score(line: str) -> Callable[[Means], Floats]:
        return lambda means: means[f"{line} ndcg@10"]

    def minus(left: str, right: str) -> Callable[[Means], Floats]:
        return lambda means: score(left)(means) - score(right)(means)

    statistics: dict[str, Callable[[Means], Floats]] = {
        f"{line} {metric}": lambda means, key=f"{line} {metric}": means[key]  # type: ignore[misc]
        for line, metric in columns
    }
    order = ["random", "fixed", *(x for x in scores if x not in ("random", "fixed", *_TAKEN, name))]
    order = [
        line for line in (*order, name, "reference", "hindsight") if (line, "ndcg@10") in columns
    ]
    others = [line for line in order if line != name]
    statistics |= {f"minus {line}": minus(name, line) for line in others}
    rated = {"fixed", "reference"} <= set(scores)
    if rated:
        statistics["gap"] = minus("reference", "fixed")
    columns_by_name = {f"{line} {metric}": column for (line, metric), column in columns.items()}
    found_all = estimate(columns_by_name, statistics, resamples=resamples, seed=seed)
    gap = found_all.get("gap")
    share = None
    if has_gap(gap):
        parts = [score(line) for line in (name, "fixed", "reference")]
        share = estimate(
            columns_by_name,
            {"gain": lambda means: gain(*(part(means) for part in parts))},
            resamples=resamples,
            seed=seed,
        )["gain"]
    lines = {"chance": _chance(env.tasks.num_candidates, steps)}
    lines |= {
        line: {metric: found_all[f"{line} {metric}"] for owner, metric in columns if owner == line}
        for line in order
    }
    tokens = env.tasks.dataset.user_tokens
    return Report(
        name=name,
        about=about,
        users=tuple(tokens[row] for row in env.tasks.users),
        scores=scores,
        lines=lines,
        differences={line: found_all[f"minus {line}"] for line in others},
        gap=gap,
        gain=share,
    )


def _chance(candidates: int, steps: int) -> dict[str, Estimate]:
    """Metrics of a random ranking of all candidates."""
    ranks = np.arange(1, candidates + 1)
    exact = {metric: float(rule(ranks).mean()) for metric, rule in _METRICS.items()}
    exact |= {"first": exact["ndcg@10"], "last": exact["ndcg@10"]} if steps > 1 else {}
    return {metric: Estimate(x, x, x) for metric, x in exact.items()}


def _about(env: RPPEnv) -> dict[str, Any]:
    model = getattr(env.recommender, "model", None)
    model_id = (
        env.table.provenance.get("model")
        if env.table is not None
        else getattr(model, "id", None) or type(env.recommender).__name__
    )
    if env.rewrite is not None:
        model_id = (
            f"{model_id}, rewritten by {getattr(env.rewrite, 'id', type(env.rewrite).__name__)}"
        )
    return {
        "dataset": env.tasks.dataset.name,
        "dataset_digest": env.tasks.dataset.digest,
        "tasks_digest": env.tasks.digest,
        "rules": env.episode.id,
        "model": model_id,
        "users": len(np.unique(env.tasks.users)),
        "tasks": len(env.tasks),
        "candidates": env.tasks.num_candidates,
        "steps": env.max_cycles,
    }


def _short(line: dict[str, Estimate], metric: str) -> str:
    if metric not in line:
        return ""
    value = line[metric].value
    if metric == "tokens":
        return f"{value:,.0f}"
    return f"{value:.1f}" if metric in ("calls", "different") else f"{value:.3f}"
