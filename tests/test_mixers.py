"""Mixers against independent computations, IGM by enumeration, and matrix games that distinguish them."""

import itertools

import numpy as np
import pytest
import torch

from rllib_ddn.networks import MIXERS, TeamSizes, TeamValues
from rllib_ddn.networks.mixers.mixer import gather_q

N, A, S, H = 3, 4, 6, 7
SIZES = TeamSizes(N, A, S, obs_dim=2, hidden_dim=H)
Z = SIZES.local_dim
IGM = [name for name in MIXERS if name != "qtran"]  # QTRAN's Q_jt is free
MONOTONE = ["vdn", "qmix", "qatten", "cwqmix", "owqmix"]


def random_team(steps=1, seed=0, **given):
    """A team of N agents; one episode, so that each step is a row."""
    torch.manual_seed(seed)
    mask = torch.rand(steps, N, A) < 0.7
    mask[..., 0] = True
    values = {
        "q_values": torch.randn(steps, N, A),
        "actions": torch.rand(steps, N, A).masked_fill(~mask, -1).argmax(-1),
        "action_mask": mask,
        "state": torch.randn(steps, S),
        "z": torch.randn(steps, N, Z),
        "hidden_states": torch.randn(steps, N, H),
        "batch_sizes": torch.ones(steps, dtype=torch.int64),
        **given,
    }
    return TeamValues(**values)


def every_joint_action(team):
    """The team of one step, repeated with each of its available joint actions."""
    joint = [
        u for u in itertools.product(range(A), repeat=N) if all(team.action_mask[0, i, a] for i, a in enumerate(u))
    ]
    rows = len(joint)
    repeated = {
        name: getattr(team, name).expand(rows, *getattr(team, name).shape[1:])
        for name in ("q_values", "action_mask", "state", "z", "hidden_states")
    }
    return joint, TeamValues(actions=torch.tensor(joint), batch_sizes=torch.tensor([rows]), **repeated)


def make(name, seed=0, **options):
    torch.manual_seed(seed)
    return MIXERS[name](SIZES, **options)


def numpy_mlp(module, x):
    linears = [m for m in module if isinstance(m, torch.nn.Linear)]
    for k, layer in enumerate(linears):
        x = x @ layer.weight.detach().numpy().T + (0 if layer.bias is None else layer.bias.detach().numpy())
        x = np.maximum(x, 0) if k < len(linears) - 1 else x
    return x


def test_team_values_by_hand():
    q = torch.tensor([[[1.0, 5.0, 3.0], [2.0, 0.0, -1.0]]])
    mask = torch.tensor([[[True, False, True], [False, True, True]]])
    team = random_team(q_values=q, action_mask=mask, actions=torch.tensor([[0, 2]]))
    assert (team.q.tolist(), team.greedy.tolist(), team.best_q.tolist()) == ([[1, -1]], [[2, 1]], [[3, 0]])


@pytest.mark.parametrize("name", IGM)
def test_mixer_keeps_igm(name):
    """The joint argmax of Q_tot is the tuple of individual argmaxes (Equation 2), by enumeration."""
    mixer = make(name)
    for seed in range(20):
        joint, team = every_joint_action(random_team(seed=seed))
        q_tot = mixer(team)
        best = joint.index(tuple(team.greedy[0].tolist()))
        assert q_tot[best] >= q_tot.max() - 1e-5


@pytest.mark.parametrize("name", MONOTONE)
def test_mixer_is_monotone(name):
    mixer, team = make(name), random_team(50)
    team.q_values.requires_grad_()
    (grad,) = torch.autograd.grad(mixer(team).sum(), team.q_values)
    assert grad.min() >= 0
    assert grad.max() > 0


def test_qplex_is_not_monotone():
    """lambda depends on the action: a larger Q_i may come with a smaller Q_tot, away from the maximum."""
    mixer = make("qplex", seed=3)
    with torch.no_grad():
        mixer.actions.third_weight.mul_(50)
    falls = False
    for seed in range(20):
        _, team = every_joint_action(random_team(seed=seed, action_mask=torch.ones(1, N, A, dtype=torch.bool)))
        q, q_tot = team.q.detach().numpy(), mixer(team).detach().numpy()
        higher = (q[:, None] >= q[None]).all(-1)  # row is at least as good for every agent
        falls |= bool((higher & (q_tot[:, None] < q_tot[None] - 1e-4)).any())
    assert falls


def test_vdn_is_the_sum():
    team = random_team(
        q_values=torch.tensor([[[1.0], [-2.0], [4.0]]]), action_mask=torch.ones(1, N, 1, dtype=torch.bool)
    )
    team.actions = torch.zeros(1, N, dtype=torch.int64)
    assert make("vdn")(team).tolist() == [3.0]


def test_qmix_in_numpy():
    mixer, team = make("qmix", embed_dim=4, hypernet_dim=5), random_team(2)
    s, q = team.state.numpy(), team.q.numpy()
    w1 = np.abs(numpy_mlp(mixer.hyper_w1, s)).reshape(2, N, 4)
    for m in range(2):
        hidden = q[m] @ w1[m] + numpy_mlp([mixer.hyper_b1], s)[m]
        hidden = np.where(hidden > 0, hidden, np.exp(hidden) - 1)
        expected = hidden @ np.abs(numpy_mlp(mixer.hyper_w2, s))[m] + numpy_mlp(mixer.hyper_b2, s)[m, 0]
        np.testing.assert_allclose(mixer(team)[m].item(), expected, rtol=1e-5)


def test_qatten_in_numpy():
    """Qatten (Yang et al. 2020), a head and an agent at a time, with the logits' penalty."""
    mixer, team = make("qatten", embed_dim=4, num_heads=2, hypernet_dim=3, attention_coeff=0.5), random_team(2)
    s, z, q = team.state.numpy(), team.z.numpy(), team.q.numpy()
    keys = mixer.key.weight.detach().numpy().reshape(2, 4, Z)
    hidden = np.maximum(numpy_mlp(mixer.query, s), 0).reshape(2, 2, 3)
    expected, logits = numpy_mlp(mixer.bias, s)[:, 0], np.zeros((2, 2, N))
    for m in range(2):
        for h in range(2):
            query = hidden[m, h] @ mixer.query_head[h].detach().numpy()
            logits[m, h] = [(keys[h] @ z[m, i]) @ query for i in range(N)]
            weights = np.exp(logits[m, h] / 2)
            expected[m] += abs(numpy_mlp(mixer.head_weight, s)[m, h]) * (weights / weights.sum()) @ q[m]
    np.testing.assert_allclose(mixer(team).detach(), expected, rtol=1e-4)
    loss, _ = mixer.loss(
        team, torch.tensor(expected + 1, dtype=torch.float32), torch.zeros(2), torch.tensor([1.0, 0.0])
    )
    np.testing.assert_allclose(loss.item(), 1 + 0.5 * (logits[0] ** 2).mean(-1).sum(), rtol=1e-4)


def test_qplex_in_numpy():
    """QPLEX (Wang et al. 2020), a kernel and an agent at a time."""
    mixer, team = make("qplex", hypernet_dim=4, num_kernels=2, adv_hypernet_dim=3), random_team(2)
    s, q, best = team.state.numpy(), team.q.numpy(), team.best_q.numpy()
    one_hot = np.eye(A)[team.actions.numpy()].reshape(2, -1)

    def kernel(module, k, x):
        p = {name: value.detach().numpy() for name, value in module.named_parameters()}
        x = np.maximum(x @ p["first.weight"][3 * k : 3 * k + 3].T + p["first.bias"][3 * k : 3 * k + 3], 0)
        x = np.maximum(x @ p["second_weight"][k] + p["second_bias"][k], 0)
        return x @ p["third_weight"][k] + p["third_bias"][k]

    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    w, b = np.abs(numpy_mlp(mixer.hyper_w, s)), numpy_mlp(mixer.hyper_b, s)
    importance = sum(
        np.abs(kernel(mixer.key, k, s))
        * sigmoid(kernel(mixer.agents, k, s))
        * sigmoid(kernel(mixer.actions, k, np.concatenate([s, one_hot], 1)))
        for k in range(2)
    )
    expected = (w * best + b).sum(1) + (importance * w * (q - best)).sum(1)
    np.testing.assert_allclose(mixer(team).detach(), expected, rtol=1e-4, atol=1e-6)


def test_qplex_stops_the_advantages_gradient():
    """dQ_tot / dQ_i is the transformation's w_i, whatever lambda is."""
    mixer, team = make("qplex"), random_team(4)
    team.q_values.requires_grad_()
    (grad,) = torch.autograd.grad(mixer(team).sum(), team.q_values)
    expected = mixer.hyper_w(team.state).abs() + 1e-10
    torch.testing.assert_close(gather_q(grad, team.actions), expected)


@pytest.mark.parametrize("name", ["cwqmix", "owqmix"])
def test_weighted_qmix_loss_by_hand(name):
    """The weights of CW- and OW-QMIX (Rashid et al. 2020a), step by step, and the error of Q*."""
    mixer, team = make(name, alpha=0.25, central_dim=8), random_team(40)
    team.actions[::3] = team.greedy[::3]
    with torch.no_grad():
        q_tot, central = mixer(team), mixer.bootstrap(team)
    target, greedy_value, valid = q_tot + torch.randn(40), q_tot + torch.randn(40), (torch.rand(40) < 0.8).float()
    total = 0.0
    for m in range(40):
        if name == "owqmix":
            full = q_tot[m] < target[m]
        else:
            full = team.actions[m].tolist() == team.greedy[m].tolist() or target[m] > greedy_value[m]
        weight = 1.0 if full else 0.25
        total += valid[m].item() * (weight * (q_tot[m] - target[m]) ** 2 + (central[m] - target[m]) ** 2).item()
    loss, statistics = mixer.loss(team, target, greedy_value, valid)
    np.testing.assert_allclose(loss.item(), total / valid.sum().item(), rtol=1e-5)
    torch.testing.assert_close(statistics["q_tot_mean"], (q_tot * valid).sum() / valid.sum())


def test_weighted_qmix_central_q_is_recurrent_and_unrestricted():
    mixer, team = make("owqmix"), random_team(3)
    hidden, q = torch.zeros(N, H), []
    with torch.no_grad():
        for t in range(3):
            agent = mixer.central_agent
            hidden = torch.gru_cell(torch.relu(agent.encoder(team.z[t])), hidden, *agent.gru.parameters())
            q.append(agent.q_head(hidden).gather(-1, team.actions[t].unsqueeze(-1)).squeeze(-1))
        x = torch.cat([team.state, torch.stack(q)], 1)
        expected = mixer.central_mixer.mix(x) + mixer.central_mixer.value(team.state)
        torch.testing.assert_close(mixer.bootstrap(team), expected[:, 0])
    x.requires_grad_()
    (grad,) = torch.autograd.grad(mixer.central_mixer.mix(x).sum(), x)
    assert grad[:, S:].min() < 0 < grad[:, S:].max()


def test_qtran_losses_in_numpy():
    """L_td, L_opt and L_nopt of Son et al. 2019."""
    mixer, team = make("qtran", embed_dim=5, opt_coeff=0.7, nopt_coeff=0.2), random_team(30)
    s = team.state.numpy()

    def joint(actions):
        pairs = np.concatenate([team.hidden_states.numpy(), np.eye(A)[actions.numpy()]], -1)
        return numpy_mlp(mixer.q_joint, np.concatenate([s, numpy_mlp(mixer.encoder, pairs).sum(1)], 1))[:, 0]

    v = numpy_mlp(mixer.v_joint, s)[:, 0]
    target, valid = np.random.default_rng(0).normal(size=30), np.arange(30) % 4 > 0
    d_greedy = team.best_q.sum(1).numpy() - joint(team.greedy) + v
    d_taken = team.q.sum(1).numpy() - joint(team.actions) + v
    assert d_taken.min() < 0 < d_taken.max()
    squares = (joint(team.actions) - target) ** 2 + 0.7 * d_greedy**2 + 0.2 * np.minimum(d_taken, 0) ** 2
    loss, statistics = mixer.loss(team, torch.tensor(target).float(), torch.zeros(30), torch.tensor(valid).float())
    np.testing.assert_allclose(loss.item(), squares[valid].mean(), rtol=1e-4)
    np.testing.assert_allclose(mixer(team).detach(), joint(team.actions), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["q_tot_mean"], joint(team.actions)[valid].mean(), rtol=1e-4)


def test_qtran_constraints_do_not_move_the_joint_q():
    mixer, team = make("qtran"), random_team(30)
    team.q_values.requires_grad_()
    zero = torch.zeros(30)
    with torch.no_grad():
        target = mixer(team)  # no TD error
    loss, _ = mixer.loss(team, target, zero, zero + 1)
    loss.backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in mixer.q_joint.parameters())
    assert team.q_values.grad.abs().max() > 0
    assert max(p.grad.abs().max() for p in mixer.v_joint.parameters()) > 0
