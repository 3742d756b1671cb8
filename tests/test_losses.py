"""Each loss against a NumPy computation with loops, on random tensors with padding and masks."""

import numpy as np
import pytest
import torch

from rllib_ddn import losses

T, B, N, A, D = 5, 4, 3, 6, 7
Q_LOSSES = (losses.q_loss, losses.squared_q_loss, losses.imitation_loss)


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


def test_global_loss(data):
    expected = np.mean([(data["q_tot"][s] - data["target"][s]) ** 2 for s in steps(data)])
    ours = losses.global_loss(*tensors(data, "q_tot", "target", "valid"))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_block_loss(data):
    per_step = []
    for s in steps(data):
        agents = [np.mean((data["features"][s][i] - data["teacher_features"][s][i]) ** 2) for i in range(N)]
        per_step.append(np.mean(agents))
    ours = losses.block_loss(*tensors(data, "features", "teacher_features", "valid"))
    np.testing.assert_allclose(ours, np.mean(per_step), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_q_loss(data, temperature):
    per_step = []
    for s in steps(data):
        total = 0.0
        for i in range(N):
            available = np.flatnonzero(data["mask"][s][i])
            p = softmax(data["teacher_q"][s][i][available] / temperature)
            q = softmax(data["q"][s][i][available] / temperature)
            total += np.sum(p * np.log(p / q))
        per_step.append(total)
    ours = losses.q_loss(*tensors(data, "q", "teacher_q", "mask", "valid"), temperature)
    np.testing.assert_allclose(ours, np.mean(per_step), rtol=1e-4)


def test_squared_q_loss(data):
    per_step = []
    for s in steps(data):
        error, mask = (data["q"][s] - data["teacher_q"][s]) ** 2, data["mask"][s]
        per_step.append(sum(error[i][mask[i]].mean() for i in range(N)))
    ours = losses.squared_q_loss(*tensors(data, "q", "teacher_q", "mask", "valid"))
    np.testing.assert_allclose(ours, np.mean(per_step), rtol=1e-5)


def test_imitation_loss(data):
    """The expert's best available action, under the learner's softmax over the available ones."""
    per_step = []
    for s in steps(data):
        total = 0.0
        for i in range(N):
            available = np.flatnonzero(data["mask"][s][i])
            expert = np.argmax(data["teacher_q"][s][i][available])
            total -= np.log(softmax(data["q"][s][i][available] / 0.5)[expert])
        per_step.append(total)
    ours = losses.imitation_loss(*tensors(data, "q", "teacher_q", "mask", "valid"), temperature=0.5)
    np.testing.assert_allclose(ours, np.mean(per_step), rtol=1e-5)


def test_feature_loss(data):
    per_step = []
    for s in steps(data):
        total = 0.0
        for i in range(N):
            p, q = softmax(data["teacher_features"][s][i]), softmax(data["features"][s][i])
            total += np.sum(p * np.log(p / q))
        per_step.append(total)
    ours = losses.feature_loss(*tensors(data, "features", "teacher_features", "valid"))
    np.testing.assert_allclose(ours, np.mean(per_step), rtol=1e-4)


def test_idm_loss(data):
    expected = np.mean([data["q_tot"][s] for s in steps(data)])
    np.testing.assert_allclose(losses.idm_loss(*tensors(data, "q_tot", "valid")), expected, rtol=1e-5)


def test_padding_never_matters(data):
    """NaN in padded steps, and masks of zeros there, change neither losses nor gradients."""

    def results(poisoned):
        d = {name: value.copy() for name, value in data.items()}
        if poisoned:
            padded = d["valid"] == 0
            for name in ("q", "teacher_q", "features", "teacher_features", "q_tot", "target"):
                d[name][padded] = np.nan
            d["mask"][padded] = False
        q, features, q_tot = (torch.from_numpy(d[n]).requires_grad_() for n in ("q", "features", "q_tot"))
        loss = (
            losses.q_loss(q, *tensors(d, "teacher_q", "mask", "valid"))
            + losses.squared_q_loss(q, *tensors(d, "teacher_q", "mask", "valid"))
            + losses.imitation_loss(q, *tensors(d, "teacher_q", "mask", "valid"))
            + losses.feature_loss(features, *tensors(d, "teacher_features", "valid"))
            + losses.block_loss(features, *tensors(d, "teacher_features", "valid"))
            + losses.global_loss(q_tot, *tensors(d, "target", "valid"))
        )
        loss.backward()
        padded = torch.from_numpy(d["valid"]) == 0
        assert not any(x.grad[padded].any() for x in (q, features, q_tot))
        return [loss.detach()] + [x.grad for x in (q, features, q_tot)]

    for clean, poisoned in zip(results(False), results(True), strict=True):
        torch.testing.assert_close(clean, poisoned)
        assert torch.isfinite(clean).all()


@pytest.mark.parametrize("loss", Q_LOSSES)
def test_unavailable_actions_never_matter(data, loss):
    d = {name: value.copy() for name, value in data.items()}
    clean = loss(*tensors(d, "q", "teacher_q", "mask", "valid"))
    d["q"][~d["mask"]], d["teacher_q"][~d["mask"]] = -1e6, 1e6
    torch.testing.assert_close(loss(*tensors(d, "q", "teacher_q", "mask", "valid")), clean)


def test_teachers_get_no_gradient(data):
    q, teacher_q, features, teacher_features, target = (
        torch.from_numpy(data[n]).requires_grad_() for n in ("q", "teacher_q", "features", "teacher_features", "target")
    )
    mask, valid = tensors(data, "mask", "valid")
    total = (
        sum(loss(q, teacher_q, mask, valid) for loss in Q_LOSSES)
        + losses.feature_loss(features, teacher_features, valid)
        + losses.block_loss(features, teacher_features, valid)
        + losses.global_loss(q.sum((-2, -1)), target, valid)
    )
    total.backward()
    assert teacher_q.grad is None
    assert teacher_features.grad is None
    assert target.grad is None
    assert q.grad.abs().sum() > 0
    assert features.grad.abs().sum() > 0
