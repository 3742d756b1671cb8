"""One update against a naive computation, and what no gradient may reach."""

import copy
import types

import numpy as np
import pytest
import torch
from ray.rllib.policy.sample_batch import SampleBatch

from conftest import small_config
from rllib_ddn import QMIXConfig, QPLEXConfig, VDNConfig
from rllib_ddn.networks import LocalAgentNetwork


@pytest.fixture
def policy(build):
    def make(**training):
        return build(**training).get_policy()

    return make


def random_batch(policy, seed=0):
    """Episodes of lengths 6, 3, 1 and 6, some terminated, with random contents and masks."""
    spec, rng, length = policy.spec, np.random.default_rng(seed), np.array([6, 3, 1, 6], np.int32)
    rows, steps = 4, 6
    mask = rng.random((rows, steps + 1, spec.num_agents, spec.num_actions)) < 0.6
    mask[..., 4] = True
    batch = {
        "obs": rng.integers(0, 2, (rows, steps + 1, spec.num_agents, spec.obs_dim)).astype(np.int8),
        "state": rng.integers(0, 2, (rows, steps + 1, spec.state_dim)).astype(np.int8),
        "action_mask": mask,
        "actions": rng.integers(0, spec.num_actions, (rows, steps, spec.num_agents)).astype(np.uint8),
        "rewards": rng.normal(size=(rows, steps)).astype(np.float32),
        "terminated": np.array([True, False, True, False]),
        "length": length,
        "keep": rng.random((rows, steps)) < 0.5,
    }
    for row, n in enumerate(length):  # as the replay leaves it: zeros behind the end
        for name in ("obs", "state", "action_mask"):
            batch[name][row, n + 1 :] = 0
        for name in ("actions", "rewards"):
            batch[name][row, n:] = 0
    return SampleBatch(batch, _zero_padded=True)


def losses_of(policy, batch):
    batch = policy._lazy_tensor_dict(batch.copy())
    return policy.model.custom_loss(policy.loss(policy.model, None, batch), batch)


def naive_unroll(network, inputs, z):
    """One episode, one agent and one step at a time, with W materialized where there is one."""
    steps, agents = z.shape[:2]
    fused, features, q = [], [], []
    hidden = [torch.zeros(network.agent.hidden_dim) for _ in range(agents)]
    for t in range(steps):
        row = ([], [], [])
        for i in range(agents):
            x = inputs[t] if inputs.dim() == 2 else inputs[t, i]
            if isinstance(network, LocalAgentNetwork):
                hat = z[t, i]
            elif network.raw:
                hat = network.fusion.linear(torch.cat([x, z[t, i]]) if inputs.dim() == 2 else z[t, i])
            else:
                block = network.fusion
                w, bias = block.materialized(z[t, i])
                hat = x @ w + bias
            both = torch.cat([hat, z[t, i]]) if getattr(network, "concatenated", False) else hat
            f = torch.relu(network.agent.encoder(both))
            hidden[i] = torch.gru_cell(f[None], hidden[i][None], *network.agent.gru.parameters())[0]
            for values, value in zip(row, (hat, f, network.agent.q_head(hidden[i])), strict=True):
                values.append(value)
        for out, values in zip((fused, features, q), row, strict=True):
            out.append(torch.stack(values))
    return torch.stack(fused), torch.stack(features), torch.stack(q)


def test_mixers_get_the_values_that_they_ask_for(build):
    """QPLEX alone: the loss has the online values and the actions taken, the target has the target network's
    values and the online network's greedy actions."""
    ours = build(small_config(QPLEXConfig)).get_policy()
    torch.manual_seed(1)
    for p in ours.model.target_leader.parameters():
        p.data += 0.3 * torch.randn_like(p)
    calls, mixer, target = {}, ours.model.mixer, ours.model.target_mixer
    loss, bootstrap = mixer.loss, target.bootstrap
    mixer.loss = lambda *args: calls.update(loss=args) or loss(*args)
    target.bootstrap = lambda team: calls.update(target=team, value=bootstrap(team)) or calls["value"]
    batch = random_batch(ours)
    losses_of(ours, batch)

    packed = ours.model.to_train_batch(ours._lazy_tensor_dict(batch.copy()))
    unroll = lambda network: network(packed.z, packed.state, batch_sizes=packed.batch_sizes)  # noqa: E731
    online, old = unroll(ours.model.leader), unroll(ours.model.target_leader)
    team, y, greedy_value, valid = calls["loss"]
    torch.testing.assert_close(team.q_values, online.q)
    assert torch.equal(team.actions, packed.actions)
    assert torch.equal(valid, packed.valid)
    hidden = lambda q: q.masked_fill(~packed.action_mask, -torch.inf)  # noqa: E731
    torch.testing.assert_close(team.best_q, hidden(online.q).max(-1).values)
    torch.testing.assert_close(calls["target"].q_values, old.q)
    assert torch.equal(calls["target"].actions, hidden(online.q).argmax(-1))
    torch.testing.assert_close(calls["target"].best_q, hidden(old.q).max(-1).values)
    assert torch.equal(greedy_value, calls["value"])
    expected = packed.rewards + 0.99 * (1 - packed.terminated) * greedy_value[packed.next]
    torch.testing.assert_close(y, expected)


def mixed(mixer, q, state):
    """Q_tot of one team at one step, for the mixers that need no more."""
    step = types.SimpleNamespace(q=q[None], state=state[None])
    return mixer(step)[0]


def naive_losses(policy, batch):
    """L_global, L_local and L_I from the paper's equations and DESIGN's rulings, episode by episode."""
    model, config, spec = policy.model, policy.config, policy.spec
    squares, block, kl_q, kl_f, error_sum = [], [], [], [], []
    for row in range(len(batch["length"])):
        n = int(batch["length"][row])
        obs, state = (torch.from_numpy(batch[k][row, : n + 1].astype(np.float32)) for k in ("obs", "state"))
        mask, actions = batch["action_mask"][row], batch["actions"][row].astype(int)
        z = torch.zeros(n + 1, spec.num_agents, spec.obs_dim + spec.num_actions + spec.num_agents)
        for t in range(n + 1):
            for i in range(spec.num_agents):
                z[t, i, : spec.obs_dim] = obs[t, i]
                if t > 0:
                    z[t, i, spec.obs_dim + actions[t - 1, i]] = 1
                z[t, i, spec.obs_dim + spec.num_actions + i] = 1
        s_hat, f_leader, q_leader = naive_unroll(model.leader, state, z)
        _, _, q_target = naive_unroll(model.target_leader, state, z)
        if model.follower is not None:
            o_hat, f_follower, q_follower = naive_unroll(model.follower, obs, z)
        for t in range(n):
            reward = float(batch["rewards"][row, t])
            if model.idm is not None:
                error = (model.idm.predictor(state[t]) - model.idm.target(state[t])).pow(2).mean()
                error_sum.append(error)
                if batch["keep"][row, t] and config["intrinsic_reward_stage"] == "replay":
                    reward += config["intrinsic_reward_coeff"] * error.item()
            chosen = torch.stack([q_leader[t, i, actions[t, i]] for i in range(spec.num_agents)])
            q_tot = mixed(model.mixer, chosen, state[t])
            target = torch.tensor(reward)
            last = t == n - 1
            if not (last and batch["terminated"][row]):  # a cut-off episode bootstraps
                best = []
                for i in range(spec.num_agents):
                    available = [a for a in range(spec.num_actions) if mask[t + 1, i, a]]
                    chooser = q_leader if config["double_q"] else q_target
                    a = max(available, key=lambda a, i=i: chooser[t + 1, i, a].item())
                    best.append(q_target[t + 1, i, a])
                target = target + config["gamma"] * mixed(model.target_mixer, torch.stack(best), state[t + 1])
            squares.append((q_tot - target.detach()) ** 2)
            if model.follower is None:
                continue
            block.append(((o_hat[t] - s_hat[t].detach()) ** 2).mean())
            total_q = total_f = 0.0
            for i in range(spec.num_agents):
                available = torch.from_numpy(mask[t, i])
                p = torch.softmax(q_leader[t, i][available].detach() / config["distillation_temperature"], 0)
                q = torch.softmax(q_follower[t, i][available] / config["distillation_temperature"], 0)
                total_q = total_q + (p * (p / q).log()).sum()
                p, q = torch.softmax(f_leader[t, i].detach(), 0), torch.softmax(f_follower[t, i], 0)
                total_f = total_f + (p * (p / q).log()).sum()
            kl_q.append(total_q)
            kl_f.append(total_f)
    mean = lambda values: torch.stack(values).mean()  # noqa: E731
    coeffs = config["block_loss_coeff"], config["q_loss_coeff"], config["feature_loss_coeff"]
    local = [sum(c * mean(v) for c, v in zip(coeffs, (block, kl_q, kl_f), strict=True))] if block else []
    return [mean(squares), *local, *([mean(error_sum)] if error_sum else [])]


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
def test_losses_and_gradients_equal_the_naive_computation(policy, options):
    compare_with_naive(policy(**options))


@pytest.mark.parametrize("config", [VDNConfig, QMIXConfig])
def test_a_hosts_loss_and_gradients_equal_the_naive_computation(build, config):
    policy = build(small_config(config)).get_policy()
    assert policy.model.follower is None
    assert policy.model.idm is None
    compare_with_naive(policy)


def compare_with_naive(ours):
    # Make targets and online networks differ, as in mid-training.
    torch.manual_seed(1)
    for p in ours.model.target_leader.parameters():
        p.data += 0.3 * torch.randn_like(p)
    batch, parameters = random_batch(ours), [p for p in ours.model.parameters() if p.requires_grad]
    results = []
    for compute in (losses_of, naive_losses):
        losses = compute(ours, batch)
        grads = torch.autograd.grad(sum(losses), parameters, allow_unused=True)
        results.append(([loss.detach() for loss in losses], grads))
    (losses_a, grads_a), (losses_b, grads_b) = results
    torch.testing.assert_close(losses_a, losses_b, rtol=1e-4, atol=1e-6)
    for a, b in zip(grads_a, grads_b, strict=True):
        zero = torch.zeros(())
        a, b = zero if a is None else a, zero if b is None else b
        torch.testing.assert_close(a, b.expand_as(a), rtol=1e-3, atol=1e-5)


def test_padded_and_packed_steps_give_the_same_losses_and_gradients(policy):
    """What a GPU computes (every episode padded to the longest) and what a CPU computes (no padding)."""
    ours = policy()
    batch, parameters = random_batch(ours), [p for p in ours.model.parameters() if p.requires_grad]
    original, results = ours.model.to_train_batch, []
    for pack in (True, False):
        ours.model.to_train_batch = lambda b, pack=pack: original(b, pack)
        losses = losses_of(ours, batch)
        results.append((losses, torch.autograd.grad(sum(losses), parameters, allow_unused=True)))
    rows = [len(original(ours._lazy_tensor_dict(batch.copy()), pack).valid) for pack in (True, False)]
    assert rows == [7 + 4 + 2 + 7, 4 * 7]
    for a, b in zip(*results, strict=True):
        for x, y in zip(a, b, strict=True):
            if x is not None:
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_learning_side_by_side_is_the_same_bit_for_bit(policy):
    ours = policy()
    batch, parameters = random_batch(ours), [p for p in ours.model.parameters() if p.requires_grad]
    results = []
    for overlap in (False, True):
        ours.model.overlap = overlap
        losses = losses_of(ours, batch)
        grads = [torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True) for loss in losses]
        results.append((losses, grads))
    (losses_a, grads_a), (losses_b, grads_b) = results
    assert all(torch.equal(a, b) for a, b in zip(losses_a, losses_b, strict=True))
    for network_a, network_b in zip(grads_a, grads_b, strict=True):
        for a, b in zip(network_a, network_b, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("network", ["leader", "follower"])
def test_an_error_beside_the_other_loss_is_raised_and_nothing_hangs(policy, network):
    ours = policy()
    ours.model.overlap = True

    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    whole = getattr(ours.model, network).forward
    getattr(ours.model, network).forward = fail
    with pytest.raises(RuntimeError, match="broken"):
        losses_of(ours, random_batch(ours))
    getattr(ours.model, network).forward = whole
    assert len(losses_of(ours, random_batch(ours))) == 3


def modules_reached(policy, loss):
    """Names of the model's parts that get a gradient from a loss."""
    names, parameters = zip(*policy.model.named_parameters(), strict=True)
    for p in parameters:
        p.requires_grad_(True)  # even of targets: they must be cut off, not merely frozen
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {
        ".".join(name.split(".")[:2]) if name.startswith("idm") else name.split(".")[0]
        for name, grad in zip(names, grads, strict=True)
        if grad is not None and grad.abs().max() > 0
    }


def test_no_loss_reaches_another_networks_parameters(policy):
    ours = policy()
    l_global, l_local, l_idm = losses_of(ours, random_batch(ours))
    assert modules_reached(ours, l_global) == {"leader", "mixer"}
    assert modules_reached(ours, l_local) == {"follower"}
    assert modules_reached(ours, l_idm) == {"idm.predictor"}


def test_an_update_changes_what_it_should_and_the_fixed_target_never(policy):
    ours = policy()
    before = copy.deepcopy(ours.model.state_dict())
    for seed in range(3):
        ours.learn_on_batch(random_batch(ours, seed))
    changed = {name for name, value in ours.model.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.split(".")[0] for name in changed if not name.startswith("idm")}
    assert parts == {"leader", "mixer", "follower"}
    assert any(name.startswith("idm.predictor") for name in changed)
    assert not any(name.startswith("idm.target") for name in changed)
    ours.update_target()
    for name, value in ours.model.leader.state_dict().items():
        assert torch.equal(value, ours.model.target_leader.state_dict()[name])


def test_the_follower_is_blind_to_the_state_at_every_step(policy):
    ours, rng = policy(), np.random.default_rng(0)
    batch = random_batch(ours)
    memories = {kind: [ours.initial_memory(4), ours.initial_memory(4)] for kind in ("follower", "leader")}
    for t in range(7):
        obs, mask = batch["obs"][:, t], np.ones((4, 3, 6), bool)
        for kind, pair in memories.items():
            values = []
            for k in range(2):
                state = rng.normal(size=(4, ours.spec.state_dim)).astype(np.float32) * 100 * k
                _, (hidden, _), q = ours.act(kind, obs, state, mask, pair[k])
                pair[k] = hidden, torch.full((4, 3), 4)
                values.append(q)
            assert torch.equal(*values) == (kind == "follower")


def updated(policy, batch):
    policy.learn_on_batch(batch)
    return {k: v.clone() for k, v in policy.model.state_dict().items() if not k.startswith("idm")}


def test_mask_probability_zero_equals_no_idm_exactly(build):
    """m = 0 at every step, or no IDM at all: bit for bit the same training of everything else."""
    weights = []
    for options in ({"mask_probability": 0.0}, {"intrinsic_reward": False}):
        algo = build(small_config(**options))
        for _ in range(4):
            algo.train()
        weights.append({k: v for k, v in algo.get_policy().get_weights().items() if not k.startswith("idm")})
        algo.stop()
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])


def test_mask_probability_one_adds_the_error_at_every_step(build):
    algo = build(mask_probability=1.0)
    seen = []
    policy = algo.get_policy()
    original = policy.loss
    policy.loss = lambda model, dist, batch: seen.append(np.asarray(batch["keep"])) or original(model, dist, batch)
    for _ in range(3):
        algo.train()
    assert seen
    assert all(keep.all() for keep in seen)


def test_the_intrinsic_reward_is_taken_before_the_predictor_learns(policy):
    ours = policy(mask_probability=1.0)
    batch = random_batch(ours)
    batch["keep"] = np.ones_like(batch["keep"])
    state = torch.from_numpy(batch["state"].astype(np.float32))
    valid = np.arange(6) < batch["length"][:, None]
    expected = ours.model.idm(state[:, :-1]).detach().numpy()[valid].mean()
    stats = ours.learn_on_batch(batch)["learner_stats"]
    np.testing.assert_allclose(stats["intrinsic_reward_mean"], expected, rtol=1e-5)
    assert ours.model.idm(state[:, :-1]).detach().numpy()[valid].mean() < expected


def test_trajectory_stage_is_the_same_reward(policy):
    """postprocess_trajectory adds coeff * m * L_I, with m drawn from the episode's id."""
    ours = policy(intrinsic_reward_stage="trajectory", mask_probability=0.5, intrinsic_reward_coeff=2.0)
    steps = 40
    state = np.random.default_rng(0).normal(size=(steps, ours.spec.state_dim)).astype(np.float32)
    rewards = np.arange(steps, dtype=np.float32)
    batch = SampleBatch({"state": state, "rewards": rewards.copy(), "eps_id": np.full(steps, 77)})
    done = ours.postprocess_trajectory(batch)
    keep = np.random.default_rng(77).random(steps) < 0.5
    error = ours.model.idm(torch.from_numpy(state)).detach().numpy()
    np.testing.assert_allclose(done["rewards"], rewards + 2.0 * keep * error, rtol=1e-5)
    assert 0 < keep.sum() < steps


def test_replay_stage_leaves_the_trajectory_alone(policy):
    batch = SampleBatch({"state": np.zeros((2, 3)), "rewards": np.ones(2), "eps_id": np.zeros(2, int)})
    assert policy().postprocess_trajectory(batch)["rewards"].tolist() == [1, 1]


def test_two_towers_make_the_same_update_as_one(build):
    """RLlib's multi-GPU path, on two fake GPUs, splits the batch by episodes."""
    weights, stats = [], []
    for towers in (0, 2):
        config = small_config(intrinsic_reward=False)
        config.environment(env_config={**config.env_config, "num_prey": 1, "num_predators": 2, "catchers_needed": 4})
        config.resources(num_gpus=towers)
        config._fake_gpus = bool(towers)
        algo = build(config)  # nobody can be caught: all episodes are equally long
        for _ in range(3):
            result = algo.train()
        weights.append(algo.get_policy().get_weights())
        stats.append(result["info"]["learner"]["default_policy"]["learner_stats"])
        algo.stop()
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], rtol=1e-3, atol=2e-5, err_msg=name)
    for name in ("loss_global", "loss_q", "grad_norm_leader", "grad_norm_follower"):
        np.testing.assert_allclose(stats[0][name], stats[1][name], rtol=1e-2)


def test_gradients_are_clipped_per_optimizer(policy):
    ours = policy(grad_clip=1e-3)
    stats = ours.learn_on_batch(random_batch(ours))["learner_stats"]
    for name, module in (
        ("grad_norm_leader", [ours.model.leader, ours.model.mixer]),
        ("grad_norm_follower", [ours.model.follower]),
    ):
        norm = torch.sqrt(sum((p.grad**2).sum() for part in module for p in part.parameters() if p.grad is not None))
        assert norm <= 1.001e-3
        assert stats[name] > 1e-3  # the reported norm is the one before
