"""Experiment trackers through Ray's own callbacks."""

import json
from pathlib import Path

import pytest
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.logger import TBXLoggerCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rllib_ddn.cli import tuning
from support.command import rllib
from support.configs import plain_config

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.slow
def test_mlflow_in_a_local_folder_and_tensorboard_have_the_curves(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # without it, MLflow 3.17 wants a database
    where = (tmp_path / "mlruns").as_uri()
    analysis = tune.run(
        "DDN",
        config=plain_config(mixer="vdn"),
        stop={"training_iteration": 2},
        storage_path=str(tmp_path / "results"),
        callbacks=[MLflowLoggerCallback(tracking_uri=where, experiment_name="teams"), TBXLoggerCallback()],
        verbose=0,
    )
    (trial,) = analysis.trials
    client = mlflow.MlflowClient(tracking_uri=where)
    experiment = client.get_experiment_by_name("teams")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["mixer"] == "vdn"
    key = "evaluation/follower/episode_return_mean"
    curve = client.get_metric_history(run.info.run_id, key)
    results = [json.loads(line) for line in Path(trial.path, "result.json").read_text().splitlines()]
    values = [result["evaluation"]["follower"]["episode_return_mean"] for result in results]
    assert [point.value for point in curve] == pytest.approx(values)
    assert [point.step for point in curve] == [result["timesteps_total"] for result in results]
    events = EventAccumulator(str(trial.path))
    events.Reload()
    assert [point.value for point in events.Scalars(f"ray/tune/{key}")] == pytest.approx(values)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_command_logs_to_a_tracker(name, tmp_path, monkeypatch):
    pytest.importorskip(name)
    given = []
    run = lambda *arguments, callbacks, **options: given.extend(callbacks) or []  # noqa: E731
    monkeypatch.setattr(tuning, "run_experiments", run)
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    train = ["train", "--algo", "QMIX", "--env", "predator_prey", "-n", "teams", "--storage-path", str(tmp_path)]
    rllib(*train, "--track", name)
    (tracker,) = [logger for logger in given if logger.__class__.__name__.lower().startswith(name)]
    assert (tracker.experiment_name if name == "mlflow" else tracker.project) == (
        "teams" if name == "mlflow" else "elsewhere"
    )
    assert name == "mlflow" or tracker.kwargs["resume"] == "allow"  # a resumed trial continues its run
    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda module: None)
    told = rllib(*train, "--track", name, code=2)
    assert f"rllib: --track {name} needs its package: pip install {name}" in told.splitlines()


def test_tensorboard_is_told_where_the_run_is(tmp_path, monkeypatch):
    given = []
    run = lambda *arguments, callbacks, **options: given.extend(callbacks) or []  # noqa: E731
    monkeypatch.setattr(tuning, "run_experiments", run)
    train = ["train", "--algo", "QMIX", "--env", "predator_prey", "-n", "teams", "--storage-path", str(tmp_path)]
    assert f"tensorboard --logdir {tmp_path}/teams" in rllib(*train, "--track", "tensorboard")
    assert [logger.__class__.__name__ for logger in given].count("TBXLoggerCallback") == 1


@pytest.mark.slow
def test_weights_and_biases_without_its_server(tmp_path, monkeypatch):
    """Offline, a run goes into a folder for `wandb sync` to send, with results and config by name. Their server is not
    tried.
    """
    from ray.air.integrations.wandb import WandbLoggerCallback

    monkeypatch.setenv("WANDB_MODE", "offline")  # else Ray wants a key
    analysis = tune.run(
        "DDN",
        config=plain_config(mixer="vdn"),
        stop={"training_iteration": 2},
        storage_path=str(tmp_path / "results"),
        callbacks=[WandbLoggerCallback(project="teams", resume="allow", mode="offline", dir=str(tmp_path))],
        verbose=0,
    )
    (trial,) = analysis.trials
    (run,) = tmp_path.rglob("*.wandb")
    told = run.read_bytes()
    assert trial.trial_id.encode() in told
    for key in (b"evaluation/follower/episode_return_mean", b"mixer"):
        assert key in told
