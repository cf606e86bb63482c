"""The contracts that the environment relies on, runnable by anyone: ``check_model(yours)``.

Each function returns None, or raises `BrokenContract` with what was promised and what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rpp_env.errors import BrokenContract
from rpp_env.models.base import Generation, LanguageModel, Reply, Request
from rpp_env.observation import Encoder, encode
from rpp_env.recommenders.base import Recommender
from rpp_env.rewriting import Rewrite, check_rewritten
from rpp_env.sentences import PatternBook
from rpp_env.sentences.prompt import Prompt
from rpp_env.task import Ranking, RankingTask

__all__ = [
    "check_encoder",
    "check_model",
    "check_recommender",
    "check_rewrite",
    "example_prompts",
]


def example_prompts(domain: str = "movies") -> list[Prompt]:
    """A dozen prompts over made-up titles: every output format, and several users."""
    titles = [f"{first} {second}" for first in _FIRST for second in _SECOND]
    book = PatternBook.load(domain)
    prompts = []
    for user in range(12):
        shown = titles[user : user + 16]
        task = RankingTask(
            f"user {user}", tuple(shown[:6]), tuple(shown[6:]), shown[6 + user % 10], domain
        )
        actions = [user % size for size in book.sizes]
        prompts.append(Prompt(task, book.choose(np.array([actions]))[0], 1 + user % 6))
    return prompts


def check_model(model: LanguageModel, prompts: Sequence[Prompt] | None = None) -> None:
    """Check a language model by asking it a dozen questions a few times.

    One reply a request; none for none; as many tokens as make sense; and, for a model that says it
    is ``"deterministic"``, the same reply to the same request, wherever it stands in any batch.

    Raises
    ------
    BrokenContract
        Where one of these does not hold.
    """
    _expect(isinstance(model, LanguageModel), f"{_name(model)} lacks a part of LanguageModel")
    _expect(_is(str, model.id) and model.id != "", "model.id must be a text that is not empty")
    _expect(model.context_length > 0, "model.context_length must be above 0")
    known = {"choices", "grammar", "likelihood", "deterministic"}
    _expect(
        set(model.capabilities) <= known,
        f"model.capabilities may hold {sorted(known)}; got {sorted(model.capabilities)}",
    )
    asked = [
        Request(tuple(prompt.messages), Generation())
        for prompt in (example_prompts() if prompts is None else prompts)
    ]
    _expect(list(model.complete([])) == [], "complete([]) must give []")
    together = _complete(model, asked)
    for reply in together:
        _expect(_is(Reply, reply) and _is(str, reply.text), f"not a Reply: {reply!r}")
        _expect(min(reply.prompt_tokens, reply.completion_tokens) >= 0, "tokens must be counts")
    if "deterministic" in model.capabilities:
        texts = [reply.text for reply in together]
        for what, again in (
            ("asked again", _complete(model, asked)),
            ("in the opposite order", _complete(model, asked[::-1])[::-1]),
            ("one at a time", [reply for one in asked for reply in _complete(model, [one])]),
        ):
            _expect(
                [reply.text for reply in again] == texts,
                f"a deterministic model must answer the same when {what}",
            )


def check_recommender(
    recommender: Recommender[Any], prompts: Sequence[Prompt] | None = None
) -> None:
    """Check a recommender on a dozen prompts: one ranking each, over all candidates, in order.

    Give `prompts` of your own where it only knows its own catalogue. It must rank the same way in
    any batch, so do not check one that samples.

    Raises
    ------
    BrokenContract
        Where one of these does not hold.
    """
    _expect(isinstance(recommender, Recommender), f"{_name(recommender)} has no rank(prompts)")
    asked = list(example_prompts() if prompts is None else prompts)
    _expect(list(recommender.rank([])) == [], "rank([]) must give []")
    together = list(recommender.rank(asked))
    _expect(
        len(together) == len(asked), f"rank gave {len(together)} rankings for {len(asked)} prompts"
    )
    for ranking, prompt in zip(together, asked, strict=True):
        count = len(prompt.task.candidates)
        _expect(
            _is(Ranking, ranking) and sorted(ranking.order) == list(range(count)),
            f"a ranking must order all {count} candidates; got {ranking!r}",
        )
    _expect(
        list(recommender.rank(asked[::-1]))[::-1] == together,
        "a ranking must not depend on the order of the batch",
    )
    _expect(
        [ranking for prompt in asked for ranking in recommender.rank([prompt])] == together,
        "a ranking must not depend on the other prompts of the batch",
    )


def check_encoder(encoder: Encoder, texts: Sequence[str] | None = None) -> None:
    """Check an encoder: shape, kind and range of its vectors; a text's is its own in any batch.

    Raises
    ------
    BrokenContract
        Where one of these does not hold.
    """
    _expect(isinstance(encoder, Encoder), f"{_name(encoder)} lacks width or encode(texts)")
    if texts is None:
        texts = ["", *(prompt.instructions for prompt in example_prompts())]
    together = encode(encoder, texts)
    encode(encoder, [])
    _expect(len(np.unique(together, axis=0)) > 1, "different texts must not all have one vector")
    for what, again in (
        ("asked again", encode(encoder, texts)),
        ("in the opposite order", encode(encoder, texts[::-1])[::-1]),
        ("one at a time", np.concatenate([encode(encoder, [text]) for text in texts])),
    ):
        # Not to the bit: matrix products of a network differ in the last ones with the batch.
        _expect(
            bool(np.allclose(again, together, atol=1e-5)),
            f"the vector of a text must be the same when {what}",
        )


def check_rewrite(rewrite: Rewrite, prompts: Sequence[Prompt] | None = None) -> None:
    """Check a rewriter: every prompt comes back in its place, with other sentences and no more.

    A prompt must be rewritten the same way in any batch, and whatever the target is: do not check
    one that rewrites anew each time (`LLMRewriter` keeps what was said).

    Raises
    ------
    BrokenContract
        Where one of these does not hold.
    """
    _expect(callable(rewrite), f"{_name(rewrite)} cannot be called with prompts")
    asked = list(example_prompts() if prompts is None else prompts)

    def sentences(given: Sequence[Prompt]) -> list[str]:
        made = list(rewrite(list(given)))
        check_rewritten(made, given)
        return [prompt.instructions for prompt in made]

    together = sentences(asked)
    _expect(sentences([]) == [], "no prompts must be rewritten to none")
    for what, again in (
        ("asked again", sentences(asked)),
        ("in the opposite order", sentences(asked[::-1])[::-1]),
        ("one at a time", [said for one in asked for said in sentences([one])]),
        ("another candidate is the target", sentences([_another_target(one) for one in asked])),
    ):
        _expect(again == together, f"a prompt must be rewritten the same when {what}")


def _another_target(prompt: Prompt) -> Prompt:
    task = prompt.task
    other = task.candidates[(task.position + 1) % len(task.candidates)]
    return replace(prompt, task=replace(task, target=other))


_FIRST = ("Silent", "Golden", "Broken", "Hidden", "Distant", "Burning")
_SECOND = ("River", "Garden", "Letter", "Winter", "Station", "Mirror")


def _complete(model: LanguageModel, asked: Sequence[Request]) -> list[Reply]:
    replies = list(model.complete(asked))
    _expect(
        len(replies) == len(asked),
        f"complete gave {len(replies)} replies to {len(asked)} requests",
    )
    return replies


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise BrokenContract(message)


def _is(kind: type, thing: object) -> bool:
    return isinstance(thing, kind)


def _name(thing: Any) -> str:
    return type(thing).__name__
