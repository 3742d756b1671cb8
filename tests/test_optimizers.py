"""Optimizers, learning rate schedules, and when the targets are updated."""

import re

import numpy as np
import pytest
import torch

from rllib_ddn import DDNConfig, QMIXConfig
from rllib_ddn.learning.optimizers import DivergenceError
from support.configs import small_config

pytestmark = pytest.mark.usefixtures("cluster")


def test_each_learner_has_the_optimizer_of_its_key(build):
    policy = build(
        optimizer={"type": "adam", "eps": 1e-3, "betas": (0.8, 0.9)}, follower_optimizer="rmsprop", intrinsic_lr=1e-3
    ).get_policy()
    host, follower, intrinsic = (policy.optimizers[name] for name in ("host", "follower", "intrinsic"))
    assert [type(optimizer) for optimizer in (host, follower, intrinsic)] == [
        torch.optim.Adam,
        torch.optim.RMSprop,
        torch.optim.Adam,
    ]
    assert (host.defaults["eps"], host.defaults["betas"], host.defaults["lr"]) == (
        1e-3,
        (0.8, 0.9),
        policy.config["lr"],
    )
    assert (follower.defaults["alpha"], follower.defaults["eps"]) == (0.99, 1e-5)
    assert intrinsic.defaults["lr"] == 1e-3


def test_learning_rates_follow_their_schedules_and_are_told(build):
    algo = build(lr=[[0, 1e-3], [100, 2e-4]], follower_lr=[[0, 0.0], [50, 1e-2]], intrinsic_lr=3e-4)
    for _ in range(3):
        info = algo.train()["info"]
    steps = algo._counters["num_env_steps_sampled"]
    assert 0 < steps < 100
    expected = 1e-3 - 8e-4 * steps / 100
    assert info["cur_lr"] == pytest.approx(expected)
    assert info["cur_lr_follower"] == pytest.approx(min(1.0, steps / 50) * 1e-2)
    assert info["cur_lr_intrinsic"] == 3e-4
    used = {name: optimizer.param_groups[0]["lr"] for name, optimizer in algo.get_policy().optimizers.items()}
    assert used == {"host": info["cur_lr"], "follower": info["cur_lr_follower"], "intrinsic": 3e-4}
    assert algo.get_policy().num_grad_updates == info["num_updates"]
    assert info["replay_episodes"] == len(algo.local_replay_buffer) == 6
    assert info["replay_steps"] == steps
    assert info["cur_epsilon"] == pytest.approx(1.0 - 0.95 * steps / 50_000)


def test_a_restored_run_takes_its_learning_rate_from_its_own_config(build, tmp_path):
    algo = build(lr=1e-3)
    for _ in range(3):
        algo.train()
    path = algo.save(str(tmp_path)).checkpoint.path
    other = build(lr=5e-5, optimizer={"type": "rmsprop", "alpha": 0.5})
    other.restore(path)
    group = other.get_policy().optimizers["host"].param_groups[0]
    assert (group["lr"], group["alpha"]) == (5e-5, 0.5)
    state = [
        optimizer.state_dict()["state"]
        for optimizer in (algo.get_policy().optimizers["follower"], other.get_policy().optimizers["follower"])
    ]
    assert state[0][0]["step"] == state[1][0]["step"] > 0  # the rest of its state is the checkpoint's
    assert other.train()["info"]["cur_lr"] == 5e-5


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_targets_move_by_tau(build, tau):
    host = build(small_config(QMIXConfig, tau=tau)).get_policy().model.host
    before = [p.clone() for p in (*host.target_agent.parameters(), *host.target_mixer.parameters())]
    with torch.no_grad():
        for p in host.trained():
            p.add_(torch.randn_like(p))
    host.update_target(tau)
    after = [*host.target_agent.parameters(), *host.target_mixer.parameters()]
    for old, new, online in zip(before, after, host.trained(), strict=True):
        torch.testing.assert_close(new, old + tau * (online - old))


def test_targets_are_updated_every_so_many_learning_updates(build):
    algo = build(small_config(QMIXConfig, target_update_interval_updates=3, updates_per_episode=2.5))
    policy, seen = algo.get_policy(), []
    original = policy.update_target
    policy.update_target = lambda: seen.append(policy.num_grad_updates) or original()
    for _ in range(5):
        algo.training_step()
    assert policy.num_grad_updates == 20  # 5 rounds of 2 episodes, none in the first
    assert seen == [3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"td_lambda": 1.1}, r"td_lambda is a number in \[0, 1\]; got 1.1"),
        ({"optimizer": "sgd"}, r"optimizer is 'rmsprop', 'adam', or a dict .*; got 'sgd'"),
        ({"follower_optimizer": {"eps": 1}}, r"follower_optimizer is 'rmsprop', 'adam', or a dict"),
        ({"lr": [[10, 1e-3], [20, 1e-4]]}, r"lr is a number in \(0, 1\], or a schedule \[\[0, rate\]"),
        ({"lr": [[0, 1e-3], [0, 1e-4]]}, r"lr is a number in \(0, 1\], or a schedule"),
        ({"tau": 0}, r"tau is a number in \(0, 1\]; got 0"),
        ({"intrinsic_reward_config": {"nrm": "sum"}}, r"intrinsic_reward_config\['nrm'\] is unknown: IDM has norm\."),
        (
            {"intrinsic_reward_config": {"norm": "max"}},
            r"intrinsic_reward_config\['norm'\] is one of 'mean', 'sum'; got 'max'",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        small_config(DDNConfig, **options).build_algo()


def test_td_lambda_reaches_the_loss(build):
    """The same batch and weights, another lambda: another target."""
    targets = []
    for td_lambda in (0.0, 0.9):
        algo = build(small_config(QMIXConfig, td_lambda=td_lambda))
        for _ in range(2):
            statistics = algo.train()["info"]["learner"]["default_policy"]["learner_stats"]
        targets.append(statistics["target_mean"])
    assert np.isfinite(targets).all()
    assert targets[0] != targets[1]


def test_a_training_that_diverges_ends_with_one_line_and_keeps_the_weights_before(build):
    algo = build(updates_per_episode=0.5)
    for _ in range(3):
        algo.train()
    policy = algo.get_policy()
    before = policy.get_weights()
    policy.model.distillation.terms["q"] = (lambda follower, leader, batch: (follower.q.sum() * float("inf"), {}), 1.0)
    with pytest.raises(
        DivergenceError, match=r"After \d+ env steps and 2 updates: the gradient of follower is not finite"
    ) as error:
        algo.train()
    assert re.search(r"\(.*loss_q = (-?inf|nan).*\)", str(error.value))
    assert "\n" not in str(error.value)
    for name, value in before.items():
        np.testing.assert_array_equal(policy.get_weights()[name], value)
    other = build(updates_per_episode=0.5)
    other.restore(str(error.value).split("saved in ")[1].rstrip("."))
    for name, value in before.items():
        np.testing.assert_array_equal(other.get_policy().get_weights()[name], value)
