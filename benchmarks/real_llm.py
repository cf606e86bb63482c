"""Evaluate a real language model on real data: tables, diagnosis, and checks of its replies.

    vllm serve meta-llama/Llama-2-7b-chat-hf --max-logprobs 52 --generation-config vllm   # on a GPU
    python benchmarks/real_llm.py --model http://127.0.0.1:8000/v1#meta-llama/Llama-2-7b-chat-hf

Half of the users are train users, half are test users. For each of them every prompt that the rules
can reach is asked (1,575 under RPP-v0, 1,125 under RPPBandit-v0), everything through one recording,
so that nothing is paid twice: after an interruption, the same command resumes. It writes
OUT/report.md, OUT/report.json and two tables that replay without the model
(`rpp-env train mappo --model table:OUT --final`):

 1. how much there is to gain (`rpp-env diagnose`);
 2. how well replies are read, and what they cost;
 3. on how many users any prompt beats chance, compared with the number expected by luck;
 4. whether the model recites the catalog (it may know what it should infer);
 5. how far the ways to rank agree on the same questions.

`--rank-by likelihood` needs a model in this process (vllm:ID, hf:ID). The controls of that way (no
history, others' histories, shared words) are in benchmarks/likelihood.py. docs/real-llm.md says
what it takes and what came out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from verification import markdown

from rpp_agents.commands.console import progress
from rpp_env import RPPEnv
from rpp_env.errors import RPPError
from rpp_env.evaluation.diagnose import Diagnosis, diagnose
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.models import Generation, RecordingModel, Request
from rpp_env.models.names import parse_options
from rpp_env.recommenders import LikelihoodRecommender, LLMRecommender
from rpp_env.sentences.prompt import Prompt, as_messages
from rpp_env.table import RewardTable, tabulate

WAYS = {
    "generate": frozenset[str](),
    "logprobs": frozenset({"choices"}),
    "structured": frozenset({"choices"}),
    "likelihood": frozenset({"likelihood"}),
}
"""Ways to rank, and the capabilities of a model that each needs."""


@dataclass(frozen=True)
class Reading:
    """How well replies were read, and what they cost."""

    answers: int
    named: float
    """Share of the candidates that a reply named."""
    whole: float
    """Share of the replies that named all of them."""
    target: float
    """Share of the replies that named the target."""
    trimmed: float
    """Share of the prompts that lost history items."""
    prompt_tokens: float
    completion_tokens: float

    @classmethod
    def of(cls, tables: list[RewardTable]) -> Reading:
        def share(values: list[np.ndarray]) -> float:
            return round(float(np.concatenate([v.ravel() for v in values]).mean()), 4)

        count = tables[0].orders.shape[-1]
        return cls(
            answers=sum(t.named.size for t in tables),
            named=share([t.named / count for t in tables]),
            whole=share([t.named == count for t in tables]),
            target=share([t.ranks() > 0 for t in tables]),
            trimmed=share([t.trimmed > 0 for t in tables]),
            prompt_tokens=share([t.prompt for t in tables]),
            completion_tokens=share([t.completion for t in tables]),
        )


@dataclass(frozen=True)
class AnyPrompt:
    """Users on whom some prompt, or prompts on the whole, earn more than chance."""

    chance: float
    best: float
    """Share of users whose best prompt beats chance ..."""
    best_by_luck: float
    """... and the same where any other candidate had been the target."""
    mean: float
    """Share of users on whom the mean of all prompts beats chance ..."""
    mean_by_luck: float
    score: float
    """NDCG@10 of all prompts on the mean ..."""
    score_by_luck: float
    """... and where any other candidate had been the target: position and popularity alone."""

    @classmethod
    def of(cls, tables: list[RewardTable]) -> AnyPrompt:
        count = tables[0].orders.shape[-1]
        paid = ndcg(np.arange(256), 10)
        chance = chance_ndcg(count)
        best, mean, targets = [], [], []
        for table in tables:
            for orders, named, target in zip(
                table.orders[:, :, 0], table.named[:, :, 0], table.positions, strict=True
            ):
                places = np.argsort(orders, axis=1)  # (C, K) 0-based place of each candidate
                scores = np.where(places < named[:, None], paid[places + 1], 0.0)
                best.append(scores.max(axis=0) > chance)
                mean.append(scores.mean(axis=0))
                targets.append(int(target))
        rows, means = np.arange(len(targets)), np.array(mean)
        others = np.ones((len(targets), count), dtype=bool)
        others[rows, targets] = False

        def both(values: np.ndarray) -> tuple[float, float]:
            return tuple(round(float(v.mean()), 4) for v in (values[rows, targets], values[others]))

        (a, b), (c, d), (e, f) = both(np.array(best)), both(means > chance), both(means)
        return cls(round(chance, 4), a, b, c, d, e, f)


@dataclass(frozen=True)
class Recital:
    """Whether the model knows the catalogue by heart (Di Palma et al., 2025: item recall)."""

    asked: int
    recalled: float
    """Share of the titles that it gave for their id in the dataset's files, year left out."""
    shuffled: float
    """The same for ids that were dealt out anew: what guessing gives."""

    @classmethod
    def of(cls, model: RecordingModel, env: RPPEnv, count: int) -> Recital:
        dataset = env.tasks.dataset
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(dataset.titles))[: count + 5]
        examples, asked = chosen[:5], chosen[5:]
        found = []
        for tokens in (dataset.item_tokens, rng.permutation(dataset.item_tokens)):
            lines = "\n".join(f"{tokens[i]}::{dataset.titles[i]}" for i in examples)
            about = f"These are lines of the file of items of the dataset {dataset.name}:\n{lines}"
            requests = [
                Request(
                    as_messages(
                        f"{about}\n\nComplete the next line, and write nothing else:\n{tokens[i]}::"
                    ),
                    Generation(max_tokens=32),
                )
                for i in asked
            ]
            replies = model.complete(requests)
            found.append(
                [
                    plain(dataset.titles[i]) in plain(r.text)
                    for i, r in zip(asked, replies, strict=True)
                ]
            )
        return cls(len(asked), *(round(float(np.mean(hits)), 4) for hits in found))


def plain(title: str) -> str:
    """Without year, case and what is no letter or digit."""
    return re.sub(r"[\W_]+", " ", re.sub(r"\(\d{4}\)", "", title)).strip().casefold()


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of two ways to rank, on prompts of which both named all."""

    ways: tuple[str, str]
    prompts: int
    compared: int
    correlation: float | None
    same_first: float | None

    @classmethod
    def all(
        cls, model: RecordingModel, env: RPPEnv, count: int
    ) -> tuple[list[Agreement], dict[str, float]]:
        rng = np.random.default_rng(0)
        actions = rng.integers(env.book.sizes, size=(count, 4))
        rows = rng.integers(len(env.tasks), size=count)
        prompts = []
        for row, choice in zip(rows, env.book.choose(actions), strict=True):
            task = env.tasks.task(row)
            prompts.append(Prompt(task, choice, min(5, len(task.history))))
        size = env.tasks.num_candidates
        ways = [
            way
            for way, needs in WAYS.items()
            if needs <= model.capabilities and ("choices" not in needs or size <= 52)
        ]
        rankings, seconds = {}, {}
        for way in ways:
            start = time.perf_counter()
            likely = way == "likelihood"
            ranker = LikelihoodRecommender(model) if likely else LLMRecommender(model, way)
            rankings[way] = ranker.rank(prompts)
            seconds[way] = round(time.perf_counter() - start, 1)
        found = []
        for i, a in enumerate(ways):
            for b in ways[i + 1 :]:
                pairs = [
                    (x.order, y.order)
                    for x, y in zip(rankings[a], rankings[b], strict=True)
                    if x.named == y.named == size
                ]
                places = [(np.argsort(x), np.argsort(y)) for x, y in pairs]
                found.append(
                    cls(
                        (a, b),
                        count,
                        len(pairs),
                        round(float(np.mean([spearmanr(x, y)[0] for x, y in places])), 3)
                        if pairs
                        else None,
                        round(float(np.mean([x[0] == y[0] for x, y in pairs])), 3)
                        if pairs
                        else None,
                    )
                )
        return found, seconds


def report(
    facts: dict[str, Any],
    found: Diagnosis,
    reading: Reading,
    luck: AnyPrompt,
    recital: Recital,
    agreements: list[Agreement],
) -> str:
    rows = [
        ["candidates that a reply names", f"{reading.named:.1%}"],
        ["replies that name all", f"{reading.whole:.1%}"],
        ["replies that name the target", f"{reading.target:.1%}"],
        ["prompts that lost history items", f"{reading.trimmed:.1%}"],
        ["tokens of a prompt", f"{reading.prompt_tokens:.0f}"],
        ["tokens of a reply, or of titles that are scored", f"{reading.completion_tokens:.0f}"],
    ]
    replies = markdown(["", ""], rows)
    anything = markdown(
        ["", "target", "by luck"],
        [
            [
                "users on whom any prompt beats chance",
                f"{luck.best:.1%}",
                f"{luck.best_by_luck:.1%}",
            ],
            ["users on whom the mean of all does", f"{luck.mean:.1%}", f"{luck.mean_by_luck:.1%}"],
            ["NDCG@10, mean of all prompts", f"{luck.score:.3f}", f"{luck.score_by_luck:.3f}"],
        ],
    )
    ways = markdown(
        ["", "prompts", "both named all", "rank correlation", "same first"],
        [
            [", ".join(a.ways), str(a.prompts), str(a.compared)]
            + ["-" if v is None else f"{v:.3f}" for v in (a.correlation, a.same_first)]
            for a in agreements
        ],
    )
    return f"""# {facts["model"]} on {facts["dataset"]}

{facts["train users"]} train users, {facts["test users"]} test users; {facts["rules"]}, ranked by
`{facts["rank_by"]}`. {reading.answers:,} answers in the tables; {facts["asked"]:,} questions of all
kinds were asked in this run ({facts["seconds"]:,.0f} s), the others were recorded before.

{found.markdown().strip()}

## Replies

{replies}

## Is there anything in it?

Chance is {luck.chance:.3f}. *By luck* is what the same answers would have earned if any other of
the candidates had been the target.

{anything}

## Does it know the catalogue by heart?

Asked for the titles of {recital.asked} ids of the dataset's files it recites
{recital.recalled:.1%} of them; of ids that were dealt out anew, {recital.shuffled:.1%}.

## Do the ways to rank agree?

{ways}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        required=True,
        help="http://HOST:PORT/v1#NAME, vllm:PATH, hf:PATH or recording:PATH",
    )
    parser.add_argument(
        "--model-options",
        metavar="JSON",
        help="""options of the model, such as '{"request_options": {"temperature": null}}'""",
    )
    parser.add_argument(
        "--dataset", default="ml-1m", help="a known dataset, or a folder of atomic files"
    )
    parser.add_argument("--users", type=int, default=200, help="half train users, half test users")
    parser.add_argument("--rules", default="RPP-v0", choices=["RPP-v0", "RPPBandit-v0"])
    parser.add_argument("--rank-by", default="generate", choices=WAYS)
    parser.add_argument(
        "--sample", type=int, default=200, help="prompts on which the ways to rank are compared"
    )
    parser.add_argument("--titles", type=int, default=200, help="titles that it is asked to recite")
    parser.add_argument("--out", type=Path, default=Path("runs/real-llm"))
    chosen = parser.parse_args()
    start = time.perf_counter()
    options: dict[str, Any] = {"rules": chosen.rules, "rank_by": chosen.rank_by}
    options["model_options"] = parse_options(chosen.model_options)
    if not chosen.model.startswith("recording:"):
        options["recording"] = str(chosen.out / "answers.sqlite")
    envs, tables, asked = [], [], 0
    for split in ("train", "test"):
        live = RPPEnv.make(
            chosen.dataset, chosen.model, split, max_users=chosen.users // 2, **options
        )
        with progress(f"asking {live.recommender.model.id} about {split} users") as update:
            tables.append(tabulate(live, chosen.out / f"{split}.rpptable", progress=update))
        asked += getattr(live.recommender.model, "asked", 0)
        replayed = {"rules": chosen.rules, "max_users": chosen.users // 2}
        envs.append(RPPEnv.make(chosen.dataset, tables[-1], split, **replayed))
    model = live.recommender.model
    before = getattr(model, "asked", 0)
    found = diagnose(*envs)
    reading, any_prompt = Reading.of(tables), AnyPrompt.of(tables)
    recital = Recital.of(model, live, chosen.titles)
    agreements, seconds = Agreement.all(model, live, chosen.sample)
    facts = {
        "model": model.id,
        "dataset": chosen.dataset,
        "rules": chosen.rules,
        "rank_by": chosen.rank_by,
        "train users": len(tables[0]),
        "test users": len(tables[1]),
        "asked": asked + getattr(model, "asked", 0) - before,
        "seconds": round(time.perf_counter() - start, 1),
        "seconds by way": seconds,
    }
    text = report(facts, found, reading, any_prompt, recital, agreements)
    (chosen.out / "report.md").write_text(text)
    parts = {"reading": reading, "any prompt": any_prompt, "recital": recital}
    numbers = {name: asdict(part) for name, part in parts.items()}
    numbers |= {
        "run": facts,
        "agreement": list(map(asdict, agreements)),
        "diagnosis": found.to_json(),
    }
    (chosen.out / "report.json").write_text(json.dumps(numbers, indent=1))
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RPPError as error:
        sys.exit(f"error: {error}")
