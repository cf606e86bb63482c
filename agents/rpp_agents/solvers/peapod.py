"""PeaPOD: attention to similar users, trained through a frozen T5.

The native solver of ``PeaPOD-v0`` (Ramos, Wu and Lipani, arXiv 2407.05033). The queries and keys of
the composer (`rpp_env.composed`) are trained by gradient; values, projection and T5 are the
environment's and stay as they are::

    a = softmax of clamp(q . k_i / sqrt(width) - their mean, within the sharpness)    one per head
    L = -log T5(item that was clicked | prefix(a), history)

`train` is the trainer ``peapod``; `tune` stops early, and its patience starts again with each
better epoch (the reference's code counts bad epochs in total). In the paper everything is trained
together: ``tune(..., joint=True)`` trains a copy of the T5, values and projection, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.recommenders.base import ranks_by
from rpp_agents.runs import RunConfig
from rpp_agents.solvers.epochs import best_epoch
from rpp_agents.training import check_numbers, kept_tensors, restore_tensors, trainer
from rpp_env.composed import AttentionPrompts, Composer
from rpp_env.data.candidates import TaskSet
from rpp_env.data.tensors import build
from rpp_env.errors import InvalidData, InvalidOption, TrainingDiverged
from rpp_env.metrics import ndcg
from rpp_env.recommenders.composer import compose, logits
from rpp_env.recommenders.t5 import T5
from rpp_env.vectors import PrefixPrompts

__all__ = [
    "Attention",
    "AttentionPolicy",
    "BareSolver",
    "Config",
    "JointSolver",
    "Solver",
    "Tuned",
    "pretrained",
    "train",
    "tune",
]


@dataclass(frozen=True)
class Config(RunConfig):
    """Options of PeaPOD's solver; a step is one example."""

    total_steps: int = 20_000
    """Number of examples (tasks) to train on, drawn with replacement."""
    batch: int = 64
    """Number of examples per gradient step."""
    learning_rate: float = 5e-4
    """AdamW's learning rate (the paper's)."""
    initial: Literal["pretrained", "random"] = "pretrained"
    """First queries and keys: those of the environment's composer, or random ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "batch")
        check_numbers(self, 0, "learning_rate", above=True)


class Attention(nn.Module):
    """Queries and keys of H heads.

    Parameters
    ----------
    width, inner : int
        Length of a user's vector, and of all heads' queries together.
    heads : int
    sharpness : float
        Largest logit.
    """

    def __init__(self, width: int, inner: int, heads: int, sharpness: float) -> None:
        super().__init__()
        self.description = {
            "width": int(width),
            "inner": int(inner),
            "heads": int(heads),
            "sharpness": float(sharpness),
        }
        if inner % heads or not sharpness > 0:
            raise ValueError(f"these sizes are no attention's: {self.description}")
        self.query, self.key = nn.Linear(width, inner), nn.Linear(width, inner)

    def forward(self, own: Tensor, others: Tensor) -> Tensor:
        """Return actions (B, H, n) in [-1, 1] of users (B, u) with neighbours (B, n, u)."""
        heads, sharpness = int(self.description["heads"]), self.description["sharpness"]
        found = logits(dict(self.named_parameters()), heads, own, others)
        return ((found - found.mean(dim=2, keepdim=True)) / sharpness).clamp(-1, 1)


class AttentionPolicy:
    """Policy of trained `Attention`, from the vectors in the observations.

    Parameters
    ----------
    attention : Attention
        The network; shared, not copied.
    columns : (int, int)
        First columns of the own vector and of the neighbours' in an observation.
    neighbours : int
        Number of neighbours (n).
    chooses : bool
        Whether agents choose the neighbour with the largest logit (``actions="neighbour"``).
    """

    def __init__(
        self, attention: Attention, columns: tuple[int, int], neighbours: int, chooses: bool = False
    ) -> None:
        self.attention, self.columns = attention, columns
        self.neighbours, self.chooses = neighbours, chooses

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,  # noqa: ARG002 - there are none
        greedy: bool = False,  # noqa: ARG002 - there is nothing to sample
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """See `rpp_agents.policy.Policy.act`."""
        width, n = int(self.attention.description["width"]), self.neighbours
        own, near = self.columns
        if observations.ndim != 3 or observations.shape[2] < near + n * width:
            raise InvalidOption(
                f"this policy reads the vectors of a user and {n} neighbours up to column "
                f"{near + n * width}, but got an array of shape {observations.shape}: it was "
                "trained in an environment of another shape"
            )
        seen = np.ascontiguousarray(observations[:, 0], np.float32)
        mine = torch.from_numpy(seen[:, own : own + width])
        others = torch.from_numpy(seen[:, near : near + n * width]).view(-1, n, width)
        with torch.inference_mode():
            actions = self.attention(mine, others).numpy()
        return (actions.argmax(axis=2) if self.chooses else actions), memory

    def save(self, path: str | Path) -> None:
        """Write the network to one safetensors file, atomically."""
        about = {
            "kind": "peapod",
            "attention": self.attention.description,
            "columns": list(self.columns),
            "neighbours": self.neighbours,
            "chooses": self.chooses,
        }
        write_tensors(path, self.attention.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path) -> AttentionPolicy:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "peapod":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a policy of PeaPOD")
        try:
            attention = build(lambda: Attention(**about["attention"]), tensors)
            own, near = (int(column) for column in about["columns"])
            count, chooses = int(about["neighbours"]), bool(about["chooses"])
        except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        if min(own, near) < 0 or count < 1:
            raise InvalidData(f"{path} is damaged: it reads {count} users at {own} and {near}")
        return cls(attention, (own, near), count, chooses)


def pretrained(env: Any) -> AttentionPolicy:
    """Make the policy of the attention that the environment's composer was pre-trained with.

    Raises
    ------
    InvalidOption
        For an environment whose prompts are not composed from neighbours.
    """
    around, space = getattr(env.space, "around", None), env.space
    if around is None:
        raise InvalidOption(
            f"{type(space).__name__} is not composed from neighbours: use PeaPOD-v0"
        )
    composer: Composer = around.composer
    plays = isinstance(space, AttentionPrompts)
    sharpness = float(space.decoder[0, 0]) if plays else 1.0
    attention = Attention(composer.width, composer.inner, composer.heads, sharpness)
    attention.load_state_dict(
        {name: torch.from_numpy(composer.weights[name]) for name in attention.state_dict()}
    )
    layout = env.observer.layout
    columns = (layout["vector"].start, layout["neighbours"].start)
    return AttentionPolicy(attention, columns, around.near.shape[1], not plays)


class Solver:
    """PeaPOD's learner on the tasks of an environment; a `rpp_agents.training.Learner`.

    Parameters
    ----------
    env : RPPEnv
        Environment of ``PeaPOD-v0`` with attention as action, and a T5.
    config : Config

    Raises
    ------
    InvalidOption
        For another environment.
    """

    def __init__(self, env: Any, config: Config) -> None:
        if not isinstance(env.recommender, T5) or not isinstance(env.space, AttentionPrompts):
            raise InvalidOption(
                "the solver of PeaPOD reads the gradients of a T5 in attention: it takes an "
                "environment of PeaPOD-v0 with model='t5' and actions='attention', not "
                f"{type(env.recommender).__name__} and {type(env.space).__name__}"
            )
        self.env, self.config, self.tasks, self.model = env, config, env.tasks, env.recommender
        self.policy = pretrained(env)
        self.attention = self.policy.attention
        if config.initial == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                self.attention.query.reset_parameters()
                self.attention.key.reset_parameters()
        composer = env.space.around.composer
        self.weights = {name: torch.from_numpy(w) for name, w in composer.weights.items()}
        self.optimizer = torch.optim.AdamW(self.attention.parameters(), lr=config.learning_rate)
        self.rng = np.random.default_rng(config.seed)
        self.steps = config.batch
        self.gradient_calls = 0
        """Number of users whose answer was differentiated so far."""
        self._seen = _vectors(env)

    @property
    def trained(self) -> dict[str, Tensor]:
        """Weights that are trained, by name."""
        return dict(self.attention.named_parameters())

    @property
    def composer(self) -> Composer:
        """The composer with its weights as they are trained so far; a copy."""
        made: Composer = self.env.space.around.composer
        weights = {**self.weights, **dict(self.attention.named_parameters())}
        arrays = {name: w.detach().numpy().copy() for name, w in weights.items()}
        return Composer(made.heads, made.length, arrays)

    def reset(self, seed: int) -> None:
        """Begin a segment; nothing is played."""

    def scores(self, env: Any, rows: NDArray[np.int64] | None = None) -> Tensor:
        """(T, K) scores of the candidates of an environment's tasks, or of those at `rows`.

        Differentiable in the attention's weights. The environment has this one's composer.
        """
        own, near = self._seen if env is self.env else _vectors(env)
        every = np.arange(len(env.tasks)) if rows is None else rows
        others = torch.from_numpy(env.space.around.pool[near[every]])
        actions = self.attention(torch.from_numpy(own[every]), others)
        shares = (actions * float(env.space.decoder[0, 0])).softmax(dim=2)
        composer = env.space.around.composer
        prefix = compose(self.weights, composer.heads, shares, others, composer.length)
        return self.model.scores(PrefixPrompts(prefix, env.tasks.subset(every)))

    def iterate(self, progress: float) -> dict[str, float]:  # noqa: ARG002 - the rate is constant
        """Take one gradient step on a batch of tasks."""
        rows = self.rng.integers(len(self.tasks), size=self.config.batch)
        position = torch.from_numpy(self.tasks.position[rows])
        with torch.enable_grad():
            scores = self.scores(self.env, rows)
            loss = -scores.gather(1, position[:, None]).mean()
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                "the loss of PeaPOD is no longer finite: lower learning_rate, now "
                f"{self.config.learning_rate}"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.gradient_calls += len(rows)
        ranks = ranks_by(scores.detach().numpy(), self.tasks.subset(rows))
        return {
            "reward": float(ndcg(ranks, 10).mean()),
            "loss": loss.item(),
            "info/gradient_calls": float(self.gradient_calls),
        }

    def tensors(self) -> dict[str, Tensor]:
        """See `rpp_agents.training.Learner`."""
        kept = kept_tensors({"attention": self.attention}, {"attention": self.optimizer})
        return {**kept, "calls": torch.tensor(self.gradient_calls)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `rpp_agents.training.Learner`."""
        self.gradient_calls = int(tensors["calls"])
        parts = {"attention": self.attention}, {"attention": self.optimizer}
        restore_tensors(*parts, tensors)


def _vectors(env: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the own vectors of all tasks, as they are observed, and their neighbours."""
    observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
    own = np.ascontiguousarray(observations[:, 0, env.observer.layout["vector"]])
    return own, env.space.around.near


train = trainer("PeaPOD", Solver, Config())


class JointSolver(Solver):
    """The paper's mode: T5, values and projection are trained with queries and keys.

    There is no dropout. They are copies: the environment's T5 and composer stay as they are, so
    that its rewards are not those of this solver, whose answers are `scores`.
    """

    def __init__(self, env: Any, config: Config) -> None:
        super().__init__(env, config)
        frozen = self.model
        module = copy.deepcopy(frozen.module)
        self.model = T5(frozen.config, frozen.vocabulary, module, frozen.catalog, frozen.asked)
        module.requires_grad_(True)
        self.weights = {
            name: w.clone().requires_grad_() if name.startswith(("value", "project")) else w
            for name, w in self.weights.items()
        }
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=config.learning_rate)

    @property
    def trained(self) -> dict[str, Tensor]:
        """See `Solver`."""
        own = {name: w for name, w in self.weights.items() if w.requires_grad}
        return {**super().trained, **own, **self.model.weights}


class BareSolver(JointSolver):
    """The control of `JointSolver`: a copy of the T5 is trained on the same clicks, with no prefix.

    Its policy and composer are those of the environment.
    """

    @property
    def trained(self) -> dict[str, Tensor]:
        """See `Solver`."""
        return self.model.weights

    def scores(self, env: Any, rows: NDArray[np.int64] | None = None) -> Tensor:
        """(T, K) scores of the candidates, without a prefix; see `Solver.scores`."""
        every = np.arange(len(env.tasks)) if rows is None else rows
        return self.model.scores(PrefixPrompts(None, env.tasks.subset(every)))


@dataclass(frozen=True, eq=False)
class Tuned:
    """Result of `tune`.

    Attributes
    ----------
    policy : AttentionPolicy
        The policy of the best epoch.
    model : T5
        The environment's own, or the one that was trained with it.
    composer : Composer
        The composer of that epoch.
    validation : float
        NDCG@10 of the validation tasks in that epoch.
    epoch : int
        Index of that epoch; 0 if no trained epoch was better than the start.
    gradient_calls : int
        Number of users whose answer was differentiated in all.
    """

    policy: AttentionPolicy
    model: T5
    composer: Composer
    validation: float
    epoch: int
    gradient_calls: int


def tune(
    env: Any,
    validation: Any,
    config: Config = Config(),
    *,
    patience: int = 5,
    joint: bool = False,
    prompt: bool = True,
    progress: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Train, and keep the epoch that is best on validation tasks.

    Parameters
    ----------
    env, validation : RPPEnv
        Of the splits ``train`` and ``validation``, with the same recommender and composer.
    config : Config
        Options; `total_steps` is the maximum.
    patience : int
        Number of epochs in a row without an improvement after which training ends.
    joint : bool
        Train a copy of the T5, values and projection as well (`JointSolver`).
    prompt : bool
        False, with `joint`: train a copy of the T5 alone, without prefixes (`BareSolver`).
    progress : callable, optional
        Called with (epoch, validation NDCG@10) after every epoch.

    Raises
    ------
    InvalidOption
        For prompt=False without joint, where nothing would be trained.
    """
    if not prompt and not joint:
        raise InvalidOption("prompt=False trains the T5 alone: give joint=True, too")
    solver = ((JointSolver if prompt else BareSolver) if joint else Solver)(env, config)
    tasks: TaskSet = validation.tasks

    def judge() -> float:
        with torch.inference_mode():
            ranks = ranks_by(solver.scores(validation).numpy(), tasks)
        return float(ndcg(ranks, 10).mean())

    def copied() -> dict[str, Tensor]:
        return {name: w.detach().clone() for name, w in solver.trained.items()}

    found, weights, best = best_epoch(
        solver.iterate,
        copied,
        judge,
        total_steps=config.total_steps,
        batch=config.batch,
        tasks=len(solver.tasks),
        patience=patience,
        progress=progress,
    )
    with torch.no_grad():
        for name, weight in solver.trained.items():
            weight.copy_(weights[name])
    solver.model.module.requires_grad_(False)
    made = solver.policy, solver.model, solver.composer
    return Tuned(*made, best, found, solver.gradient_calls)
