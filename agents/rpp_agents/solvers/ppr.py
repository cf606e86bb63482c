"""PPR: the paper's prompt generator, trained through a frozen SASRec.

The native solver of ``PPR-v0`` (Wu et al., IEEE TKDE 2024). From a user's profile, two networks
compute the prefix and a vector that is added to the user's::

    x   = the embeddings of the profile's fields, concatenated
    p   = generator(x)                   the prefix: agents of the prefix
    u_s = SASRec(p, history)
    u_p = u_s + MLP_a(x)                 the agent "shift" (option shift=True of PPR-v0)
    L   = -log sigmoid(u_p . v_clicked - u_p . v_other) + lambda * InfoNCE(u_s, augmented u_s)

`train` is the trainer ``ppr``: it trains only these networks ("light"), so that its policy plays
the unchanged environment. `tune` has all of the paper's modes: ``"fine-tune"`` and ``"full"`` also
train a copy of the recommender, whose answers are then another environment's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.recommenders.base import ranks_by
from rpp_agents.runs import RunConfig
from rpp_agents.solvers.controls import item_gain
from rpp_agents.solvers.epochs import best_epoch
from rpp_agents.solvers.linear import profile_blocks
from rpp_agents.training import check_numbers, kept_tensors, restore_tensors, trainer
from rpp_env.data.candidates import TaskSet
from rpp_env.data.profiles import Profiles
from rpp_env.data.tensors import build
from rpp_env.errors import InvalidData, InvalidOption, TrainingDiverged
from rpp_env.metrics import ndcg
from rpp_env.recommenders.sasrec import SASRec
from rpp_env.vectors import Places, PrefixPrompts, VectorPrompts

__all__ = [
    "Config",
    "Mode",
    "Networks",
    "PromptPolicy",
    "Solver",
    "Tuned",
    "train",
    "tune",
]

Mode = Literal["pre-train", "fine-tune", "light", "full"]
"""Trained weights: none, the recommender's, the networks', or both."""

_Copy = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Weights of the networks, and of the recommender."""


@dataclass(frozen=True)
class Config(RunConfig):
    """Options of PPR, with the paper's numbers where it states them; a step is one example."""

    total_steps: int = 100_000
    """Number of examples (tasks) to train on, drawn with replacement."""
    batch: int = 256
    """Number of examples per gradient step."""
    learning_rate: float = 1e-3
    """Adam's learning rate of the networks (the paper: 1e-4)."""
    recommender_rate: float = 1e-4
    """Adam's learning rate of the recommender, if it is trained (the paper: 1e-5)."""
    loss: Literal["bpr", "cross_entropy"] = "bpr"
    """Loss of the clicked item against one random item (the paper's), or against all items."""
    contrastive: float = 0.1
    """Weight of the contrastive loss (lambda); 0 leaves it out."""
    masked: float = 0.2
    """Share of the profile's numbers, and of the history's items, that an augmentation masks
    (gamma). The latest item is never masked, because the score uses the state there."""
    temperature: float = 1.0
    """Temperature of the contrastive loss (tau), which the paper does not state."""
    hidden: int = 64
    """Width of the fields' embeddings and of the hidden layer of each network."""
    initial: Literal["normal", "items"] = "normal"
    """Initial embeddings of a field's values: normal with deviation 0.01, or the mean input of the
    items that training users of that value clicked."""
    constant: bool = False
    """Whether all users get the same prefix and vector, without their profiles."""
    given: bool = False
    """Whether the profile itself is the prefix, in an item input's scale and without a generator:
    the cross-domain prompt (`rpp_agents.solvers.domains`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.given and (self.constant or self.initial == "items"):
            raise InvalidOption(
                "given takes the profile as the prefix, so that there are no embeddings: leave out "
                "constant and initial"
            )
        check_numbers(self, 1, "batch", "hidden")
        check_numbers(self, 0, "contrastive")
        check_numbers(self, 0, "learning_rate", "recommender_rate", "temperature", above=True)
        check_numbers(self, 0, "masked", highest=0.99)


class _Network(nn.Module):
    """Maps profiles (B, width), one-hot, to the codes of some agents (B, agents, k)."""

    def __init__(self, sizes: Sequence[int], hidden: int, agents: int, length: int) -> None:
        super().__init__()
        self.sizes, self.shape = list(sizes), (agents, length)
        self.tables = nn.Parameter(torch.empty(sum(sizes), hidden))
        self.first = nn.Linear(max(len(self.sizes), 1) * hidden, hidden)
        self.second = nn.Linear(hidden, agents * length)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.01)

    def forward(self, profiles: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return codes (B, agents, k); `kept` (B, fields x hidden) masks the embeddings."""
        split = torch.split(profiles, self.sizes, 1), torch.split(self.tables, self.sizes)
        # A missing value has no 1, and therefore the embedding 0.
        fields = [hot @ table for hot, table in zip(*split, strict=True)]
        x = torch.cat(fields, 1) if fields else profiles.new_zeros(len(profiles), self.width)
        x = x if kept is None else x * kept
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out.view(-1, *self.shape)

    @property
    def width(self) -> int:
        """Width of the embeddings of a user."""
        return self.first.in_features


class _Given(nn.Module):
    """Passes profiles (B, k) on as the codes of one agent (B, 1, k), times a factor."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.width = width
        # A buffer, because older versions of safetensors read no file without a tensor.
        self.gain: Tensor
        self.register_buffer("gain", torch.tensor(gain))

    def forward(self, profiles: Tensor, kept: Tensor | None = None) -> Tensor:
        """See `_Network.forward`."""
        return self.gain * (profiles if kept is None else profiles * kept)[:, None]


class Networks(nn.Module):
    """The prompt generator and the profile network (MLP_a), with separate embedding tables.

    Parameters
    ----------
    sizes : sequence of int
        Number of values of each field of the profile.
    hidden : int
        Width of embeddings and hidden layers.
    places : sequence of int
        Places of the environment's agents, see `rpp_env.vectors.Places`.
    length : int
        Length of an agent's code.
    given : float, optional
        Factor of profiles that are the code themselves, in place of a generator.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hidden: int,
        places: Sequence[int],
        length: int,
        given: float | None = None,
    ) -> None:
        super().__init__()
        self.description: dict[str, Any] = {
            "sizes": [int(size) for size in sizes],
            "hidden": int(hidden),
            "places": [int(place) for place in places],
            "length": int(length),
        }
        inside = sum(place >= 0 for place in places)
        self.generator: _Network | _Given | None = None
        if given is not None:
            self.description["given"] = float(given)
            self.generator = _Given(sum(sizes), given)
        elif inside:
            self.generator = _Network(sizes, hidden, inside, length)
        outside = len(places) - inside
        self.added = _Network(sizes, hidden, outside, length) if outside else None

    def forward(self, profiles: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return codes (B, n, k) within [-1, 1]; `kept` masks the generator's inputs."""
        found = [] if self.generator is None else [self.generator(profiles, kept)]
        found += [] if self.added is None else [self.added(profiles)]
        return torch.cat(found, 1).clamp(-1, 1)  # an agent "shift" is always the last one


class PromptPolicy:
    """Policy of trained `Networks`, from the profiles in the observations.

    Parameters
    ----------
    networks : Networks
        The networks; shared, not copied.
    columns : (int, int)
        First column of the profile in an observation, and the one after its last; equal if the
        networks use no profile.
    """

    def __init__(self, networks: Networks, columns: tuple[int, int]) -> None:
        self.networks, self.columns = networks, columns

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,  # noqa: ARG002 - vectors have none
        greedy: bool = False,  # noqa: ARG002 - there is nothing to sample
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """See `rpp_agents.policy.Policy.act`; the same profile always gets the same action."""
        first, end = self.columns
        if observations.ndim != 3 or observations.shape[2] < end:
            raise InvalidOption(
                f"this policy reads the profile in columns {first} to {end} of observations, but "
                f"got an array of shape {observations.shape}: it was trained in an environment of "
                "another shape"
            )
        seen = np.ascontiguousarray(observations[:, 0, first:end], np.float32)
        with torch.inference_mode():
            return self.networks(torch.from_numpy(seen)).numpy(), memory

    def save(self, path: str | Path) -> None:
        """Write the networks to one safetensors file, atomically."""
        about = {
            "kind": "ppr",
            "networks": self.networks.description,
            "columns": list(self.columns),
        }
        write_tensors(path, self.networks.state_dict(), about)

    @classmethod
    def load(cls, path: str | Path) -> PromptPolicy:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "ppr":
            raise InvalidData(f"{path} holds a {about.get('kind')!r}, not a policy of PPR")
        try:
            networks = build(lambda: Networks(**about["networks"]), tensors)
            first, end = (int(column) for column in about["columns"])
        except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidData(f"{path} is of another version of rpp_agents: {error}") from error
        if not 0 <= first <= end or end - first != sum(networks.description["sizes"]):
            raise InvalidData(f"{path} is damaged: columns {first} to {end} are no profile's")
        return cls(networks, (first, end))


class Solver:
    """PPR's learner on the training users of an environment; a `rpp_agents.training.Learner`.

    Parameters
    ----------
    env : RPPEnv
        Environment of ``PPR-v0`` or another id whose prompts are `VectorPrompts`, with a SASRec.
    config : Config
    mode : {"pre-train", "fine-tune", "light", "full"}
        Weights to train; a trained recommender is a copy (`recommender`).
    prompt, shift : bool
        Whether there is a prefix, and whether a vector is added to the user's. Agents that are not
        used play zeros. Without a prefix nothing precedes the history, which differs from a vector
        of zeros.

    Raises
    ------
    InvalidOption
        For an environment without a SASRec, with a codebook, or without the profile that the
        networks use, and for contradictory modes and terms.
    """

    def __init__(
        self,
        env: Any,
        config: Config,
        *,
        mode: Mode = "light",
        prompt: bool = True,
        shift: bool = True,
    ) -> None:
        space, recommender = env.space, env.recommender
        if not isinstance(recommender, SASRec) or not isinstance(space, VectorPrompts):
            raise InvalidOption(
                "the solver of PPR reads the gradients of a SASRec in its prefix: it takes an "
                "environment of PPR-v0 with model='sasrec' and vectors or codes, not "
                f"{type(recommender).__name__} and {type(space).__name__}"
            )
        if mode == "light" and not (prompt or (shift and -1 in space.places.places)):
            raise InvalidOption(
                "in mode 'light' a prefix or a shift is trained: turn one of them on (the shift is "
                "the option shift=True of the environment)"
            )
        self.env, self.config, self.mode = env, config, mode
        self.space, self.tasks = space, env.episode.every(env.tasks)
        self.uses_prompt = prompt and mode in ("light", "full")
        self.uses_shift = shift and -1 in space.places.places and mode != "pre-train"
        self.recommender = recommender
        if mode in ("fine-tune", "full"):
            weights = {name: x.detach().clone() for name, x in recommender.weights.items()}
            self.recommender = SASRec(recommender.config, weights, recommender.catalog)
        self.columns, profiles = _profiles(env, config)
        self.sizes = () if profiles is None else profiles.sizes
        self.hot = torch.zeros(len(self.tasks), 0)
        if profiles is not None:
            self.hot = torch.from_numpy(profiles.one_hot(self.tasks.users))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.networks = Networks(
                self.sizes,
                config.hidden,
                space.places.places,
                len(space.decoder),
                self._gain() if config.given else None,
            )
        if config.initial == "items":
            self._begin_with_items()
        if self.recommender is not recommender:
            for weight in self.recommender.weights.values():
                weight.requires_grad_(True)
        networks, own = self.trained()
        groups: list[dict[str, Any]] = [
            {"params": weights, "lr": rate}
            for weights, rate in (
                (networks, config.learning_rate),
                (own, config.recommender_rate),
            )
            if weights
        ]
        self.optimizer = torch.optim.Adam(groups) if groups else None
        self.policy = PromptPolicy(self.networks, self.columns)
        self.rng = np.random.default_rng(config.seed)
        self.steps = config.batch
        self.gradient_calls = 0
        """Number of users whose answer was differentiated so far, augmented ones included."""

    def reset(self, seed: int) -> None:
        """Begin a segment; nothing is played."""

    def iterate(self, progress: float) -> dict[str, float]:  # noqa: ARG002 - the rate is constant
        """Take one gradient step on a batch of tasks."""
        rows = self.rng.integers(len(self.tasks), size=self.config.batch)
        with torch.enable_grad():
            loss, liked, calls = self._loss(rows)
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the loss of PPR is no longer finite: lower learning_rate, now "
                f"{self.config.learning_rate}"
            )
        if self.optimizer is not None:
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.gradient_calls += calls
        return {
            "reward": liked,
            "loss": loss.item(),
            "info/gradient_calls": float(self.gradient_calls),
        }

    def tensors(self) -> dict[str, Tensor]:
        """See `rpp_agents.training.Learner`."""
        assert self.optimizer is not None
        kept = kept_tensors({"networks": self.networks}, {"networks": self.optimizer})
        return {**kept, "calls": torch.tensor(self.gradient_calls)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `rpp_agents.training.Learner`."""
        assert self.optimizer is not None
        self.gradient_calls = int(tensors["calls"])
        restore_tensors({"networks": self.networks}, {"networks": self.optimizer}, tensors)

    def prompts(self, tasks: TaskSet, hot: Tensor) -> PrefixPrompts:
        """Make the prompts of `tasks`, whose profiles are `hot` (T, width)."""
        prefix, shift = self._decoded(self.networks(hot))
        return PrefixPrompts(prefix, tasks, shift)

    def scores(self, tasks: TaskSet, profiles: Profiles | None = None) -> NDArray[np.float32]:
        """(T, K) scores of the candidates with the current networks and recommender.

        Parameters
        ----------
        tasks : TaskSet
            Tasks of the environment's dataset.
        profiles : Profiles, optional
            Replacement of the dataset's profiles, such as shuffled ones.

        Raises
        ------
        InvalidData
            For tasks of another catalog.
        """
        own = tasks.dataset.profiles if profiles is None else profiles
        hot = torch.zeros(len(tasks), 0)
        if self.sizes:
            if own is None or own.sizes != self.sizes:
                raise InvalidData(
                    f"{tasks.dataset.name} has profiles of fields with "
                    f"{None if own is None else own.sizes} values, but these networks read "
                    f"{self.sizes}: use the dataset that they were trained on"
                )
            hot = torch.from_numpy(own.one_hot(tasks.users))
        with torch.inference_mode():
            return np.asarray(self.recommender.scores(self.prompts(tasks, hot)).numpy())

    # ------------------------------------------------------------------------------- inside

    def trained(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the trained weights: of the networks, and of the recommender."""
        parts: list[nn.Module | None] = [
            self.networks.generator if self.uses_prompt else None,
            self.networks.added if self.uses_shift else None,
        ]
        networks: list[Tensor] = [
            w for part in parts if part is not None for w in part.parameters()
        ]
        frozen = self.recommender is self.env.recommender
        return networks, [] if frozen else [*self.recommender.weights.values()]

    def _gain(self) -> float:
        """Return the factor of profiles that are the prefix themselves."""
        gain, places = item_gain(self.env), self.space.places.places
        fits = sum(self.sizes) == len(self.space.decoder) and sum(p >= 0 for p in places) == 1
        if gain is None or not fits:
            raise InvalidOption(
                f"given=True takes a profile of {sum(self.sizes)} numbers as the only vector of "
                f"the prefix, and the environment has codes of {len(self.space.decoder)} numbers: "
                "use a dataset of domains.with_source, and PPR-v0 without codes, prefix and fields"
            )
        return gain

    def _begin_with_items(self) -> None:
        """Initialise a value's embedding with the mean input of its training users' clicks."""
        inputs = self.recommender.embed(torch.from_numpy(self.tasks.targets.astype(np.int64)))
        if inputs.shape[1] != self.config.hidden:
            raise InvalidOption(
                f"initial='items' begins with the items' inputs, which have {inputs.shape[1]} "
                f"numbers: give hidden={inputs.shape[1]}, not {self.config.hidden}"
            )
        counts = self.hot.sum(0)[:, None].clamp(min=1)
        means = self.hot.T @ inputs.detach() / counts
        for network in (self.networks.generator, self.networks.added):
            if isinstance(network, _Network):
                network.tables.data.copy_(means)

    def _decoded(self, codes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the prefix and the shift of codes (B, n, k); None for unused ones."""
        places: Places = self.space.places
        vectors = torch.einsum("bnk,nkd->bnd", codes, torch.from_numpy(self.space.decoders))
        where = list(enumerate(zip(places.blocks, places.places, strict=True)))
        prefix = shift = None
        if self.uses_prompt:
            count, blocks = max(places.places) + 1, max(places.blocks) + 1
            parts = [
                sum((vectors[:, i] for i, at in where if at == (b, p)), torch.zeros(()))
                for b in range(blocks)
                for p in range(count)
            ]
            prefix = torch.stack(parts, 1).view(len(codes), blocks, count, -1)
        if self.uses_shift:
            shift = sum((vectors[:, i] for i, at in where if at[1] < 0), torch.zeros(()))
        return prefix, shift

    def _loss(self, rows: NDArray[np.int64]) -> tuple[Tensor, float, int]:
        """Return a batch's loss, its current NDCG@10, and the number of differentiated answers."""
        config, model, hot = self.config, self.recommender, self.hot[rows]
        length = max(1, int(self.tasks.history_lengths[rows].max()))
        length = min(length, model.config.max_length)
        seen = torch.from_numpy(self.tasks.padded_history(length, rows).astype(np.int64))
        prefix, shift = self._decoded(self.networks(hot))
        user = model.encode(seen, prefix)
        answer = user if shift is None else user + shift
        items = model.weights["items.weight"]
        targets = torch.from_numpy(self.tasks.targets[rows].astype(np.int64))
        if config.loss == "cross_entropy":
            loss = F.cross_entropy(answer @ items.T, targets)
        else:
            others = torch.from_numpy(self.rng.integers(len(items), size=len(rows)))
            gap = (answer * (items[targets] - items[others])).sum(1)
            loss = F.softplus(-gap)[others != targets].sum() / len(rows)
        calls = len(rows)
        if config.contrastive and self.mode != "pre-train":
            views = self._views(seen, hot, prefix)
            users = torch.from_numpy(self.tasks.users[rows])
            for view in views:
                loss = loss + config.contrastive * _info_nce(user, view, users, config.temperature)
            calls += len(rows) * len(views)
        with torch.no_grad():
            shown = torch.from_numpy(self.tasks.candidates[rows].astype(np.int64))
            scores = torch.einsum("bd,bkd->bk", answer, items[shown])
            own = (answer * items[targets]).sum(1, keepdim=True)
            ranks = (scores > own + 1e-6).sum(1).numpy() + 1
        return loss, float(ndcg(ranks, 10).mean()), calls

    def _views(self, seen: Tensor, hot: Tensor, prefix: Tensor | None) -> list[Tensor]:
        """Return augmented users (B, d): with a masked profile, and with a masked history."""
        keep = 1 - self.config.masked
        drawn = torch.from_numpy(self.rng.random(tuple(seen.shape)) < keep)
        drawn[:, -1] = True
        views = [self.recommender.encode(seen.masked_fill(~drawn, -1), prefix)]
        if prefix is not None and self.networks.generator is not None and self.sizes:
            kept = self.rng.random((len(hot), self.networks.generator.width)) < keep
            other = self.networks(hot, torch.from_numpy(kept.astype(np.float32)))
            views.append(self.recommender.encode(seen, self._decoded(other)[0]))
        return views


def _info_nce(user: Tensor, view: Tensor, users: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of identifying each user's augmented vector among those of the batch.

    Other tasks of the same user are not negatives.
    """
    alike = F.normalize(user, dim=1) @ F.normalize(view, dim=1).T / temperature
    same = (users[:, None] == users) & ~torch.eye(len(users), dtype=torch.bool)
    return F.cross_entropy(alike.masked_fill(same, -torch.inf), torch.arange(len(users)))


def _profiles(env: Any, config: Config) -> tuple[tuple[int, int], Profiles | None]:
    """Return the columns of the profile in observations, and the profiles of the fields shown."""
    if config.constant:
        return (0, 0), None
    layout = env.observer.layout
    blocks = {name: layout[name] for name in profile_blocks(layout)}
    profiles = env.tasks.dataset.profiles
    if profiles is None or not blocks:
        raise InvalidOption(
            f"the environment shows no profile ({env.tasks.dataset.name}): use a dataset with "
            "profiles and leave out profile=(), or give the solver constant=True, which learns one "
            "prefix for all"
        )
    first, end = min(at.start for at in blocks.values()), max(at.stop for at in blocks.values())
    if "profile" not in blocks:
        profiles = profiles.select([name.removeprefix("profile_") for name in blocks])
    if profiles.width != end - first:
        raise InvalidOption(
            f"the environment shows {end - first} of the {profiles.width} columns of the profile; "
            "choose fields with agents='fields', or show all (profile=None)"
        )
    return (first, end), profiles


train = trainer("PPR", Solver, Config())


@dataclass(frozen=True, eq=False)
class Tuned:
    """Result of `tune`.

    Attributes
    ----------
    solver : Solver
        The solver with the weights of the best epoch.
    validation : float
        NDCG@10 of the validation tasks in that epoch.
    epoch : int
        Index of that epoch; 0 if no trained epoch was better than the start.
    gradient_calls : int
        Number of users whose answer was differentiated in all.
    """

    solver: Solver
    validation: float
    epoch: int
    gradient_calls: int


def tune(
    env: Any,
    validation: TaskSet,
    config: Config = Config(),
    *,
    mode: Mode = "light",
    prompt: bool = True,
    shift: bool = True,
    patience: int = 5,
    progress: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Train in any of the paper's modes, and keep the epoch that is best on validation tasks.

    Parameters
    ----------
    env : RPPEnv
        Of training users; see `Solver`. Its own recommender is never changed.
    validation : TaskSet
        Tasks of other users of the same dataset.
    config : Config
        Options; `total_steps` is the maximum.
    mode, prompt, shift
        See `Solver`.
    patience : int
        Number of epochs without an improvement after which training ends.
    progress : callable, optional
        Called with (epoch, validation NDCG@10) after every epoch.
    """
    solver = Solver(env, config, mode=mode, prompt=prompt, shift=shift)
    found, (networks, weights), best = best_epoch(
        solver.iterate,
        lambda: _weights(solver),
        lambda: _judged(solver, validation),
        total_steps=0 if mode == "pre-train" else config.total_steps,
        batch=config.batch,
        tasks=len(solver.tasks),
        patience=patience,
        progress=progress,
    )
    solver.networks.load_state_dict(networks)
    if solver.recommender is not env.recommender:
        tuned = SASRec(solver.recommender.config, weights, solver.recommender.catalog)
        solver.recommender = tuned
    return Tuned(solver, best, found, solver.gradient_calls)


def _weights(solver: Solver) -> _Copy:
    """Copy the networks' weights and the recommender's."""
    return (
        {name: x.detach().clone() for name, x in solver.networks.state_dict().items()},
        {name: x.detach().clone() for name, x in solver.recommender.weights.items()},
    )


def _judged(solver: Solver, tasks: TaskSet) -> float:
    """Return the mean NDCG@10 of tasks."""
    return float(ndcg(ranks_by(solver.scores(tasks), tasks), 10).mean())
