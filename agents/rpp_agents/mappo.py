"""MAPPO: PPO for a team, with one critic that sees the whole state.

=================  ==========================================================================
actors             decentralised; one network each, or with ``shared=True`` one for all, which
                   sees the agent's number as a one-hot
critic             centralised: sees ``env.state()``, one value for each agent
rewards            the team's, or one for each agent
advantages         GAE; a truncated episode is continued by the value of its true last state,
                   a terminated one is not
value loss         Huber, clipped, on returns normalised by running statistics (ValueNorm)
policy loss        clipped ratios, plus an entropy bonus that is annealed
action sizes       any: what an agent does not have, or may not do, has probability 0
episodes           any length; of one step, the problem is a contextual bandit and the
                   advantage is reward minus value
=================  ==========================================================================

After Yu et al. 2022, "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games"
(https://arxiv.org/abs/2103.01955), and their code. Departures: feed-forward actors; a linear
learning rate schedule; fewer passes in several minibatches, a higher learning rate and a network
for each agent, because the agents here do different things, hundreds of users play at once and an
episode has 5 steps.

Examples
--------
>>> import rpp_env
>>> from rpp_agents import mappo
>>> env = rpp_env.RPPEnv.make(split="train", num_envs=512)  # doctest: +SKIP
>>> policy = mappo.train(env, mappo.Config(seed=1), run_dir="runs/mappo-1")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rpp_agents.policy import NetworkPolicy
from rpp_agents.ppo import Callback, Config, train_ppo
from rpp_agents.rollout import BatchedEnv

__all__ = ["Config", "train"]


def train(
    env: BatchedEnv,
    config: Config = Config(),  # noqa: B008 (frozen)
    *,
    run_dir: str | Path | None = None,
    eval_env: BatchedEnv | None = None,
    resume: bool = False,
    lines: Mapping[str, float] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> NetworkPolicy:
    """Train the agents of `env`.

    Parameters
    ----------
    env : BatchedEnv
        An ``rpp_env.RPPEnv`` of training users, or a `PettingZooBatch`. 256 to 512 environments
        suit the defaults.
    config : Config
    run_dir : path, optional
        Folder for ``progress.csv``, TensorBoard files, checkpoints, the policy and the learning
        curve; nothing is written without it.
    eval_env : BatchedEnv, optional
        Validation users, played greedily at ``config.evaluations`` points. Not `env` itself.
    resume : bool
        Go on from the checkpoint in `run_dir` where there is one. On the CPU and with as many
        threads, the result is the uninterrupted run's, bit for bit.
    lines : mapping of str to float, optional
        Names and mean rewards for level lines in the learning curve, such as the random and the
        best fixed prompt.
    callbacks : sequence of callables
        Each is called after every iteration with that iteration's row and the policy.
    progress : bool
        Show a progress bar.

    Returns
    -------
    NetworkPolicy
        As it is at the end.

    Raises
    ------
    InvalidOption
        If `run_dir` holds a run and `resume` is False, or holds a different run.
    FloatingPointError
        If a loss stops being finite.
    """
    return train_ppo(
        env,
        config,
        name="MAPPO",
        critic_input="state",
        run_dir=run_dir,
        eval_env=eval_env,
        resume=resume,
        lines=lines,
        callbacks=callbacks,
        progress=progress,
    )
