"""Videos of greedy episodes during training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray import tune

from examples.parallel_env import Meeting
from rllib_ddn import QMIXConfig
from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
from rllib_ddn.rllib import value_decomposition
from support.configs import plain_config, small_config

pytestmark = pytest.mark.usefixtures("cluster")


def test_videos_change_nothing_that_is_learned(build):
    outcomes = []
    for interval in (None, 2):
        algo = build(small_config(video_interval=interval))
        for _ in range(4):
            algo.train()
        drawn = torch.rand(1).item(), np.random.rand()
        outcomes.append((algo.get_policy().get_weights(), drawn))
    (plain, first), (videos, second) = outcomes
    assert first == second
    assert all(np.array_equal(plain[name], videos[name]) for name in plain)
    gifs = sorted(Path(algo.logdir, "videos").iterdir())
    assert [gif.name for gif in gifs] == ["iteration_000002.gif", "iteration_000004.gif"]
    assert all(1 < Image.open(gif).n_frames <= 13 for gif in gifs)  # of 12 steps; equal neighbours are merged


def test_under_tune_they_lie_in_the_trials_folder(tmp_path):
    config = plain_config(video_interval=1, evaluation_interval=None)
    (trial,) = tune.run(
        "QMIX", config=config, stop={"training_iteration": 2}, storage_path=str(tmp_path), verbose=0
    ).trials
    assert [gif.name for gif in sorted(Path(trial.path, "videos").iterdir())] == [
        "iteration_000001.gif",
        "iteration_000002.gif",
    ]


class NoImage(PredatorPreyTeam):
    def render(self):
        return None


def takes_no_render_mode(max_steps):
    return Meeting(max_steps)


@pytest.mark.parametrize(
    ("env", "env_config", "message"),
    [
        (NoImage, {}, 'render() gives NoneType, and no image for render_mode "rgb_array"'),
        ("pettingzoo", {"env": takes_no_render_mode, "max_steps": 5}, "it takes no render_mode"),
    ],
)
def test_an_env_that_cannot_be_rendered_is_refused(env, env_config, message):
    config = QMIXConfig().environment(env, env_config=env_config).training(video_interval=5)
    with pytest.raises(ValueError, match="video_interval needs an env that can be rendered: ") as error:
        config.check_env()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_training_survives_a_video_that_fails(build, monkeypatch):
    def failing(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(value_decomposition, "write_gif", failing)
    algo = build(small_config(video_interval=1))
    for _ in range(3):
        result = algo.train()
    assert result["info"]["num_updates"] > 0
    assert not Path(algo.logdir, "videos").exists()
