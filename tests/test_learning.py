"""Leader and follower learn small Predator-Preys; and a leader uses the local information of its agent."""

import numpy as np
import pytest
import torch

from rllib_ddn import DDNConfig
from rllib_ddn.networks import GlobalGuidingNetwork, LocalInput, TeamSizes
from rllib_ddn.rllib.evaluation import evaluate_network, summarize


def small_predator_prey(seed, epsilon_timesteps, steps, **env_config):
    """4 predators, 2 prey, a 5 x 5 grid: the best return is 20. Iterations of ``steps`` env steps, no evaluations."""
    size = {"grid_size": 5, "num_predators": 4, "num_prey": 2, "episode_limit": 40}
    config = (
        DDNConfig()
        .environment("predator_prey", env_config=size | env_config)
        .env_runners(num_envs_per_env_runner=8, exploration_config={"epsilon_timesteps": epsilon_timesteps})
        .evaluation(evaluation_interval=None, evaluation_duration=64, evaluation_config={"num_envs_per_env_runner": 32})
        .debugging(seed=seed, log_level="ERROR", log_sys_usage=False)
    )
    config.min_sample_timesteps_per_iteration = steps
    return config


def mean_return(algo, network, seed, explore=False):
    """Over 64 episodes."""
    episodes = evaluate_network(algo.eval_runners, network, [[seed, k] for k in range(64)], explore=explore)
    return summarize(episodes)["episode_return_mean"]


def test_leader_and_follower_learn_a_small_predator_prey(build):
    """On seeds 1 to 3, means of the last two evaluations are 13 to 17 (leaders) and 12 to 17 (followers)."""
    algo = build(small_predator_prey(2, 10_000, 10_000, penalty=0.0).training(updates_per_episode=0.5))

    algo.env_runner.policy.global_timestep = 0  # epsilon is 1: every action is random
    assert mean_return(algo, "follower", 7, explore=True) < 4

    returns = {"leader": [], "follower": []}
    for _ in range(3):
        algo.train()
        for network, history in returns.items():
            history.append(mean_return(algo, network, 8))
    for history in returns.values():
        assert np.mean(history[-2:]) > 12
    # The follower learns from the leader alone, and keeps up with it.
    assert np.mean(returns["follower"][-2:]) > 0.8 * np.mean(returns["leader"][-2:])


@pytest.mark.slow
def test_leader_and_follower_learn_where_a_catch_that_fails_is_punished(build):
    """A team that never tries to catch gets 0. On seeds 2 and 3 leaders get 18 and 10 after these steps. With one
    hypernetwork of size 16 for W and B, D of 32 and W unscaled they get 4 and 0, also after a third more steps."""
    algo = build(small_predator_prey(2, 20_000, 30_000, penalty=1.0).training(mixer="vdn", train_batch_size=16))
    algo.train()
    for network in ("leader", "follower"):
        assert mean_return(algo, network, 8) > 7


def test_a_leader_uses_local_information_where_the_state_is_noise():
    """Each of 4 agents is offered 40 values between 0 and 1 and takes one; the team gets their sum, the state is noise.

    A random team gets 0.5 for an agent, the best 0.98. With one hypernetwork of size 16 for W and B, and W unscaled,
    the leader has learned too little after as many updates.
    """
    torch.manual_seed(1)
    rows, agents, offers, state_dim = 256, 4, 40, 400
    local_input = LocalInput(agents, offers)
    sizes = TeamSizes(num_agents=agents, num_actions=offers, state_dim=state_dim, obs_dim=offers, hidden_dim=64)
    defaults = DDNConfig()
    leader = GlobalGuidingNetwork(sizes, embed_dim=defaults.fusion_embed_dim, hyper_dim=defaults.fusion_hyper_dim)
    optimizer = torch.optim.Adam(leader.parameters(), lr=1e-3)

    def play():
        values = torch.rand(rows, agents, offers)
        z = local_input(values, torch.full((rows, agents), -1))
        return values, leader(z, (torch.rand(rows, state_dim) < 0.08).float()).q

    for _ in range(1200):
        values, q = play()
        taken = torch.randint(offers, (rows, agents, 1))
        q_tot, reward = (each.gather(-1, taken).sum((1, 2)) for each in (q, values))  # VDN's, of one step
        optimizer.zero_grad()
        (q_tot - reward).square().mean().backward()
        optimizer.step()
    values, q = play()
    assert values.gather(-1, q.argmax(-1, keepdim=True)).mean() > 0.76
