"""The range of discounted returns, and the one warning where the mean target leaves it."""

import logging

import numpy as np
import pytest

from rllib_ddn import Mixer, QMIXConfig
from rllib_ddn.learning.returns import ReturnRange
from support.configs import small_config


def episodes_of(*rewards, terminated):
    length = np.array([len(row) for row in rewards])
    padded = np.zeros((len(rewards), length.max()), np.float32)
    for row, values in zip(padded, rewards, strict=True):
        row[: len(values)] = values
    return {"rewards": padded, "length": length, "terminated": np.array(terminated)}


def test_the_range_by_hand():
    returns = ReturnRange()
    returns.add(episodes_of([0, 0, 8], [-2], terminated=[True, True]), 0.5)
    assert (returns.low, returns.high) == (-2, 8)  # 2, 4 and 8 from the steps of the first
    returns.add(episodes_of([-3, -3], [1], terminated=[False, True]), 0.5)
    assert (returns.low, returns.high) == (-6, 8)  # -3 forever is -6
    returns.add(episodes_of([], [], terminated=[True, True]) | {"length": np.zeros(0, int)}, 0.5)
    assert returns.episodes == 4


GAMMA = 0.99
ALWAYS_LATE = episodes_of(*[[-1.0] * 25] * 100, terminated=[False] * 100)  # -22 in 25 steps, -100 if it continued


@pytest.mark.parametrize(("mean", "drifts"), [(233, 1), (101, 1), (99, 0), (-22, 0), (-150, 0), (-201, 1)])
def test_a_mean_target_outside_by_more_than_the_width_is_reported_once(mean, drifts):
    returns = ReturnRange()
    returns.add(ALWAYS_LATE, GAMMA)
    assert [returns.check(mean, np.nan, 600, GAMMA) for _ in range(4)] == [False, drifts, False, False]


@pytest.mark.parametrize(("episodes", "updates"), [(99, 5000), (100, 999)])
def test_nothing_is_judged_early(episodes, updates):
    returns = ReturnRange()
    returns.add({name: array[:episodes] for name, array in ALWAYS_LATE.items()}, GAMMA)
    assert not returns.check(1e6, np.nan, updates, GAMMA)


def test_intrinsic_rewards_widen_the_range_and_no_update_says_nothing():
    returns = ReturnRange()
    returns.add(episodes_of(*[[0.0, 1.0]] * 100, terminated=[True] * 100), GAMMA)
    assert not returns.check(60.0, 0.5, 2000, GAMMA)  # up to 0.5 a step for a horizon of 100
    assert not returns.check(np.nan, np.nan, 0, GAMMA)
    assert returns.check(110.0, 0.01, 1, GAMMA)


def test_tiny_rewards_are_no_alarm_for_noise():
    returns = ReturnRange()
    returns.add(episodes_of(*[[0.0]] * 100, terminated=[True] * 100), GAMMA)
    assert not returns.check(0.3, np.nan, 2000, GAMMA)


class Drifting(Mixer):
    def forward(self, team):
        return team.q.sum(-1)

    def bootstrap(self, team):
        return self(team) + 500.0


@pytest.mark.parametrize("mixer", ["vdn", Drifting])
def test_a_run_that_drifts_warns_once_also_after_a_restore(build, tmp_path, caplog, monkeypatch, mixer):
    monkeypatch.setattr(ReturnRange, "MIN_EPISODES", 10)
    monkeypatch.setattr(ReturnRange, "MIN_UPDATES", 10)
    caplog.set_level(logging.WARNING)
    algo, other = (build(small_config(QMIXConfig, mixer=mixer)) for _ in range(2))
    for _ in range(12):
        algo.train()
    other.restore(algo.save(str(tmp_path)).checkpoint.path)
    assert other.returns == algo.returns
    for _ in range(3):
        other.train()
    warnings = [record.getMessage() for record in caplog.records if "timeouts" in record.getMessage()]
    assert len(warnings) == (mixer is Drifting)
