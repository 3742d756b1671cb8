"""Averaged weights: what they are, who plays with them, and that training never reads them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import rllib_ddn
from rllib_ddn.deploy import ExportedPolicy
from rllib_ddn.networks import AveragedNetworks
from support.configs import learner_stats, small_config

DECAY = 0.8


def naive_averages(snapshots, decay):
    """The averages of ``{name: array}`` after each update, one number at a time, with the published warm-up."""
    averages = dict(snapshots[0])
    for n, weights in enumerate(snapshots[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        averages = {name: average + (1 - d) * (weights[name] - average) for name, average in averages.items()}
    return averages


def weights_of(networks):
    return {
        f"{name}.{key}": value.detach().clone().double().numpy()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


def record_updates(policy):
    """The acting networks' weights after each update of a policy."""
    seen, apply = [], policy.apply_gradients

    def record(gradients):
        apply(gradients)
        seen.append(weights_of(policy.model.networks))

    policy.apply_gradients = record
    return seen


def assert_close(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def same_weights(a, b):
    """Whether two models have the same weights, but for the averages."""
    first, second = (
        {name: value for name, value in model.state_dict().items() if not name.startswith("averages.")}
        for model in (a, b)
    )
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_averages_of_a_random_walk():
    torch.manual_seed(0)
    shared = nn.Linear(2, 2)
    networks = {"leader": nn.Sequential(shared, nn.Linear(2, 3)), "follower": nn.Sequential(shared, nn.BatchNorm1d(2))}
    averages, snapshots = AveragedNetworks(networks, 0.9), []
    for step in range(60):
        with torch.no_grad():
            for network in networks.values():
                for parameter in network.parameters():
                    parameter.add_(torch.randn_like(parameter))
            networks["follower"][1].running_mean.fill_(step)
        averages.update(networks)
        snapshots.append(
            {name: v for name, v in weights_of(networks).items() if "running" not in name and "num_b" not in name}
        )
    expected = naive_averages(snapshots, 0.9)
    ours = weights_of(averages.networks)
    assert_close({name: ours[name] for name in expected}, expected)
    assert averages.networks["follower"][1].running_mean.tolist() == [59, 59]  # buffers are copied
    assert averages.networks["leader"][0] is averages.networks["follower"][0]
    assert not any(parameter.requires_grad for parameter in averages.parameters())


CASES = {
    "DDN": {},
    "DDN mixture": {"behaviour_network": "mixture", "mixture_timesteps": 100},
    "DDN trajectory": {"intrinsic_reward_stage": "trajectory"},
    "DDN one agent network": {"follower_agent": "leader", "q_loss_coeff": 0.0, "feature_loss_coeff": 0.0},
    "QMIX": {},
    "CTDS": {},
    "PTDE": {"leader_timesteps": 40},
    "IGMDA": {},
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_those_of_a_naive_loop_and_training_is_the_same_to_the_bit(build, case):
    config_class = getattr(rllib_ddn, f"{case.split()[0]}Config")
    runs = []
    for decay in (None, DECAY):
        algo = build(small_config(config_class, weight_averaging=decay, **CASES[case]))
        snapshots = record_updates(algo.get_policy())
        runs.append((algo.get_policy().model, snapshots, [learner_stats(algo.train()) for _ in range(5)]))
    (off, without, old), (on, snapshots, new) = runs
    assert off.averages is None
    assert off.deployed.keys() == off.networks.keys()
    assert len(snapshots) == len(without) > 5
    assert same_weights(off, on)
    np.testing.assert_equal(new, old)
    assert_close(weights_of(on.deployed), naive_averages(snapshots, DECAY))


def test_they_are_the_same_on_two_towers(build):
    found = []
    for towers in (0, 2):
        config = small_config(weight_averaging=DECAY)
        config.resources(num_gpus=towers)
        config._fake_gpus = bool(towers)
        algo = build(config)
        snapshots = record_updates(algo.get_policy())
        for _ in range(4):
            algo.train()
        assert_close(weights_of(algo.get_policy().model.deployed), naive_averages(snapshots, DECAY))
        found.append(len(snapshots))
    assert found[0] == found[1] > 3


def play(algo):
    """A greedy episode by RLlib's call; its actions."""
    env = algo.env_runner.env
    observations, _ = env.reset(seed=5)
    (team,) = observations
    state, actions, done = algo.get_policy().get_initial_state(), [], False
    while not done:
        action, state, _ = algo.compute_single_action(tuple(observations[team]), state, explore=False)
        actions.append([int(a) for a in action])
        observations, _, terminated, truncated, _ = env.step({team: action})
        done = terminated["__all__"] or truncated["__all__"]
    return actions


def spoil(networks):
    """Other weights for networks, which act otherwise."""
    torch.manual_seed(1)
    with torch.no_grad():
        for network in networks.values():
            for parameter in network.parameters():
                parameter.copy_(torch.randn_like(parameter))


@pytest.fixture
def trained(build):
    config = small_config(weight_averaging=DECAY)
    config.evaluation(evaluation_interval=5, evaluation_duration=4, evaluation_num_env_runners=1)
    algo = build(config)
    for _ in range(4):
        algo.train()
    return algo


def figures(results):
    return {network: results[network] for network in ("leader", "follower")}


def test_evaluation_users_and_export_play_with_the_averages(trained, tmp_path):
    policy = trained.get_policy()
    evaluated, played = figures(trained.evaluate()), play(trained)
    spoil(policy.model.networks)
    np.testing.assert_equal(figures(trained.evaluate()), evaluated)
    assert play(trained) == played
    policy.export(tmp_path)
    exported = ExportedPolicy(tmp_path)
    exported.reset()
    env, done, actions = trained.env_runner.env, False, []
    observations, _ = env.reset(seed=5)
    (team,) = observations
    while not done:
        obs, mask = (np.stack([agent[key] for agent in observations[team]]) for key in ("obs", "action_mask"))
        actions.append(exported.act(obs, mask).tolist())
        observations, _, terminated, truncated, _ = env.step({team: tuple(actions[-1])})
        done = terminated["__all__"] or truncated["__all__"]
    assert actions == played
    spoil(policy.model.deployed)
    assert figures(trained.evaluate()) != evaluated
    assert play(trained) != played


def test_evaluation_of_the_online_weights(build):
    """By one key: evaluation's env runners have no averages."""
    config = small_config(weight_averaging=DECAY)
    config.evaluation(evaluation_interval=5, evaluation_duration=4, evaluation_config={"weight_averaging": None})
    algo = build(config)
    for _ in range(4):
        algo.train()
    online = copy.deepcopy(algo.get_policy().model.networks)
    before = figures(algo.evaluate())
    spoil(algo.get_policy().model.deployed)
    np.testing.assert_equal(figures(algo.evaluate()), before)
    for name, network in algo.eval_env_runner.policy.model.deployed.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, online[name].state_dict()[key])


@pytest.mark.parametrize(("saved", "restored"), [(DECAY, 0.5), (DECAY, None), (None, DECAY)])
def test_restoring_into_another_decay(build, tmp_path, saved, restored):
    algo = build(weight_averaging=saved)
    for _ in range(4):
        algo.train()
    path = algo.save(str(tmp_path)).checkpoint.path
    other = build(weight_averaging=restored)
    other.restore(path)
    theirs, ours = algo.get_policy().model, other.get_policy().model
    assert same_weights(theirs, ours)
    if restored is None:
        assert ours.averages is None
    else:  # theirs, and where they have none the weights
        np.testing.assert_equal(weights_of(ours.deployed), weights_of(theirs.deployed))
        assert int(ours.averages.n_averaged) == (0 if saved is None else theirs.averages.n_averaged)
    before = weights_of(ours.deployed)
    snapshots = record_updates(other.get_policy())
    other.train()
    if saved and restored:  # it continues with its own decay
        expected, n = before, int(theirs.averages.n_averaged)
        for k, weights in enumerate(snapshots):
            d = min(restored, (1 + n + k) / (10 + n + k))
            expected = {name: value + (1 - d) * (weights[name] - value) for name, value in expected.items()}
        assert_close(weights_of(ours.deployed), expected)


def test_env_runners_that_sample_get_no_averages(build):
    config = small_config(weight_averaging=DECAY)
    policy = build(config).get_policy()
    names = set(policy.get_weights())
    assert {name for name in names if name.startswith("averages.")}
    assert not {name for name in policy.get_acting_weights() if name.startswith("averages.")}
