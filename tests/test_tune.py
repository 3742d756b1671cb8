"""Training through Ray Tune."""

import json
from pathlib import Path

import numpy as np
from ray import tune

from support.configs import plain_config, small_config
from support.programs import run_program


def test_tune_run_with_a_grid_and_a_sampler(tmp_path):
    config = plain_config(
        mixer=tune.grid_search(["vdn", "qmix"]), lr=tune.loguniform(1e-4, 1e-3), exploration_config={"epsilon_timesteps": 100}
    )
    analysis = tune.run("DDN", config=config, stop={"training_iteration": 3}, storage_path=str(tmp_path), verbose=0)
    assert sorted(trial.config["mixer"] for trial in analysis.trials) == ["qmix", "vdn"]
    assert all(trial.status == "TERMINATED" for trial in analysis.trials)
    assert all(1e-4 <= trial.config["lr"] <= 1e-3 for trial in analysis.trials)
    # progress.csv and result.json have the curves; TensorBoard's file is read with the rllib command's tests.
    for trial in analysis.trials:
        header, *rows = (Path(trial.path) / "progress.csv").read_text().splitlines()
        assert "evaluation/follower/episode_return_mean" in header
        assert "info/learner/default_policy/learner_stats/loss_q" in header
        assert len(rows) == 3
        last = json.loads((Path(trial.path) / "result.json").read_text().splitlines()[-1])
        assert np.isfinite(last["evaluation"]["leader"]["episode_return_mean"])


def test_tuner_with_a_config_object(tmp_path):
    config = small_config(mask_probability=tune.uniform(0.1, 0.2))
    tuner = tune.Tuner(
        "DDN",
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 2}, storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    (result,) = results
    assert 0.1 <= result.config["mask_probability"] <= 0.2


def test_worker_processes_need_no_import(tmp_path):
    """A new process that only imports rllib_ddn runs DDN in a Tune actor with a remote env runner."""
    assert "TERMINATED" in run_program("train_with_tune", tmp_path, cwd=tmp_path)
