"""The ``rllib`` command, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.configs import SMALL_GAME

EXAMPLES = Path(__file__).parent.parent / "tuned_examples"
SMALL = {
    "env_config": SMALL_GAME,
    "train_batch_size": 4,
    "agent_hidden_dim": 8,
    "num_envs_per_env_runner": 2,
    "min_sample_timesteps_per_iteration": 1,
    "evaluation_duration": 3,
}


def rllib(*arguments, code=0, cwd=None):
    """Runs the command in a process of its own; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "rllib_ddn.cli", *map(str, arguments)], capture_output=True, text=True, timeout=400, cwd=cwd
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two experiments' worth of a grid from a yaml file, with checkpoints."""
    folder = tmp_path_factory.mktemp("cli")
    experiment = {
        "tiny": {
            "run": "DDN",
            "env": "predator_prey",
            "stop": {"training_iteration": 4},
            "checkpoint_config": {"checkpoint_at_end": True},
            "config": {**SMALL, "mixer": {"grid_search": ["vdn", "qmix"]}, "lr": {"tune.uniform": [1e-4, 1e-3]}},
        }
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    table = rllib("train", "file", folder / "tiny.yaml", "--storage-path", folder / "results", "--ray-num-cpus", 2)
    return folder, table


def trial_folders(folder):
    return sorted(path.parent for path in (folder / "results" / "tiny").glob("*/result.json"))


def test_a_yaml_file_trains_with_a_table_of_leader_and_follower(trained):
    folder, table = trained
    assert len(trial_folders(folder)) == 2
    for column in ("leader", "follower", "transfer", "env steps"):
        assert column in table
    assert table.count("terminated, results in") == 2


def test_tensorboard_has_the_curves(trained):
    for trial in trial_folders(trained[0]):
        events = EventAccumulator(str(trial))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        for name in (
            "evaluation/leader/episode_return_mean",
            "evaluation/follower/episode_return_mean",
            "info/learner/default_policy/learner_stats/loss_global",
            "info/learner/default_policy/learner_stats/intrinsic_reward_mean",
            "info/learner/default_policy/learner_stats/grad_norm_follower",
            "env_runners/episode_return_mean",
        ):
            assert f"ray/tune/{name}" in tags
        curve = events.Scalars("ray/tune/evaluation/leader/episode_return_mean")
        logged = [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]
        assert [point.value for point in curve] == pytest.approx([r["evaluation"]["leader"]["episode_return_mean"] for r in logged])
        assert [point.step for point in curve] == [r["timesteps_total"] for r in logged]


def test_evaluate_a_checkpoint_and_save_gifs(trained, tmp_path):
    trial = trial_folders(trained[0])[0]
    (checkpoint,) = trial.glob("checkpoint_*")
    both = json.loads(rllib("evaluate", checkpoint, "--algo", "DDN", "--episodes", 4, "--out", tmp_path / "out.json"))
    assert set(both) == {"leader", "follower", "knowledge_transfer"}
    assert json.loads((tmp_path / "out.json").read_text()).keys() == both.keys()
    one = json.loads(rllib("evaluate", checkpoint, "--episodes", 4, "--network", "leader", "--save-gif", tmp_path / "gifs"))
    assert one == {"leader": both["leader"]}  # the same games, drawn
    gifs = sorted((tmp_path / "gifs").iterdir())
    assert [gif.name for gif in gifs] == [f"leader_0{k}.gif" for k in range(4)]
    lengths = [Image.open(gif).n_frames - 1 for gif in gifs]
    # Equal neighbouring frames are merged in a GIF.
    assert np.mean(lengths) <= one["leader"]["episode_len_mean"]
    assert Image.open(gifs[0]).size == (96, 96)


def test_resume_finishes_an_experiment(trained):
    folder, _ = trained
    again = rllib("train", "file", folder / "tiny.yaml", "--storage-path", folder / "results", "--ray-num-cpus", 2, "--resume")
    assert again.count("terminated, results in") == 2
    assert len(trial_folders(folder)) == 2  # finished trials are not run again


def test_options_without_a_file_restore_and_emulated_nodes(trained, tmp_path):
    trial = next(t for t in trial_folders(trained[0]) if json.loads((t / "params.json").read_text())["mixer"] == "qmix")
    (checkpoint,) = trial.glob("checkpoint_*")
    rllib(
        "train", "--algo", "DDN", "--env", "predator_prey", "--config", json.dumps(SMALL), "--stop", '{"training_iteration": 6}',
        "--restore", checkpoint, "--storage-path", tmp_path, "--experiment-name", "more", "--checkpoint-freq", 1,
        "--keep-checkpoints-num", 1, "--ray-num-nodes", 2,
    )  # fmt: skip
    (result,) = (tmp_path / "more").glob("*/result.json")
    iterations = [json.loads(line)["training_iteration"] for line in result.read_text().splitlines()]
    assert iterations == [5, 6]  # goes on after the checkpoint's 4
    assert len(list(result.parent.glob("checkpoint_*"))) == 1


def test_a_python_file_and_rllibs_own_ppo(tmp_path):
    (tmp_path / "cartpole.py").write_text(
        "from ray.rllib.algorithms.ppo import PPOConfig\n"
        "config = PPOConfig().environment('CartPole-v1').env_runners(num_env_runners=1)\n"
        "config.training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1)\n"
        "stop = {'training_iteration': 1}\n"
    )
    out = rllib("train", "file", tmp_path / "cartpole.py", "--storage-path", tmp_path, "--ray-num-cpus", 3, "--checkpoint-at-end")
    assert "terminated" in out
    (checkpoint,) = tmp_path.glob("cartpole/*/checkpoint_*")
    played = json.loads(rllib("evaluate", checkpoint, "--algo", "PPO", "--episodes", 2))
    assert played["episode_return_mean"] > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--algo is missing"),
        (["train", "file", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["train", "--algo", "DDN", "--config", "{nope"], "--config is not JSON"),
        (["train", "--algo", "DDN"], "names no env"),
        (["train", "--algo", "DNN", "--env", "predator_prey"], "DNN"),
        (["train", "--algo", "DDN", "--env", "predator_pray"], "predator_pray"),
        (["train", "--algo", "DDN", "--env", "CartPole-v1"], "is not a MultiAgentEnv"),
        (["train", "--algo", "DDN", "--env", "predator_prey", "--config", '{"mixer": "sum"}'], "mixer is one of"),
        (["train", "--algo", "DDN", "--env", "predator_prey", "--config", '{"mask_prob": 1}'], "did you mean 'mask_probability'?"),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--config", '{"mask_probability": {"grid_search": [0.5, 2]}}'],
            "mask_probability is a probability in [0, 1]; got 2",
        ),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--config", '{"env_config": {"sight": 0}}'],
            "sight is a whole number",
        ),
        (["evaluate", "nowhere"], "nowhere is not a checkpoint"),
    ],
)
def test_errors_are_one_line_and_exit_2(arguments, message, tmp_path):
    error = rllib(*arguments, code=2, cwd=tmp_path)
    (line,) = [line for line in error.splitlines() if line.startswith("rllib: ")]
    assert message in line
    assert "Traceback" not in error


def variants(value):
    """Every dict in a config, to look into."""
    yield value
    for item in value.values():
        if isinstance(item, dict):
            yield from variants(item)


def accept(path):
    """Builds the config of all variants of a file, and the env."""
    from rllib_ddn.cli import _check, _load, _samplers

    experiments = _load(path)
    for name, spec in experiments.items():
        spec["config"] = _samplers({**spec["config"], "env": spec.pop("env")})
        _check(name, spec)
        assert spec["stop"]["timesteps_total"] > 0
    return experiments


@pytest.mark.parametrize("path", sorted([*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("paper/*.yaml")]), ids=lambda path: path.stem)
def test_tuned_examples_are_accepted(path):
    accept(path)


def test_the_papers_setting_is_the_papers():
    (spec,) = yaml.safe_load((EXAMPLES / "predator_prey_ddn.yaml").read_text()).values()
    assert spec["stop"]["timesteps_total"] == 1_000_000
    assert spec["config"]["env_config"] == {"penalty": 2.0}  # all else is the env's default
