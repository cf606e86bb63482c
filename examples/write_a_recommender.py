"""Write a recommender that reads no text, and see the effect of the history agent.

A recommender is anything with ``rank(prompts)``. This one ranks the candidates by the similarity of
their vectors to the mean vector of the history items that the prompt shows, so of the four agents
only the one that decides how many items are shown makes a difference.
"""

from __future__ import annotations

import os

import numpy as np

import rpp_env
from rpp_env.data import split_users, training_interactions
from rpp_env.embeddings import fit_embeddings
from rpp_env.evaluation.baselines import Fixed
from rpp_env.testing import check_recommender


class Nearest:
    """Ranks by cosine to the mean of the shown history."""

    def __init__(self, dataset: rpp_env.Dataset) -> None:
        interactions = training_interactions(dataset, split_users(dataset))  # without any target
        self.vectors = fit_embeddings(dataset, interactions).items
        self.row = dataset.title_index

    def rank(self, prompts: list[rpp_env.Prompt]) -> list[rpp_env.Ranking]:
        rankings = []
        for prompt in prompts:
            shown = [self.row[title] for title in prompt.task.history[-prompt.shown :]]
            candidates = [self.row[title] for title in prompt.task.candidates]
            scores = self.vectors[candidates] @ self.vectors[shown].mean(axis=0)
            order = np.argsort(-scores, kind="stable")
            rankings.append(rpp_env.Ranking(tuple(order.tolist()), named=len(order)))
        return rankings


dataset = rpp_env.load_dataset("movieworld")
env = rpp_env.RPPEnv.make(
    dataset, Nearest(dataset), split="test", max_users=20 if "RPP_ENV_FAST" in os.environ else None
)
env.reset(seed=0)
prompts = env.step(np.zeros((env.num_envs, 4), int)).prompts
check_recommender(Nearest(dataset), prompts[:12])  # with its own titles, as it knows no others

rungs = {
    f"{shown} item(s)": Fixed.prompt(env.rules, level=level, role=0, reasoning=0, output=0)
    for level, shown in enumerate(env.rules.rungs)
}
longest = rungs.popitem()
report = rpp_env.evaluate(longest[1], env, name=longest[0], baselines=rungs)
print(report.markdown())
