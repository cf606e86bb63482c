"""Movieworld: a generated film catalog with viewers whose best rankings are known.

=================  ====================================================================
items              400 films (option): 12 genres, 12 hidden circles, series, a popularity law
users              12,000 (option): 8,000 train, 2,000 validation, 2,000 test
history            22 to 45 films, then the target
habit              latent, one of six (`HABITS`); it decides the next film, and shows in the history
levels             ``movieworld``, ``movieworld-hard``, ``movieworld-drift``, ``arrivals``
=================  ====================================================================

A *genre* is part of the catalog. A *circle* is not: it is what like-minded people watch, and can
only be inferred from which films are watched together. Each habit determines the next film:

genre loyal, circle loyal
    Keeps to one home genre (circle), with short flings; the next film is always of the home.
genre drift, circle drift
    Moves from one genre (circle) to another for good; the next film is of the current one.
follower
    Follows the last film: to the next part of its series, or else to the circle that follows its
    circle (a fixed succession, which can only be inferred from the order of histories).
crowd
    Watches popular films.

On the level ``arrivals`` viewers have profiles (`FIELDS`), which are informative before any choice
of a film: with the probability `World.telling` the age is that of the habit, the occupation that of
the home genre, the region that of the home circle; else each is drawn at random, and some are
missing. The gender is uninformative. Viewers start at home: their first film is of the home genre
or circle, if it follows their habit; so `first_choice` is the best that a profile allows.

Only a share of the choices follows a viewer's own habit (`World.own`); the rest follow popularity.
So a habit can be inferred from a history, but not from one film. The parameters were frozen after
the diagnosis in ``docs/movieworld.md``, before the published runs; changes need a new level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.dataset import Dataset
from rpp_env.data.profiles import Profiles
from rpp_env.errors import InvalidOption
from rpp_env.options import check_seed, unknown
from rpp_env.sim.filmtitles import GENRES, film_title

__all__ = ["FIELDS", "HABITS", "LEVELS", "World", "first_choice", "movieworld"]

HABITS = ("genre loyal", "genre drift", "circle loyal", "circle drift", "follower", "crowd")
"""Names of the latent habits; `Dataset.habits` holds their indices."""

_GENRE_LOYAL, _GENRE_DRIFT, _CIRCLE_LOYAL, _CIRCLE_DRIFT, _FOLLOWER, _CROWD = range(6)
FIELDS: dict[str, tuple[str, ...]] = {
    "gender": ("F", "M"),
    "age": tuple(f"band {i}" for i in range(1, len(HABITS) + 1)),
    "occupation": tuple(f"occupation {i}" for i in range(1, len(GENRES) + 1)),
    "region": tuple(f"region {i}" for i in range(1, 13)),
}
"""Fields of a profile on the level ``arrivals``, and their values."""

_CHUNK = 4096  # users made at once: limits memory, and users do not depend on num_users
_CIRCLES = 12
_PARTS = ("", " II", " III", " IV", " V")


@dataclass(frozen=True)
class World:
    """The generator's parameters, frozen per level."""

    habits: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0, 1.0, 0.7)
    """Share of users per habit, in the order of `HABITS`; scaled to sum to 1."""
    own: float = 0.85
    """Share of a history's choices that follow the user's own habit; the rest follow popularity."""
    purity: float = 0.95
    """Probability that the target follows the user's own habit."""
    home: float = 4.5
    """Mean length of a loyal user's visits home: 1 + Poisson(home) films."""
    fling: float = 2.5
    """Mean length of their flings: 1 + Poisson(fling) films of another genre or circle."""
    phase: float = 9.0
    """Mean length of a drifting user's phases: 1 + Poisson(phase) films."""
    attraction: float = 148.0
    """Weight of a film of the preferred genre or circle, relative to another film."""
    popularity: float = 0.3
    """Exponent of popularity in all choices."""
    crowd: float = 2.0
    """Added to that exponent by the crowd habit."""
    series: float = 0.75
    """Probability that a follower takes the next part at once; falls by a fifth per film since."""
    span: int = 4096
    """Maximum words that the embedded model reads and writes together."""
    telling: float | None = None
    """Probability that a profile's field is that of the habit or home; None: no profiles."""
    missing: float = 0.1
    """Probability that a field of a profile is missing."""
    change: tuple[int, int] | None = None
    """If set, the habit changes this many films before the target (range, inclusive)."""


LEVELS: dict[str, World] = {
    "movieworld": World(),
    "movieworld-hard": World(
        habits=(1.0, 1.0, 1.0, 1.0, 1.5, 0.5),
        own=0.75,
        home=3.0,
        fling=3.0,
        phase=7.0,
        attraction=200.0,
        popularity=0.25,
        span=280,
    ),
    "movieworld-drift": World(change=(8, 20)),
    "arrivals": World(telling=0.7),
}
"""The levels; all share the catalog of their seed."""


def movieworld(
    level: str = "movieworld", *, num_users: int = 12_000, num_items: int = 400, seed: int = 0
) -> Dataset:
    """Generate a world.

    Parameters
    ----------
    level : str
        One of `LEVELS`.
    num_users : int
        At least 6; two thirds train, a sixth each validation and test. A user's history does not
        depend on `num_users`.
    num_items : int
        100 to 2,000 films.
    seed : int
        Seed of the catalog and the users.

    Raises
    ------
    InvalidOption
        For an unknown level or a size out of range.
    """
    if level not in LEVELS:
        raise InvalidOption(unknown("level", level, LEVELS))
    check_seed(seed, "the seed of movieworld")
    if num_users < 6 or not 100 <= num_items <= 2000:
        raise InvalidOption(
            "movieworld needs at least 6 users and 100 to 2000 items; "
            f"got num_users={num_users}, num_items={num_items}"
        )
    catalogue = _Catalogue.make(num_items, seed)
    world = LEVELS[level]
    chunks = [
        _histories(catalogue, world, np.random.default_rng([seed, 1 + chunk]))
        for chunk in range(-(-num_users // _CHUNK))
    ]
    lengths = np.concatenate([c[0] for c in chunks])[:num_users]
    habits = np.concatenate([c[2] for c in chunks])[:num_users]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    items = np.concatenate([c[1] for c in chunks])[: indptr[-1]]
    profiles = None
    if world.telling is not None:
        parts = [
            _profiles(world, habit, homes, np.random.default_rng([seed, 0xA221, chunk]))
            for chunk, (_, _, habit, homes) in enumerate(chunks)
        ]
        profiles = Profiles(
            tuple(FIELDS), tuple(FIELDS.values()), np.concatenate(parts)[:num_users]
        )
    sixth = num_users // 6
    return Dataset(
        name=level,
        domain="movies",
        titles=catalogue.titles,
        item_tokens=tuple(f"m{i:04d}" for i in range(num_items)),
        genres=catalogue.genres,
        # Tasks depend on tokens, so a user's token must not depend on num_users either.
        user_tokens=tuple(f"u{u:05d}" for u in range(num_users)),
        indptr=indptr,
        items=items,
        order="time",
        habits=habits,
        habit_names=HABITS,
        default_split=(num_users - 2 * sixth, sixth, sixth),
        notes=f"Made by a seed ({seed}); no film or viewer is real.",
        profiles=profiles,
    )


def first_choice(
    profiles: Profiles, level: str = "arrivals", *, num_items: int = 400, seed: int = 0
) -> NDArray[np.float64]:
    """(n, num_items): the probability of each first film, given only the profile.

    It gives the best ranking for viewers without a history; with profiles of missing fields (codes
    0) the best for a viewer without a profile.

    Parameters
    ----------
    profiles : Profiles
        Profiles with the fields `FIELDS`.
    level, num_items, seed
        As in `movieworld`.
    """
    world = LEVELS[level]
    if world.telling is None or profiles.fields != tuple(FIELDS):
        raise InvalidOption(f"first_choice is for profiles of the fields {', '.join(FIELDS)}")
    tables = np.diff(_tables(_Catalogue.make(num_items, seed), world), axis=1, prepend=0.0)
    ways = world.own * tables + (1 - world.own) * tables[:1]
    habit, genre, circle = (
        _posterior(profiles.codes[:, column], size, world.telling)
        for column, size in ((1, len(HABITS)), (2, len(GENRES)), (3, _CIRCLES))
    )
    habit = habit * np.array(world.habits)
    habit = habit / habit.sum(axis=1, keepdims=True)
    by_genre, by_circle = genre @ ways[2 : 2 + len(GENRES)], circle @ ways[2 + len(GENRES) :]
    of_genre = habit[:, [_GENRE_LOYAL, _GENRE_DRIFT]].sum(axis=1, keepdims=True)
    crowd = habit[:, [_CROWD]]
    chances: NDArray[np.float64] = (
        of_genre * by_genre + crowd * ways[1] + (1 - of_genre - crowd) * by_circle
    )
    return chances


def _posterior(codes: NDArray[np.int64], size: int, telling: float) -> NDArray[np.float64]:
    """(n, size): probability of each value, given the field; uniform if it is missing."""
    chances = np.full((len(codes), size), (1 - telling) / size)
    known = np.flatnonzero(codes)
    chances[known, codes[known] - 1] += telling
    scaled: NDArray[np.float64] = chances / chances.sum(axis=1, keepdims=True)
    return scaled


def _profiles(
    world: World, habit: NDArray[np.int64], homes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """(users, fields) codes of a chunk of users."""
    assert world.telling is not None
    said = np.column_stack([np.zeros_like(habit), habit, homes])
    sizes = np.array([len(values) for values in FIELDS.values()])
    drawn = rng.integers(sizes, size=said.shape)
    telling = np.array([0.0, *[world.telling] * 3])  # the gender is uninformative
    codes = 1 + np.where(rng.random(said.shape) < telling, said, drawn)
    return np.where(rng.random(said.shape) < world.missing, 0, codes)


@dataclass(frozen=True)
class _Catalogue:
    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    member: NDArray[np.bool_]  # (genres + circles, items)
    sequel: NDArray[np.int64]  # (items,) the next part, or -1
    leads_to: NDArray[np.int64]  # (items,) the circle that comes after the item's own
    log_popularity: NDArray[np.float64]  # (items,)

    @classmethod
    def make(cls, num_items: int, seed: int) -> _Catalogue:
        rng = np.random.default_rng([seed, 0])
        names = list(GENRES)
        genre = rng.integers(len(GENRES), size=num_items)
        second = np.where(
            rng.random(num_items) < 0.2, rng.integers(len(GENRES), size=num_items), genre
        )
        circle = rng.integers(_CIRCLES, size=num_items)
        part = np.zeros(num_items, dtype=np.int64)
        sequel = np.full(num_items, -1)
        first = 0
        while first < num_items:
            parts = min(int(rng.integers(3, 6)) if rng.random() < 0.15 else 1, num_items - first)
            for i in range(first + 1, first + parts):
                genre[i], second[i], circle[i] = genre[first], second[first], circle[first]
                part[i], sequel[i - 1] = part[i - 1] + 1, i
            first += parts
        member = np.zeros((len(GENRES) + _CIRCLES, num_items), dtype=bool)
        rows = np.arange(num_items)
        member[genre, rows] = member[second, rows] = member[len(GENRES) + circle, rows] = True
        popularity = rng.permutation(1.0 / (np.arange(num_items) + 15.0))
        titles: list[str] = []
        taken: set[str] = set()
        for i in range(num_items):
            if part[i]:
                titles.append(f"{titles[i - part[i]]}{_PARTS[part[i]]}")
            else:
                titles.append(film_title(names[genre[i]], taken, rng))
        return cls(
            titles=tuple(titles),
            genres=tuple(
                (names[a],) if a == b else (names[a], names[b])
                for a, b in zip(genre, second, strict=True)
            ),
            member=member,
            sequel=sequel,
            leads_to=(circle + 1) % _CIRCLES,
            log_popularity=np.log(popularity / popularity.mean()),
        )


def _histories(
    catalogue: _Catalogue, world: World, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths, items (concatenated), habits and homes of a chunk of users."""
    users, num_items = _CHUNK, len(catalogue.titles)
    everyone = np.arange(users)
    shares = np.array(world.habits) / np.sum(world.habits)
    before = rng.choice(len(HABITS), size=users, p=shares)
    habit = before if world.change is None else rng.choice(len(HABITS), size=users, p=shares)
    length = rng.integers(22, 46, size=users)  # films before the target
    change = length - (
        rng.integers(world.change[0], world.change[1] + 1, users) if world.change else 0
    )

    tables = _tables(catalogue, world)
    home_genre = rng.integers(len(GENRES), size=users)
    home_circle = rng.integers(_CIRCLES, size=users)
    current = np.zeros(users, dtype=np.int64)
    away = rng.random(users) < 0.5
    if world.telling is not None:
        away[:] = True  # so that the first film is chosen at home
    left = np.zeros(users, dtype=np.int64)
    pending = np.full(users, -1)
    age = np.zeros(users, dtype=np.int64)
    seen = np.zeros((users, num_items), dtype=bool)
    chosen = np.zeros((users, int(length.max()) + 1), dtype=np.int32)
    for t in range(chosen.shape[1]):
        kind = np.where(t < change, before, habit) if world.change else habit
        last = t == length
        of_genre = (kind == _GENRE_LOYAL) | (kind == _GENRE_DRIFT)
        loyal = (kind == _GENRE_LOYAL) | (kind == _CIRCLE_LOYAL)
        home = np.where(of_genre, home_genre, home_circle)
        other = np.where(
            of_genre, rng.integers(len(GENRES), size=users), rng.integers(_CIRCLES, size=users)
        )
        if world.telling is not None and not t:
            other = home
        turn = left <= 0
        away ^= turn
        current = np.where(turn, np.where(loyal & ~away, home, other), current)
        stay = np.where(loyal, np.where(away, world.fling, world.home), world.phase)
        left = np.where(turn, 1 + rng.poisson(stay), left) - 1

        wish = np.where(last & loyal, home, current)
        if t:
            wish = np.where(kind == _FOLLOWER, catalogue.leads_to[chosen[:, t - 1]], wish)
        attribute = wish + np.where(of_genre, 0, len(GENRES))
        table = np.where(kind == _CROWD, 1, 2 + attribute)
        table[rng.random(users) >= np.where(last, world.purity, world.own)] = 0
        item = _draw(tables, table, seen, rng)
        follow = (
            (kind == _FOLLOWER) & (pending >= 0) & (rng.random(users) < world.series * 0.8**age)
        )
        follow &= ~seen[everyone, pending]
        item = np.where(follow, pending, item)

        chosen[:, t] = item
        active = t <= length
        seen[everyone[active], item[active]] = True
        begun = catalogue.sequel[item] >= 0
        age = np.where(begun, 0, age + 1)
        pending = np.where(begun, catalogue.sequel[item], np.where(item == pending, -1, pending))
    mask = np.arange(chosen.shape[1])[None, :] <= length[:, None]
    return length + 1, chosen[mask], habit, np.column_stack([home_genre, home_circle])


def _tables(catalogue: _Catalogue, world: World) -> NDArray[np.float64]:
    """Return the weights that choices are drawn by, one row of cumulative weights each.

    Popularity alone, the crowd, then each genre and each circle.
    """
    base = np.exp(world.popularity * catalogue.log_popularity)
    crowd = np.exp((world.popularity + world.crowd) * catalogue.log_popularity)
    wanted = base * np.where(catalogue.member, world.attraction, 1.0)
    tables: NDArray[np.float64] = np.cumsum(np.vstack([base, crowd, wanted]), axis=1)
    return tables / tables[:, -1:]


def _draw(
    tables: NDArray[np.float64],
    table: NDArray[np.int64],
    seen: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw an unseen item per user by the weights of the user's table (rejection sampling)."""
    item = np.zeros(len(table), dtype=np.int64)
    todo = np.arange(len(table))
    flat = (tables + np.arange(len(tables))[:, None]).ravel()  # increasing: one search for all rows
    for _ in range(64):
        place = np.searchsorted(flat, table[todo] + rng.random(len(todo)), side="right")
        item[todo] = np.minimum(place - table[todo] * tables.shape[1], tables.shape[1] - 1)
        todo = todo[seen[todo, item[todo]]]
        if not len(todo):
            return item
    for user in todo:  # has seen nearly everything of the preferred kind
        item[user] = rng.choice(np.flatnonzero(~seen[user]))
    return item
