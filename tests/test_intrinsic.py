"""The intrinsic reward: its mask, its scale, its normalization, and the two stages at which it is added."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray.rllib.policy.sample_batch import SampleBatch

from rllib_ddn.learning.batch import make_batch
from rllib_ddn.learning.intrinsic import IDM
from rllib_ddn.random_streams import seed_sequence
from support.configs import learner_stats, small_config
from support.episodes import as_tensors, random_episodes
from support.small_team import SIZES, SPEC, local_input


def random_batch(seed=0):
    return make_batch(as_tensors(random_episodes(SPEC, seed)), local_input())


def error_of(idm, state):
    return (idm.networks.predictor(state) - idm.networks.target(state)).detach().pow(2).mean(-1)


@pytest.mark.parametrize("mask_probability", [0.0, 0.4, 1.0])
def test_the_reward_is_masked_and_scaled(mask_probability):
    idm, batch = IDM(SIZES, coefficient=0.5, mask_probability=mask_probability), random_batch()
    expected = torch.where(batch.uniform < mask_probability, 0.5 * error_of(idm, batch.state), torch.zeros(()))
    reward = idm.reward(batch)
    torch.testing.assert_close(reward, expected)
    paid = int((reward > 0).sum())
    assert paid == {0.0: 0, 1.0: len(reward)}.get(mask_probability, paid)
    assert mask_probability != 0.4 or 0 < paid < len(reward)
    mean = expected[batch.valid.bool()].mean()
    torch.testing.assert_close(idm.statistics(reward, batch), {"intrinsic_reward_mean": mean})


def test_the_loss_is_the_mean_error_of_the_valid_steps():
    idm, batch = IDM(SIZES), random_batch()
    loss, statistics = idm.loss(batch)
    torch.testing.assert_close(loss.detach(), error_of(idm, batch.state)[batch.valid.bool()].mean())
    assert torch.equal(statistics["loss_idm"], loss.detach())
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in idm.trained())
    assert all(p.grad is None for p in idm.networks.target.parameters())


@pytest.mark.parametrize(("norm", "reading"), [("mean", np.mean), ("sum", np.sum)])
def test_both_readings_of_equation_8(norm, reading):
    """1/n of a squared norm is a mean over the outputs, or the norm counts whole: 64 times as much."""
    idm, batch = IDM(SIZES, norm=norm, mask_probability=1.0), random_batch()
    outputs = (idm.networks.predictor(batch.state) - idm.networks.target(batch.state)).detach().square().numpy()
    assert outputs.shape[-1] == 64
    np.testing.assert_allclose(idm.reward(batch), reading(outputs, -1), rtol=1e-5)
    assert idm.loss(batch)[0].item() == pytest.approx(reading(outputs, -1)[batch.valid > 0].mean(), rel=1e-5)


def test_a_normalized_reward_is_divided_by_the_deviation_of_discounted_sums():
    """As in RND: of the sums ``c(t) = gamma c(t - 1) + L_I(t)`` over each episode, of all batches so far."""
    idm, sums = IDM(SIZES, coefficient=2.0, mask_probability=1.0, normalize=True, gamma=0.8), []
    for seed in range(3):
        episodes = random_episodes(SPEC, seed)
        batch = make_batch(as_tensors(episodes), local_input())
        idm.observe(batch)
        errors = error_of(idm, torch.from_numpy(episodes["state"].astype(np.float32))).numpy()
        for row, length in enumerate(episodes["length"]):
            running = 0.0
            for t in range(length):
                running = 0.8 * running + errors[row, t]
                sums.append(running)
    expected = 2.0 * error_of(idm, batch.state) / np.std(sums)
    torch.testing.assert_close(idm.reward(batch), expected.float(), rtol=1e-4, atol=1e-6)


def test_without_normalization_no_moments_are_kept():
    idm = IDM(SIZES)
    idm.observe(random_batch())
    assert idm.count == 0


def test_the_reward_is_taken_before_the_predictor_learns(build):
    policy = build(mask_probability=1.0).get_policy()
    episodes = random_episodes(policy.spec)
    state = torch.from_numpy(episodes["state"][:, :-1].astype(np.float32))
    valid = np.arange(state.shape[1]) < episodes["length"][:, None]
    mean = lambda: error_of(policy.model.intrinsic, state).numpy()[valid].mean()  # noqa: E731
    before = mean()
    stats = policy.learn_on_batch(SampleBatch(episodes, _zero_padded=True))["learner_stats"]
    np.testing.assert_allclose(stats["intrinsic_reward_mean"], before, rtol=1e-5)
    assert mean() < before


def test_trajectory_stage_is_the_same_reward(build):
    """postprocess_trajectory adds coeff * m * L_I, with m seeded by the episode id."""
    policy = build(intrinsic_reward_stage="trajectory", mask_probability=0.5, intrinsic_reward_coeff=2.0).get_policy()
    steps, spec, rng = 40, policy.spec, np.random.default_rng(0)
    state = rng.normal(size=(steps + 1, spec.state_dim)).astype(np.float32)
    obs = rng.integers(0, 2, (steps + 1, spec.num_agents, spec.obs_dim)).astype(np.int8)
    mask = np.ones((steps + 1, spec.num_agents, spec.num_actions), bool)
    rewards = np.arange(steps, dtype=np.float32)
    both = {"obs": obs, "state": state, "action_mask": mask}
    batch = SampleBatch(
        {
            **{name: array[:-1] for name, array in both.items()},
            **{f"new_{name}": array[1:] for name, array in both.items()},
            "actions": np.zeros((steps, spec.num_agents), np.uint8),
            "rewards": rewards.copy(),
            "terminateds": np.arange(steps) == steps - 1,
            "eps_id": np.full(steps, 77),
        }
    )
    episode = SimpleNamespace(custom_metrics={})
    done = policy.postprocess_trajectory(batch, episode=episode)
    keep = np.random.default_rng(seed_sequence("intrinsic_reward_mask", 77)).random(steps) < 0.5
    bonus = 2.0 * keep * error_of(policy.model.intrinsic, torch.from_numpy(state[:-1])).numpy()
    np.testing.assert_allclose(done["rewards"], rewards + bonus, rtol=1e-5)
    np.testing.assert_allclose(done["intrinsic_rewards"], bonus, rtol=1e-5)
    assert episode.custom_metrics["intrinsic_reward"] == pytest.approx(bonus.mean())
    assert 0 < keep.sum() < steps


def test_replay_stage_leaves_the_trajectory_alone(build):
    batch = SampleBatch({"state": np.zeros((2, 3)), "rewards": np.ones(2), "eps_id": np.zeros(2, int)})
    assert build().get_policy().postprocess_trajectory(batch)["rewards"].tolist() == [1, 1]


def test_mask_probability_zero_equals_no_intrinsic_reward_exactly(build):
    """m = 0 at every step, or no IDM at all: bit for bit the same training of everything else."""
    weights = []
    for options in ({"mask_probability": 0.0}, {"intrinsic_reward": False}):
        algo = build(small_config(**options))
        for _ in range(4):
            algo.train()
        weights.append({k: v for k, v in algo.get_policy().get_weights().items() if not k.startswith("intrinsic.")})
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])


@pytest.mark.parametrize(("choice", "kind"), [(True, IDM), (f"{IDM.__module__}:IDM", IDM), (False, None)])
def test_the_choices(build, choice, kind):
    algo = build(intrinsic_reward=choice)
    intrinsic = algo.get_policy().model.intrinsic
    assert intrinsic is None if kind is None else type(intrinsic) is kind
    assert ("loss_idm" in learner_stats(algo.train())) == (kind is not None)
