"""The environment that a command plays: options that verbs share, saved beside each run.

A run's ``world.json`` may come from somebody else. It is read as data: names of the package's own
are followed, and what lies outside the folder (servers, paths, code) only where the user gives it
again or confirms it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from rpp_agents.trust import Unconfirmed, confirm
from rpp_env import RPPEnv
from rpp_env.data import KNOWN, cache_dir
from rpp_env.data.folders import whole_file
from rpp_env.data.splits import Repeats
from rpp_env.errors import InvalidData, InvalidOption, NotTabulated, TableMismatch
from rpp_env.models.names import parse_options
from rpp_env.models.pretrained import PRETRAINED
from rpp_env.options import made, read_small
from rpp_env.plugins import FromFile
from rpp_env.recommenders.likelihood import Score
from rpp_env.recommenders.llm import Calibrate, RankBy
from rpp_env.sim.movieworld import LEVELS
from rpp_env.table import tabulate

__all__ = ["World", "WorldOptions", "run_world"]


@dataclass(frozen=True)
class World:
    """The environment: dataset, model and rules."""

    FILE: ClassVar[str] = "world.json"

    dataset: str = "movieworld"
    """Dataset: a name from `rpp-env data list`, the path of a folder of atomic files, or
    package.module:function."""
    model: str = "embedded"
    """Model that ranks: "embedded"; "smollm2" or another that `rpp-env model get` keeps; a language
    model on a server (http://HOST:8000/v1#NAME) or in this process (vllm:ID, hf:ID);
    "table:PATH" (a table, or a folder of tables by split) or "recording:PATH" to replay answers;
    one of your own, package.module:factory."""
    model_options: Annotated[str | None, tyro.conf.arg(metavar="JSON")] = None
    """Options of a language model, as rpp_env.models.open_model takes them, such as
    '{"request_options": {"temperature": null}}'."""
    rank_by: RankBy = "generate"
    """What a language model is asked for: a list in words (generate), letters (logprobs,
    structured), or how probable each candidate's title is as what follows (likelihood)."""
    score: Score = "sum"
    """How a title's log-probability becomes its score, for `--rank-by likelihood`: its sum or mean
    over tokens, or minus that without a history (pmi; pmi-alpha weighs it)."""
    alpha: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Weight of pmi-alpha, chosen on train users."""
    calibrate: Calibrate = "none"
    """What is done about a model's liking for letters, for `--rank-by logprobs`: minus what it says
    without candidates (prior), or the mean over four orders (permutations)."""
    thinking: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OPEN CLOSE ...")] = ()
    """Marks that a language model puts around its thoughts, where they are its own: in pairs, such
    as --thinking '<plan>' '</plan>'."""
    recording: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """File that keeps every reply of a language model; what it holds is not asked for again."""
    rules: Literal["RPP-v0", "RPPBandit-v0", "RPPPaper-v0"] = "RPP-v0"
    """Rules of an episode."""
    rewrite: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Language model that rewrites the chosen sentences for each user (RPP+), such as
    http://HOST:8000/v1#NAME, or "embedded"; none by default. Excludes tables."""
    observe: Literal["shared", "private"] = "shared"
    """What an agent observes: everything (shared), or what its own choice needs (private)."""
    ranking: Literal["mean", "sequence"] = "mean"
    """How the last ranking is observed: as the mean of its items, or item by item (for a GRU)."""
    data_seed: Annotated[int | None, tyro.conf.arg(metavar="SEED")] = None
    """Seed that movieworld is generated from; by default that of the published world."""
    candidates: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Number of candidates per task; by default that of the rules."""
    negatives: Literal["uniform", "popularity", "retrieved"] = "uniform"
    """How the candidates other than the target are drawn."""
    selection: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """File of retrieved candidates, for `--negatives retrieved`."""
    repeats: Repeats = "drop"
    """What happens to a target that stands in its user's history: it is left out there (and
    counted), shown, or refused."""
    root: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder that holds the datasets; by default $RPP_ENV_DATA, or else the cache."""
    book: Annotated[str | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Sentences that the agents choose among; by default those of the dataset's domain."""

    def env(self, split: str, **options: Any) -> RPPEnv:
        """An environment of these users; `options` as `RPPEnv.make` takes them."""
        named: dict[str, Any] = {
            "model_options": parse_options(self.model_options),
            "rewrite": self.rewrite,
            "alpha": self.alpha,
            "thinking": self._marks() or None,
            "recording": self.recording,
            "data_seed": self.data_seed,
            "num_candidates": self.candidates,
            "selection": self.selection,
            "root": self.root,
            "book": self.book,
        }
        return RPPEnv.make(
            self.dataset,
            options.pop("model", self.model),
            split,
            rules=self.rules,
            observe=self.observe,
            ranking=self.ranking,
            negatives=self.negatives,
            repeats=self.repeats,
            rank_by=self.rank_by,
            score=self.score,
            calibrate=self.calibrate,
            **{name: value for name, value in named.items() if value is not None},
            **options,
        )

    def _marks(self) -> list[tuple[str, str]]:
        """`thinking` in pairs."""
        if len(self.thinking) % 2:
            raise InvalidOption(
                "--thinking takes pairs of marks that open and close a model's thoughts, such as "
                f"'<plan>' '</plan>', not {len(self.thinking)} marks"
            )
        return list(zip(self.thinking[::2], self.thinking[1::2], strict=True))

    def held_out(self, split: str, embeddings: str, **options: Any) -> RPPEnv | None:
        """An environment of held-out users; None if the model is a table that holds none of them.

        Parameters
        ----------
        split : str
        embeddings : str
            Digest of the embeddings that the policy observes.
        **options
            As `env` takes them.

        Raises
        ------
        InvalidOption
            If a table brings other embeddings.
        """
        try:
            env = self.env(split, **options)
        except NotTabulated:
            return None
        if env.embeddings.digest != embeddings:
            raise InvalidOption(
                f"{self.model} brings other embeddings for the {split} users than the policy was "
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
        """An environment that replays the table of so many users, made now or in the cache.

        A world that replays a table already is played as it is.

        Raises
        ------
        InvalidOption
            Where prompts are rewritten.
        """
        self.check_tables()
        live = self.env(split, max_users=users)
        if live.table is not None:
            return live
        model = getattr(live.recommender, "model", None)
        told = (
            live.tasks.dataset.digest,
            live.tasks.digest,
            live.book.digest,
            live.rules.id,
            getattr(model, "id", None),
            *self.thinking,
            *([] if self.rank_by == "generate" else [getattr(live.recommender, "rank_by", None)]),
        )
        digest = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
        name = f"{live.tasks.dataset.name}-{split}-{len(live.tasks)}-{digest}.rpptable"
        path = cache_dir() / "tables" / name
        try:
            tabulate(live, path, processes=processes, progress=progress)
        except TableMismatch:
            # Made otherwise, by another version: this is a cache, so make it anew.
            path.unlink(missing_ok=True)
            shutil.rmtree(f"{path}.parts", ignore_errors=True)
            tabulate(live, path, processes=processes, progress=progress)
        table = replace(
            self,
            model=f"table:{path}",
            rank_by="generate",
            score="sum",
            alpha=None,
            calibrate="none",
            thinking=(),
            recording=None,
            model_options=None,
        )
        return table.env(split, max_users=users)

    def check_tables(self) -> None:
        """Refuse a world of which there can be no table."""
        if self.rewrite is not None:
            raise InvalidOption(
                "a table holds answers to the book's sentences, and --rewrite has them rewritten "
                "for each user: leave out --train-users and other tables, or --rewrite"
            )

    def save(self, folder: Path) -> None:
        """Write it beside a run."""
        with whole_file(folder / self.FILE) as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path) -> World:
        """Read what `save` wrote.

        Raises
        ------
        InvalidData
            For a file that is none, or holds an option that does not exist or is not allowed.
        """
        path = folder / cls.FILE
        try:
            return made(cls, json.loads(read_small(path)), str(path))
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidData(f"{path} is not a valid {cls.FILE}: {error}") from error

    @property
    def places(self) -> dict[str, str]:
        """What it names outside the package: options of the command, and servers, paths or code."""
        found = {}
        for name, own in _OWN.items():
            value = getattr(self, name)
            if value is not None and value.lower() not in own:
                found[_option(name)] = value
        return found

    def unconfirmed(self) -> World:
        """The world of a file, in which whatever lies outside is marked until it is confirmed."""
        places = self.places
        changes: dict[str, Any] = {
            name: Unconfirmed(places[_option(name)]) for name in _OWN if _option(name) in places
        }
        return replace(self, **changes)

    def confirmed(self, source: str, trusted: Sequence[str]) -> World:
        """The world itself, once the user confirms what is still marked in it.

        Raises
        ------
        InvalidOption
            See `rpp_agents.trust.confirm`.
        """
        marked = {
            name: value for name in _OWN if isinstance(value := getattr(self, name), Unconfirmed)
        }
        asked = {_option(name): value for name, value in marked.items()}
        confirm(source, asked, trusted, "give these options yourself")
        # Confirmed, but still not the user's own words: no server gets a key for them.
        changes: dict[str, Any] = {name: FromFile(value) for name, value in marked.items()}
        return replace(self, **changes)


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def run_world(words: Sequence[str]) -> World | None:
    """The world of the first word that is a run's folder, with what must be confirmed marked."""
    for before, word in zip(("", *words), words, strict=False):
        option = before.startswith("-") and "=" not in before
        place = Path(word) / World.FILE
        # Also a link that leads nowhere and a pipe: what cannot be read is refused, not left out.
        if not option and (place.is_symlink() or place.exists()):
            return World.load(Path(word)).unconfirmed()
    return None


_OWN: dict[str, frozenset[str]] = {
    "dataset": frozenset({*KNOWN, *LEVELS}),
    "model": frozenset({"embedded", *PRETRAINED}),
    "model_options": frozenset(),
    "rewrite": frozenset({"embedded", *PRETRAINED}),
    "recording": frozenset(),
    "selection": frozenset(),
    "root": frozenset(),
    "book": frozenset(),
}
"""Options that can name something outside, and the names that stand for the package's own."""


WorldOptions = Annotated[World, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="environment")]
"""A `World` as the options of a verb; in the help they stand below this name."""
