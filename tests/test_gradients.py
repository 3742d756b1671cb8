"""What no gradient may reach, what an update changes, and how gradients are clipped."""

import copy

import numpy as np
import torch
from ray.rllib.policy.sample_batch import SampleBatch

from rllib_ddn.learning.batch import make_batch
from support.configs import learner_stats, small_config
from support.episodes import as_tensors, random_episodes


def learn(policy, seed=0):
    fetches = policy.learn_on_batch(SampleBatch(random_episodes(policy.spec, seed), _zero_padded=True))
    return {**fetches["learner_stats"], **policy.gradient_norms}


def part(name):
    """The part of the model that a parameter belongs to."""
    return ".".join(name.split(".")[: 3 if name.startswith("intrinsic.") else 2])


def test_no_loss_reaches_another_networks_parameters(build):
    policy = build().get_policy()
    names, parameters = zip(*policy.model.named_parameters(), strict=True)
    for name, parameter in zip(names, parameters, strict=True):
        # Even of the host's targets: they are cut off, not merely frozen as the IDM's is.
        parameter.requires_grad_(not name.startswith("intrinsic.networks.target"))
    batch = make_batch(as_tensors(random_episodes(policy.spec)), policy.model.local_input)
    reached = {}
    for learner, loss in policy.compute_update(policy.model, batch).losses.items():
        loss.backward(retain_graph=True)
        found = zip(names, parameters, strict=True)
        reached[learner] = {part(name) for name, p in found if p.grad is not None and p.grad.abs().max() > 0}
        policy.model.zero_grad()
    assert reached == {
        "host": {"host.agent", "host.mixer"},
        "follower": {"distillation.follower"},
        "intrinsic": {"intrinsic.networks.predictor"},
    }


def test_an_update_changes_what_it_should_and_the_fixed_target_never(build):
    policy = build().get_policy()
    before = copy.deepcopy(policy.model.state_dict())
    for seed in range(3):
        learn(policy, seed)
    changed = {name for name, value in policy.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {part(name) for name in changed} == {
        "host.agent",
        "host.mixer",
        "distillation.follower",
        "intrinsic.networks.predictor",
        "averages.module",
        "averages.n_averaged",
    }
    policy.update_target()
    host = policy.model.host
    for ours, target in ((host.agent, host.target_agent), (host.mixer, host.target_mixer)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, target.state_dict()[name])


def test_the_follower_is_blind_to_the_state_at_every_step(build):
    policy, rng = build().get_policy(), np.random.default_rng(0)
    episodes = random_episodes(policy.spec)
    states = {
        kind: [policy.initial_recurrent_state(4), policy.initial_recurrent_state(4)] for kind in ("follower", "leader")
    }
    for t in range(7):
        obs, mask = episodes["obs"][:, t], np.ones((4, 3, 6), bool)
        for kind, pair in states.items():
            values = []
            for k in range(2):
                state = rng.normal(size=(4, policy.spec.state_dim)).astype(np.float32) * 100 * k
                _, (hidden, _), q = policy.act(kind, obs, state, mask, pair[k])
                pair[k] = hidden, torch.full((4, 3), 4)
                values.append(q)
            assert torch.equal(*values) == (kind == "follower")


def test_gradients_are_clipped_per_optimizer(build):
    policy = build(grad_clip=1e-3).get_policy()
    stats, model = learn(policy), policy.model
    for name, modules in (
        ("leader", [model.host.agent, model.host.mixer]),
        ("follower", [model.distillation.follower]),
        ("intrinsic", [model.intrinsic.networks.predictor]),
    ):
        norm = torch.sqrt(sum((p.grad**2).sum() for module in modules for p in module.parameters()))
        assert norm <= 1.001e-3
        assert stats[f"grad_norm_{name}"] > 1e-3  # the reported norm is the one before


def test_two_towers_make_the_same_update_as_one(build):
    """RLlib's multi-GPU path, on two fake GPUs, splits the batch by episodes."""
    weights, stats = [], []
    for towers in (0, 2):
        config = small_config(intrinsic_reward=False)
        config.resources(num_gpus=towers)
        config._fake_gpus = bool(towers)
        algo = build(config)
        for _ in range(3):
            result = algo.train()
        weights.append(algo.get_policy().get_weights())
        stats.append(learner_stats(result))
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], rtol=1e-3, atol=2e-5, err_msg=name)
    assert stats[0].keys() - {"allreduce_latency"} == stats[1].keys()
    for name in stats[1]:
        np.testing.assert_allclose(stats[0][name], stats[1][name], rtol=1e-2, err_msg=name)
