"""Evaluation: both networks, greedily, on the same games."""

import numpy as np
import pytest
import torch
from ray.rllib.evaluation.metrics import RolloutMetrics

from rllib_ddn.cli.evaluate import report
from rllib_ddn.random_streams import seed_sequence
from rllib_ddn.rllib.evaluation import compare, describe, wilson
from support.configs import small_config


@pytest.mark.parametrize("eval_runners", [0, 2])
def test_evaluation_plays_both_networks_greedily_on_the_same_games(build, eval_runners):
    config = small_config()
    config.evaluation(evaluation_interval=2, evaluation_duration=5, evaluation_num_env_runners=eval_runners)
    algo = build(config)
    first, second = algo.train(), algo.train()
    # Not played yet; the columns of progress.csv are those of the first result.
    assert np.isnan([first["evaluation"]["leader"][figure] for figure in ("episode_return_mean", "win_rate")]).all()
    results = second["evaluation"]
    for network in ("leader", "follower"):
        assert 0 < results[network]["episode_len_mean"] <= 12
        # Play the same seeds here: greedy play is a function of weights and seed.
        runner = algo.env_runner
        seeds = [seed_sequence("evaluation", algo.seed, 1, k) for k in range(5)]
        returns = [runner.play([seed], network, explore=False)[1][0].episode_reward for seed in seeds]
        assert results[network]["episode_return_mean"] == pytest.approx(np.mean(returns))
    assert results["env_runners"]["num_episodes"] == 5
    assert results["env_runners"]["episode_return_mean"] == results["follower"]["episode_return_mean"]
    # Evaluation is no training.
    assert algo._counters["num_episodes_sampled"] == 4


def test_env_runners_of_the_training_evaluate_with_what_is_learned(build):
    """They have the network that acts in training; the others of theirs are as they began, until an evaluation."""
    config = small_config(behaviour_network="leader")
    config.env_runners(num_env_runners=1)
    config.evaluation(evaluation_interval=None, evaluation_duration=8)
    algo = build(config)
    algo.train()
    results = algo.evaluate()
    seeds = [seed_sequence("evaluation", algo.seed, 1, k) for k in range(8)]
    for network in ("leader", "follower"):
        here = algo.env_runner.policy.model.networks[network].state_dict()
        (there,) = algo.env_runner_group.foreach_env_runner(
            lambda runner, network=network: runner.policy.model.networks[network].state_dict(), local_env_runner=False
        )
        for name, value in here.items():
            assert torch.equal(value, there[name]), name
        returns = [algo.env_runner.play([seed], network, explore=False)[1][0].episode_reward for seed in seeds]
        assert results[network]["episode_return_mean"] == pytest.approx(np.mean(returns))


def episodes(*returns, won=None):
    custom = [{} if won is None else {"battle_won": w} for w in won or returns]
    return [RolloutMetrics(7, r, custom_metrics=c) for r, c in zip(returns, custom, strict=True)]


def test_knowledge_transfer_by_hand():
    result = compare({"leader": episodes(10, 30), "follower": episodes(5, 25)})
    assert result["leader"]["episode_return_mean"] == 20
    assert result["knowledge_transfer"] == 0.75
    assert "win_rate" not in result["leader"]
    result = compare({"leader": episodes(1, 1, won=(1.0, 1.0)), "follower": episodes(1, 1, won=(1.0, 0.0))})
    assert (result["leader"]["win_rate"], result["knowledge_transfer"]) == (
        1.0,
        0.5,
    )  # of win rates, where there are any
    assert np.isnan(compare({"leader": episodes(-1.0), "follower": episodes(2.0)})["knowledge_transfer"])


def test_intervals_by_hand():
    leader = describe({"leader": episodes(1.0, 2.0, 3.0, 6.0)})["leader"]
    assert leader["episodes"] == 4
    assert leader["episode_return_std"] == pytest.approx(np.sqrt(14 / 3))
    half = 3.182446 * np.sqrt(14 / 3 / 4)  # the t of 3 degrees of freedom, from a table
    assert leader["episode_return_ci95"] == pytest.approx([3 - half, 3 + half])
    assert wilson(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)  # Newcombe 1998 has such tables
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.161125), abs=1e-6)
    assert describe({"agent": episodes(1, 1, won=(1.0, 0.0))})["agent"]["win_rate_ci95"] == pytest.approx(
        wilson(0.5, 2)
    )
    single = describe({"agent": episodes(5.0)})["agent"]
    assert (single["episode_return_std"], single["episode_return_ci95"]) == (None, [None, None])


@pytest.mark.parametrize(
    ("leader", "reason"),
    [
        (episodes(-2.0, -4.0), "the leader's mean return is -3"),
        (episodes(1, 1, won=(0.0, 0.0)), "the leader's win rate is 0"),
    ],
)
def test_a_missing_knowledge_transfer_has_a_reason(leader, reason):
    found = describe({"leader": leader, "follower": leader})
    assert found["knowledge_transfer"] is None
    assert found["knowledge_transfer_reason"].startswith(reason)
    text = report({"checkpoint": "x", **found, "seeds": [5, 6], "files": ["a.gif"]})
    assert f"knowledge transfer: not given, for {reason}" in text
    assert "wrote a.gif" in text
