"""The study of all systems: the same methods everywhere, at one number of answers."""

from __future__ import annotations

import pytest

from rpp_agents.experiments.plan import Run, Study
from rpp_env.rules import IDS, episode_of

STUDY = Study.load("systems")


def test_every_id_without_a_download_is_played_by_every_method() -> None:
    named = {setting.options["rules"] for setting in STUDY.settings}
    assert set(IDS) - named == {"RPPLikelihood-v0"}
    assert len(STUDY.runs()) == len(STUDY.settings) * len(STUDY.methods)
    trainers = {method.config.get("trainer") for method in STUDY.methods}
    assert trainers >= {"mappo", "linucb", "evolution", "a2c", "ppr", "pap_rec", "peapod"}


@pytest.mark.parametrize("run", STUDY.runs(), ids=lambda run: run.name)
def test_what_a_trainer_plays_at_once_divides_the_budget(run: Run) -> None:
    options = run.setting.options
    config = run.method.resolved(run.setting.episode)
    if run.method.method != "rpp":
        return
    if config["trainer"] in ("ppr", "peapod"):
        at_once = config["options"]["batch"]
    elif config["trainer"] == "pap_rec":  # whole turns
        at_once = run.setting.train_users * (6 if options["rules"] == "PAPRec-v0" else 3)
    else:
        at_once = config["num_envs"] * run.setting.steps * options.get("group", 1)
    assert run.budget % at_once == 0
    assert episode_of(options["rules"]).max_cycles == run.setting.steps
