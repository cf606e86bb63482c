"""The training loop shared by all trainers: iterate, evaluate, record, save checkpoints.

An algorithm is a `Learner`: each `iterate` call collects steps and updates once, and `tensors` and
`restore` export and load its full state. `trainer` makes the ``train(env, config)`` of its module.

A run is cut into segments of `RunConfig.checkpoint_every` iterations, each begun by a reset of the
environment with a seed derived from the run's seed and the iteration. So a checkpoint needs no
state of the environment, and a resumed run is bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rpp_agents.plots import learning_curve
from rpp_agents.policy import Policy, load_policy
from rpp_agents.rollout import BatchedEnv, check_alike, check_batched, play
from rpp_agents.runs import BEST, CURVE, Run, RunConfig
from rpp_env.data.folders import writing
from rpp_env.errors import InvalidData, InvalidOption, TrainingDiverged
from rpp_env.interrupts import heed_interrupts
from rpp_env.options import check_numbers

__all__ = [
    "Callback",
    "Learner",
    "RunConfig",
    "Train",
    "check_numbers",
    "kept_tensors",
    "restore_tensors",
    "trainer",
]

Callback = Callable[[Mapping[str, float], Policy], None]
"""Called after every iteration with its row of numbers and the current policy."""


class Learner(Protocol):
    """A learning algorithm in an environment."""

    @property
    def policy(self) -> Policy:
        """The current policy."""
        ...

    @property
    def rng(self) -> np.random.Generator:
        """The generator of all of the learner's randomness; part of a checkpoint."""
        ...

    @property
    def steps(self) -> int:
        """Number of steps per iteration, over all environments."""
        ...

    def reset(self, seed: int) -> None:
        """Begin a segment: reset the environment with this seed."""
        ...

    def iterate(self, progress: float) -> dict[str, float]:
        """Collect steps and update once.

        `progress`, from 0 to 1 over the run, is the iteration's position on the schedules. The
        returned row holds ``reward`` (the mean of the rewards), losses, and ``info/NAME`` means.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint needs besides `rng`, by name."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the state that `tensors` returned."""
        ...


C = TypeVar("C", bound=RunConfig)
C_contra = TypeVar("C_contra", bound=RunConfig, contravariant=True)


class Train(Protocol[C_contra]):
    """The one interface of all trainers: ``train(env, config) -> Policy``."""

    def __call__(
        self,
        env: BatchedEnv,
        config: C_contra = ...,
        *,
        run_dir: str | Path | None = None,
        eval_env: BatchedEnv | None = None,
        resume: bool = False,
        lines: Mapping[str, float] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> Policy:
        """Train the agents of `env`.

        Parameters
        ----------
        env : BatchedEnv
            An ``rpp_env.RPPEnv`` of training users, or a `PettingZooBatch`. 256 to 512 environments
            suit the defaults.
        config : Config
            Options of the trainer's module.
        run_dir : path, optional
            Folder for ``progress.csv``, TensorBoard files, checkpoints, the policy and the learning
            curve; nothing is written without it.
        eval_env : BatchedEnv, optional
            Validation users, played at ``config.evaluations`` points; not `env` itself. Column
            ``eval_reward`` is the mean reward per step of the most probable actions,
            ``eval_sampled`` that of sampled ones, in environments that call no model. In other
            problems the two can be far apart.
        resume : bool
            Resume from the checkpoint in `run_dir`, if there is one. On the CPU and with the same
            number of threads, the result is bit-identical to an uninterrupted run's.
        lines : mapping of str to float, optional
            Names and scores of baselines for the learning curve, such as the random and the
            best fixed prompt.
        callbacks : sequence of callables
            Each is called after every iteration with that iteration's row and the policy.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Policy
            The trained policy.

        Raises
        ------
        InvalidOption
            If `run_dir` holds a run and `resume` is False, or holds a different run, and for an
            `env` that is not a batch or an `eval_env` of another shape.
        BrokenContract
            If the environment returns invalid values, such as infinite rewards.
        InvalidData
            If the checkpoint in `run_dir` is damaged or not a checkpoint.
        TrainingDiverged
            If a loss stops being finite.
        """
        ...


def trainer(name: str, learner: Callable[[BatchedEnv, C], Learner], default: C) -> Train[C]:
    """Make the ``train`` function of an algorithm.

    Parameters
    ----------
    name : str
        Name for the progress bar and the run's files.
    learner : callable
        Makes the learner from an environment and a config.
    default : Config
        The default config.
    """

    @heed_interrupts()
    def train(
        env: BatchedEnv,
        config: C = default,
        *,
        run_dir: str | Path | None = None,
        eval_env: BatchedEnv | None = None,
        resume: bool = False,
        lines: Mapping[str, float] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> Policy:
        _check(env, eval_env, config)
        config = config.in_episode(getattr(env, "episode", None))
        seen, playing = config.view(env)
        # The batch size that the environment was made for, whatever was played in it before.
        env.reset(seed=_segment_seed(config.seed, 0))
        at_work = learner(seen, config)
        iterations = math.ceil(config.total_steps / at_work.steps)
        of_an_episode = math.ceil(int(env.max_cycles) * env.num_envs / at_work.steps)
        segment = math.ceil(config.checkpoint_every / of_an_episode) * of_an_episode
        eval_at = {
            math.ceil(iterations * i / config.evaluations) for i in range(1, config.evaluations + 1)
        }
        # Evaluate sampled actions too if evaluations cost nothing.
        judged = {"eval_reward": True}
        if eval_env is not None and not hasattr(eval_env, "calls"):
            judged["eval_sampled"] = False
        with Run(run_dir, name, config, env, iterations, resume=resume, progress=progress) as run:
            if run.checkpoint is not None:
                _restore(at_work, run, run.checkpoint)
            else:
                # So that there is a checkpoint even if the run stops in the first segment.
                run.save(at_work.tensors(), at_work.rng)
            best = _Best(run, config.patience)
            for iteration in range(run.iteration, iterations):
                if best.over:
                    break
                if iteration % segment == 0:
                    at_work.reset(_segment_seed(config.seed, iteration))
                with heed_interrupts():  # an interrupt that a library caught ends the run here
                    learned = at_work.iterate(iteration / iterations)
                row = {
                    "steps": float((iteration + 1) * at_work.steps),
                    **dict.fromkeys(judged, math.nan),
                    **learned,
                }
                lost = {k: x for k, x in row.items() if "loss" in k and not math.isfinite(x)}
                if lost:
                    raise TrainingDiverged(
                        f"training diverged in iteration {iteration}: {lost}; try a lower "
                        "learning_rate"
                    )
                policy = playing(at_work.policy)
                if eval_env is not None and iteration + 1 in eval_at:
                    row |= {
                        column: _evaluated(policy, eval_env, config, greedy=greedy)
                        for column, greedy in judged.items()
                    }
                    best.judge(row["eval_reward"], policy)
                row = run.record(row)
                if (iteration + 1) % segment == 0 or iteration + 1 == iterations or best.over:
                    run.save(at_work.tensors(), at_work.rng)
                for callback in callbacks:
                    callback(row, policy)
            trained = best.policy or playing(at_work.policy)
            run.finish(trained)
            if run.folder is not None:
                with writing(run.folder / CURVE):
                    learning_curve([run.folder], run.folder / CURVE, label=name, lines=lines)
        return trained

    @functools.wraps(train)
    def with_its_threads(env: BatchedEnv, config: C = default, **options: Any) -> Policy:
        with _threads(config.threads):
            return train(env, config, **options)

    described = Train.__call__.__doc__ or ""
    with_its_threads.__doc__ = described.replace("the agents of `env`", f"by {name}", 1)
    return with_its_threads


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set torch's number of threads in this block; 0 leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _evaluated(policy: Policy, env: BatchedEnv, config: RunConfig, *, greedy: bool) -> float:
    """Play the evaluation's episodes, the same ones every time; mean reward per step."""
    if not greedy and (reseed := getattr(policy, "reseed", None)) is not None:
        reseed(config.seed)  # so that a resumed run samples like an uninterrupted one
    scores = play(policy, env, episodes=config.eval_episodes, seed=config.seed, greedy=greedy)
    return float(scores.mean())


def _check(env: BatchedEnv, eval_env: BatchedEnv | None, config: RunConfig) -> None:
    """Check the environments of a training."""
    check_batched(env, "env")
    if eval_env is not None:
        check_batched(eval_env, "eval_env")
        check_alike(env, eval_env)
    if env is eval_env:
        raise InvalidOption(
            "eval_env is env itself, and playing the one would disturb the other: make another "
            "one, of validation users"
        )
    if config.patience and (eval_env is None or not config.evaluations):
        raise InvalidOption(
            f"patience={config.patience} needs evaluations on validation users: give an eval_env "
            "and evaluations of 1 or more, or leave it out"
        )


def _restore(learner: Learner, run: Run, checkpoint: Mapping[str, Tensor]) -> None:
    """Load a run's checkpoint into a learner."""
    try:
        learner.restore(checkpoint)
        _check_moments(checkpoint, run.iteration)
        learner.rng.bit_generator.state = run.rng
    except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidData(
            f"the checkpoint in {run.folder} is not a {run.name} of this version ({error}): train "
            "anew in another run_dir"
        ) from error


class _Best:
    """The best evaluation of a run so far, and its policy; of no use without patience."""

    def __init__(self, run: Run, patience: int) -> None:
        self.run, self.patience = run, patience
        self.policy: Policy | None = None
        if patience and run.best is not None and run.folder is not None:
            self.policy = load_policy(run.folder / BEST)

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return bool(self.patience and self.run.best and self.run.best[1] >= self.patience)

    def judge(self, score: float, policy: Policy) -> None:
        """Note the score of an evaluation of a policy."""
        if not self.patience:
            return
        before, waited = self.run.best or (-math.inf, 0)
        self.run.best = before, waited + 1
        if score > before:
            self.run.best, self.policy = (score, 0), copy.deepcopy(policy)
            if self.run.folder is not None:
                policy.save(self.run.folder / BEST)


def _segment_seed(seed: int, iteration: int) -> int:
    return int(np.random.SeedSequence([seed, iteration]).generate_state(1)[0])


# Content of a checkpoint


def kept_tensors(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Return weights, statistics and the optimisers' moments, by name."""
    tensors = {
        f"{part}.{name}": tensor
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    for part, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            for name, tensor in moments.items():
                tensors[f"optimizer.{part}.{index}.{name}"] = tensor
    return tensors


def restore_tensors(
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    tensors: Mapping[str, Tensor],
) -> None:
    """Load what `kept_tensors` returned.

    Raises
    ------
    LookupError, RuntimeError, ValueError
        If tensors are missing, or of another shape.
    """
    for part, module in modules.items():
        module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()})
    for part, optimizer in optimizers.items():
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{part}."):
                index, moment = name.split(".")[2:]
                if tensor.ndim and tensor.shape != weights[int(index)].shape:
                    raise ValueError(f"{name} is of shape {tuple(tensor.shape)}")
                state.setdefault(int(index), {})[moment] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _check_moments(tensors: Mapping[str, Tensor], iteration: int) -> None:
    """Check that a checkpoint from the middle of a run contains the optimiser's moments."""
    if iteration and not any(name.startswith("optimizer.") for name in tensors):
        raise KeyError("optimizer's moments")
