"""``rpp-env play``."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from rpp_agents.commands.console import find_policy, say
from rpp_agents.commands.cost import say_cost
from rpp_agents.commands.options import read_player
from rpp_agents.world import World
from rpp_env import RPPEnv
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Policy, Random
from rpp_env.rendering import COLOURS, WIDTH, render
from rpp_env.text import printable

__all__ = ["parse", "run"]


def parse(prog: str, words: Sequence[str]) -> Callable[[], None]:
    """Parse the options; a run's folder provides the world that it was trained in."""
    return read_player(run, prog, words)


def run(
    who: Annotated[str, tyro.conf.arg(metavar="[hand|random|RUN_DIR|POLICY]")] = "hand",
    /,
    world: World = World(),  # noqa: B008 - frozen
    user: Annotated[str | None, tyro.conf.arg(metavar="TOKEN")] = None,
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    split: str = "test",
    seed: int = 0,
    trust: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = (),
) -> None:
    """Play one user's episode: by hand, at random, or by a saved policy.

    By hand, type the number of an option for each agent, or all at once (1 4 7 2). The numbers
    are the actions of the environment and count from 0. An empty line repeats the last choice, and
    q ends the game. Numbers may also be piped in.

    Parameters
    ----------
    who
        The player.
    world
        The environment.
    user
        The user, by the token in the dataset; by default drawn at random.
    steps
        Episode length; by default that of the rules.
    split
        Split of the user: train, validation or test.
    seed
        Seed for drawing the user and for random choices.
    trust
        Servers, paths or code that a run folder names and that you confirm, word by word.
    """
    world = world.confirmed(who, trust)
    env = world.env(split, num_envs=1, max_cycles=steps, seed=seed)
    player = _player(who, env, seed)
    say_cost(env, world.model, world.rewrite, env.max_cycles)
    observations, _ = env.reset(seed, {} if user is None else {"users": [user]})
    width = min(shutil.get_terminal_size().columns, WIDTH)
    say(render(env, width=width, wrap=True), painted=True)
    if isinstance(player, _Hand):
        say(player.menu(), painted=True)
    rewards: list[float] = []
    tokens, memory = 0, None
    while len(rewards) < env.max_cycles:
        try:
            actions, memory = player.act(
                observations, env.action_masks(), greedy=True, memory=memory
            )
        except EOFError:
            say("\nno more choices")
            break
        step = env.step(actions)
        observations = step.observations
        rewards.append(float(step.rewards[0]))
        tokens += int(step.infos["prompt_tokens"][0] + step.infos["completion_tokens"][0])
        say("\n" + render(env, width=width, wrap=True), painted=True)
    if rewards:
        each = ", ".join(f"{reward:.3f}" for reward in rewards)
        cost = f"; {tokens:,} tokens" * (tokens > 0)
        summary = f"{len(rewards)} of {env.max_cycles} steps: mean NDCG@10 {np.mean(rewards):.3f} "
        say(textwrap.fill(f"{summary}({each}){cost}", max(width, 20)))


def _player(who: str, env: RPPEnv, seed: int) -> Policy:
    if who == "hand":
        return _Hand(env)
    if who == "random":
        return Random(env.action_spaces, seed=seed)
    if not Path(who).exists():
        raise InvalidOption(
            f"{who!r} cannot play: give hand, random, the folder of a run or a policy's file"
        )
    from rpp_agents.policy import load_policy

    return load_policy(find_policy(Path(who)))


class _Hand:
    """Reads choices among numbered options from standard input."""

    def __init__(self, env: RPPEnv) -> None:
        if not all(isinstance(space, Discrete) for space in env.action_spaces):
            raise InvalidOption(
                f"the agents of {env.episode.id} choose vectors here, which cannot be typed: play "
                "random, a run's folder or a policy's file, or give them options to choose among "
                "(under PPR-v0, --codebook 16)"
            )
        self._agents = env.agents
        self._most = [int(n) - 1 for n in env.nvec]
        K = str(env.tasks.num_candidates)
        meanings = env.space.meanings or [[] for _ in env.agents]
        self._options = [[text.replace("{k}", K) for text in texts] for texts in meanings]
        self._words: list[str] = []
        self._last: list[int] = []

    def menu(self) -> str:
        """Return all options with their meanings, each agent in its colour."""
        coloured = "NO_COLOR" not in os.environ
        colours = itertools.cycle(COLOURS)
        lines = []
        for agent, colour, options in zip(self._agents, colours, self._options, strict=False):
            lines.append(printable(agent))
            for i, text in enumerate(options):
                line = f"  {i}  {printable(text)}"
                lines.append(f"\x1b[{colour}m{line}\x1b[0m" if coloured else line)
        return "\n".join(lines)

    def act(
        self,
        observations: NDArray[np.float32],  # noqa: ARG002 - a person sees the screen
        masks: Any = None,  # noqa: ARG002 - the question is repeated until the answer is legal
        greedy: bool = False,  # noqa: ARG002
        memory: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        chosen = [self._choose(agent) for agent in range(len(self._agents))]
        self._last = chosen
        return np.array([chosen], dtype=np.int64), memory

    def _choose(self, agent: int) -> int:
        name, most = self._agents[agent], self._most[agent]
        while True:
            if not self._words:
                say(f"{name} [0-{most}, ? for the options, q]: ", end="", flush=True)
                line = sys.stdin.readline()
                if not line:
                    raise EOFError
                self._words = line.replace(",", " ").split()
                if not sys.stdin.isatty():
                    say(line.strip())  # so that a piped game reads like a typed one
                if not self._words and self._last:
                    return self._last[agent]
                if not self._words:
                    continue
            word = self._words.pop(0)
            if word in ("q", "quit"):
                raise EOFError
            if word == "?":
                say(self.menu(), painted=True)
            elif word.isdecimal() and int(word) <= most:
                return int(word)
            else:
                self._words = []
                say(f"{name} has no option {word!r}: type 0 to {most}")
