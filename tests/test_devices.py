"""Several devices of one learner, as two fake GPUs: together they make the update that one would."""

import numpy as np
import pytest
import torch
from ray.rllib.policy.sample_batch import SampleBatch

import rllib_ddn
from support.configs import small_config
from support.episodes import random_episodes

CASES = {
    **{name: {} for name in ("VDN", "QMIX", "Qatten", "QPLEX", "CWQMIX", "OWQMIX", "QTRAN")},
    "DDN": {"q_loss": "imitation", "distillation_terms": {"squared": ("squared", 0.5)}},
    "DDN, normalized": {"normalize_intrinsic_reward": True, "intrinsic_reward_coeff": 5.0},
}


def learn(build, case, devices, lengths):
    """Gradients and statistics of two updates of one size."""
    options = {
        "train_batch_size": len(lengths),
        "grad_clip": None,
        "replay_buffer_config": {"capacity": 50},
        **CASES[case],
    }
    config = small_config(getattr(rllib_ddn, f"{case.split(',')[0]}Config"), **options)
    config.resources(num_gpus=devices)
    config._fake_gpus = devices > 0
    policy = build(config).get_policy()
    found = []
    for seed in range(2):
        batch = SampleBatch(random_episodes(policy.spec, seed, lengths), _zero_padded=True)
        if devices:
            policy.load_batch_into_buffer(batch)
            stats = policy.learn_on_loaded_batch()["tower_0"]["learner_stats"]
        else:
            stats = policy.learn_on_batch(batch)["learner_stats"]
        gradients = [
            p.grad.flatten() for parameters in policy.model.trained().values() for p in parameters if p.grad is not None
        ]
        stats.pop("allreduce_latency", None)
        figures = {name: float(value) for name, value in {**stats, **policy.gradient_norms}.items()}
        found.append((torch.cat(gradients).clone(), figures))
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_devices_make_the_update_of_one(build, case):
    """Two episodes of 12 steps on the first device, two of 1 and 3 on the second."""
    one, two = (learn(build, case, devices, (12, 12, 1, 3)) for devices in (0, 2))
    for (expected, statistics), (gradient, others) in zip(one, two, strict=True):
        assert float((gradient - expected).norm() / expected.norm()) < 1e-3
        assert statistics.keys() == others.keys()
        for name, value in statistics.items():
            np.testing.assert_allclose(others[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("devices", "episodes"), [(2, 3), (3, 8), (2, 1)])
def test_a_batch_that_does_not_divide_is_refused(devices, episodes):
    config = small_config(train_batch_size=episodes).resources(num_gpus=devices)
    with pytest.raises(ValueError, match=rf"train_batch_size = {episodes} .* num_gpus = {devices}") as error:
        config.validate()
    assert "\n" not in str(error.value)
    small_config(train_batch_size=6).resources(num_gpus=devices).validate()
    small_config(train_batch_size=5).resources(num_gpus=0.5).validate()
