"""Control policies for prefixes: zeros, another user's profile, the own history or source vector.

The other controls are elsewhere: a learned constant prefix (`rpp_agents.solvers.ppr`,
``constant=True``), random ones (`Random`), and those of PeaPOD-v0's option ``whose``.
`without_prompt` gives the scores of no prefix at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.policy import Policy
from rpp_agents.rollout import env_actions
from rpp_agents.solvers.linear import LinearPolicy, columns_of, profile_blocks
from rpp_env.errors import InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.spaces import BoxSpaces
from rpp_env.vectors import PrefixPrompts, VectorPrompts

__all__ = ["Shuffled", "item_gain", "own_history", "source_vector", "without_prompt", "zero"]


def zero(env: Any) -> LinearPolicy:
    """Make a policy of zero vectors, which precede the history like any other prefix.

    Raises
    ------
    InvalidOption
        For agents that choose among actions.
    """
    actions = _vectors(env)
    agents, length = actions.low.shape
    return LinearPolicy(np.zeros((agents, 1, length)), [], np.stack([actions.low, actions.high]))


def without_prompt(env: Any) -> NDArray[np.float64]:
    """(T,) NDCG@10 of the tasks of an environment whose recommender is asked without a prefix."""
    tasks = env.tasks
    rankings = env.recommender.rank(PrefixPrompts(None, tasks))
    scores: NDArray[np.float64] = ndcg(rankings.ranks(tasks.position), 10)
    return scores


def own_history(env: Any) -> LinearPolicy:
    """Make a policy that plays the recommender's state of the history, in an item input's scale.

    A user without a history gets zeros.

    Raises
    ------
    InvalidOption
        For an environment without ``encoder_state=True``, and for actions that are not the vectors
        themselves.
    """
    return _shown(env, "state", "give PPR-v0 encoder_state=True, and no codes")


def source_vector(env: Any) -> LinearPolicy:
    """Make a policy that plays a profile that is a vector, in an item input's scale.

    Of a user's vector in another domain (`rpp_agents.solvers.domains`): the paper's cross-domain
    prompt, without training.

    Raises
    ------
    InvalidOption
        For profiles of another width, and for actions that are not the vectors themselves.
    """
    return _shown(env, "profile", "give a dataset of domains.with_source, and no codes")


def item_gain(env: Any) -> float | None:
    """Factor of a code of length 1 whose vector has an item input's length; None with codes."""
    space = env.space
    width = space.decoder.shape[1]
    if len(space.decoder) != width or not np.array_equal(
        space.decoder, np.diag(np.diagonal(space.decoder))
    ):
        return None
    # A prefix of `scale` reaches `scale` root mean squares.
    return float(width**0.5 / (space.decoder[0, 0] / _size(env)))


def _shown(env: Any, block: str, remedy: str) -> LinearPolicy:
    """Make a policy that plays a block of the observation, of length 1."""
    actions = _vectors(env)
    agents, width = actions.low.shape
    gain = item_gain(env)
    columns = columns_of(env, (block,)) if block in env.observer.layout else []
    if gain is None or len(columns) != width:
        raise InvalidOption(f"this prefix is the block {block!r} as a vector: {remedy}")
    weights = np.zeros((agents, width + 1, width))
    weights[:, :width] = gain * np.eye(width)
    return LinearPolicy(weights, columns, np.stack([actions.low, actions.high]))


class Shuffled:
    """Plays a policy with the profile of the next user of the batch.

    Parameters
    ----------
    policy : Policy
    env : RPPEnv
        The environment, for the columns of the profile.

    Raises
    ------
    InvalidOption
        For an environment without profiles.
    """

    def __init__(self, policy: Policy, env: Any) -> None:
        names = profile_blocks(env.observer.layout)
        if not names:
            raise InvalidOption("there is no profile to shuffle: leave out profile=()")
        self.policy, self._columns = policy, columns_of(env, names)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """See `rpp_agents.policy.Policy.act`; a batch of one user is not shuffled."""
        seen = observations.copy()
        seen[:, :, self._columns] = np.roll(observations[:, :, self._columns], -1, axis=0)
        return self.policy.act(seen, masks, greedy=greedy, memory=memory)

    def save(self, path: str | Path) -> None:
        """Raise: a control belongs to the policy that it shuffles."""
        raise InvalidOption(f"save the policy itself, and shuffle it again: {path} is not written")


def _vectors(env: Any) -> BoxSpaces:
    actions = env_actions(env)
    if not isinstance(actions, BoxSpaces) or not isinstance(env.space, VectorPrompts):
        raise InvalidOption(
            "this control plays vectors, and these agents choose among actions: leave out codebook"
        )
    return actions


def _size(env: Any) -> float:
    """Return the root mean square of the items' inputs of the environment's SASRec."""
    items = env.recommender.weights["items.weight"].detach().numpy()
    return float(np.sqrt((items**2).mean() * items.shape[1]))
