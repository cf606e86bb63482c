"""Language models by a text: what the command line and ``model=`` take."""

from __future__ import annotations

from functools import lru_cache

from rpp_env.errors import InvalidOption
from rpp_env.models.base import LanguageModel

__all__ = ["FORMS", "open_model"]

FORMS = {
    "http://HOST:PORT/v1#NAME": "a model that a server offers, OpenAI's way (https:// too)",
    "vllm:ID": "a model in vLLM's engine, here: a folder, or a name on the Hugging Face hub",
    "hf:ID": "the same in transformers",
    "recording:FILE": "the answers in a file, and no model behind it",
}
"""How a model is named, and what is meant."""


def open_model(name: str) -> LanguageModel:
    """The language model of that name.

    Parameters
    ----------
    name : str
        In one of the `FORMS`, such as ``"http://127.0.0.1:8000/v1#meta-llama/Llama-2-7b-chat-hf"``.

    Raises
    ------
    InvalidOption
        For a name of no such form, and for a model that is not there.
    MissingExtra
        Without the libraries that this kind of model needs.
    ModelUnavailable
        Where a server cannot be reached.
    InvalidData
        Where a file is no recording.
    """
    kind, _, rest = name.partition(":")
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

        return OpenAIModel(address, served)
    if kind in {"vllm", "hf"} and rest:
        return _loaded(kind, rest)
    if kind == "recording" and rest:
        from rpp_env.models.recording import RecordingModel

        return RecordingModel(rest)
    raise InvalidOption(
        f"model {name!r} is unknown; a model is named by {', '.join(FORMS)}; RPPEnv.make takes "
        "'embedded', 'table:PATH', or an object with complete(requests) or rank(prompts), too"
    )


@lru_cache(maxsize=2)
def _loaded(kind: str, name: str) -> LanguageModel:
    """Weights are loaded once, for the environments of all splits and for who rewrites."""
    if kind == "vllm":
        from rpp_env.models.vllm import VLLMModel

        return VLLMModel(name)
    from rpp_env.models.transformers import TransformersModel

    return TransformersModel(name)
