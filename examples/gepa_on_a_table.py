"""Search one prompt for everybody with GEPA, which calls a reward table instead of a model.

The proposer is a stub, which draws sentences of the catalog: a table knows no others.
"""

import os

import gepa
import numpy as np
from gepa.core.adapter import EvaluationBatch

import rpp_env

few = {"num_users": 120, "num_items": 100, "max_users": 20} if "RPP_ENV_FAST" in os.environ else {}
env = rpp_env.RPPEnv.make(**{"max_users": 200, **few})
rewards = rpp_env.tabulate(env, "tables/gepa.rpptable").rewards()  # (users, *env.space.shape)
outputs = tuple(output.text for output in env.book.output_format)
options = {"history": tuple(f"{shown} items" for shown in env.rules.rungs)}
options |= {"role": env.book.role_playing, "reasoning": env.book.reasoning_guidance}
options |= {"output": outputs}
draw = np.random.default_rng(0)


class Table:
    def evaluate(self, batch, candidate, capture_traces=False):
        cell = tuple(texts.index(candidate[part]) for part, texts in options.items())
        scores = [float(rewards[(user, *cell)]) for user in batch]
        return EvaluationBatch(outputs=scores, scores=scores, trajectories=scores)

    def make_reflective_dataset(self, candidate, found, components):
        return {part: [{"NDCG@10": score} for score in found.scores] for part in components}

    def propose_new_texts(self, candidate, dataset, components):
        return {part: str(draw.choice(options[part])) for part in components}


seed, users = {part: texts[0] for part, texts in options.items()}, list(range(len(env.tasks)))
best = gepa.optimize(seed, users, adapter=Table(), max_metric_calls=20 * len(users))
print(best.best_candidate, best.val_aggregate_scores[best.best_idx], rewards.mean(axis=0).max())
