"""The fusion blocks equal the paper's ``x W + B`` with W materialized, in value and gradient."""

import pytest
import torch

from rllib_ddn.networks import IndependentObservationBlock, PersonalizationFusionBlock

M, N, X, Z, D, K = 700, 3, 11, 9, 8, 5  # M * N rows: several chunks, the last one not full


def naive(block, x, z):
    """``x W(z) + B(z)`` as it is printed: W built for every row."""
    h = torch.relu(block.hyper(z))
    *a, c = block.weight.view(X, K + 1, D).transpose(0, 1)
    *b, d = block.bias.view(K + 1, D)
    w, bias = torch.zeros(*z.shape[:-1], X, D) + c, torch.zeros(*z.shape[:-1], D) + d
    for k in range(K):
        w = w + h[..., k, None, None] * a[k]
        bias = bias + h[..., k, None] * b[k]
    return (x.unsqueeze(-2) @ w).squeeze(-2) + bias


@pytest.mark.parametrize("kind", [PersonalizationFusionBlock, IndependentObservationBlock])
def test_factorized_equals_materialized(kind):
    torch.manual_seed(0)
    block = kind(X, Z, D, K)
    z = torch.randn(M, N, Z)
    shared = kind is PersonalizationFusionBlock
    x = torch.randn(M, X) if shared else torch.randn(M, N, X)
    everyone = x.unsqueeze(1).expand(M, N, X) if shared else x
    weights = torch.randn(M, N, D)  # of a loss in which every output matters

    results = []
    for output in (block(x, z), naive(block, everyone, z)):
        block.zero_grad()
        (output * weights).mean().backward()
        results.append([output.detach(), *(p.grad.clone() for p in block.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_agent_has_weights_of_its_own():
    torch.manual_seed(0)
    block = PersonalizationFusionBlock(X, Z, D, K)
    z, state = torch.randn(1, N, Z), torch.randn(1, X)
    w, b = block.materialized(z)
    assert w.shape == (1, N, X, D)
    torch.testing.assert_close((state[:, None, None] @ w).squeeze(2) + b, block(state, z), rtol=1e-5, atol=1e-5)
    assert (w[0, 0] - w[0, 1]).abs().max() > 0.1


def test_nothing_as_large_as_w_is_kept():
    """The factorized forward saves no tensor of the size of W for the backward pass."""
    block = IndependentObservationBlock(X, Z, D, K)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        block(torch.randn(M, N, X), torch.randn(M, N, Z))
    assert max(sizes) < M * N * X * D / 4
