"""The rules of an id, and the systems that ids name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rpp_env.data.arrivals import CLICKS
from rpp_env.episode import Episode, Feedback
from rpp_env.errors import InvalidOption
from rpp_env.models.base import Generation
from rpp_env.options import check_fields, check_numbers
from rpp_env.plugins import resolve
from rpp_env.sentences.history import HistoryLengths

__all__ = ["IDS", "RULES", "SYSTEMS", "Rules", "System", "episode_of", "find_system"]


@dataclass(frozen=True)
class Rules:
    """The rules of an RPP id: its `episode`, its history `lengths`, and the chat format.

    The number of history items shown is a function of the *level*, an integer that the history
    agent moves (``history="rungs"``), sets (``"choose"``) or raises (``"grow"``).
    """

    id: str
    """Environment id, e.g. ``"RPP-v0"``."""
    max_cycles: int
    """Steps of an episode."""
    history: Literal["rungs", "choose", "grow"]
    """How the history agent's action changes the level."""
    history_options: tuple[int, ...]
    """Value of each action of the history agent: a move, a number of items, or items to add."""
    num_candidates: int
    """Candidates of a task (K)."""
    generation: Generation = Generation()
    """Chat format of the request to the model."""
    rungs: tuple[int, ...] = (1, 2, 3, 5, 8, 13, 20)
    """Items shown at each level (``"rungs"`` only)."""
    start: int = 2
    """The level before the first step (``"rungs"``: an index into `rungs`; ``"grow"``: items)."""
    order: Literal["task", "step"] = "task"
    """Candidates keep one order per task, or are reordered for every user and step."""
    feedback: Feedback = "none"
    """What the observations show of the user's response; see `Episode.feedback`."""
    discount: float = Episode.discount
    """Discount factor (gamma) of trainers whose options give none."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, 1, "max_cycles")
        check_numbers(self, 2, "num_candidates")
        check_numbers(self, 0, "start")
        check_numbers(self, 0, "discount", highest=1)
        if not self.history_options or not self.rungs or min(self.rungs) < 1:
            raise InvalidOption(
                "history_options and rungs hold one number or more, and each number in rungs is 1 "
                f"or more; got {self.history_options} and {self.rungs}"
            )

    @property
    def episode(self) -> Episode:
        """Length and tasks of an episode."""
        return Episode(
            self.id, self.max_cycles, self.order, feedback=self.feedback, discount=self.discount
        )

    @property
    def lengths(self) -> HistoryLengths:
        """Number of history items that a prompt shows at each level."""
        return HistoryLengths(
            self.history, self.history_options, self.rungs, self.start, self.max_cycles
        )


def _paper() -> Rules:
    return Rules(
        id="RPPPaper-v0",
        max_cycles=15,
        history="grow",
        history_options=(0, 1, 2),
        num_candidates=10,
        generation=Generation.paper(),
        start=1,
        order="step",
        discount=0.0,
    )


_RPP = Rules(
    id="RPP-v0",
    max_cycles=5,
    history="rungs",
    history_options=(-2, -1, 0, 1, 2),
    num_candidates=20,
    discount=0.0,
)

RULES: dict[str, Rules] = {
    "RPP-v0": _RPP,
    "RPPBandit-v0": Rules(
        id="RPPBandit-v0",
        max_cycles=1,
        history="choose",
        history_options=(1, 3, 5, 10, 20),
        num_candidates=20,
        discount=0.0,
    ),
    "RPPPaper-v0": _paper(),
    "RPPFeedback-v0": replace(_RPP, id="RPPFeedback-v0", max_cycles=15, feedback="reward"),
}
"""The ids of sentences. Under `RPPPaper-v0` episodes start with 5 history items instead of 1."""


@dataclass(frozen=True)
class System:
    """A system that an id names: what makes its environments, their options, and its defaults.

    Name one of your own wherever an id is expected, as ``package.module:NAME`` or by an entry point
    of the group ``rpp_env.rules``.
    """

    assemble: str
    """``module:function`` that makes the `rpp_env.factory.Parts` of an environment from dataset,
    model, split, max_users, max_cycles and a mapping of options, as `RPPEnv.make` takes them."""
    options: str
    """``module:Class``: the options, a frozen dataclass in which every field has a default."""
    dataset: str
    """Name of the default dataset."""
    model: str
    """Name of the default model."""
    episode: Episode | None = None
    """The episode that is played without `max_cycles`, from which studies read the number of steps
    and the default discount; by default it has one step."""

    def __post_init__(self) -> None:
        check_fields(self)


_SENTENCES = System("rpp_env.factory:assemble", "rpp_env.factory:Options", "movieworld", "embedded")

SYSTEMS: dict[str, System] = {
    "RPPSession-v0": System(
        "rpp_env.rpp_session:assemble",
        "rpp_env.rpp_session:Options",
        "movieworld-drift",
        "embedded",
        Episode("RPPSession-v0", 5, feedback="reward", one_task=False, discount=0.0),
    ),
    "RPPLikelihood-v0": System(
        "rpp_env.rpp_likelihood:assemble",
        "rpp_env.rpp_likelihood:Options",
        "movieworld",
        "smollm2",
        Episode("RPPLikelihood-v0", RULES["RPP-v0"].max_cycles),
    ),
    "PPR-v0": System(
        "rpp_env.ppr:assemble",
        "rpp_env.ppr:Options",
        "arrivals",
        "sasrec",
        Episode("PPR-v0", 1, discount=0.0),
    ),
    "PPRStream-v0": System(
        "rpp_env.ppr:assemble_stream",
        "rpp_env.ppr:StreamOptions",
        "arrivals",
        "sasrec",
        Episode("PPRStream-v0", CLICKS, one_task=False, discount=0.0),
    ),
    "PAPRec-v0": System(
        "rpp_env.pap_rec:assemble",
        "rpp_env.pap_rec:Options",
        "movieworld",
        "t5",
        Episode("PAPRec-v0", 1, discount=0.0),
    ),
    "PAPRecShared-v0": System(
        "rpp_env.pap_rec:assemble_shared",
        "rpp_env.pap_rec:SharedOptions",
        "movieworld",
        "t5",
        Episode("PAPRecShared-v0", 1, discount=0.0),
    ),
    "PeaPOD-v0": System(
        "rpp_env.peapod:assemble",
        "rpp_env.peapod:Options",
        "movieworld",
        "t5",
        Episode("PeaPOD-v0", 1, discount=0.0),
    ),
}
"""Ids of systems that make their own prompt space."""

IDS: dict[str, System] = {
    name: replace(_SENTENCES, episode=rules.episode) for name, rules in RULES.items()
} | SYSTEMS
"""All ids of the package."""


def find_system(name: str) -> System:
    """Look up the system of an id.

    Parameters
    ----------
    name : str
        One of `IDS`, ``package.module:NAME``, or an entry point of ``rpp_env.rules``.

    Raises
    ------
    InvalidOption
        For an unknown name, with the nearest id.
    """
    found = resolve("rules", name, IDS)
    if not isinstance(found, System):
        raise InvalidOption(f"rules {name!r} must be an rpp_env.rules.System, not {found!r}")
    return found


def episode_of(name: str) -> Episode:
    """Return the episode of an id, as it is played without `max_cycles`; see `find_system`."""
    return find_system(name).episode or Episode(name, 1)
