"""Env runners that play the next round while the learner learns: only their weights are a round old."""

import numpy as np
import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback

from support.configs import small_config


class NoteStart(RLlibCallback):
    """The env steps and the epsilon that an episode begins with."""

    def on_episode_start(self, *, worker, episode, **_):
        steps = worker.policy.global_timestep
        episode.custom_metrics |= {"steps": steps, "epsilon": worker.policy.epsilon(steps)}


@pytest.fixture
def ahead(build):
    config = small_config(sample_ahead=True).callbacks(NoteStart).reporting(metrics_num_episodes_for_smoothing=4)
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=2, exploration_config={"epsilon_timesteps": 300})
    return build(config)


def test_each_round_begins_with_the_steps_sampled_before_it(ahead):
    steps, epsilon = 0, 1.0
    for _ in range(5):
        result = ahead.train()
        noted = result["env_runners"]["custom_metrics"]
        assert noted["steps_min"] == noted["steps_max"] == steps
        assert noted["epsilon_mean"] == pytest.approx(epsilon)
        steps, epsilon = result["num_env_steps_sampled_lifetime"], result["info"]["cur_epsilon"]
    assert ahead.runners.pending == 2
    assert epsilon < 0.5


def test_a_restored_run_does_not_learn_from_the_round_under_way(ahead, tmp_path):
    for _ in range(2):
        ahead.train()
    path = ahead.save(str(tmp_path)).checkpoint.path
    for _ in range(2):
        ahead.train()
    ahead.restore(path)
    assert ahead.runners.pending == 0
    for _ in range(3):
        ahead.train()
    replay = ahead.local_replay_buffer
    starts = replay.sample(len(replay), np.random.default_rng(0))["state"][:, 0]
    assert len(starts) == len({row.tobytes() for row in starts}) == 20
