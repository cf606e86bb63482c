"""Encoders of observations in front of the networks: a GRU over the last ranking.

An environment that shows the last ranking as a sequence (``RPPEnv(ranking="sequence")``) puts K
item vectors into every observation, best first. `ranking_encoder` locates them; without them
(another environment, or ``ranking="mean"``) the networks read observations unchanged.

Shapes: ``...`` are batch axes, ``n`` agents, ``d`` the observation width, ``h`` the GRU's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rpp_env.errors import InvalidOption

__all__ = [
    "RankingEncoder",
    "ReleasedEncoder",
    "make_encoder",
    "ranking_encoder",
    "released_encoder",
]


class RankingEncoder(nn.Module):
    """Splits the ranking from an observation, and encodes it with a GRU.

    All agents that see the ranking see the same one, so it is encoded once per user.

    Parameters
    ----------
    width : int
        Width of an observation.
    start, places, item : int
        Index of the first vector, number of vectors, and their width.
    readers : sequence of int
        The agents that see the ranking; the others get zeros.
    agents, hidden : int
        Number of agents; width of the GRU's state.
    """

    sees: Tensor

    def __init__(
        self,
        *,
        width: int,
        start: int,
        places: int,
        item: int,
        readers: Sequence[int],
        agents: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.start, self.places, self.item = start, places, item
        self.reader, self.hidden = readers[0], hidden
        self.rest_width = width - places * item
        """Width of the result of `rest` for an observation."""
        self.gru = nn.GRU(item, hidden, batch_first=True)
        sees = torch.tensor([[float(agent in readers)] for agent in range(agents)])
        self.register_buffer("sees", sees, persistent=False)

    def rest(self, inputs: Tensor) -> Tensor:
        """Return observations or states without the ranking."""
        end = self.start + self.places * self.item
        return torch.cat([inputs[..., : self.start], inputs[..., end:]], dim=-1)

    def ranking(self, inputs: Tensor) -> Tensor:
        """(..., h): the GRU's state after the last place of ``(..., d)``."""
        end = self.start + self.places * self.item
        items = inputs[..., self.start : end].reshape(-1, self.places, self.item)
        _, state = self.gru(items)
        encoded: Tensor = state[0].reshape(*inputs.shape[:-1], self.hidden)
        return encoded

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rest and the ranking of observations ``(..., n, d)``, for every agent."""
        encoded = self.ranking(observations[..., self.reader, :])
        return self.rest(observations), encoded[..., None, :] * self.sees


class ReleasedEncoder(RankingEncoder):
    """State of the released system: the user at first, then sentences + GRU, and nothing else.

    Its errors: vectors of three spaces are added up, the user is forgotten after the first step,
    and the ranked vectors are reshaped instead of transposed, so that the GRU reads pieces of
    several users' rankings as one user's (see `rpp_agents.trainers.a2c`).

    Parameters
    ----------
    user, sentences, step : int
        Indices of these slices; the first two are as wide as an item.
    **place
        Arguments of `RankingEncoder`.
    """

    def __init__(self, *, user: int, sentences: int, step: int, **place: Any) -> None:
        super().__init__(**place)
        self.user, self.sentences, self.step = user, sentences, step
        self.rest_width = 0
        self.gru.requires_grad_(False)  # "detached at every use": never trained

    def rest(self, inputs: Tensor) -> Tensor:
        """Return an empty tensor."""
        return inputs[..., :0]

    def ranking(self, inputs: Tensor) -> Tensor:
        """(..., h): the state of the batch as a whole, in which users are mixed."""
        end = self.start + self.places * self.item
        flat = inputs[..., self.start : end].reshape(-1, self.places * self.item)
        _, state = self.gru(flat.reshape(self.places, -1, self.item).transpose(0, 1))
        encoded: Tensor = state[0].reshape(*inputs.shape[:-1], self.hidden)
        return encoded

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return an empty tensor, and the state ``(..., n, h)``."""
        rest, encoded = super().forward(observations)
        user, sentences = (
            observations[..., at : at + self.item] for at in (self.user, self.sentences)
        )
        return rest, torch.where(self.begins(observations), user, sentences + encoded)

    def begins(self, observations: Tensor) -> Tensor:
        """Bool (..., n, 1): whether no step was taken yet."""
        return observations[..., self.step, None] == 0


def ranking_encoder(env: Any, hidden: int) -> dict[str, Any] | None:
    """Describe the encoder of `env`'s rankings for `make_encoder`; None without rankings."""
    observer = getattr(env, "observer", None)
    if observer is None or len(observer.ranking_shape) == 1 or not hidden:
        return None
    return {"kind": "ranking", **_place(env, observer, hidden)}


def released_encoder(env: Any) -> dict[str, Any] | None:
    """Describe the encoder of the released state for `make_encoder`; None for other environments.

    ``ranking="mean"`` is treated as a sequence of length 1.

    Raises
    ------
    InvalidOption
        If prompts have no sentences, or sentence and item embeddings differ in width, so that they
        cannot be added.
    """
    observer = getattr(env, "observer", None)
    if observer is None:
        return None
    place = _place(env, observer, observer.ranking_shape[-1])
    layout = observer.layout
    if "sentences" not in layout:
        raise InvalidOption(
            "released=True adds up the vectors of the user, the sentences and the ranking, but the "
            f"prompts here ({type(env.space).__name__}) have no sentences: leave it out"
        )
    widths = [layout[name].stop - layout[name].start for name in ("user", "sentences")]
    if widths != [place["item"]] * 2:
        raise InvalidOption(
            "released=True adds up the vectors of the user, the sentences and the ranking; they "
            f"must have the same width, not {widths[0]}, {widths[1]} and {place['item']}"
        )
    starts = {name: layout[name].start for name in ("user", "sentences", "step")}
    return {"kind": "released", **place, **starts}


def _place(env: Any, observer: Any, hidden: int) -> dict[str, Any]:
    *places, item = observer.ranking_shape
    return {
        "width": int(env.observation_width),
        "start": int(observer.layout["ranking"].start),
        "places": int(places[0]) if places else 1,
        "item": int(item),
        "readers": list(observer.readers("ranking")),
        "agents": len(env.agents),
        "hidden": int(hidden),
    }


def make_encoder(about: Mapping[str, Any]) -> RankingEncoder:
    """Make an encoder from its description, which is saved in a policy's file."""
    kinds = {"ranking": RankingEncoder, "released": ReleasedEncoder}
    options = dict(about)
    made: RankingEncoder = kinds[options.pop("kind")](**options)
    return made
