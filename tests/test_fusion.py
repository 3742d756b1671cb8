"""The fusion blocks equal the paper's ``x W + B`` with W materialized, in value and gradient, and start small."""

import pytest
import torch

from rllib_ddn.networks import IndependentObservationBlock, PersonalizationFusionBlock
from support.naive import generated

M, N, X, Z, D, K = 700, 3, 11, 9, 8, 5  # M * N rows: several chunks, the last one not full
BLOCKS = [PersonalizationFusionBlock, IndependentObservationBlock]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", BLOCKS)
def test_factorized_equals_materialized(kind, dtype):
    torch.manual_seed(0)
    block = kind(X, Z, D, K).to(dtype)
    torch.nn.init.normal_(block.kernels)
    z = torch.randn(M, N, Z, dtype=dtype)
    shared = kind is PersonalizationFusionBlock
    x = torch.randn(M, X, dtype=dtype) if shared else torch.randn(M, N, X, dtype=dtype)
    everyone = x.unsqueeze(1).expand(M, N, X) if shared else x
    w, b = generated(block, z)
    written = (everyone.unsqueeze(-2) @ w).squeeze(-2) + b
    weights = torch.randn(M, N, D, dtype=dtype)  # of a loss in which every output matters

    results = []
    for output in (block(x, z), written):
        block.zero_grad()
        ((output * weights).sum() / M).backward()
        results.append([output.detach(), *(p.grad.clone() for p in block.parameters())])
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_by_finite_differences(kind):
    torch.manual_seed(0)
    block = kind(3, 4, 2, 3).double()
    z, x = torch.randn(4, 2, 4).double(), torch.randn(4, 2, 3).double()
    x = x[:, 0] if kind is PersonalizationFusionBlock else x
    names = [name for name, _ in block.named_parameters()]

    def output(x, z, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x, z))

    assert torch.autograd.gradcheck(output, tuple(t.detach().requires_grad_() for t in (x, z, *block.parameters())))


def one_hots(*shape, density=0.08):
    return (torch.rand(shape) < density).float()


def units(*shape):
    """Like SMAC's: half of the features are of units that are dead or out of sight."""
    return one_hots(*shape, density=0.5) * (torch.rand(shape) * 1.3 - 0.3)


INPUTS = [
    (one_hots, 400, 50),
    (one_hots, 200, 50),
    (torch.rand, 50, 20),
    (torch.randn, 50, 20),
    (units, 322, 176),
    (units, 27, 17),
]


def inputs(make, state_dim, obs_dim):
    """Of 500 steps of 8 agents, what each kind of block multiplies, and z."""
    torch.manual_seed(0)
    state, obs = make(500, state_dim), make(500, 8, obs_dim)
    z = torch.cat([obs, one_hots(500, 8, 14)], -1)
    return [(PersonalizationFusionBlock, state, z), (IndependentObservationBlock, obs, z)]


@pytest.mark.parametrize(("make", "state_dim", "obs_dim"), INPUTS)
def test_x_w_starts_small_beside_b(make, state_dim, obs_dim):
    """Over time steps and agents, ``x W`` has about a tenth of B's variance, whatever the size and density of x."""
    variance = lambda rows: rows.flatten(0, -2).var(0).mean().item()  # noqa: E731
    for kind, x, z in inputs(make, state_dim, obs_dim):
        block = kind(x.shape[-1], z.shape[-1], 64, 8)
        b = block.bias(z.clone()).detach()
        assert 0.03 < variance(block(x, z).detach() - b) / variance(b) < 0.3


@pytest.mark.parametrize(("make", "state_dim", "obs_dim"), INPUTS)
def test_x_w_learns_no_faster_than_b(make, state_dim, obs_dim):
    """A step of Adam moves every parameter equally far; S has many, so x W would run away from B with it."""
    for kind, x, z in inputs(make, state_dim, obs_dim):
        block = kind(x.shape[-1], z.shape[-1], 64, 8)
        before, b = block(x, z).detach(), block.bias(z.clone()).detach()
        (block(x, z) * torch.randn(len(z), 8, 64)).sum().backward()
        torch.optim.Adam(block.parameters(), lr=1e-3).step()
        of_b = block.bias(z.clone()).detach() - b
        of_w = block(x, z).detach() - before - of_b
        assert of_w.square().mean() < of_b.square().mean()


def test_agents_have_different_weights():
    torch.manual_seed(0)
    w, b = generated(PersonalizationFusionBlock(X, Z, D, K), torch.randn(1, N, Z))
    assert w.shape == (1, N, X, D)
    assert b.shape == (1, N, D)
    for weights in (w, b):
        assert (weights[0, 0] - weights[0, 1]).abs().max() > 0.1 * weights.abs().max()


def test_nothing_as_large_as_w_is_kept():
    """For the backward pass the factorized forward keeps K + 1 numbers for every output, where W has X of them."""
    block = IndependentObservationBlock(X, Z, D, K)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        block(torch.randn(M, N, X), torch.randn(M, N, Z))
    assert max(sizes) == M * N * (K + 1) * D
