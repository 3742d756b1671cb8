"""What each decomposition can express, learned from full exploration through the whole training path."""

import pytest

from games import MatrixGame, TwoStepGame
from rllib_ddn import variants
from rllib_ddn.evaluation import evaluate_network, summarize

SEED = 0


def greedy_return(build, host, game, iterations):
    """Greedy return of a host that has explored with random actions only."""
    config = (
        getattr(variants, f"{host}Config")()
        .environment("pettingzoo", env_config={"env": game})
        .training(lr=3e-3, train_batch_size=128, replay_buffer_config={"capacity": 2000}, target_update_interval_episodes=64)
        .env_runners(num_envs_per_env_runner=64, exploration_config={"initial_epsilon": 1.0, "final_epsilon": 1.0})
        .evaluation(evaluation_interval=None)
        .debugging(seed=SEED, log_level="ERROR")
    )
    config.min_sample_timesteps_per_iteration = 1
    algo = build(config)
    for _ in range(iterations):
        algo.train()
    return summarize(evaluate_network(algo.env_runner_group, "agent", [[0]]))["episode_return_mean"]


@pytest.mark.parametrize("host", ["QPLEX", "CWQMIX", "OWQMIX", "QTRAN"])
def test_finds_the_optimum_of_the_matrix_game(build, host):
    assert greedy_return(build, host, MatrixGame, 14) == 8


@pytest.mark.parametrize("host", ["VDN", "QMIX", "Qatten"])
def test_monotone_mixers_miss_the_optimum_of_the_matrix_game(build, host):
    assert greedy_return(build, host, MatrixGame, 14) < 8


def test_two_step_game_qmix_finds_8_and_vdn_7(build):
    assert greedy_return(build, "QMIX", TwoStepGame, 24) == 8
    assert greedy_return(build, "VDN", TwoStepGame, 24) == 7
