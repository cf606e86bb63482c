"""Likelihoods in transformers: one pass over a tree equals brute force.

A tiny random LLaMA is made here; the real SmolLM2 is asked where `rpp-env model get smollm2` has
been run, under RPPLikelihood-v0 too.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env.errors import InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.models import Generation, RecordingModel, Request
from rpp_env.models.likelihoods import Tree, passes, scores_alone
from rpp_env.models.names import open_model
from rpp_env.recommenders import LikelihoodRecommender
from rpp_env.rewriting import LLMRewriter
from rpp_env.sentences.leads import FORMS, ContinuedPrompt
from rpp_env.sentences.prompt import as_messages
from rpp_env.testing import check_model, check_recommender, example_prompts

pytest.importorskip("transformers", reason="needs the extra 'transformers'")

from real_models import KEPT, real_model
from tiny_llama import TITLES, random_llama

from rpp_env.models.transformers import TransformersModel


def text(said: str) -> tuple[dict[str, str], ...]:
    return ({"role": "text", "content": said},)


def asking(prompt: str, *titles: str, before: str = " ", after: str = "\n") -> Request:
    return Request(text(prompt), continuations=tuple(f"{before}{t}{after}" for t in titles))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    random_llama(folder, [*(prompt.text for prompt in example_prompts()), *TITLES])
    return TransformersModel(folder, device="cpu")


@pytest.fixture(scope="module")
def smollm2() -> TransformersModel:
    return TransformersModel(real_model("smollm2"), device="cpu")


def check_exact(model: TransformersModel, requests: list[Request]) -> None:
    """Every log-probability equals that of a whole pass of its own, to 1e-3."""
    for request, reply in zip(requests, model.complete(requests), strict=True):
        branches = model._chat.continued(request.messages, request.continuations or ())
        alone = scores_alone(model._model, branches, "cpu")
        np.testing.assert_allclose(reply.choice_logprobs, alone, rtol=0, atol=1e-3)
        assert reply.choice_tokens == tuple(map(len, branches[1]))
        assert reply.prompt_tokens == len(branches[0])


def questions() -> list[Request]:
    found = []
    for i, prompt in enumerate(example_prompts()):
        form = list(FORMS.values())[i % len(FORMS)]
        lead = ContinuedPrompt(prompt.task, form, prompt.shown).lead()
        own = prompt.lead()
        for one in (lead, own):
            titles = prompt.task.candidates
            found.append(Request(one.messages, continuations=one.continuations(titles)))
    return found


# ---- equal to brute force ----


def test_a_random_llama_equals_brute_force(tiny: TransformersModel) -> None:
    check_exact(tiny, questions())
    assert tiny._reads_trees


def test_smollm2_equals_brute_force(smollm2: TransformersModel) -> None:
    check_exact(smollm2, questions()[:2])
    assert smollm2._reads_trees


def test_a_title_that_begins_another_is_distinguished(smollm2: TransformersModel) -> None:
    """What ends a title counts: without it, the shorter one could only be ahead."""
    prompt = "1. Rocky\n2. Rocky II\n3. Jaws\n4. Jaws 2\n5. Alien\n6."
    (reply,) = smollm2.complete([asking(prompt, "Alien", "Alien 2", "Aliens")])
    assert reply.choice_logprobs is not None
    assert reply.choice_logprobs[1] > reply.choice_logprobs[0]
    assert len(set(reply.choice_logprobs)) == 3
    (bare,) = smollm2.complete([asking(prompt, "Alien", "Alien 2", after="")])
    assert bare.choice_logprobs is not None
    assert bare.choice_logprobs[0] > bare.choice_logprobs[1]


def test_the_terminator_distinguishes_prefix_titles(tiny: TransformersModel) -> None:
    (with_end,) = tiny.complete([asking("1.", "Alien", "Aliens", "Alien 3")])
    (bare,) = tiny.complete([asking("1.", "Alien", "Alien 3", after="")])
    assert bare.choice_logprobs is not None
    assert with_end.choice_logprobs is not None
    assert bare.choice_logprobs[0] >= bare.choice_logprobs[1]  # a prefix cannot be less probable
    assert with_end.choice_logprobs[0] < bare.choice_logprobs[0]
    assert len(set(with_end.choice_logprobs)) == 3


def test_probabilities_sum_up_to_one(tiny: TransformersModel) -> None:
    """All tokens of the vocabulary, as continuations of one token each."""
    model, ids = tiny._model, tiny._chat.encode([text("1. Alien")])[0]
    tree = Tree()
    tree.add(ids, [[token] for token in range(model.config.vocab_size)])
    from rpp_env.models.likelihoods import scores_of

    (scores,) = scores_of(model, tree, "cpu")
    assert abs(np.exp(scores).sum() - 1) < 1e-4


def test_in_bfloat16_it_is_near(tiny: TransformersModel) -> None:
    half = TransformersModel(tiny._arguments[0], device="cpu", dtype="bfloat16")
    requests = questions()
    assert half._reads_trees
    for one, other in zip(tiny.complete(requests), half.complete(requests), strict=True):
        a, b = np.array(one.choice_logprobs), np.array(other.choice_logprobs)
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


# ---- what is shared ----


def test_shared_prefixes_are_computed_once(tiny: TransformersModel) -> None:
    requests = [asking(f"{'Films that I saw: ' * 20}{i}.", "Alien", "Up") for i in range(5)]
    before = tiny.read.computed
    tiny.complete(requests)
    branches = [tiny._chat.continued(r.messages, r.continuations or ()) for r in requests]
    longest = max(len(prompt) for prompt, _ in branches)
    ends = sum(len(rest) for _, many in branches for rest in many)
    assert tiny.read.computed - before < longest + 5 * 4 + ends
    assert 0.8 < tiny.read.shared < 1


def test_the_order_and_the_batch_move_nothing_but_last_bits(tiny: TransformersModel) -> None:
    requests = questions()
    one = tiny.complete(requests)
    other = tiny.complete(requests[::-1])[::-1]
    alone = [tiny.complete([request])[0] for request in requests]
    for a, b, c in zip(one, other, alone, strict=True):
        np.testing.assert_allclose(a.choice_logprobs, b.choice_logprobs, atol=1e-4)
        np.testing.assert_allclose(a.choice_logprobs, c.choice_logprobs, atol=1e-4)


def test_alone_it_is_deterministic_to_the_last_bit(tiny: TransformersModel) -> None:
    model = TransformersModel(tiny._arguments[0], device="cpu", batch_size=1)
    requests = questions()
    together = model.complete(requests)
    assert [model.complete([request])[0] for request in requests] == together


def test_a_tree_tells_what_may_follow_where() -> None:
    tree = Tree()
    tree.add([1, 2], [[3, 4], [3, 5], [6]])
    tree.add([1, 2, 3], [[5]])  # the same place as in the first one
    after = {
        tuple(tree.text(place)): [tree.tokens[node] for node in nodes]
        for place, nodes in tree.following().items()
    }
    assert after == {(1, 2): [3, 6], (1, 2, 3): [4, 5]}
    values = {
        node: float(10**i) for i, node in enumerate(chain.from_iterable(tree.following().values()))
    }
    assert tree.sums(values) == [[101.0, 1001.0, 10.0], [1000.0]]


def test_passes_stay_within_their_token_limit() -> None:
    rng = np.random.default_rng(0)
    branches: list[Any] = [
        ([1, 2, *rng.integers(9, size=rng.integers(1, 6)).tolist()], [[1], [2, 3]])
        for _ in range(50)
    ]
    for most, ends in ((1, 1), (20, 1000), (1000, 10), (10_000, 10_000)):
        groups = list(passes(branches, most, ends))
        assert sorted(i for group in groups for i in group) == list(range(50))
        for group in groups:
            tree = Tree()
            for i in group:
                tree.add(*branches[i])
            assert len(group) == 1 or len(tree.tokens) <= most
            assert len(group) == 1 or 3 * len(group) <= ends
    assert [len(group) for group in passes(branches, 10_000, 10_000, alone=True)] == [1] * 50


def test_other_architectures_get_one_pass_per_candidate(
    tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes no mask of ours, one that reads it wrongly, and one with a short window."""
    requests = questions()[:4]
    right = tiny.complete(requests)
    for break_it in ("raises", "wrong", "window"):
        model = TransformersModel(tiny._arguments[0], device="cpu")
        if break_it == "window":
            model._model.config.sliding_window = 10
        else:

            def scores_of(model: Any, tree: Tree, device: str, how: str = break_it) -> Any:
                if how == "raises":
                    raise TypeError("forward() got an unexpected keyword argument")
                return [[-1.0 for _ in paths] for paths in tree.paths]

            monkeypatch.setattr("rpp_env.models.transformers.scores_of", scores_of)
            assert not model._reads_trees
        for one, other in zip(model.complete(requests), right, strict=True):
            np.testing.assert_allclose(one.choice_logprobs, other.choice_logprobs, atol=1e-3)
        assert model.read.shared == 0


# ---- the boundary ----


def test_blanks_at_the_prompts_end_belong_to_the_title(tiny: TransformersModel) -> None:
    (one,) = tiny.complete([asking("1. Alien\n2. ", "Up", "Jaws", before="")])
    (other,) = tiny.complete([asking("1. Alien\n2.", "Up", "Jaws")])
    np.testing.assert_allclose(one.choice_logprobs, other.choice_logprobs, atol=1e-4)


def test_a_tokenizer_without_the_boundary_is_refused(tmp_path: Path) -> None:
    """Its tokens stand across blanks and points: "1. Alien" is one of them."""
    folder = tmp_path / "merging"
    random_llama(folder, ["1. Alien\n2. Aliens"] * 50, split=False)
    model = TransformersModel(folder, device="cpu")
    with pytest.raises(InvalidOption, match=r"does not split .*boundary.*colon or a line break"):
        model.complete([asking("1.", "Alien", "Aliens")])


def test_titles_without_tokens_or_with_equal_tokens_are_refused(tiny: TransformersModel) -> None:
    for given, words in (
        (("",), "has no token"),
        ((" Up", ""), "has no token"),
    ):
        with pytest.raises(InvalidOption, match=words):
            tiny.complete([Request(text("1."), continuations=given)])
    # The same title twice is no mistake: it gets the same answer twice.
    (reply,) = tiny.complete([asking("1.", "Up", "Up")])
    assert len(set(reply.choice_logprobs or ())) == 1
    with pytest.raises(InvalidOption, match="no continuations"):
        tiny.complete([asking("", "Up")])


def test_titles_with_equal_tokens_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "lower"
    random_llama(folder, ["Alien and alien", *TITLES], lower=True)
    model = TransformersModel(folder, device="cpu")
    with pytest.raises(InvalidOption, match="have the same tokens"):
        model.complete([asking("1.", "Alien", "ALIEN")])


def test_special_tokens_in_titles_are_text(tiny: TransformersModel) -> None:
    prompt, (rest, other) = tiny._chat.continued(text("1. </s>\n2."), (" </s>\n", " Up\n"))
    assert tiny._chat.tokenizer.eos_token_id not in [*prompt, *rest, *other]


def test_a_context_that_is_too_short(tmp_path: Path) -> None:
    folder = tmp_path / "short"
    random_llama(folder, [*(p.text for p in example_prompts()), *TITLES], context=80)
    model = TransformersModel(folder, device="cpu")
    with pytest.raises(InvalidOption, match=r"has \d+ tokens, and hf:short.* reads 80"):
        model.complete([asking("word " * 100, "Up")])
    prompt = example_prompts()[0]
    task = type(prompt.task)("u", tuple(f"Film number {i}" for i in range(30)), TITLES[:4], "Up")
    recommender = LikelihoodRecommender(model, "pmi")
    (ranking,) = recommender.rank([ContinuedPrompt(task, FORMS["list"], 30)])
    assert 20 < ranking.trimmed == recommender.trimmed < 30


# ---- contracts ----


def test_contracts(tiny: TransformersModel) -> None:
    check_model(tiny, example_prompts()[:2])
    check_recommender(LikelihoodRecommender(tiny, "pmi"))


def test_other_requests_of_the_same_call_are_answered_too(tiny: TransformersModel) -> None:
    write = Request(as_messages("Name a film."), Generation(max_tokens=4))
    choose = Request(as_messages("A or B?"), choices=("A", "B"))
    score = asking("1.", "Alien", "Up")
    mixed = tiny.complete([score, write, choose, score])
    assert mixed[1] == tiny.complete([write])[0]
    assert mixed[2].choice_logprobs is not None
    assert mixed[2].choice_tokens is None
    assert mixed[0] == mixed[3]


def test_recordings_replay_it_byte_for_byte(tiny: TransformersModel, tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    requests = questions()
    first = RecordingModel(path, tiny).complete(requests)
    assert RecordingModel(path).complete(requests) == first


def test_a_table_of_likelihoods_plays(tiny: TransformersModel, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rules": "RPPBandit-v0", "max_users": 1, "num_envs": 1}
    book = tmp_path / "small.toml"
    book.write_text(SMALL)
    env = rpp_env.RPPEnv.make(
        "movieworld", tiny, "train", rank_by="likelihood", book=book, **options
    )
    path = tmp_path / "t.rpptable"
    rpp_env.tabulate(env, path, processes=1)
    played = rpp_env.RPPEnv.make("movieworld", f"table:{path}", "train", book=book, **options)
    rewards = []
    for one in (env, played):
        one.reset(seed=0)
        rewards.append(one.step([[1, 2, 0, 1]]).rewards)
    assert (rewards[0] == rewards[1]).all()


SMALL = """
domain = "movies"
history_lead = "I have watched these films:"
candidates_lead = "These are the {k} candidates:"
role_playing = ["", "You know films."]
reasoning_guidance = ["Think of my taste."]

[[output_format]]
text = "Give a list."
format = "numbered"
contract = "Format: <rank>. <title>"

[[output_format]]
text = "Give titles."
format = "bare"
contract = "Format: <title>"
"""


# ---- the names ----


def test_smollm2_is_a_name(
    smollm2: TransformersModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(KEPT, target_is_directory=True)
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    model = open_model("smollm2")
    assert model.id.startswith("hf:smollm2@")
    assert model is open_model("hf:smollm2")
    assert model.context_length == 8192


def test_smollm2_ranks_sequels_and_writes_sense(smollm2: TransformersModel) -> None:
    """What a real model knows: numbers follow each other, and so do films of a kind."""
    (reply,) = smollm2.complete([asking("1. one\n2. two\n3.", "three", "seventeen", "banana")])
    assert reply.text == " three\n"
    question = as_messages("What is the capital of France? Answer in one word.")
    (said,) = smollm2.complete([Request(question, Generation(max_tokens=12))])
    assert "Paris" in said.text


# ---- the environment ----


def test_rpp_likelihood_on_smollm2(smollm2: TransformersModel, tmp_path: Path) -> None:
    """All APIs pay what whole passes give, and a table and a recording replay it."""
    options: dict[str, Any] = {"rules": "RPPLikelihood-v0", "num_candidates": 4, "max_users": 2}
    kept = str(tmp_path / "answers.sqlite")
    env = rpp_env.RPPEnv.make(
        "movieworld", smollm2, "test", num_envs=2, score="pmi", recording=kept, **options
    )
    env.reset(seed=0)
    actions = np.array([[0, 2, 0, 0], [1, 3, 3, 1]])
    step = env.step(actions)
    for i, row in enumerate(step.rows.tolist()):
        task = env.tasks.task(row)
        found = []
        for shown in (step.prompts[i].shown, 0):
            lead = replace(step.prompts[i], shown=shown).lead()
            branches = smollm2._chat.continued(lead.messages, lead.continuations(task.candidates))
            found.append(np.array(scores_alone(smollm2._model, branches, "cpu")))
        order = np.argsort(found[1] - found[0], kind="stable")
        rank = int((order == task.position).argmax()) + 1
        assert step.rewards[i] == ndcg(np.array([rank]))[0]
    replay = rpp_env.RPPEnv.make(
        "movieworld", f"recording:{kept}", "test", num_envs=2, score="pmi", **options
    )
    replay.reset(seed=0)
    again = replay.step(actions)
    assert again.rewards.tobytes() == step.rewards.tobytes()
    assert again.observations.tobytes() == step.observations.tobytes()


def test_smollm2_rewrites_sentences(smollm2: TransformersModel) -> None:
    """RPP+: what it writes is taken where it is of use, and counted where it is not."""
    env = rpp_env.RPPEnv.make(
        "movieworld",
        smollm2,
        "test",
        rewrite=LLMRewriter(smollm2, generation=Generation(max_tokens=40)),
        rank_by="logprobs",
        num_candidates=4,
        max_users=1,
        num_envs=1,
    )
    env.reset(seed=0)
    step = env.step([[1, 2, 3, 1]])
    changed = step.infos["rewritten"] + step.infos["rewrite_fallbacks"]
    assert (changed > 0).all()
    assert np.isfinite(step.rewards).all()
