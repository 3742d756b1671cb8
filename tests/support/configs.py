"""Configs so small that an iteration takes a fraction of a second."""

from rllib_ddn import DDNConfig

SMALL_GAME = {"grid_size": 4, "num_predators": 3, "num_prey": 2, "penalty": 0.5, "episode_limit": 12, "sight": 1}


def small_config(config_class=DDNConfig, **training):
    """DDN, or another algorithm of this package, on a small Predator-Prey; an iteration is a round."""
    options = {"train_batch_size": 4, "replay_buffer_config": {"capacity": 50}, "agent_hidden_dim": 16, **training}
    config = (
        config_class()
        .environment("predator_prey", env_config=dict(SMALL_GAME))
        .training(**options)
        .env_runners(num_envs_per_env_runner=2)
        .evaluation(evaluation_interval=None)
        .debugging(seed=3, log_level="ERROR", log_sys_usage=False)  # whose thread takes 0.7 s to stop
    )
    config.min_sample_timesteps_per_iteration = 1
    return config


def plain_config(**more):
    """What a user types: a plain dict."""
    return {
        "env": "predator_prey",
        "env_config": dict(SMALL_GAME),
        "train_batch_size": 4,
        "agent_hidden_dim": 8,
        "num_envs_per_env_runner": 2,
        "min_sample_timesteps_per_iteration": 1,
        "evaluation_duration": 2,
        **more,
    }


def learner_stats(result):
    """The statistics of an iteration's updates."""
    return result["info"]["learner"]["default_policy"]["learner_stats"]
