"""Each loss against a NumPy computation with loops, on random tensors with padding and masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rllib_ddn.learning.distillation import TERMS, Distillation
from rllib_ddn.losses import global_loss, masked_mean
from rllib_ddn.networks import AgentOutput

T, B, N, A, D = 5, 4, 3, 6, 7
Q_TERMS = ("kl", "squared", "imitation")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    length = [5, 3, 1, 4]
    valid = np.array([[float(t < n) for n in length] for t in range(T)], np.float32)
    mask = rng.random((T, B, N, A)) < 0.6
    mask[..., 2] = True
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "q": draw(T, B, N, A),
        "teacher_q": draw(T, B, N, A) * 3,
        "features": draw(T, B, N, D),
        "teacher_features": draw(T, B, N, D),
        "q_tot": draw(T, B),
        "target": draw(T, B),
        "mask": mask,
        "valid": valid,
    }


def steps(data):
    return [(t, b) for t in range(T) for b in range(B) if data["valid"][t, b]]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def tensors(data, *names):
    return [torch.from_numpy(data[name]) for name in names]


def output(q, features):
    return AgentOutput(fused=features, features=features, q=q, hidden_states=features, hidden=features)


def term(name, data, temperature=1.0):
    """A distillation term; the features serve as outputs of the fusion blocks, too."""
    follower = output(*tensors(data, "q", "features"))
    leader = output(*tensors(data, "teacher_q", "teacher_features"))
    mask, valid = tensors(data, "mask", "valid")
    return TERMS[name](temperature)(follower, leader, SimpleNamespace(action_mask=mask, valid=valid))[0]


def test_global_loss(data):
    expected = np.mean([(data["q_tot"][s] - data["target"][s]) ** 2 for s in steps(data)])
    ours = global_loss(*tensors(data, "q_tot", "target", "valid"))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_block_term(data):
    per_step = []
    for s in steps(data):
        agents = [np.mean((data["features"][s][i] - data["teacher_features"][s][i]) ** 2) for i in range(N)]
        per_step.append(np.mean(agents))
    np.testing.assert_allclose(term("block", data), np.mean(per_step), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_kl_term(data, temperature):
    per_step = []
    for s in steps(data):
        total = 0.0
        for i in range(N):
            available = np.flatnonzero(data["mask"][s][i])
            p = softmax(data["teacher_q"][s][i][available] / temperature)
            q = softmax(data["q"][s][i][available] / temperature)
            total += np.sum(p * np.log(p / q))
        per_step.append(total)
    np.testing.assert_allclose(term("kl", data, temperature), np.mean(per_step), rtol=1e-4)


def test_squared_term(data):
    per_step = []
    for s in steps(data):
        error, mask = (data["q"][s] - data["teacher_q"][s]) ** 2, data["mask"][s]
        per_step.append(sum(error[i][mask[i]].mean() for i in range(N)))
    np.testing.assert_allclose(term("squared", data), np.mean(per_step), rtol=1e-5)


def test_imitation_term(data):
    """The expert's best available action, under the learner's softmax over the available ones."""
    per_step = []
    for s in steps(data):
        total = 0.0
        for i in range(N):
            available = np.flatnonzero(data["mask"][s][i])
            expert = np.argmax(data["teacher_q"][s][i][available])
            total -= np.log(softmax(data["q"][s][i][available] / 0.5)[expert])
        per_step.append(total)
    np.testing.assert_allclose(term("imitation", data, 0.5), np.mean(per_step), rtol=1e-5)


def test_feature_term(data):
    per_step = []
    for s in steps(data):
        total = 0.0
        for i in range(N):
            p, q = softmax(data["teacher_features"][s][i]), softmax(data["features"][s][i])
            total += np.sum(p * np.log(p / q))
        per_step.append(total)
    np.testing.assert_allclose(term("feature", data), np.mean(per_step), rtol=1e-4)


def test_masked_mean(data):
    expected = np.mean([data["q_tot"][s] for s in steps(data)])
    np.testing.assert_allclose(masked_mean(*tensors(data, "q_tot", "valid")), expected, rtol=1e-5)


def test_another_shape_than_the_targets_is_refused(data):
    q_tot, target, valid = tensors(data, "q_tot", "target", "valid")
    with pytest.raises(ValueError, match="Q_tot"):
        global_loss(q_tot[..., None], target, valid)


def all_losses(data, leaf):
    """L_local of all terms, plus L_global; ``leaf`` makes the tensors that may get gradients."""
    q, teacher_q, features, teacher, q_tot, target = leaves = [
        leaf(data[name]) for name in ("q", "teacher_q", "features", "teacher_features", "q_tot", "target")
    ]
    mask, valid = tensors(data, "mask", "valid")
    distillation = Distillation(torch.nn.Identity(), {name: (TERMS[name](), 1.0) for name in TERMS})
    batch = SimpleNamespace(action_mask=mask, valid=valid)
    loss, _ = distillation.loss(output(q, features), output(teacher_q, teacher), batch)
    return loss + global_loss(q_tot, target, valid), leaves


def test_padding_never_matters(data):
    """Large numbers in padded steps, and masks of zeros there, change neither losses nor gradients."""

    def results(filled):
        d, padded = {name: value.copy() for name, value in data.items()}, data["valid"] == 0
        if filled:
            for name in ("q", "teacher_q", "features", "teacher_features", "q_tot", "target"):
                d[name][padded] *= 1e6
            d["mask"][padded] = False
        loss, leaves = all_losses(d, lambda array: torch.from_numpy(array).requires_grad_())
        loss.backward()
        gradients = [x.grad for x in leaves if x.grad is not None]
        assert len(gradients) == 3
        assert not any(gradient[torch.from_numpy(padded)].any() for gradient in gradients)
        return [loss.detach(), *gradients]

    for clean, other in zip(results(False), results(True), strict=True):
        torch.testing.assert_close(clean, other)
        assert torch.isfinite(clean).all()


@pytest.mark.parametrize("name", Q_TERMS)
def test_unavailable_actions_never_matter(data, name):
    d = {key: value.copy() for key, value in data.items()}
    clean = term(name, d)
    d["q"][~d["mask"]], d["teacher_q"][~d["mask"]] = -1e6, 1e6
    torch.testing.assert_close(term(name, d), clean)


def test_teachers_get_no_gradient(data):
    loss, leaves = all_losses(data, lambda array: torch.from_numpy(array).requires_grad_())
    loss.backward()
    q, teacher_q, features, teacher, q_tot, target = leaves
    assert teacher_q.grad is None
    assert teacher.grad is None
    assert target.grad is None
    assert all(x.grad.abs().sum() > 0 for x in (q, features, q_tot))
