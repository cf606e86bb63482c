"""Play one user's episode through PettingZoo, with four agents that choose at random."""

from __future__ import annotations

import rpp_env

env = rpp_env.parallel_env("movieworld", split="test", render_mode="ansi")
observations, infos = env.reset(seed=1)
for agent in env.possible_agents:
    env.action_space(agent).seed(1)

while env.agents:
    actions = {agent: env.action_space(agent).sample() for agent in env.agents}
    observations, rewards, terminations, truncations, infos = env.step(actions)
    # All agents get the same reward: the NDCG@10 of the item that the user chose next.
    print(actions, f"NDCG@10 {rewards['role_playing']:.3f}")

print("\nThe last step, prompt and reply:\n")
print(env.render())
