"""The environment of a command: options that verbs share, saved with each run.

The options depend on the id (``--rules``): `World.options` is the dataclass that the id's `System`
names. A run's ``world.json`` may come from an untrusted source. It is read as data: the package's
own names are used, but anything outside the folder (servers, paths, code) only if the user repeats
or confirms it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import tyro

from rpp_agents.trust import Unconfirmed, UnconfirmedTable, confirm
from rpp_env import RPPEnv
from rpp_env.data import KNOWN, cache_dir
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, InvalidOption, NotTabulated, TableMismatch
from rpp_env.factory import Options
from rpp_env.models.pretrained import ENCODERS, PRETRAINED
from rpp_env.observation import HASHED
from rpp_env.options import made, read_small
from rpp_env.plugins import FromFile, is_code
from rpp_env.rules import IDS, find_system
from rpp_env.sim.movieworld import LEVELS
from rpp_env.table import tabulate
from rpp_env.tables import PREFIX, names

__all__ = ["World", "is_run", "option_name", "run_world"]


@dataclass(frozen=True)
class World:
    """The environment: rules, dataset, model, and the options of these rules."""

    FILE: ClassVar[str] = "world.json"

    dataset: str = "movieworld"
    """Dataset: a name from `rpp-env data list`, the path of a folder of atomic files, or
    package.module:function."""
    model: str = "embedded"
    """Model that ranks: the id's own (embedded, sasrec, t5); smollm2 or another of `rpp-env model`;
    a server's (http://HOST:8000/v1#NAME), one in this process (vllm:ID, hf:ID); checkpoint:PATH;
    table:PATH (or a folder of tables by split), or table:NAME of `rpp-env model list`;
    recording:PATH; or package.module:factory."""
    rules: Annotated[str, tyro.conf.arg(metavar="ID")] = "RPP-v0"
    """Id of the environment, on which the options below and their defaults depend: RPP-v0,
    RPPBandit-v0, RPPPaper-v0, RPPFeedback-v0, RPPSession-v0, RPPLikelihood-v0, PPR-v0,
    PPRStream-v0, PAPRec-v0, PAPRecShared-v0, PeaPOD-v0, or package.module:NAME."""
    rewrite: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Language model that rewrites the chosen sentences for each user (RPP+), such as
    http://HOST:8000/v1#NAME, or "embedded"; none by default. Excludes tables."""
    encoder: str = HASHED
    """Encoder of the observed sentences: hashed (n-grams), minilm (after `rpp-env model get
    minilm`), or a folder that sentence-transformers wrote."""
    observe: Literal["shared", "private"] = "shared"
    """Observations of an agent: everything (shared), or what its own choice needs (private)."""
    ranking: Literal["mean", "sequence"] = "mean"
    """How the last ranking is observed: as the mean of its items, or item by item (for a GRU)."""
    options: Any = field(default_factory=Options)
    """Options of these rules."""

    @classmethod
    def of(cls, rules: str) -> World:
        """Return the default world of an id."""
        system = find_system(rules)
        options = resolve_name(system.options)()
        return cls(system.dataset, system.model, rules, options=options)

    def under(self, rules: str) -> World:
        """Return the world under other rules; their default if they have other options."""
        other = World.of(rules)
        if type(other.options) is type(self.options):
            return replace(self, rules=rules)
        return other

    def env(self, split: str, **options: Any) -> RPPEnv:
        """Make an environment of these users; `options` are those of `RPPEnv.make`."""
        chosen = {one.name: getattr(self.options, one.name) for one in fields(self.options)}
        return RPPEnv.make(
            self.dataset,
            options.pop("model", self.model),
            split,
            rules=self.rules,
            rewrite=self.rewrite,
            encoder=self.encoder,
            observe=self.observe,
            ranking=self.ranking,
            **chosen,
            **options,
        )

    def held_out(self, split: str, embeddings: str, **options: Any) -> RPPEnv | None:
        """Make an environment of held-out users; None if the model is a table without them.

        Parameters
        ----------
        split : str
        embeddings : str
            Digest of the embeddings that the policy observes.
        **options
            Options of `env`.

        Raises
        ------
        InvalidOption
            If a table contains other embeddings.
        """
        try:
            env = self.env(split, **options)
        except NotTabulated:
            return None
        if env.embeddings.digest != embeddings:
            raise InvalidOption(
                f"{self.model} has other embeddings for the {split} users than the policy was "
                "trained with: make the tables of all splits by one command, as in `rpp-env "
                "tabulate FOLDER --split train validation test`"
            )
        return env

    def tabulated(
        self,
        split: str,
        users: int,
        *,
        processes: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ) -> RPPEnv:
        """Make an environment that replays the table of this many users, cached if possible.

        A world that replays a table already is played unchanged.

        Raises
        ------
        InvalidOption
            If there can be no table: prompts are rewritten, or infinitely many.
        """
        self.check_tables()
        live = self.env(split, max_users=users)
        if live.table is not None:
            return live
        recommender: Any = live.recommender
        model = getattr(recommender, "model", recommender)
        inputs = (
            live.tasks.dataset.digest,
            live.tasks.digest,
            json.dumps(dict(live.space.about), sort_keys=True),
            live.episode.id,
            self.model,
            getattr(model, "id", getattr(model, "digest", None)),
            getattr(recommender, "rank_by", None),
            getattr(recommender, "thinking", None),
        )
        digest = hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]
        name = f"{live.tasks.dataset.name}-{split}-{len(live.tasks)}-{digest}.rpptable"
        path = cache_dir() / "tables" / name
        try:
            table = tabulate(live, path, processes=processes, progress=progress)
        except TableMismatch:
            # Made differently by another version: replace it, as this is a cache.
            path.unlink(missing_ok=True)
            shutil.rmtree(f"{path}.parts", ignore_errors=True)
            table = tabulate(live, path, processes=processes, progress=progress)
        return live.remade(
            recommender=None, table=table, observe=self.observe, ranking=self.ranking
        )

    def check_tables(self) -> None:
        """Check that tables of this world are possible."""
        if self.rewrite is not None:
            raise InvalidOption(
                "a table holds answers to the catalog's sentences, but --rewrite rewrites them for "
                "each user: leave out --train-users and other tables, or --rewrite"
            )

    def save(self, folder: Path) -> None:
        """Save with a run; options that are not a text, number, list or table are left out."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "options"}
        chosen = {one.name: getattr(self.options, one.name) for one in fields(self.options)}
        table = own | {name: value for name, value in chosen.items() if _is_plain(value)}
        with whole_file(folder / self.FILE) as file:
            file.write(json.dumps(table, indent=2, default=str).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path, trusted: Sequence[str] = ()) -> World:
        """Read a file that `save` wrote.

        Parameters
        ----------
        folder : Path
        trusted : sequence of str
            Code of rules that may be imported, ``package.module:NAME``: which options there are is
            known by the rules alone.

        Raises
        ------
        InvalidData
            For an invalid file, and for one with an unknown or forbidden option.
        InvalidOption
            For rules that are code and not in `trusted`.
        """
        path = folder / cls.FILE
        with _reading(path):
            table = json.loads(read_small(path))
            if not isinstance(table, dict):
                raise InvalidOption(f"it must be a table, not {table!r}")
        rules = table.get("rules", cls.rules)
        if is_code(rules):  # which options there are is known to that code alone
            confirm(str(folder), {"--rules": rules}, trusted, _REMEDY)
        with _reading(path):
            world = cls.of(rules)
            names = {one.name for one in fields(cls)} - {"options"}
            own = {name: value for name, value in table.items() if name in names}
            others = {name: value for name, value in table.items() if name not in names}
            options = made(type(world.options), others, str(path))
            defaults = {"dataset": world.dataset, "model": world.model}
            mine = made(cls, defaults | own, str(path), hidden=("options",))
            return replace(mine, options=options)

    @property
    def places(self) -> dict[str, str]:
        """Return what it names outside the package: options, with servers, paths or code."""
        return {option_name(name): shown for name, (_, shown) in self._outside().items()}

    def _outside(self) -> dict[str, tuple[Any, str]]:
        """Return the fields that name something outside, with their values and a short form."""
        hints = get_type_hints(type(self.options))
        own = {name: getattr(self, name) for name in _OWN}
        chosen = {
            name: getattr(self.options, name) for name, hint in hints.items() if _is_outside(hint)
        }
        found = {}
        for name, value in (own | chosen).items():
            named = isinstance(value, str | Path | Mapping)
            if not named or str(value).lower() in _OWN.get(name, ()):
                continue
            shown = json.dumps(value) if isinstance(value, Mapping) else str(value)
            found[name] = value, shown
        return found

    def _with(self, changes: Mapping[str, Any]) -> World:
        """Replace fields, of its own or of its options."""
        own = {name: value for name, value in changes.items() if name in _OWN}
        others = {name: value for name, value in changes.items() if name not in _OWN}
        return replace(self, **own, options=replace(self.options, **others))

    def unconfirmed(self) -> World:
        """Mark everything outside the package as unconfirmed, for a world read from a file."""
        return self._with(
            {
                name: UnconfirmedTable(value) if isinstance(value, Mapping) else Unconfirmed(shown)
                for name, (value, shown) in self._outside().items()
            }
        )

    def confirmed(self, source: str, trusted: Sequence[str]) -> World:
        """Return the world itself, once the user confirms everything marked in it.

        Raises
        ------
        InvalidOption
            See `rpp_agents.trust.confirm`.
        """
        marked = {
            name: (value, shown)
            for name, (value, shown) in self._outside().items()
            if isinstance(value, Unconfirmed | UnconfirmedTable)
        }
        asked = {option_name(name): shown for name, (_, shown) in marked.items()}
        confirm(source, asked, trusted, _REMEDY)
        # Confirmed, but not the user's own words: no server gets a key for them.
        return self._with(
            {
                name: dict(value) if isinstance(value, Mapping) else FromFile(value)
                for name, (value, _) in marked.items()
            }
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say which file is not valid."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidData(f"{path} is not a valid {path.name}: {error}") from error


def is_run(name: str) -> bool:
    """Return whether a word names a run's folder, also one whose world cannot be read."""
    place = Path(name) / World.FILE
    # Also a broken link and a pipe: unreadable entries raise instead of being skipped.
    return bool(name) and (place.is_symlink() or place.exists())


def run_world(words: Sequence[str]) -> World | None:
    """Load the world of the run's folder in the first word, with unconfirmed parts marked.

    None if it names no run.
    """
    first = "" if not words or words[0].startswith("-") else words[0]
    return World.load(Path(first), words).unconfirmed() if is_run(first) else None


def option_name(name: str) -> str:
    """Return a field's name as an option of the command."""
    return f"--{name.replace('_', '-')}"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | tuple | list | Mapping | Path)


def _is_outside(hint: Any) -> bool:
    """Whether values of a type may be paths or tables."""
    return hint is Path or get_origin(hint) is Mapping or any(map(_is_outside, get_args(hint)))


_REMEDY = "give these options yourself"
"""Alternative to confirming what a file asks for."""

_MODELS = frozenset(
    {
        *(system.model for system in IDS.values()),
        *PRETRAINED,
        *(f"{PREFIX}{one}" for one in names()),
    }
)

_OWN: dict[str, frozenset[str]] = {
    "dataset": frozenset({*KNOWN, *LEVELS}),
    "model": _MODELS,
    "rules": frozenset(name.lower() for name in IDS),
    "rewrite": frozenset({"embedded", *PRETRAINED}),
    "encoder": frozenset({HASHED, *ENCODERS}),
}
"""Fields that may name something outside, with the package's own names for them."""
