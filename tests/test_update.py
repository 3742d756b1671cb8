"""One update against a naive computation: losses, gradients, and the two ways to compute them."""

import pytest
import torch
from ray.rllib.policy.sample_batch import SampleBatch

from rllib_ddn import QMIXConfig, QPLEXConfig, VDNConfig
from rllib_ddn.learning.batch import make_batch
from rllib_ddn.learning.executor import concurrent, sequential
from rllib_ddn.rllib.ddn_policy import DDNTorchPolicy
from support import naive
from support.configs import small_config
from support.episodes import as_tensors, random_episodes


def losses_of(policy, episodes):
    """The losses as RLlib gets them, by the names of the learners."""
    batch = policy._lazy_tensor_dict(SampleBatch(episodes, _zero_padded=True))
    losses = policy.model.custom_loss(policy.loss(policy.model, None, batch), batch)
    return dict(zip(policy.model.trained(), losses, strict=True))


def trainable(policy):
    return [p for p in policy.model.parameters() if p.requires_grad]


def move_targets(policy):
    """Makes targets and online networks differ, as in mid-training."""
    torch.manual_seed(1)
    for p in policy.model.host.target_agent.parameters():
        p.data += 0.3 * torch.randn_like(p)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mixer": "vdn", "state_fusion": "raw"},
        {"double_q": False, "distillation_temperature": 0.5, "block_loss_coeff": 2.0, "feature_loss_coeff": 0.0},
        {"intrinsic_reward": False},
        {"intrinsic_reward_stage": "trajectory", "intrinsic_reward_coeff": 3.0},
        {"state_fusion": "concatenated"},
    ],
)
def test_losses_and_gradients_equal_the_naive_computation(build, options):
    compare_with_naive(build(td_lambda=0.0, **options).get_policy())


@pytest.mark.parametrize("config", [VDNConfig, QMIXConfig])
def test_a_hosts_loss_and_gradients_equal_the_naive_computation(build, config):
    policy = build(small_config(config, td_lambda=0.0)).get_policy()
    assert policy.model.distillation is None
    assert policy.model.intrinsic is None
    compare_with_naive(policy)


def compare_with_naive(policy):
    move_targets(policy)
    episodes, results = random_episodes(policy.spec), []
    for compute in (losses_of, naive.losses):
        losses = compute(policy, episodes)
        grads = torch.autograd.grad(sum(losses.values()), trainable(policy), allow_unused=True)
        results.append(({name: loss.detach() for name, loss in losses.items()}, grads))
    (losses_a, grads_a), (losses_b, grads_b) = results
    torch.testing.assert_close(losses_a, losses_b, rtol=1e-4, atol=1e-6)
    for a, b in zip(grads_a, grads_b, strict=True):
        zero = torch.zeros(())
        a, b = zero if a is None else a, zero if b is None else b
        torch.testing.assert_close(a, b.expand_as(a), rtol=1e-3, atol=1e-5)


def test_mixers_get_the_values_that_they_ask_for(build):
    """QPLEX alone: the loss has the online values and the actions taken, the target has the target network's
    values and the online network's greedy actions."""
    policy = build(small_config(QPLEXConfig, td_lambda=0.0)).get_policy()
    move_targets(policy)
    host = policy.model.host
    calls, loss, bootstrap = {}, host.mixer.loss, host.target_mixer.bootstrap
    host.mixer.loss = lambda *args: calls.update(loss=args) or loss(*args)
    host.target_mixer.bootstrap = lambda team: calls.update(target=team, value=bootstrap(team)) or calls["value"]
    episodes = random_episodes(policy.spec)
    losses_of(policy, episodes)

    batch = make_batch(as_tensors(episodes), policy.model.local_input)
    online, old = (network(batch.z, batch_sizes=batch.batch_sizes) for network in (host.agent, host.target_agent))
    team, y, greedy_value, valid = calls["loss"]
    torch.testing.assert_close(team.q_values, online.q)
    assert torch.equal(team.actions, batch.actions)
    assert torch.equal(valid, batch.valid)
    hidden = lambda q: q.masked_fill(~batch.action_mask, -torch.inf)  # noqa: E731
    torch.testing.assert_close(team.best_q, hidden(online.q).max(-1).values)
    torch.testing.assert_close(calls["target"].q_values, old.q)
    assert torch.equal(calls["target"].actions, hidden(online.q).argmax(-1))
    torch.testing.assert_close(calls["target"].best_q, hidden(old.q).max(-1).values)
    assert torch.equal(greedy_value, calls["value"])
    expected = batch.rewards + 0.99 * (1 - batch.terminated) * greedy_value[batch.next]
    torch.testing.assert_close(y, expected)


def test_padded_and_packed_steps_give_the_same_losses_and_gradients(build):
    """What a GPU computes (every episode padded to the longest) and what a CPU computes (no padding)."""
    policy = build().get_policy()
    episodes, rows, results = as_tensors(random_episodes(policy.spec)), [], []
    for pack in (True, False):
        batch = make_batch(episodes, policy.model.local_input, pack)
        rows.append(len(batch.valid))
        losses = policy.compute_update(policy.model, batch).losses
        assert set(losses) == {"host", "follower", "intrinsic"}
        results.append((losses, torch.autograd.grad(sum(losses.values()), trainable(policy), allow_unused=True)))
    assert rows == [7 + 4 + 2 + 7, 4 * 7]
    (losses_a, grads_a), (losses_b, grads_b) = results
    torch.testing.assert_close(losses_a, losses_b, rtol=1e-4, atol=1e-6)
    for a, b in zip(grads_a, grads_b, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_concurrent_learning_is_the_same_bit_for_bit(build):
    policy = build().get_policy()
    episodes, results = random_episodes(policy.spec), []
    for policy.executor in (sequential, concurrent):
        losses = losses_of(policy, episodes)
        grads = {
            name: torch.autograd.grad(loss, trainable(policy), allow_unused=True, retain_graph=True)
            for name, loss in losses.items()
        }
        results.append((losses, grads))
    (losses_a, grads_a), (losses_b, grads_b) = results
    for name in losses_a:
        assert torch.equal(losses_a[name], losses_b[name])
        for a, b in zip(grads_a[name], grads_b[name], strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


@pytest.mark.parametrize(
    ("cores", "options", "executor", "threads"),
    [
        (1, {}, sequential, 1),
        (2, {}, concurrent, 1),
        (2, {"leader_timesteps": 100}, sequential, 2),  # one of them learns, with both cores
        (
            2,
            dict.fromkeys((f"{term}_loss_coeff" for term in ("block", "q", "feature")), 0.0),
            sequential,
            2,
        ),
    ],
)
def test_two_cores_learn_concurrently(build, cores, options, executor, threads):
    config = small_config(**options)
    config.num_cpus_for_main_process = cores
    policy = build(config).get_policy()
    assert policy.executor is executor
    assert policy.learner_threads == threads


def test_threads_are_set_before_the_first_update(build, monkeypatch):
    """Or the follower's thread would take as many as there are cores, and keep them."""
    config, seen = small_config(), []
    config.num_cpus_for_main_process = 2
    compute = DDNTorchPolicy.compute_update
    monkeypatch.setattr(
        DDNTorchPolicy, "compute_update", lambda *args: seen.append(torch.get_num_threads()) or compute(*args)
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        build(config)
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_the_followers_thread_follows_torch_set_num_threads(build, monkeypatch):
    """A thread keeps the number that was set when it first ran an operator."""
    policy, before, seen = build().get_policy(), torch.get_num_threads(), []
    policy.executor = concurrent
    unroll = type(policy.model.distillation).unroll
    monkeypatch.setattr(
        type(policy.model.distillation), "unroll", lambda *args: seen.append(torch.get_num_threads()) or unroll(*args)
    )
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            losses_of(policy, random_episodes(policy.spec))
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 1]


@pytest.mark.parametrize("network", ["leader", "follower"])
def test_an_error_in_either_thread_is_raised_and_nothing_hangs(build, network):
    policy = build().get_policy()
    policy.executor = concurrent

    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    broken = policy.model.networks[network]
    whole, broken.forward = broken.forward, fail
    with pytest.raises(RuntimeError, match="broken"):
        losses_of(policy, random_episodes(policy.spec))
    broken.forward = whole
    assert len(losses_of(policy, random_episodes(policy.spec))) == 3
