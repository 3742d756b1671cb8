"""TD targets: by hand, and lambda returns against a loop over single steps."""

import numpy as np
import pytest
import torch

from examples import target
from examples.target import two_steps
from rllib_ddn import QMIXConfig
from rllib_ddn.learning.batch import make_batch
from rllib_ddn.learning.targets import td_targets
from support.configs import learner_stats, small_config
from support.episodes import as_tensors, random_episodes
from support.small_team import SPEC, local_input

GAMMA, LENGTHS = 0.9, (5, 2, 1, 5, 4)


def test_one_step_by_hand():
    """Two episodes: one of three steps that is truncated, one of two that terminates."""
    episodes = as_tensors(random_episodes(SPEC, lengths=(2, 3)))
    assert episodes["terminated"].tolist() == [True, False]
    batch = make_batch(episodes, local_input())
    # The rows: step 0 of the long and the short episode, step 1 of both, and so on, each with its final observation.
    rewards = torch.tensor([1.0, 10.0, 2.0, 20.0, 3.0, 0.0, 0.0])
    values = torch.tensor([100.0, 200.0, 110.0, 210.0, 120.0, 220.0, 130.0])
    y = td_targets(rewards, values, batch, 0.5)
    assert batch.valid.tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert y[:5].tolist() == [1 + 55, 10 + 105, 2 + 60, 20, 3 + 65]


@pytest.fixture(params=[True, False], ids=["packed", "padded"])
def sample(request):
    """A batch of ragged episodes, its episodes, and for each row its episode, its step and a value."""
    episodes = random_episodes(SPEC, lengths=LENGTHS)
    batch = make_batch(as_tensors(episodes), local_input(), pack=request.param)
    order = np.argsort(-np.array(LENGTHS), kind="stable") if request.param else np.arange(len(LENGTHS))
    rows = [(int(b), t) for t, size in enumerate(batch.batch_sizes.tolist()) for b in order[:size]]
    values = np.random.default_rng(1).normal(size=(len(LENGTHS), max(LENGTHS) + 1)).astype(np.float32)
    return batch, episodes, rows, values


def naive(episodes, values, td_lambda):
    """``{(episode, step): target}``, one step after the other from the end."""
    targets = {}
    for b, length in enumerate(LENGTHS):
        later = 0.0 if episodes["terminated"][b] else values[b, length]
        for t in reversed(range(length)):
            following = (1 - td_lambda) * values[b, t + 1] + td_lambda * later
            if t == length - 1 and episodes["terminated"][b]:
                following = 0.0
            later = targets[b, t] = episodes["rewards"][b, t] + GAMMA * following
    return targets


@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
def test_lambda_returns_equal_a_loop_over_single_steps(sample, td_lambda):
    batch, episodes, rows, values = sample
    ours = td_targets(batch.rewards, torch.tensor([values[row] for row in rows]), batch, GAMMA, td_lambda)
    expected = naive(episodes, values, td_lambda)
    steps = [(i, row) for i, row in enumerate(rows) if row in expected]
    assert len(steps) == sum(LENGTHS) == int(batch.valid.sum())
    np.testing.assert_allclose(
        [float(ours[i]) for i, _ in steps], [expected[row] for _, row in steps], rtol=1e-5, atol=1e-6
    )


def test_lambda_0_is_the_one_step_target_bit_for_bit(sample):
    batch, _, rows, values = sample
    values = torch.tensor([values[row] for row in rows])
    expected = batch.rewards + GAMMA * (1.0 - batch.terminated) * values[batch.next]
    assert torch.equal(td_targets(batch.rewards, values, batch, GAMMA), expected)


def test_lambda_1_of_a_terminated_episode_is_its_discounted_return(sample):
    batch, episodes, rows, values = sample
    ours = td_targets(batch.rewards, torch.tensor([values[row] for row in rows]), batch, GAMMA, 1.0)
    assert episodes["terminated"][0]
    discounted = sum(GAMMA**t * episodes["rewards"][0, t] for t in range(LENGTHS[0]))
    assert float(ours[rows.index((0, 0))]) == pytest.approx(discounted, rel=1e-5)


def test_custom_targets(sample):
    """The example of two steps, against the rewards and values by hand."""
    batch, episodes, rows, values = sample
    y = two_steps(batch.rewards, torch.tensor([values[row] for row in rows]), batch, GAMMA)
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            end = min(t + 2, length)
            bootstraps = end < length or not episodes["terminated"][b]
            expected = sum(GAMMA ** (k - t) * episodes["rewards"][b, k] for k in range(t, end))
            expected += GAMMA ** (end - t) * values[b, end] * bootstraps
            assert float(y[rows.index((b, t))]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_custom_targets_are_learned_from(build):
    algo = build(small_config(QMIXConfig, targets=target.config.targets))
    assert algo.get_policy().model.host.targets is two_steps
    for _ in range(3):
        statistics = learner_stats(algo.train())
    assert np.isfinite(statistics["target_mean"])
