"""DDN learns: leader and follower on a small Predator-Prey, a random team far below them."""

import numpy as np

from rllib_ddn import DDNConfig
from rllib_ddn.rllib.evaluation import evaluate_network, summarize


def test_leader_and_follower_learn_a_small_predator_prey(build):
    """4 predators, 2 prey, a 5 x 5 grid, no penalty: the best return is 20."""
    game = {"grid_size": 5, "num_predators": 4, "num_prey": 2, "penalty": 0.0, "episode_limit": 40}
    config = (
        DDNConfig()
        .environment("predator_prey", env_config=game)
        .env_runners(num_envs_per_env_runner=8, exploration_config={"epsilon_timesteps": 10_000})
        .evaluation(evaluation_interval=None, evaluation_duration=64, evaluation_config={"num_envs_per_env_runner": 32})
        .debugging(seed=1, log_level="ERROR", log_sys_usage=False)
    )
    config.min_sample_timesteps_per_iteration = 15_000
    algo = build(config)
    runners = algo.eval_runners

    algo.env_runner.policy.global_timestep = 0  # epsilon is 1: every action is random
    random = summarize(evaluate_network(runners, "follower", [[7, k] for k in range(64)], explore=True))["episode_return_mean"]
    assert random < 4

    returns = {"leader": [], "follower": []}
    for _ in range(3):
        algo.train()
        for network, history in returns.items():
            history.append(summarize(evaluate_network(runners, network, [[8, k] for k in range(64)]))["episode_return_mean"])
    assert np.mean(returns["leader"][-2:]) > 12
    assert np.mean(returns["follower"][-2:]) > 12
    # What the follower knows, it has from the leader: it keeps up with it.
    assert np.mean(returns["follower"][-2:]) > 0.8 * np.mean(returns["leader"][-2:])
