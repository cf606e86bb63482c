"""Language models by name: the values of ``model=`` and of the command line's ``--model``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rpp_env.errors import InvalidOption
from rpp_env.models.base import LanguageModel
from rpp_env.models.pretrained import PRETRAINED, missing, place
from rpp_env.options import unknown
from rpp_env.plugins import FromFile, entry_points, is_code, make, resolve

__all__ = ["FORMS", "checkpoint", "open_model", "parse_options"]

FORMS = {
    "http://HOST:PORT/v1#NAME": "a model on an OpenAI-compatible server (https:// too)",
    "vllm:ID": "a model in vLLM's engine, here: a folder, or a name on the Hugging Face hub",
    "hf:ID": "the same in transformers",
    **{name: f"{model.about}, in transformers" for name, model in PRETRAINED.items()},
    "recording:FILE": "the answers in a file, and no model behind it",
    "package.module:factory": "a model or recommender of your own, or a function that makes one",
}
"""Forms of model names, with their meanings."""
OPTIONS = """give one such as '{"timeout": 60}' or '{"request_options": {"temperature": null}}'"""


def open_model(
    name: str, parts: Mapping[str, Any] | None = None, /, **options: Any
) -> LanguageModel:
    """Open the language model of that name.

    Parameters
    ----------
    name : str
        A name in one of the `FORMS`, such as
        ``"http://127.0.0.1:8000/v1#meta-llama/Llama-2-7b-chat-hf"``, or an entry point of
        ``rpp_env.models``. Code of your own may return a recommender instead.
    parts : mapping, optional
        Arguments offered to a factory by the names of its parameters: ``dataset``,
        ``interactions``.
    **options
        Options of the model's class: `OpenAIModel` (``timeout``, ``request_options`` ...),
        `VLLMModel`, `TransformersModel`, or ``id`` for a recording. ``send_key=False`` marks a
        server address that was read from a file, which may be untrusted: the server is sent the key
        only if ``RPP_ENV_KEY_HOSTS`` lists its host. Models without a server ignore ``send_key``. A
        factory takes the options that it has parameters for.

    Raises
    ------
    InvalidOption
        For a name in no such form, unknown options, and a model that does not exist.
    MissingExtra
        Without the libraries that the model needs.
    ModelUnavailable
        If a server cannot be reached.
    InvalidData
        If a file is not a recording.
    """
    kind, _, rest = ("hf", "", name) if name in PRETRAINED else name.partition(":")
    if kind in {"http", "https"}:
        address, _, served = name.partition("#")
        if not served:
            # Not the whole name: an address may contain a password.
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
        "RPPEnv.make also takes an object with complete(requests) or rank(prompts)"
    )


def checkpoint(name: str, ours: bool = False) -> str:
    """Return where a checkpoint can be loaded from: a folder, or a name on the Hugging Face hub.

    Parameters
    ----------
    name : str
        A folder, one of the names of `PRETRAINED`, or a name on the hub.
    ours : bool
        Whether the name refers to `PRETRAINED` even if a folder has the same name.

    Raises
    ------
    InvalidOption
        For one of `PRETRAINED` that has not been fetched yet.
    """
    if name not in PRETRAINED or (not ours and Path(name).is_dir()):
        return name
    folder = place(name)
    if folder is None:
        raise missing(name)
    return str(folder)


def _as_text(options: dict[str, Any]) -> str:
    """Return options as the key of a cache."""
    try:
        return json.dumps(options, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"options of a model that is given by its name must be JSON values: {error}; "
            "make the model yourself (VLLMModel, TransformersModel) and give it as `model`"
        ) from error


def parse_options(text: str | None) -> dict[str, Any] | None:
    """Parse the options of a model from the JSON object given on a command line."""
    if text is None:
        return None
    try:
        options = json.loads(text)
    except ValueError as error:
        raise InvalidOption(f"model options are not valid JSON ({error}): {OPTIONS}") from error
    if not isinstance(options, dict):
        raise InvalidOption(f"model options are not a JSON object: {OPTIONS}")
    return options


def _check_options(options: dict[str, Any], model: Any, *kinds: Any) -> None:
    """Raise InvalidOption for options that the model's class or factory does not take."""
    if "api_key" in options:
        # It would be written to world.json, logs and tracebacks.
        raise InvalidOption("a key is not an option: set OPENAI_API_KEY in the environment instead")
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
    """Load weights once, for the environments of all splits and for a rewriter."""
    given: dict[str, Any] = json.loads(options)
    if kind == "vllm":
        from rpp_env.models.vllm import VLLMModel

        return VLLMModel(name, **given)
    from rpp_env.models.transformers import TransformersModel

    _check_options(given, TransformersModel)
    return TransformersModel(name, **given)
