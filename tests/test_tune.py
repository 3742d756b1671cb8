"""Training through Ray Tune."""

import json
from pathlib import Path

import numpy as np
import pytest
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.schedulers import PopulationBasedTraining

from support.configs import plain_config, small_config
from support.programs import run_program

pytestmark = pytest.mark.usefixtures("cluster")

AT_END = tune.CheckpointConfig(checkpoint_at_end=True)


def iteration_of(checkpoint):
    algo = Algorithm.from_checkpoint(checkpoint)
    algo.stop()
    return algo.iteration


class TellTheStartingRate(RLlibCallback):
    """Puts the learning rate into the results as the figure by which PBT ranks trials."""

    def on_train_result(self, *, algorithm, result, **kwargs):
        result["lr_of_the_start"] = algorithm.config.lr


def test_tune_run_with_a_grid_and_a_sampler(tmp_path):
    config = plain_config(
        mixer=tune.grid_search(["vdn", "qmix"]),
        lr=tune.loguniform(1e-4, 1e-3),
        exploration_config={"epsilon_timesteps": 100},
    )
    options = {"storage_path": str(tmp_path), "checkpoint_config": AT_END, "verbose": 0}
    analysis = tune.run("DDN", config=config, stop={"training_iteration": 3}, **options)
    assert sorted(trial.config["mixer"] for trial in analysis.trials) == ["qmix", "vdn"]
    assert all(trial.status == "TERMINATED" for trial in analysis.trials)
    assert all(1e-4 <= trial.config["lr"] <= 1e-3 for trial in analysis.trials)
    best = analysis.get_best_trial("best/score", "max")
    assert best.last_result["best"]["score"] == max(trial.last_result["best"]["score"] for trial in analysis.trials)
    assert iteration_of(f"{best.checkpoint.path}/best") == best.last_result["best"]["training_iteration"]
    # progress.csv and result.json have the curves; TensorBoard's file is read with the rllib command's tests.
    for trial in analysis.trials:
        header, *rows = (Path(trial.path) / "progress.csv").read_text().splitlines()
        assert "evaluation/follower/episode_return_mean" in header
        assert "info/learner/default_policy/learner_stats/loss_q" in header
        assert len(rows) == 3
        last = json.loads((Path(trial.path) / "result.json").read_text().splitlines()[-1])
        assert np.isfinite(last["evaluation"]["leader"]["episode_return_mean"])


def test_tuner_with_a_config_object(tmp_path):
    config = small_config(mask_probability=tune.uniform(0.1, 0.2)).evaluation(
        evaluation_interval=1, evaluation_duration=1
    )
    options = {"storage_path": str(tmp_path), "checkpoint_config": AT_END, "verbose": 0}
    tuner = tune.Tuner(
        "DDN",
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 2}, **options),
    )
    results = tuner.fit()
    assert not results.errors
    result = results.get_best_result("best/score", "max")
    assert iteration_of(f"{result.checkpoint.path}/best") == result.metrics["best"]["training_iteration"]
    assert 0.1 <= result.config["mask_probability"] <= 0.2


def test_worker_processes_need_no_import(tmp_path):
    """A new process that only imports rllib_ddn runs DDN in a Tune actor with a remote env runner."""
    assert "TERMINATED" in run_program("train_with_tune", tmp_path, cwd=tmp_path)


def test_a_trial_that_pbt_exploits_learns_at_the_new_rate(tmp_path):
    """Two trials of which one is said to be better: the other takes its weights, and another learning rate."""
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="lr_of_the_start",
        mode="max",
        perturbation_interval=2,
        quantile_fraction=0.5,
        resample_probability=1.0,
        hyperparam_mutations={"lr": [7e-5]},  # whoever exploits gets it
        require_attrs=False,
        synch=True,
    )
    analysis = tune.run(
        "DDN",
        config=plain_config(lr=tune.grid_search([1e-4, 9e-4]), evaluation_interval=None, callbacks=TellTheStartingRate),
        scheduler=scheduler,
        stop={"training_iteration": 4},
        storage_path=str(tmp_path),
        verbose=0,
    )
    assert [trial.status for trial in analysis.trials] == ["TERMINATED"] * 2
    exploited, better = analysis.trials
    assert (exploited.config["lr"], better.config["lr"]) == (7e-5, 9e-4)
    rates = {}
    for trial in (exploited, better):
        results = [json.loads(line) for line in (Path(trial.path) / "result.json").read_text().splitlines()]
        rates[trial] = [result["info"]["cur_lr"] for result in results]
    assert rates[exploited] == pytest.approx([1e-4, 1e-4, 7e-5, 7e-5])
    assert rates[better] == pytest.approx([9e-4] * 4)
