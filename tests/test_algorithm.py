"""The algorithm through RLlib: schedules, env runners, statistics."""

import numpy as np
import pytest
import torch
from ray.tune.registry import get_trainable_cls

from rllib_ddn import QMIXConfig, VDNConfig
from support.configs import learner_stats, small_config


def counters(algo):
    return algo._counters["num_episodes_sampled"], algo.get_policy().num_grad_updates


@pytest.mark.parametrize("rate", [1, 0.25, 2.5])
def test_updates_per_episode(build, rate):
    algo = build(updates_per_episode=rate)
    algo.train()  # 2 episodes: fewer than a batch of 4
    assert counters(algo) == (2, 0)
    for _ in range(9):
        algo.train()
    assert counters(algo) == (20, int(20 * rate) - int(2 * rate))


@pytest.mark.parametrize("num_envs", [1, 3])
def test_targets_are_copied_every_so_many_episodes(build, num_envs):
    config = small_config(target_update_interval_episodes=6)
    config.env_runners(num_envs_per_env_runner=num_envs)
    algo = build(config)
    copies, original = [], algo.get_policy().update_target
    algo.get_policy().update_target = lambda: copies.append(algo._counters["num_episodes_sampled"]) or original()
    while algo._counters["num_episodes_sampled"] < 18:
        algo.training_step()
    assert copies == [6, 12, 18]


@pytest.mark.parametrize(("runners", "envs"), [(0, 1), (0, 3), (2, 2)])
def test_any_number_of_runners_and_sub_envs(build, runners, envs):
    config = small_config()
    config.env_runners(num_env_runners=runners, num_envs_per_env_runner=envs)
    algo = build(config)
    for _ in range(4):
        result = algo.train()
    episodes = 4 * max(1, runners) * envs
    assert algo._counters["num_episodes_sampled"] == episodes
    assert result["num_env_steps_sampled"] == algo.local_replay_buffer.num_steps
    for key in ("num_{}_steps_sampled", "num_{}_steps_trained"):  # of the team's three agents
        assert result[key.format("agent")] == 3 * result[key.format("env")] > 0 or episodes < 4
    assert result["env_runners"]["num_episodes"] == max(1, runners) * envs
    held = algo.local_replay_buffer.sample(min(episodes, 50), np.random.default_rng(0))
    starts = {row.tobytes() for row in held["state"][:, 0]}
    assert len(starts) == episodes  # no two episodes have the same seed
    if episodes >= 4:
        assert np.isfinite(learner_stats(result)["loss_global"])


def test_a_seed_that_is_not_given_is_drawn_and_recorded(build):
    def played(seed):
        config = small_config().debugging(seed=seed)
        # Only explores, for the weights are other ones without a seed.
        config.env_runners(exploration_config={"type": "EpsilonGreedy", "initial_epsilon": 1.0, "final_epsilon": 1.0})
        algo = build(config)
        result = algo.train()
        assert result["config"]["seed"] == seed  # what RLlib and torch are seeded with
        return result["seed"], result["env_runners"]["hist_stats"]

    torch.use_deterministic_algorithms(False)
    state = np.random.get_state()[1].copy()
    (first, returns), (second, _) = played(None), played(None)
    assert first != second
    assert not torch.are_deterministic_algorithms_enabled()
    assert np.array_equal(np.random.get_state()[1], state)
    assert played(first) == (first, returns)


def test_remote_runners_act_with_the_learners_weights_and_get_no_others(build):
    config = small_config()
    config.env_runners(num_env_runners=1)
    algo = build(config)
    for _ in range(3):
        algo.train()
    own = algo.get_policy().get_weights()
    (remote,) = algo.env_runner_group.foreach_env_runner(lambda r: r.policy.get_weights(), local_env_runner=False)
    for name, value in own.items():
        if value.any() and not name.startswith("intrinsic.networks.target"):  # these never change
            assert np.array_equal(value, remote[name]) == name.startswith("host.agent."), name
    sent = algo.env_runner.get_weights(inference_only=True)["default_policy"]
    assert all(name.startswith("host.agent.") for name in sent)


def test_the_learner_stats_are_all_there(build):
    algo = build()
    names = {
        "loss_global", "loss_block", "loss_q", "loss_feature", "loss_idm", "intrinsic_reward_mean", "q_tot_mean",
        "target_mean",
        "grad_norm_leader", "grad_norm_follower", "grad_norm_intrinsic",
    }  # fmt: skip
    first = learner_stats(algo.train())
    assert set(first) == names  # from the first result on, for loggers that fix their columns
    assert all(np.isnan(value) for value in first.values())
    algo.train()
    assert all(np.isfinite(v) for v in learner_stats(algo.train()).values())


@pytest.mark.parametrize(("name", "config"), [("VDN", VDNConfig), ("QMIX", QMIXConfig)])
def test_a_host_alone(build, name, config):
    """One network, blind to the state; trained, evaluated and broadcast as DDN is."""
    algo = build(small_config(config).evaluation(evaluation_interval=1, evaluation_duration=2))
    assert (type(algo).__name__, get_trainable_cls(name)) == (name, type(algo))
    for _ in range(3):
        result = algo.train()
    assert {"agent", "env_runners"} <= result["evaluation"].keys()
    assert not {"leader", "follower", "knowledge_transfer"} & result["evaluation"].keys()
    stats = learner_stats(result)
    assert {"loss_global", "target_mean", "q_tot_mean", "grad_norm_agent"} <= stats.keys()
    assert not {"loss_q", "loss_idm", "grad_norm_leader", "intrinsic_reward_mean"} & stats.keys()
    assert np.isfinite(list(stats.values())).all()
    policy = algo.get_policy()
    assert all(key.startswith("host.agent.") for key in policy.get_acting_weights())
    obs, state, mask = (
        np.zeros((1, 3, policy.spec.obs_dim)),
        np.zeros((2, policy.spec.state_dim)),
        np.ones((1, 3, 6), bool),
    )
    state[1] = 1.0
    q = [policy.act("agent", obs, s[None], mask, policy.initial_recurrent_state(1))[2] for s in state]
    torch.testing.assert_close(*q, rtol=0, atol=0)
