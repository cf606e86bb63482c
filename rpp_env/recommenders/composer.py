"""Pre-training of PeaPOD's composer through a frozen T5, on training clicks only.

The composer is attention over similar users (`rpp_env.composed`). `pretrain` teaches it by gradient
to make prefixes under which a T5, which it never changes, gives the users' latest *training* clicks
a high likelihood; of these users, the own vector is folded in from the clicks before. Held-out
clicks, which environments ask for, are never read. Then `PeaPOD-v0` fixes values and projection.

`teach` also fits the paper's ablations, which no environment plays, since they leave nothing to
choose: prefixes of the own vector alone (an MLP, or a pool of components), and *task prompts*,
vectors in front of the prefix that all users share.

torch is imported when a composer is trained, never by importing this module.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rpp_env.composed import Composer
from rpp_env.data.clicks import PARTS, task_users, tasks_before, training_clicks
from rpp_env.data.dataset import Dataset
from rpp_env.data.neighbours import Factors, fit_factors, nearest, unit
from rpp_env.data.tensors import read_tensors, write_tensors
from rpp_env.errors import InvalidData, InvalidOption, TrainingDiverged
from rpp_env.interrupts import heed_interrupts
from rpp_env.options import check_choice
from rpp_env.recommenders.patience import Patience, Progress
from rpp_env.recommenders.pretrained import file_name, kept
from rpp_env.vectors import PrefixPrompts

if TYPE_CHECKING:
    from torch import Tensor

    from rpp_env.data.candidates import TaskSet
    from rpp_env.recommenders.t5 import T5

__all__ = [
    "FORMS",
    "Config",
    "Users",
    "Whose",
    "compose",
    "load",
    "logits",
    "prefixes",
    "pretrain",
    "pretrained",
    "save",
    "teach",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

Whose = Literal["similar", "another", "self"]
"""Whose vectors a prompt is made of; see `Users.around`."""


@dataclass(frozen=True, kw_only=True)
class Config(Patience):
    """Users' vectors, and the composer's size and training."""

    dim: int = 32
    """Width of the users' vectors (the paper: 512)."""
    heads: int = 4
    """Number of heads (H); must divide the T5's width."""
    length: int = 3
    """Number of vectors of the prefix (P)."""
    neighbours: int = 10
    """Number of neighbours (n; the paper: 20 on Beauty and Sports, 10 on Toys)."""
    clicks: int = 1
    """Number of each user's latest training clicks that are taught."""
    rate: float = 3e-3
    """AdamW's learning rate."""
    batch: int = 64
    """Number of examples per step."""
    epochs: int = 5
    """Maximum number of epochs."""
    patience: int = 2
    """Number of epochs in a row without a lower loss of held-out users after which training
    stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "dim heads length neighbours clicks batch".split()
        if min(getattr(self, name) for name in names) < 1 or not self.rate > 0:
            raise InvalidOption(
                f"{', '.join(names)} must be at least 1 and rate above 0; got {self}"
            )


def compose(
    weights: Mapping[str, Tensor], heads: int, attention: Tensor, others: Tensor, length: int
) -> Tensor:
    """(B, P, d) prefixes of attention (B, H, n) to neighbours (B, n, u), differentiable.

    The same as `Composer.prefix` of the neighbours' values, up to rounding.
    """
    import torch
    import torch.nn.functional as F

    values = F.linear(others, weights["value.weight"], weights["value.bias"])
    values = values.view(*values.shape[:2], heads, -1)
    mixed = torch.einsum("bhn,bnhc->bhc", attention, values).flatten(1)
    flat = F.linear(mixed, weights["project.weight"], weights["project.bias"])
    return flat.view(len(flat), length, -1)


def logits(weights: Mapping[str, Tensor], heads: int, own: Tensor, others: Tensor) -> Tensor:
    """(B, H, n) logits of the attention of users (B, u) to neighbours (B, n, u)."""
    import torch
    import torch.nn.functional as F

    query = F.linear(own, weights["query.weight"], weights["query.bias"])
    keys = F.linear(others, weights["key.weight"], weights["key.bias"])
    query = query.view(len(query), heads, -1)
    keys = keys.view(*keys.shape[:2], heads, -1)
    found: Tensor = torch.einsum("bhc,bnhc->bhn", query, keys) / query.shape[2] ** 0.5
    return found


def _attention(
    weights: Mapping[str, Tensor], config: Config, own: Tensor, others: Tensor
) -> Tensor:
    attention = logits(weights, config.heads, own, others).softmax(dim=2)
    return compose(weights, config.heads, attention, others, config.length)


def _mlp(
    weights: Mapping[str, Tensor],
    config: Config,
    own: Tensor,
    others: Tensor,  # noqa: ARG001 - no attention
) -> Tensor:
    """(B, P, d): W_2 relu(W_1 u + b_1) + b_2."""
    import torch.nn.functional as F

    inner = F.linear(own, weights["hidden.weight"], weights["hidden.bias"]).relu()
    flat = F.linear(inner, weights["project.weight"], weights["project.bias"])
    return flat.view(len(own), config.length, -1)


def _pool(
    weights: Mapping[str, Tensor],
    config: Config,  # noqa: ARG001 - the weights have its sizes
    own: Tensor,
    others: Tensor,  # noqa: ARG001 - components are shared by all users instead
) -> Tensor:
    """(B, P, d): sum over m of cos(u * A_m, K_m) P_m, with products by element."""
    import torch
    import torch.nn.functional as F

    seen = own[:, None] * weights["attention"]
    shares = F.cosine_similarity(seen, weights["key"][None], dim=2)
    return torch.einsum("bm,mpd->bpd", shares, weights["components"])


FORMS = {"attention": _attention, "mlp": _mlp, "pool": _pool}
"""Forms of a prefix: multi-head attention to neighbours; an MLP of the own vector in its place (the
paper's H = 0); components that all users share, weighted by the own vector (its first version,
after CODA-Prompt)."""


def _first(
    form: str, dim: int, size: float, config: Config, components: int, seed: int
) -> dict[str, Floats]:
    """Draw first weights of a form, for vectors of `dim` numbers with root mean square `size`."""
    width, length = config.dim, config.length
    if form == "attention":
        made = Composer.seeded(width, dim, heads=config.heads, length=length, size=size, seed=seed)
        return dict(made.weights)
    scales: dict[str, tuple[float, tuple[int, ...]]] = {
        "mlp": {
            "hidden.weight": (1.0, (dim, width)),
            "hidden.bias": (0.0, (dim,)),
            "project.weight": (size / dim**0.5, (length * dim, dim)),
            "project.bias": (0.0, (length * dim,)),
        },
        "pool": {
            "attention": (1.0, (components, width)),
            "key": (1.0, (components, width)),
            "components": (size, (components, length, dim)),
        },
    }[form]
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, scale, shape).astype(np.float32)
        for name, (scale, shape) in scales.items()
    }


def prefixes(
    form: str, weights: Mapping[str, Tensor], config: Config, own: Tensor, others: Tensor
) -> Tensor:
    """(B, P, d) prefixes of own vectors (B, u) and neighbours' (B, n, u), differentiable.

    Task prompts (``weights["task"]``, (t, d)) stand in front of them: (B, t + P, d).

    Parameters
    ----------
    form : str
        One of `FORMS`.
    weights : mapping of str to Tensor
        From `teach`.
    config : Config
        That of `teach`.
    own, others : Tensor
    """
    import torch

    check_choice("form", form, tuple(FORMS))
    made = FORMS[form](weights, config, own, others)
    if "task" not in weights:
        return made
    return torch.cat([weights["task"].expand(len(made), -1, -1), made], dim=1)


@dataclass(frozen=True, eq=False)
class Users:
    """The vectors of training users, who may be listened to, and the formula of all vectors.

    Attributes
    ----------
    factors : Factors
    rows : (N,) int64 array
        Rows of these users in the dataset, sorted.
    pool : (N, u) float32 array
        Their vectors, of length 1.
    """

    factors: Factors
    rows: Ints
    pool: Floats

    @classmethod
    def of(cls, dataset: Dataset, factors: Factors) -> Users:
        """Fold all users of a dataset in, from their training clicks."""
        taught = training_clicks(dataset)
        return cls(factors, task_users(dataset), unit(factors.fold_in(taught.indptr, taught.items)))

    def around(
        self, tasks: TaskSet, count: int, whose: Whose = "similar"
    ) -> tuple[Floats, Ints, Floats]:
        """Return the own vectors (T, u), neighbours (T, n) and similarities (T, n) of tasks.

        A vector is folded in from the task's history. Nobody is a neighbour of themselves.

        Parameters
        ----------
        tasks : TaskSet
        count : int
            Number of neighbours (n).
        whose : {"similar", "another", "self"}
            The most similar users; those of the next training user, whoever else is played; or n
            times the user, as of the training clicks.

        Raises
        ------
        InvalidOption
            For too many neighbours, and for ``"self"`` of a user without training clicks.
        """
        check_choice("whose", whose, get_args(Whose))
        place = np.minimum(np.searchsorted(self.rows, tasks.users), len(self.rows) - 1)
        own = np.where(self.rows[place] == tasks.users, place, -1)
        if whose == "another":
            own = (place + 1) % len(self.rows)
            return self.pool[own], *nearest(self.pool[own], self.pool, count, own)
        vectors = unit(self.factors.fold_in(tasks.history_indptr, tasks.history_items))
        if whose == "similar":
            return vectors, *nearest(vectors, self.pool, count, own)
        if (own < 0).any():
            raise InvalidOption("whose='self' needs users with training clicks: leave out new ones")
        near = np.repeat(own[:, None], count, axis=1)
        alike = np.clip((vectors * self.pool[own]).sum(axis=1, keepdims=True), -1, 1)
        return vectors, near, np.repeat(alike, count, axis=1)


def pretrain(
    model: T5,
    dataset: Dataset,
    users: Users,
    config: Config = Config(),
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Composer:
    """Train a composer through a frozen T5; see `teach`.

    Raises
    ------
    InvalidOption
        If the heads do not divide the T5's width, or no user has two training clicks.
    TrainingDiverged
        If the loss is no longer finite.
    """
    if model.config.dim % config.heads:
        raise InvalidOption(
            f"heads={config.heads} must divide the width of the T5, {model.config.dim}"
        )
    weights = teach(model, dataset, users, config, seed=seed, progress=progress)
    return Composer(config.heads, config.length, {n: w.numpy() for n, w in weights.items()})


def teach(
    model: T5,
    dataset: Dataset,
    users: Users,
    config: Config = Config(),
    *,
    form: str = "attention",
    components: int = 10,
    task: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Train a prefix through a frozen T5, and keep the epoch that is best on held-out users.

    Parameters
    ----------
    model : T5
        Never changed.
    dataset : Dataset
        Only its training clicks are read.
    users : Users
    config : Config
    form : str
        One of `FORMS`.
    components : int
        Number of components of ``form="pool"`` (M).
    task : int
        Number of vectors of a task prompt, which all users share and which stands in front of the
        prefix (the paper: 3); 0: none.
    seed : int
        Seed of first weights, orders, and the fifth of the users who choose the epoch.
    progress : callable, optional
        Called after every epoch; ``validation`` is the mean log-likelihood of their clicks.

    Returns
    -------
    dict of Tensor
        Weights for `prefixes`.

    Raises
    ------
    InvalidOption
        For an unknown form, and if no user has two training clicks.
    TrainingDiverged
        If the loss is no longer finite.
    """
    import torch

    check_choice("form", form, tuple(FORMS))
    rows = np.repeat(users.rows, config.clicks)
    back = np.tile(np.arange(1, config.clicks + 1), len(users.rows))
    before = dataset.lengths[rows] - len(PARTS) - back
    tasks = tasks_before(dataset, rows[before > 0], before[before > 0], num_candidates=None)
    own, near, _ = users.around(tasks, config.neighbours)
    rng = np.random.default_rng(seed)
    judges = rng.permutation(users.rows)[: len(users.rows) // 5]
    judging = np.isin(tasks.users, judges)
    taught, judged = np.flatnonzero(~judging), np.flatnonzero(judging)[:_JUDGED]
    if not len(taught) or not len(judged):
        raise InvalidOption(f"{dataset.name} has too few users to teach a composer: give more")
    size = float(model.weights["t5.shared.weight"].square().mean()) ** 0.5
    first = _first(form, model.config.dim, size, config, components, seed)
    if task:
        drawn = np.random.default_rng([seed, task]).uniform(-0.1, 0.1, (task, model.config.dim))
        first["task"] = drawn.astype(np.float32)
    weights = {name: torch.tensor(w, requires_grad=True) for name, w in first.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.rate)
    targets = torch.from_numpy(tasks.targets.astype(np.int64))

    def loss(part: Ints) -> Tensor:
        mine = torch.from_numpy(own[part])
        others = torch.from_numpy(users.pool[near[part]])
        prefix = prefixes(form, weights, config, mine, others)
        scores = model.scores(PrefixPrompts(prefix, tasks.subset(part)))
        return -scores.gather(1, targets[part, None]).mean()

    best: dict[str, Tensor] = {}
    lowest, bad, began = np.inf, 0, time.perf_counter()
    for epoch in range(1, config.epochs + 1):
        for part in _parts(rng.permutation(taught), config.batch):
            optimizer.zero_grad()
            value = loss(part)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.inference_mode():
            held = sum(loss(part).item() * len(part) for part in _parts(judged, config.batch))
        held /= len(judged)
        if not np.isfinite(held):
            raise TrainingDiverged(
                f"the loss of the composer is no longer finite: lower its rate, {config.rate}"
            )
        bad += 1
        if held < lowest:
            best = {name: w.detach().clone() for name, w in weights.items()}
            lowest, bad = held, 0
        if progress is not None:
            seconds = time.perf_counter() - began
            progress({"epoch": epoch, "validation": -held, "seconds": seconds})
        if bad >= config.patience:
            break
    return best


_JUDGED = 2000
"""Maximum number of clicks that choose the epoch."""


def _parts(rows: Ints, size: int) -> list[Ints]:
    return np.split(rows, range(size, len(rows), size))


# -------------------------------------------------------------------------------------- files


def save(path: str | Path, composer: Composer, factors: Factors) -> None:
    """Write a composer and the items' vectors to one safetensors file, atomically."""
    import torch

    tensors = {name: torch.from_numpy(w) for name, w in composer.weights.items()}
    about = {
        "kind": "composer",
        "heads": composer.heads,
        "length": composer.length,
        "decay": factors.decay,
        "weight": factors.weight,
    }
    write_tensors(path, {**tensors, "items": torch.from_numpy(factors.items)}, about)


def load(path: str | Path) -> tuple[Composer, Factors]:
    """Read a file that `save` wrote; `InvalidData` for another kind of file."""
    tensors, about = read_tensors(path)
    if about.get("kind") != "composer" or "items" not in tensors:
        raise InvalidData(f"{path} holds no composer of PeaPOD")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    items = arrays.pop("items")
    try:
        heads, length = int(about["heads"]), int(about["length"])
        decay, weight = float(about["decay"]), float(about["weight"])
        composer = Composer(heads, length, arrays)
        if items.ndim != 2 or items.shape[1] != composer.width or not decay > 0 <= weight:
            raise InvalidData(f"{path} is damaged: its vectors are of shape {items.shape}")
    except (InvalidOption, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidData(f"{path} is damaged or of another version: {error}") from error
    return composer, Factors(items, decay, weight)


@heed_interrupts()
def pretrained(
    model: Any, dataset: Dataset, config: Config = Config(), *, seed: int = 0
) -> tuple[Composer, Factors]:
    """Return the composer of this T5 and these training clicks: shipped, cached, or newly trained.

    A recommender that is no T5 gets a random composer (`Composer.seeded`).

    Warns
    -----
    RPPWarning
        If a cached file is damaged and made again, and if it cannot be written.
    """
    from rpp_env.recommenders.t5 import T5

    taught = training_clicks(dataset)
    if not isinstance(model, T5):
        composer = Composer.seeded(
            config.dim, 64, heads=config.heads, length=config.length, seed=seed
        )
        return composer, fit_factors(taught, config.dim, seed=seed)
    given = f"{dataset.catalog_digest} {taught.digest} {model.digest}"

    def make(_: Path) -> tuple[Composer, Factors]:
        factors = fit_factors(taught, config.dim, seed=seed)
        return pretrain(model, dataset, Users.of(dataset, factors), config, seed=seed), factors

    name = file_name("composer", dataset, given, config, seed)
    return kept(name, load, make, lambda made, path: save(path, *made))
