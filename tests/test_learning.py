"""DDN learns: leader and follower on a small Predator-Prey, a random team far below them; and a leader sees its own agent."""

import numpy as np
import torch

from rllib_ddn import DDNConfig
from rllib_ddn.networks import GlobalGuidingNetwork, LocalInput, TeamSizes
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


def test_a_leader_sees_its_own_agent_past_a_state_that_tells_nothing():
    """Each of 4 agents is offered 40 values between 0 and 1 and takes one; the team gets their sum, the state is noise.

    A random team gets 0.5 for an agent, the best 0.98. With one hypernetwork of size 16 for W and B, and W unscaled, the
    leader has learned too little after as many updates.
    """
    torch.manual_seed(1)
    rows, agents, offers, state_dim = 256, 4, 40, 400
    local_input = LocalInput(agents, offers, offers)
    sizes = TeamSizes(num_agents=agents, num_actions=offers, state_dim=state_dim, obs_dim=offers, hidden_dim=64)
    defaults = DDNConfig()
    leader = GlobalGuidingNetwork(sizes, embed_dim=defaults.fusion_embed_dim, hyper_dim=defaults.fusion_hyper_dim)
    optimizer = torch.optim.Adam(leader.parameters(), lr=1e-3)

    def game():
        values = torch.rand(rows, agents, offers)
        z = local_input(values, torch.full((rows, agents), -1))
        return values, leader(z, (torch.rand(rows, state_dim) < 0.08).float()).q

    for _ in range(1200):
        values, q = game()
        taken = torch.randint(offers, (rows, agents, 1))
        q_tot, reward = (each.gather(-1, taken).sum((1, 2)) for each in (q, values))  # VDN's, of one step
        optimizer.zero_grad()
        (q_tot - reward).square().mean().backward()
        optimizer.step()
    values, q = game()
    assert values.gather(-1, q.argmax(-1, keepdim=True)).mean() > 0.76
