"""Local input, agent network, IDM against independent computations."""

import importlib.util

import numpy as np
import torch

from rllib_ddn.networks import AgentNetwork, InternalDistillationModule, LocalInput, greedy_actions
from rllib_ddn.networks import gru as gru_module
from rllib_ddn.networks.gru import _dense_gru, gru

N, A, S = 3, 4, 6


def test_local_input_by_hand():
    local_input, last_action = LocalInput(num_agents=2, num_actions=3), torch.tensor([-1, 2])
    expected = [[7, 0, 0, 0, 1, 0], [8, 0, 0, 1, 0, 1]]  # o, one-hot u (none before the first step), one-hot i
    for dtype in (torch.float32, torch.float64, torch.int8, torch.uint16, torch.bool):
        z = local_input(torch.tensor([[7], [8]]).to(dtype), last_action)
        assert z.dtype == torch.float32
        assert z.tolist() == ([[1, *row[1:]] for row in expected] if dtype == torch.bool else expected)
    reversed_team = local_input(torch.tensor([[8.0], [7.0]]), last_action.flip(0), torch.tensor([1, 0]))
    assert reversed_team.tolist() == expected[::-1]


def packed(lengths):
    """Rows of torch's packing as (step, sequence), and how many sequences exist at each step."""
    rows = [(t, r) for t in range(max(lengths)) for r, n in enumerate(lengths) if t < n]
    return rows, torch.tensor([sum(n > t for n in lengths) for t in range(max(lengths))])


def test_agent_network_steps_equal_its_unroll():
    torch.manual_seed(0)
    net, lengths = AgentNetwork(5, A, hidden_dim=8), [7, 7, 4, 1]
    rows, batch_sizes = packed(lengths)
    x = torch.randn(len(rows), 5)
    features, q, _, last = net(x, batch_sizes=batch_sizes)
    for r, n in enumerate(lengths):
        hidden = None
        for t in range(n):
            row = rows.index((t, r))
            f, q_t, _, hidden = net(x[row : row + 1], hidden)
            torch.testing.assert_close(f[0], features[row])
            torch.testing.assert_close(q_t[0], q[row], rtol=1e-5, atol=1e-6)
        if n == max(lengths):
            torch.testing.assert_close(hidden[0], last[r], rtol=1e-5, atol=1e-6)


def test_agent_network_in_numpy():
    """MLP, GRU and head written out with NumPy (GRU equations of Cho et al. 2014)."""
    torch.manual_seed(0)
    net = AgentNetwork(5, A, hidden_dim=8)
    p = {name: value.detach().numpy().astype(np.float64) for name, value in net.named_parameters()}
    x = torch.randn(4, 2, 5)  # 4 steps of 2 sequences
    h = np.zeros((2, 8))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    _, q, _, _ = net(x.flatten(0, 1), batch_sizes=torch.tensor([2, 2, 2, 2]))
    for t in range(4):
        f = np.maximum(x[t].numpy() @ p["encoder.weight"].T + p["encoder.bias"], 0)
        i = np.split(f @ p["gru.weight_ih"].T + p["gru.bias_ih"], 3, 1)
        g = np.split(h @ p["gru.weight_hh"].T + p["gru.bias_hh"], 3, 1)
        reset, update = sigmoid(i[0] + g[0]), sigmoid(i[1] + g[1])
        h = (1 - update) * np.tanh(i[2] + reset * g[2]) + update * h
        expected = h @ p["q_head.weight"].T + p["q_head.bias"]
        np.testing.assert_allclose(q[2 * t : 2 * t + 2].detach(), expected, rtol=1e-4, atol=1e-5)


def test_packed_gru_equals_torchs():
    """States and all gradients, sequences of unequal length, an initial state, and a loss on the last state."""
    torch.manual_seed(0)
    lengths = [6, 6, 4, 3, 3, 1]
    sizes = [sum(length > t for length in lengths) for t in range(6)]
    theirs = torch.nn.GRU(4, 5, dtype=torch.float64)
    x = torch.randn(sum(lengths), 4, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(len(lengths), 5, dtype=torch.float64, requires_grad=True)
    packed = torch.nn.utils.rnn.PackedSequence(x, torch.tensor(sizes))
    out, _ = theirs(packed, h0[None])
    ours, last = gru(x, h0, tuple(theirs.parameters()), sizes)
    torch.testing.assert_close(ours, out.data)
    torch.testing.assert_close(last, out.data[-sizes[-1] :])
    weights = torch.randn_like(ours)
    of = [x, h0, *theirs.parameters()]
    expected = torch.autograd.grad((out.data * weights).sum() + out.data[-sizes[-1] :].square().sum(), of)
    torch.testing.assert_close(torch.autograd.grad((ours * weights).sum() + last.square().sum(), of), expected)
    with torch.no_grad():  # keeps no gates
        torch.testing.assert_close(gru(x, h0, tuple(theirs.parameters()), sizes)[0], out.data)


def test_the_loop_that_releases_the_gil_is_the_same_bit_for_bit(monkeypatch):
    """TorchScript's loops, and the same loops in Python, as they are where torch has no TorchScript."""

    monkeypatch.delattr(torch.jit, "script")
    spec = importlib.util.spec_from_file_location("plain_gru", gru_module.__file__)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    for name in ("_forward_steps", "_backward_steps"):
        assert not isinstance(getattr(plain, name), torch.jit.ScriptFunction)
        assert isinstance(getattr(gru_module, name), torch.jit.ScriptFunction)
    torch.manual_seed(0)
    weights = tuple(torch.nn.GRU(4, 5).parameters())
    for sizes in ([6, 6, 4, 1], [3] * 7, [1], [6, 6, 4, 1]):  # TorchScript recompiles for some shapes
        x, h0 = torch.randn(sum(sizes), 4, requires_grad=True), torch.randn(sizes[0], 5, requires_grad=True)
        results = []
        for module in (plain, gru_module):
            states, _ = module.gru(x, h0, weights, sizes)
            with torch.no_grad():  # keeps no gates
                alone, _ = module.gru(x, h0, weights, sizes)
            results.append((states, alone, *torch.autograd.grad(states.square().sum(), [x, h0, *weights])))
        assert all(map(torch.equal, *results))


def test_the_gru_of_a_gpu_is_the_same(monkeypatch):
    """Forward and backward. cuDNN refuses a backward pass where ``train`` is False; a CPU does not look at it."""
    torch.manual_seed(0)
    weights = tuple(torch.nn.GRU(4, 5).parameters())
    x, h0 = torch.randn(3 * 6, 4, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    theirs, given = torch.gru, []
    monkeypatch.setattr(torch, "gru", lambda *arguments: given.append(arguments) or theirs(*arguments))
    results = []
    for states, last in (_dense_gru(x, h0, weights, 6), gru(x, h0, weights, [3] * 6)):
        loss = states.square().sum() + last.sum()
        results.append((states, last, *torch.autograd.grad(loss, [x, h0, *weights])))
    for ours, packed in zip(*results, strict=True):
        torch.testing.assert_close(ours, packed)
    ((*_, has_biases, layers, dropout, train, bidirectional, batch_first),) = given
    assert (has_biases, layers, dropout, train, bidirectional, batch_first) == (True, 1, 0.0, True, False, False)


def test_greedy_actions_respect_the_mask():
    q = torch.tensor([[5.0, 1.0, 2.0], [-3.0, -9.0, -4.0]])
    mask = torch.tensor([[False, True, True], [False, True, True]])
    assert greedy_actions(q, mask).tolist() == [2, 2]


def test_idm_error_in_numpy_and_fixed_target():
    torch.manual_seed(0)
    idm = InternalDistillationModule(S, hidden_dim=7, embed_dim=3)
    state = torch.randn(5, S)

    def net(module, x):
        w1, b1, w2, b2 = (p.detach().numpy() for p in module.parameters())
        return np.maximum(x @ w1.T + b1, 0) @ w2.T + b2

    expected = ((net(idm.predictor, state.numpy()) - net(idm.target, state.numpy())) ** 2).mean(-1)
    np.testing.assert_allclose(idm(state).detach(), expected, rtol=1e-4)
    assert expected.min() > 0  # predictor and target start differently
    assert not any(p.requires_grad for p in idm.target.parameters())
