"""Acting: what acted is what training unrolls; exploration; RLlib's ways to ask for actions."""

import numpy as np
import pytest
import torch

from rllib_ddn.envs import ENVS
from rllib_ddn.learning.batch import make_batch
from rllib_ddn.rllib.policy import random_available
from rllib_ddn.team import TeamEnvError
from support.configs import SMALL_GAME, small_config
from support.episodes import as_tensors


def unrolled_q(policy, network, episodes):
    """The Q values of all packed rows, as training computes them."""
    batch = make_batch(as_tensors({**episodes, "uniform": episodes["rewards"]}), policy.model.local_input)
    trained = policy.model.networks[network]
    return trained(*trained.inputs(batch.z, batch.state), batch_sizes=batch.batch_sizes).q


@pytest.mark.parametrize("network", ["leader", "follower"])
def test_training_unrolls_the_very_q_values_that_acted(build, network):
    algo = build(behaviour_network=network)
    policy, runner = algo.get_policy(), algo.env_runner
    for _ in range(4):
        algo.train()  # not only initial weights
    acted = []
    original = policy.act

    def record(*args, **kwargs):
        result = original(*args, **kwargs)
        acted.append(result[2].clone())
        return result

    policy.act = record
    batch = runner.sample()
    with torch.no_grad():
        q = unrolled_q(policy, network, batch)
    longest_first = np.argsort(-batch["length"], kind="stable")
    row = 0
    for t, values in enumerate(acted):
        acting = [b for b in range(len(batch["length"])) if batch["length"][b] > t]
        existing = [b for b in longest_first if batch["length"][b] >= t]  # final observations, too
        unrolled = q[[row + existing.index(b) for b in acting]]
        torch.testing.assert_close(values, unrolled, rtol=1e-4, atol=1e-5)
        row += len(existing)
    assert len(acted) == batch["length"].max()


def test_greedy_actions_are_the_best_available_of_the_unroll(build):
    algo = build()
    episodes, _ = algo.env_runner.play([[1]], "follower", explore=False)
    policy = algo.get_policy()
    with torch.no_grad():
        q = unrolled_q(policy, "follower", episodes)  # one episode: a row a step
    mask = torch.from_numpy(episodes["action_mask"][0])
    best = q.masked_fill(~mask, -torch.inf).argmax(-1)[:-1]
    np.testing.assert_array_equal(best, episodes["actions"][0])


def test_no_unavailable_action_is_ever_taken(build):
    episodes, _ = build().env_runner.play([[1], [2]], "follower", explore=True)
    for b in range(2):
        n = episodes["length"][b]
        taken = np.take_along_axis(episodes["action_mask"][b, :n], episodes["actions"][b, :n, :, None].astype(int), -1)
        assert taken.all()


def test_random_actions_are_uniform_over_the_available():
    mask = np.array([True, False, True, True, False])
    u = np.random.default_rng(0).random(30_000)
    actions = random_available(np.tile(mask, (30_000, 1)), u)
    counts = np.bincount(actions, minlength=5)
    assert counts[[1, 4]].sum() == 0
    assert np.abs(counts[[0, 2, 3]] - 10_000).max() < 400  # standard deviation 82


def test_exploration_is_independent_between_agents(build):
    """At epsilon 0.5 each agent explores half of the time, whatever the other agents do."""
    config = small_config()
    config.env_runners(
        num_envs_per_env_runner=40,
        exploration_config={"initial_epsilon": 0.5, "final_epsilon": 0.5, "epsilon_timesteps": 1},
    )
    config.environment(env_config={**SMALL_GAME, "catchers_needed": 4, "episode_limit": 60})
    algo = build(config)
    policy, explored = algo.get_policy(), []
    original = policy.act

    def record(*args, **kwargs):
        epsilon, uniform = args[5], args[6]
        assert epsilon == 0.5
        explored.append(uniform[..., 0] < epsilon)
        return original(*args, **kwargs)

    policy.act = record
    algo.env_runner.sample()
    explored = np.concatenate(explored)  # [steps, N]
    assert np.abs(explored.mean(0) - 0.5).max() < 0.05
    assert np.abs(np.corrcoef(explored.T) - np.eye(3)).max() < 0.1


def epsilons(build, num_envs):
    """(env steps of the whole algorithm, epsilon) at each call of the network."""
    config = small_config()
    config.env_runners(
        num_envs_per_env_runner=num_envs,
        exploration_config={"initial_epsilon": 1.0, "final_epsilon": 0.1, "epsilon_timesteps": 200},
    )
    config.environment(env_config={**SMALL_GAME, "catchers_needed": 4})
    algo = build(config)
    policy, seen, steps = algo.get_policy(), [], 0
    original = policy.act

    def record(*args, **kwargs):
        nonlocal steps
        seen.append((steps, args[5]))
        steps += len(args[1])
        return original(*args, **kwargs)

    policy.act = record
    while algo._counters["num_env_steps_sampled"] < 300:
        algo.training_step()
    return seen


@pytest.mark.parametrize("num_envs", [1, 5])
def test_epsilon_counts_env_steps_whatever_the_number_of_sub_envs(build, num_envs):
    for steps, epsilon in epsilons(build, num_envs):
        assert epsilon == pytest.approx(max(0.1, 1.0 - 0.9 * steps / 200))


def test_epsilon_counts_env_steps_whatever_the_number_of_runners(build):
    """Two runners of 3 games each are, after a round, where one runner of 6 is."""
    config = small_config()
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=3)
    algo = build(config)
    for _ in range(2):
        algo.training_step()
    steps = algo._counters["num_env_steps_sampled"]
    counts = algo.env_runner_group.foreach_env_runner(lambda runner: runner.policy.global_timestep)
    assert counts == [steps] * 3


def test_compute_single_action_plays_what_the_env_runner_plays(build):
    """RLlib's call, fed with the env's own observations, repeats a greedy episode exactly."""
    algo = build()
    for _ in range(3):
        algo.train()
    env = ENVS["predator_prey"](SMALL_GAME)
    seed = [5, 6]
    episodes, _ = algo.env_runner.play([seed], "follower", explore=False)
    observation, _ = env.reset(seed=int(np.random.default_rng(seed).integers(2**31)))
    state = algo.get_policy().get_initial_state()
    for t in range(episodes["length"][0]):
        action, state, extra = algo.compute_single_action(tuple(observation["team"]), state, explore=False)
        assert list(action) == episodes["actions"][0, t].tolist()
        assert extra["q_values"].shape == (3, 6)
        observation, *_ = env.step({"team": action})


def test_the_follower_executes_without_the_state_and_the_leader_does_not(build):
    algo = build()
    policy = algo.get_policy()
    observation, _ = ENVS["predator_prey"](SMALL_GAME).reset(seed=4)
    full = tuple(observation["team"])
    local = tuple({k: v for k, v in agent.items() if k != "state"} for agent in full)
    state = policy.get_initial_state()
    with_state, without = (algo.compute_single_action(o, state, explore=False) for o in (full, local))
    np.testing.assert_array_equal(with_state[2]["q_values"], without[2]["q_values"])
    batched = [{k: v[None] for k, v in agent.items()} for agent in local]
    with pytest.raises(TeamEnvError, match='the observation has no "state": training needs it, and a leader'):
        policy.compute_actions(batched, [s[None] for s in state], explore=False, network="leader")


def test_compute_actions_explores_within_the_mask(build):
    algo = build()
    env = ENVS["predator_prey"](SMALL_GAME)
    observation, _ = env.reset(seed=0)
    masks = np.array([agent["action_mask"] for agent in observation["team"]], bool)
    seen = set()
    for _ in range(200):
        action = algo.compute_single_action(
            tuple(observation["team"]), algo.get_policy().get_initial_state(), explore=True, timestep=0
        )[0]
        assert all(masks[i, a] for i, a in enumerate(action))
        seen.add(tuple(int(a) for a in action))
    assert len(seen) > 20


def test_the_models_forward_is_one_acting_step(build):
    """RLlib's call of the model gives the Q values that act."""
    policy = build().get_policy()
    rng, spec = np.random.default_rng(0), policy.spec
    obs = rng.integers(0, 2, (2, spec.num_agents, spec.obs_dim)).astype(np.int8)
    state = rng.integers(0, 2, (2, spec.state_dim)).astype(np.int8)
    mask = rng.random((2, spec.num_agents, spec.num_actions)) < 0.5
    mask[..., 4] = True
    actions, _, q = policy.act("follower", obs, state, mask, policy.initial_recurrent_state(2))
    initial = [s.expand(2, *s.shape) for s in policy.model.get_initial_state()]
    inputs = {"obs": torch.from_numpy(obs), "state": torch.from_numpy(state), "action_mask": torch.from_numpy(mask)}
    values, (_, last_action) = policy.model.forward(inputs, initial, None)
    torch.testing.assert_close(values[torch.from_numpy(mask)], q[torch.from_numpy(mask)])
    np.testing.assert_array_equal(values.argmax(-1), actions)
    np.testing.assert_array_equal(last_action, actions)
