"""Language models by a text: what the command line and ``model=`` take."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rpp_env.errors import InvalidOption
from rpp_env.models.base import LanguageModel
from rpp_env.models.pretrained import PRETRAINED, place
from rpp_env.options import unknown
from rpp_env.plugins import FromFile, entry_points, is_code, make, resolve

__all__ = ["FORMS", "checkpoint", "open_model", "parse_options"]

FORMS = {
    "http://HOST:PORT/v1#NAME": "a model that a server offers, OpenAI's way (https:// too)",
    "vllm:ID": "a model in vLLM's engine, here: a folder, or a name on the Hugging Face hub",
    "hf:ID": "the same in transformers",
    **{name: f"{model.about}, in transformers" for name, model in PRETRAINED.items()},
    "recording:FILE": "the answers in a file, and no model behind it",
    "package.module:factory": "a model or recommender of your own, or a function that makes one",
}
"""How a model is named, and what is meant."""
OPTIONS = """give one such as '{"timeout": 60}' or '{"request_options": {"temperature": null}}'"""


def open_model(
    name: str, parts: Mapping[str, Any] | None = None, /, **options: Any
) -> LanguageModel:
    """Open the language model of that name.

    Parameters
    ----------
    name : str
        In one of the `FORMS`, such as ``"http://127.0.0.1:8000/v1#meta-llama/Llama-2-7b-chat-hf"``,
        or an entry point of ``rpp_env.models``. Others' code may give a recommender instead.
    parts : mapping, optional
        What a factory of others may take by the names of its parameters: ``dataset``,
        ``interactions``.
    **options
        Of the class that speaks to such a model: of `OpenAIModel` (``timeout``,
        ``request_options`` ...), `VLLMModel`, `TransformersModel`, or ``id`` for a recording.
        ``send_key=False`` says that the user has not named a server's address, but a file that may
        be from somebody else: the server gets the key only where ``RPP_ENV_KEY_HOSTS`` lists its
        host. Of models without a server ``send_key`` says nothing. A factory of others takes what
        it has parameters for.

    Raises
    ------
    InvalidOption
        For a name of no such form, options that it does not have, and a model that is not there.
    MissingExtra
        Without the libraries that this kind of model needs.
    ModelUnavailable
        Where a server cannot be reached.
    InvalidData
        Where a file is no recording.
    """
    kind, _, rest = ("hf", "", name) if name in PRETRAINED else name.partition(":")
    if kind in {"http", "https"}:
        address, _, served = name.partition("#")
        if not served:
            # Not all of it: an address may have a password in it.
            raise InvalidOption(
                f"a model server's name needs '#' and the served model after the address, as in "
                f"{kind}://127.0.0.1:8000/v1#meta-llama/Llama-2-7b-chat-hf; the server lists its "
                "models under /v1/models"
            )
        from rpp_env.models.openai import OpenAIModel

        if isinstance(name, FromFile):
            options["send_key"] = False
        _check_options(options, OpenAIModel)
        return OpenAIModel(address, served, **options)
    options.pop("send_key", None)
    if kind in {"vllm", "hf"} and rest:
        return _loaded(kind, checkpoint(rest, ours=name in PRETRAINED), _as_text(options))
    if kind == "recording" and rest:
        from rpp_env.models.recording import RecordingModel

        _check_options(options, RecordingModel)
        return RecordingModel(rest, **options)
    if is_code(name) or name in entry_points("model"):
        found = resolve("model", name, {})
        _check_options(options, found, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        model: LanguageModel = make(found, {**(parts or {}), **options})
        return model
    raise InvalidOption(
        f"{unknown('model', name, ['embedded', 'table:PATH', *FORMS, *entry_points('model')])}. "
        "RPPEnv.make takes an object with complete(requests) or rank(prompts), too"
    )


def checkpoint(name: str, ours: bool = False) -> str:
    """Where a checkpoint lies, for who loads it: a folder, or a name on the Hugging Face hub.

    Parameters
    ----------
    name : str
        A folder, one of the names of `PRETRAINED`, or a name on the hub.
    ours : bool
        Whether one of `PRETRAINED` is meant even where a folder has its name.

    Raises
    ------
    InvalidOption
        For one of `PRETRAINED` that is not here yet.
    """
    if name not in PRETRAINED or (not ours and Path(name).is_dir()):
        return name
    folder = place(name)
    if folder is None:
        raise InvalidOption(
            f"{name} ({PRETRAINED[name].about}) is not here yet: run `rpp-env model get {name}`"
        )
    return str(folder)


def _as_text(options: dict[str, Any]) -> str:
    """Options as a key of a cache."""
    try:
        return json.dumps(options, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"options of a model that is given by its name must be what JSON can hold: {error}; "
            "make the model yourself (VLLMModel, TransformersModel) and give it as `model`"
        ) from error


def parse_options(text: str | None) -> dict[str, Any] | None:
    """Options of a model, out of the JSON object that a command line gives."""
    if text is None:
        return None
    try:
        options = json.loads(text)
    except ValueError as error:
        raise InvalidOption(f"model options are no JSON ({error}): {OPTIONS}") from error
    if not isinstance(options, dict):
        raise InvalidOption(f"model options are no JSON object: {OPTIONS}")
    return options


def _check_options(options: dict[str, Any], model: Any, *kinds: Any) -> None:
    """Refuse what the model's class, or the factory that makes it, does not take."""
    if "api_key" in options:
        # It would stand in world.json, in logs and in tracebacks.
        raise InvalidOption("a key is no option: set OPENAI_API_KEY in the environment instead")
    parameters = inspect.signature(model).parameters.values() if callable(model) else ()
    known = [
        p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, *kinds) and p.name != "api_key"
    ]
    for name in options:
        if name not in known:
            what = getattr(model, "__name__", type(model).__name__)
            raise InvalidOption(f"{what}: {unknown('option', name, known)}")


@lru_cache(maxsize=2)
def _loaded(kind: str, name: str, options: str) -> LanguageModel:
    """Weights are loaded once, for the environments of all splits and for who rewrites."""
    given: dict[str, Any] = json.loads(options)
    if kind == "vllm":
        from rpp_env.models.vllm import VLLMModel

        return VLLMModel(name, **given)
    from rpp_env.models.transformers import TransformersModel

    _check_options(given, TransformersModel)
    return TransformersModel(name, **given)
