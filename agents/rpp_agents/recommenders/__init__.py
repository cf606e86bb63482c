"""Recommenders that need no language model, fitted on all histories without the targets.

| name | knowledge |
|---|---|
| ``pop`` | how often an item was chosen |
| ``itemknn`` | which items the same users chose (cosine; implicit) |
| ``bm25`` | which titles share words with the latest ones (bm25s) |
| ``bpr`` | a vector per user and item (BPR-MF; implicit) |
| ``lightgcn`` | the same, spread over the graph of users and items (PyTorch Geometric) |
| ``sasrec`` | the order of the history (self-attention) |

::

    scorer = fit("sasrec", dataset)
    scores = scorer.scores(make_tasks(dataset, users))         # (T, K)
    env = RPPEnv.make(dataset, model=ScoringRecommender(scorer))

They read a user's whole history, while an environment shows at most 50 of its items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rpp_agents.recommenders.base import (
    Scorer,
    ScoringRecommender,
    Vectors,
    earlier,
    target_ranks,
    validation_ndcg,
    validation_tasks,
)
from rpp_agents.recommenders.classic import (
    BM25,
    BM25Config,
    ItemKNN,
    ItemKNNConfig,
    PopConfig,
    Popularity,
)
from rpp_agents.recommenders.factors import BPRConfig, LightGCNConfig
from rpp_agents.recommenders.factors import fit as _fit_factors
from rpp_agents.recommenders.sasrec import Config as SASRecConfig
from rpp_agents.recommenders.sasrec import SASRec, SASRecScorer
from rpp_agents.recommenders.sasrec import fit as _fit_sasrec
from rpp_env.data import Dataset
from rpp_env.errors import InvalidOption
from rpp_env.interrupts import heed_interrupts
from rpp_env.plugins import config_class, load_code, locate, make, resolve
from rpp_env.recommenders.patience import Progress

__all__ = [
    "CONFIGS",
    "NAMES",
    "BM25Config",
    "BPRConfig",
    "ItemKNNConfig",
    "LightGCNConfig",
    "NoConfig",
    "PopConfig",
    "SASRec",
    "SASRecConfig",
    "SASRecScorer",
    "Scorer",
    "ScoringRecommender",
    "Vectors",
    "default_config",
    "fit",
    "target_ranks",
]


@dataclass(frozen=True)
class NoConfig:
    """Options of a recommender without any."""


NAMES = {
    "pop": "Pop",
    "itemknn": "ItemKNN",
    "bm25": "BM25",
    "bpr": "BPR-MF",
    "lightgcn": "LightGCN",
    "sasrec": "SASRec",
}
"""Labels by name."""

CONFIGS: dict[str, Any] = {
    "pop": PopConfig(),
    "itemknn": ItemKNNConfig(),
    "bm25": BM25Config(),
    "bpr": BPRConfig(),
    "lightgcn": LightGCNConfig(),
    "sasrec": SASRecConfig(),
}
"""Default options by name; change them with `dataclasses.replace`."""

_UNTRAINED: dict[str, Any] = {"pop": Popularity, "itemknn": ItemKNN, "bm25": BM25}


def default_config(name: str) -> Any:
    """Return the default options of a recommender.

    Raises
    ------
    InvalidOption
        For an unknown name.
    """
    if name in CONFIGS:
        return CONFIGS[name]
    code = locate("recommender", name, NAMES)
    kind = config_class(load_code("recommender", code), code)
    return NoConfig() if kind is None else kind()


@heed_interrupts()
def fit(
    name: str,
    dataset: Dataset,
    config: Any = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scorer:
    """Fit a recommender on the histories of all users; no target is ever used.

    A user's last item is the target and is cut off. The item before it is for validation: trained
    recommenders are trained on the rest, and keep the weights of the epoch that ranks it best among
    99 random others; they are not fitted again with it. Recommenders without training are fitted
    on all but the target, and once more on the rest for their `Scorer.validation`.

    Parameters
    ----------
    name : str
        One of `NAMES`, ``package.module:fit`` or an entry point of ``rpp_env.recommenders``: a
        function ``fit(dataset, config=Config(), *, seed, progress)`` that returns a `Scorer`.
    dataset : Dataset
    config : dataclass, optional
        Options, of the type that `default_config` returns for that name; its default.
    seed : int
        Seed of first weights, samples and orders; at least 0. Validation tasks are always the same.
    progress : callable, optional
        Called after every epoch.

    Raises
    ------
    InvalidOption
        For an unknown name, another recommender's config, or a dataset too small to choose on.
    MissingExtra
        If the library is not installed: ``pip install 'rpp-env[agents,study]'``.
    """
    default = default_config(name)
    if seed < 0:
        raise InvalidOption(f"seed must be at least 0, not {seed}")
    config = default if config is None else config
    if type(config) is not type(default):
        raise InvalidOption(f"{name} takes a {type(default).__name__}, not {type(config).__name__}")
    if name not in NAMES:
        given = {"dataset": dataset, "config": config, "seed": seed, "progress": progress}
        found: Scorer = make(resolve("recommender", name, {}), given)
        return found
    if name == "sasrec":
        return _fit_sasrec(dataset, config, seed, progress)
    if name not in _UNTRAINED:
        return _fit_factors(dataset, config, seed, progress)
    before = earlier(dataset)
    scorer: Scorer = _UNTRAINED[name](dataset, config)
    scorer.validation = validation_ndcg(_UNTRAINED[name](before, config), validation_tasks(before))
    return scorer
