"""Titles of fictitious films, made of words of their genre, without repeats."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["GENRES", "film_title"]


class Words(NamedTuple):
    """Words of a genre's titles."""

    things: tuple[str, ...]
    people: tuple[str, ...]
    """People, or places (`_PLACES`)."""


def _words(things: str, people: str) -> Words:
    return Words(tuple(things.split()), tuple(people.split()))


GENRES: dict[str, Words] = {
    "Western": _words(
        "Saddle Canyon Lariat Mesa Spur Stagecoach Prairie Rifle",
        "Deputy Drifter Homesteader Laredo Dry Creek",
    ),
    "Noir": _words(
        "Alibi Cigarette Streetlamp Ledger Raincoat Pawnshop Verdict Shadow",
        "Detective Informer Harbour Street Night Clerk",
    ),
    "Comedy": _words(
        "Wedding Umbrella Picnic Mix-Up Parrot Bakery Weekend Casserole",
        "Bridesmaid Plumber Uncle Landlady Lodger",
    ),
    "Drama": _words(
        "Orchard Letter Inheritance Winter Piano Silence Promise Threshold",
        "Daughter Widow Schoolmaster Brother Stranger",
    ),
    "Romance": _words(
        "Summer Postcard Balcony Waltz Rose Kiss Promenade Serenade",
        "Sweetheart Dancer Florist Lisbon Verona",
    ),
    "Horror": _words(
        "Cellar Whisper Crypt Mirror Fog Scream Attic Séance",
        "Undertaker Ravenmoor Caretaker Witch Hollow",
    ),
    "Science Fiction": _words(
        "Orbit Android Signal Colony Reactor Star Airlock Paradox",
        "Astronaut Europa Engineer Titan Pilot",
    ),
    "Fantasy": _words(
        "Dragon Crown Spell Amulet Forest Sword Tower Prophecy",
        "Wizard Kingdom Changeling Avalon Squire",
    ),
    "Adventure": _words(
        "Treasure Compass Expedition Jungle River Summit Map Voyage",
        "Explorer Captain Zanzibar Smuggler Guide",
    ),
    "War": _words(
        "Trench Bugle Bridge Convoy Armistice Battalion Frontier Telegram",
        "Sergeant Medic Courier Ardennes Partisan",
    ),
    "Musical": _words(
        "Chorus Footlight Melody Encore Trumpet Curtain Overture Song",
        "Soprano Broadway Conductor Showgirl Vienna",
    ),
    "Documentary": _words(
        "Glacier Archive Harvest Coastline Migration Lighthouse Market Reef",
        "Beekeeper Fisherman Patagonia Weaver Nomad",
    ),
}
"""The genres of movieworld, in order."""

_ADJECTIVES = (
    "Last Broken Silent Golden Crooked Distant Forgotten Hidden Restless Scarlet Borrowed Quiet "
    "Burning Lonely Paper"
).split()
_PLACES = frozenset(
    "Laredo Lisbon Verona Ravenmoor Europa Titan Avalon Zanzibar Ardennes Broadway Vienna "
    "Patagonia".split()
)


def film_title(genre: str, taken: set[str], rng: np.random.Generator) -> str:
    """Draw a title of the genre's words that is not in `taken` (case-folded), and add it there."""
    words = GENRES[genre]
    while True:
        thing, other = (words.things[i] for i in rng.choice(len(words.things), 2, replace=False))
        person = words.people[rng.integers(len(words.people))]
        adjective = _ADJECTIVES[rng.integers(len(_ADJECTIVES))]
        title = _shapes(thing, other, person, adjective)[rng.integers(6)]
        if title.casefold() not in taken:
            taken.add(title.casefold())
            return title


def _shapes(thing: str, other: str, person: str, adjective: str) -> tuple[str, ...]:
    article = "An" if thing[0] in "AEIOU" else "A"
    in_place = person in _PLACES
    return (
        f"The {adjective} {thing}",
        f"The {thing} of {person}" if in_place else f"The {person}'s {thing}",
        f"{adjective} {thing}",
        f"The {thing} and the {other}",
        f"{thing} in {person}" if in_place else f"The {adjective} {person}",
        f"{adjective} {person}" if in_place else f"{article} {thing} for the {person}",
    )
