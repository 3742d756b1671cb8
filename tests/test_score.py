"""The score of a training, and the best state that its checkpoints keep."""

import json
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_ddn import QMIXConfig
from rllib_ddn.rllib.score import Score, add_score
from support.configs import small_config


def scores(figures, metric="episode_return_mean"):
    """Of each evaluation the score; and the iteration of the best."""
    score, values = Score(), []
    for iteration, figure in enumerate(figures, 1):
        score.update({metric: figure} if figure is not None else {}, iteration, 100 * iteration)
        values.append(score.value)
    return values, score.best


def test_a_lucky_evaluation_does_not_win():
    values, best = scores([10, 19, 10, 13, 14, 15])
    assert values == [10, 14.5, 10, 13, pytest.approx(37 / 3), 14]
    assert best == {"score": 14.5, "training_iteration": 2, "timesteps_total": 200}
    _, best = scores([10, 10, 19, 10, 15, 15, 15])  # 19 counts as (10 + 10 + 19) / 3
    assert best == {"score": 15, "training_iteration": 7, "timesteps_total": 700}


def test_weights_that_have_just_failed_do_not_win_by_their_predecessors():
    _, best = scores([18, 19, 20, 12])  # whose mean of three is 17
    assert best["training_iteration"] == 3
    assert scores([12, 18, 18, 10])[1]["training_iteration"] == 3


def test_between_evaluations_the_score_stays_and_ranks_below_the_evaluated_one():
    values, best = scores([None, 5.0, None, math.nan, 6.0])
    assert math.isnan(values[0])
    assert values[2:4] == pytest.approx([5.0, 5.0])
    assert 5.0 > values[2] > values[3]
    assert values[4] == 5.5
    assert best["training_iteration"] == 5


def test_win_rates_replace_returns():
    score = Score()
    for iteration, evaluation in enumerate(
        [{"episode_return_mean": 12.0}, {"episode_return_mean": 12.0, "win_rate": 0.25}], 1
    ):
        assert score.update(evaluation, iteration, 0)
    assert score.best["score"] == 0.25
    assert not score.update({"episode_return_mean": 15.0, "win_rate": 0.0}, 3, 0)


def train_by_hand(algo, returns, monkeypatch):
    """Iterations whose evaluations have these mean returns of the deployed network; returns the weights of each."""
    evaluate, weights, results = algo.evaluate, [], []

    def evaluated(parallel_train_future=None):
        found = evaluate(parallel_train_future)
        found[algo.get_policy().model.acting_network] = {"episode_return_mean": returns[algo.iteration % len(returns)]}
        return found

    monkeypatch.setattr(algo, "evaluate", evaluated)
    for _ in range(len(returns) - algo.iteration):
        results.append(algo.train())
        weights.append({name: value.copy() for name, value in algo.get_policy().get_weights().items()})
    return results, weights


def evaluating(config=None, interval=1, **evaluation):
    config = config or small_config()
    return config.evaluation(evaluation_interval=interval, evaluation_duration=1, **evaluation)


def same(weights, others):
    assert weights.keys() == others.keys()
    return all(np.array_equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("config", [small_config(), small_config(QMIXConfig)], ids=["DDN", "QMIX"])
def test_a_checkpoint_keeps_the_best_state(build, tmp_path, monkeypatch, config):
    algo = build(evaluating(config))
    results, weights = train_by_hand(algo, [1.0, 2.0, 9.0, 8.0, 1.0], monkeypatch)
    assert [result["score"] for result in results] == [1, 1.5, 4, pytest.approx(19 / 3), 1]
    assert results[-1]["best"] == {"score": pytest.approx(19 / 3), "training_iteration": 4, "timesteps_total": 96}
    path = algo.save(str(tmp_path)).checkpoint.path
    assert json.loads((tmp_path / "best" / "score.json").read_text()) == results[-1]["best"]
    latest, best = Algorithm.from_checkpoint(path), Algorithm.from_checkpoint(f"{path}/best")
    assert (latest.iteration, best.iteration) == (5, 4)
    assert same(latest.get_policy().get_weights(), weights[4])
    assert same(best.get_policy().get_weights(), weights[3])
    assert (len(latest.local_replay_buffer), len(best.local_replay_buffer)) == (10, 0)
    assert best._counters["num_env_steps_sampled"] == 96
    best.train()  # from there
    for other in (latest, best):
        other.stop()


def test_a_restored_run_has_the_scores_and_the_best_of_the_whole_one(build, tmp_path, monkeypatch):
    returns = [3.0, 9.0, 8.0, 2.0, 8.5, 1.0]
    whole = build(evaluating())
    expected, weights = train_by_hand(whole, returns, monkeypatch)
    first, second = build(evaluating()), build(evaluating())
    train_by_hand(first, returns[:4], monkeypatch)
    second.restore(first.save(str(tmp_path / "first")).checkpoint.path)
    results, _ = train_by_hand(second, returns, monkeypatch)
    for key in ("score", "best"):
        assert [result[key] for result in results] == [result[key] for result in expected[4:]]
    second.save(str(tmp_path / "second"))
    best = Algorithm.from_checkpoint(str(tmp_path / "second" / "best"))
    assert same(best.get_policy().get_weights(), weights[2])  # from before the interruption
    best.stop()


def test_beside_a_training_the_evaluated_weights_are_kept(build, tmp_path, monkeypatch):
    """With evaluation_parallel_to_training the iteration ends with other weights than it has evaluated."""
    algo = build(evaluating(evaluation_parallel_to_training=True, evaluation_num_env_runners=1))
    for _ in range(3):
        algo.train()
    before = {name: value.copy() for name, value in algo.get_policy().get_weights().items()}
    steps, evaluate = algo._counters["num_env_steps_sampled"], algo.evaluate
    trained, run = threading.Event(), algo._run_one_training_iteration_old_api_stack

    def signalled():
        found = run()
        trained.set()
        return found

    def later(parallel_train_future=None):  # the training comes first
        trained.wait(60)
        return evaluate(parallel_train_future)

    monkeypatch.setattr(algo, "_run_one_training_iteration_old_api_stack", signalled)
    monkeypatch.setattr(algo, "evaluate", later)
    algo.score = Score()
    result = algo.train()
    assert not same(algo.get_policy().get_weights(), before)
    algo.save(str(tmp_path))
    best = Algorithm.from_checkpoint(str(tmp_path / "best"))
    assert same(best.get_policy().get_weights(), before)
    assert (best.iteration, best._counters["num_env_steps_sampled"]) == (3, steps)
    assert (result["best"]["training_iteration"], result["best"]["timesteps_total"]) == (3, steps)
    best.stop()
    (evaluated,) = algo.eval_env_runner_group.foreach_env_runner(
        lambda r: r.policy.get_weights(), local_env_runner=False
    )
    assert same(evaluated, before)


def test_without_evaluations_there_is_no_score(build, tmp_path):
    algo = build()
    assert "score" not in algo.train()
    algo.save(str(tmp_path))
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(("interval", "expected"), [(None, 3.0), (1, 7.0)])
def test_rllibs_own_algorithms_are_scored_by_what_they_have(interval, expected):
    algorithm = SimpleNamespace(config=SimpleNamespace(evaluation_interval=interval))
    result = {"env_runners": {"episode_return_mean": 3.0}, "evaluation": {"env_runners": {"episode_return_mean": 7.0}}}
    result |= {"training_iteration": 1, "num_env_steps_sampled_lifetime": 40}
    add_score(algorithm=algorithm, metrics_logger=None, result=result)
    assert result["score"] == expected
    assert result["best"] == {"score": expected, "training_iteration": 1, "timesteps_total": 40}
