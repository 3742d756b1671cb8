"""The ``rllib`` command, as a user types it."""

import copy
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rllib_ddn.cli import app, tuning
from rllib_ddn.cli.callbacks import Reporter
from rllib_ddn.cli.checkpoints import check_checkpoint, find
from rllib_ddn.cli.experiments import check, complete, load, samplers
from rllib_ddn.cli.train import TrainOptions
from support.command import rllib
from support.configs import SMALL_GAME

pytestmark = pytest.mark.usefixtures("cluster")

EXAMPLES = Path(__file__).parent.parent / "tuned_examples"
SMALL = {
    "env_config": SMALL_GAME,
    "train_batch_size": 4,
    "agent_hidden_dim": 8,
    "num_envs_per_env_runner": 2,
    "min_sample_timesteps_per_iteration": 1,
    "evaluation_duration": 3,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cluster):
    """A grid of two trials from a yaml file, with checkpoints."""
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
    table = rllib("train", "file", folder / "tiny.yaml", "--storage-path", folder / "results")
    return folder, table


def trial_folders(folder):
    return sorted(path.parent for path in (folder / "results" / "tiny").glob("*/result.json"))


def test_a_yaml_file_trains_with_a_table_of_leader_and_follower(trained):
    folder, table = trained
    assert len(trial_folders(folder)) == 2
    for column in ("leader", "follower", "transfer", "env steps"):
        assert column in table
    assert table.count("terminated, results in") == 2
    results = [json.loads((trial / "result.json").read_text().splitlines()[-1]) for trial in trial_folders(folder)]
    best = max(results, key=lambda result: result["best"]["score"])
    (line,) = [line for line in table.splitlines() if line.startswith("tiny: the best of 2 trials is ")]
    assert (
        f"score {best['best']['score']:.4g}, with lr={best['config']['lr']:.4g}, mixer={best['config']['mixer']}"
        in line
        or (f"mixer={best['config']['mixer']}, lr={best['config']['lr']:.4g}" in line)
    )
    assert table.count(" env steps, score ") >= 2
    for result, trial in zip(results, trial_folders(folder), strict=True):
        (checkpoint,) = trial.glob("checkpoint_*")
        apart = result["best"]["training_iteration"] != 4
        assert (f" evaluate {checkpoint}/best\n" in table) == apart
        assert f" evaluate {checkpoint}\n" in table
        assert check_checkpoint(checkpoint / "best") is None


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
        assert [point.value for point in curve] == pytest.approx(
            [r["evaluation"]["leader"]["episode_return_mean"] for r in logged]
        )
        assert [point.step for point in curve] == [r["timesteps_total"] for r in logged]


def test_evaluate_a_checkpoint_and_save_gifs(trained, tmp_path, monkeypatch):
    trial = trial_folders(trained[0])[0]
    (checkpoint,) = trial.glob("checkpoint_*")
    monkeypatch.chdir(trial)
    told = rllib("evaluate", checkpoint.name, "--algo", "DDN", "--episodes", 4, "--out", tmp_path / "out.json")
    both = json.loads((tmp_path / "out.json").read_text())
    assert both["checkpoint"] == str(checkpoint)
    assert f"leader: 4 greedy episodes, return {both['leader']['episode_return_mean']:.4g} [" in told
    options = ["--latest", "--episodes", 4, "--network", "leader", "--save-gif", tmp_path / "gifs", "--json"]
    one = json.loads(rllib("evaluate", trial, *options))
    assert one["leader"] == both["leader"]  # the same games, drawn
    assert (one["seeds"], one["checkpoint"]) == (both["seeds"], both["checkpoint"])
    assert one["files"] == [str(tmp_path / "gifs" / f"leader_0{k}.gif") for k in range(4)]
    gifs = sorted((tmp_path / "gifs").iterdir())
    assert [gif.name for gif in gifs] == [f"leader_0{k}.gif" for k in range(4)]
    lengths = [Image.open(gif).n_frames - 1 for gif in gifs]
    # Equal neighbouring frames are merged in a GIF.
    assert min(lengths) > 1
    assert np.mean(lengths) <= one["leader"]["episode_len_mean"]
    assert Image.open(gifs[0]).size == (96, 96)
    told = rllib("evaluate", checkpoint, "--env", "smac", "--save-gif", tmp_path / "gifs", code=2)
    assert "StarCraft II draws itself: --save-replay writes replays" in told


def test_what_is_printed_while_it_trains(monkeypatch):
    """The table again when a trial has a new result or status, and not within a few seconds."""
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    reporter, shown = Reporter(), []
    trial = SimpleNamespace(trial_id="a", status="RUNNING", last_result={"training_iteration": 1})
    changes = [("RUNNING", 1), ("RUNNING", 1), ("RUNNING", 2), ("RUNNING", 2), ("PAUSED", 2)]
    for second, (status, iteration) in enumerate(changes):
        clock = 100.0 + 10 * second
        trial.status, trial.last_result["training_iteration"] = status, iteration
        shown.append(reporter.should_report([trial]))
    assert shown == [True, False, True, False, True]
    trial.last_result["training_iteration"], clock = 3, clock + 1
    assert not reporter.should_report([trial])
    assert reporter.should_report([trial], done=True)


def test_resume_leaves_finished_trials_and_refuses_other_settings(trained, tmp_path):
    folder, _ = trained
    resume = ["--storage-path", folder / "results", "--resume"]
    again = rllib("train", "file", folder / "tiny.yaml", *resume)
    assert again.count("terminated, results in") == 2
    assert "is finished already" in again
    assert len(trial_folders(folder)) == 2  # finished trials are not run again
    told = rllib("train", "file", folder / "tiny.yaml", *resume, "--config", '{"gamma": 0.5}', code=2)
    assert "was begun with gamma = 0.99, and --resume continues with that, not with 0.5" in told
    # A setting that is left out now, or one within the env's, has its default again.
    for key, nested, message in (
        (
            "train_batch_size",
            None,
            "was begun with train_batch_size = 4, and --resume continues with that, not with 32",
        ),
        ("env_config", "grid_size", "was begun with env_config.grid_size = 4"),
    ):
        spec = yaml.safe_load((folder / "tiny.yaml").read_text())
        config = spec["tiny"]["config"]
        del (config[key] if nested else config)[nested or key]
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(spec))
        assert message in rllib("train", "file", tmp_path / "tiny.yaml", *resume, code=2)


def test_several_experiments_run_one_after_the_other_and_one_from_a_checkpoint(trained, tmp_path):
    """Each with its own stop and scheduler, in its own folder; a larger stop then continues one."""
    trial = next(t for t in trial_folders(trained[0]) if json.loads((t / "params.json").read_text())["mixer"] == "qmix")
    (checkpoint,) = trial.glob("checkpoint_*")
    spec = {"run": "DDN", "env": "predator_prey", "config": SMALL}
    halving = {"time_attr": "training_iteration", "metric": "score", "mode": "max"}
    file = {
        "restored": {**spec, "stop": {"training_iteration": 6}, "restore": str(checkpoint), "checkpoint_freq": 1}
        | {"keep_checkpoints_num": 1},
        "searched": {
            **spec,
            "stop": {"training_iteration": 2},
            "scheduler": "async_hyperband",
            "scheduler_config": halving,
        },
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(file))
    out = rllib("train", "file", tmp_path / "two.yaml", "--storage-path", tmp_path)

    def iterations(name):
        (result,) = (tmp_path / name).glob("*/result.json")
        assert len(list(result.parent.glob("checkpoint_*"))) == 1
        return [json.loads(line)["training_iteration"] for line in result.read_text().splitlines()]

    first, second = out.split("searched: results go to")
    assert "restored: results go to" in first
    assert "| follower |" in second.replace("  ", " ").replace("  ", " ")
    assert (iterations("restored"), iterations("searched")) == ([5, 6], [1, 2])  # from the checkpoint's 4
    del file["searched"], file["restored"]["restore"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(file))
    rllib(
        "train",
        "file",
        tmp_path / "one.yaml",
        "--storage-path",
        tmp_path,
        "--resume",
        "--stop",
        '{"training_iteration": 8}',
    )
    assert iterations("restored") == [5, 6, 7, 8]


def test_emulated_nodes_are_taken_down_where_another_fails(tmp_path, monkeypatch):
    added, stopped = [], []

    class Failing:
        def add_node(self, **arguments):
            added.append(arguments["num_cpus"])
            if len(added) == 2:
                raise OSError("no more nodes")

        def shutdown(self):
            stopped.append(self)

    monkeypatch.setattr(tuning, "Cluster", Failing)
    options = ["--env", "predator_prey", "--config", json.dumps(SMALL), "--storage-path", tmp_path]
    options += ["--ray-num-nodes", 2, "--ray-num-cpus", 3]
    assert "no more nodes" in rllib("train", "--algo", "DDN", *options, code=2)
    assert (added, len(stopped)) == ([3, 3], 1)


@pytest.mark.slow
def test_a_python_file_and_rllibs_own_ppo(tmp_path, cluster):
    (tmp_path / "cartpole.py").write_text(
        "from ray.rllib.algorithms.ppo import PPOConfig\n"
        "config = PPOConfig().environment('CartPole-v1').env_runners(num_env_runners=1)\n"
        "config.training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1)\n"
        "config.evaluation(evaluation_interval=1, evaluation_num_env_runners=1, evaluation_parallel_to_training=True)\n"
        "stop = {'training_iteration': 1}\n"
    )
    train = ["train", "file", tmp_path / "cartpole.py", "--storage-path", tmp_path]
    out = rllib(*train, "--checkpoint-at-end")
    assert "terminated" in out
    assert "best and latest: iteration 1, " in out
    assert "is finished already" in rllib(*train, "--checkpoint-at-end", "--resume")
    (checkpoint,) = tmp_path.glob("cartpole/*/checkpoint_*")
    assert find(tmp_path / "cartpole", None) == checkpoint
    played = json.loads(rllib("evaluate", checkpoint, "--algo", "PPO", "--episodes", 2, "--json"))
    assert played["policy"]["episode_return_mean"] > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--algo is missing"),
        (["train", "file", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["train", "--algo", "DDN", "--config", "{nope"], "--config is not JSON"),
        (["train", "--algo", "DDN"], "names no env"),
        (
            ["train", "--algo", "DNN", "--env", "predator_prey"],
            "there is no algorithm 'DNN'; did you mean 'VDN', 'DQN', 'DDN'?",
        ),
        (
            ["train", "--algo", "xyz", "--env", "predator_prey"],
            "there is no algorithm 'xyz'; there are DDN, VDN, QMIX, ",
        ),
        (
            ["train", "--algo", "Value", "--env", "predator_prey"],
            "there is no algorithm 'Value'; there are DDN, VDN, QMIX, ",
        ),
        (
            ["train", "--algo", "DDN", "--env", "abc"],
            "there is no env 'abc'; there are predator_prey, pettingzoo, smac, smax.",
        ),
        (["list", "keys", "qmx"], "did you mean 'QMIX'"),
        (["train", "--algo", "ppo", "--env", "CartPole-v1"], "did you mean 'PPO'"),
        (
            ["train", "--algo", "DDN", "--env", "predator_pray"],
            "there is no env 'predator_pray'; did you mean 'predator_prey'?",
        ),
        (
            ["train", "--algo", "PPO", "--env", "CartPole-v7"],
            "there is no env 'CartPole-v7'; did you mean 'CartPole-v1'",
        ),
        (
            ["train", "--algo", "PPO", "--env", "nowhere.Game"],
            "the env 'nowhere.Game' cannot be imported: No module named 'nowhere'. Custom modules are looked for in "
            "the working",
        ),
        (
            ["train", "--algo", "DDN", "--env", "my_game:Match"],
            "the env 'my_game:Match' cannot be imported: No module named 'my_game'. Custom modules are looked for in "
            "the working",
        ),
        (
            ["train", "--algo", "DDN", "--stop", "5"],
            """--stop is a JSON object such as '{"timesteps_total": 100000}'; got 5""",
        ),
        (["train", "--algo", "DDN", "--stop", '{"timesteps_total": "all"}'], "takes a number"),
        (
            ["train", "--algo", "DDN", "--stop", "timesteps_total: 5"],
            """such as '{"timesteps_total": 100000}'; got timesteps_total: 5""",
        ),
        (["train", "--algo", "DDN", "--stop", '{"timesteps_total": -5}'], "takes a number above 0; got -5"),
        (["example", "list", "nowhere"], "no example's name or summary holds 'nowhere'"),
        (["example", "get", "predator_pray_ddn"], "did you mean 'predator_prey_ddn'"),
        (["example", "get", "nowhere"], "there is no example 'nowhere'; `rllib example list` shows all."),
        (["train", "--algo", "DDN", "--stop", '{"timestep_total": 9}'], "did you mean 'timesteps_total'?"),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--storage-path", "/dev/null/x"],
            "cannot be written to /dev/null/x",
        ),
        (["train", "--algo", "DDN", "--env", "predator_prey", "--scheduler", "asha2"], "asha2"),
        (["train", "--stop", "{}", "--algo", "DDN", "file", "x.yaml"], "options go after the file"),
        (["train", "--algo", "DDN", "--env", "CartPole-v1"], "is not a MultiAgentEnv"),
        (["train", "--algo", "DDN", "--env", "predator_prey", "--config", '{"mixer": "sum"}'], "mixer is one of"),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--config", '{"mask_prob": 1}'],
            "Did you mean 'mask_probability'?",
        ),
        (
            [
                "train",
                "--algo",
                "DDN",
                "--env",
                "predator_prey",
                "--config",
                '{"mask_probability": {"grid_search": [0.5, 2]}}',
            ],
            "mask_probability is a probability in [0, 1]; got 2",
        ),
        (
            ["train", "--algo", "OWQMIX", "--env", "predator_prey"]
            + ["--config", '{"mixer_config": {"alpha": {"grid_search": [0.1, 2.0]}}}'],
            "alpha",
        ),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--restore", "s3://bucket/checkpoint"],
            "a folder on this machine",
        ),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--config", '{"env_config": {"sight": 0}}'],
            "sight is an integer of at least 1",
        ),
        (["train", "--algo", "PPO", "--env", "math:floor"], "for which the env 'math:floor' is 'math.floor'"),
        (
            ["train", "--algo", "PPO", "--env", "robots:Fetch-v3"],
            "there is no env 'robots:Fetch-v3'; there are predator_prey, ",
        ),
        (["evaluate", "nowhere"], "nowhere does not exist."),
        (["evaluate", "."], "is not a checkpoint: rllib_checkpoint.json is missing there."),
    ],
)
def test_errors_are_one_line_and_exit_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = rllib(*arguments, code=2)
    (line,) = [line for line in told.splitlines() if line.startswith("rllib: ")]
    assert message in line
    assert "Traceback" not in told


def test_options_win_over_the_file():
    file = {
        "run": "DDN",
        "env": "predator_prey",
        "stop": {"timesteps_total": 10},
        "checkpoint_freq": 3,
        "config": {
            "env_config": {"grid_size": 4, "penalty": 1.0},
            "replay_buffer_config": {"capacity": 50},
            "lr": {"grid_search": [1, 2]},
            "gamma": 0.5,
        },
    }

    def completed(**options):
        experiments = {"a": copy.deepcopy(file)}
        complete(experiments, TrainOptions(**options))
        return experiments["a"]

    spec = completed(config='{"lr": 3, "replay_buffer_config": {"type": "x"}}', env_config='{"penalty": 0.0}')
    assert spec["config"]["lr"] == 3
    assert spec["config"]["gamma"] == 0.5
    assert spec["config"]["replay_buffer_config"] == {"capacity": 50, "type": "x"}
    assert spec["config"]["env_config"] == {"grid_size": 4, "penalty": 0.0}
    assert spec["stop"] == {"timesteps_total": 10}
    assert spec["checkpoint_config"]["checkpoint_frequency"] == 3
    other = completed(env="smax", env_config='{"map_name": "3m"}', stop='{"training_iteration": 1}', checkpoint_freq=7)
    assert (other["config"]["env"], other["config"]["env_config"]) == (
        "smax",
        {"map_name": "3m"},
    )  # nothing of the old env's
    assert other["stop"] == {"training_iteration": 1}
    assert other["checkpoint_config"]["checkpoint_frequency"] == 7


def test_the_schedulers_arguments():
    file = {"run": "DDN", "env": "predator_prey", "stop": {"timesteps_total": 10}}
    searched = {**file, "scheduler": "async_hyperband", "scheduler_config": {"max_t": 9, "grace_period": 3}}

    def scheduler(spec, **options):
        experiments = {"a": copy.deepcopy(spec)}
        complete(experiments, TrainOptions(**options))
        return experiments["a"]["scheduler"], experiments["a"]["scheduler_config"]

    assert scheduler(file) == ("fifo", {})
    assert scheduler(searched, scheduler_config='{"max_t": 5}') == ("async_hyperband", {"max_t": 5, "grace_period": 3})
    assert scheduler(searched, scheduler="pbt", scheduler_config='{"time_attr": "x"}') == ("pbt", {"time_attr": "x"})
    with pytest.raises(typer.Exit):
        scheduler(file, scheduler_config='{"max_t": 5}')


def test_both_train_commands_have_the_same_options():
    train, file = (
        typer.main.get_command(app).commands["train"],
        typer.main.get_command(app).commands["train"].commands["file"],
    )
    names = [{option for p in command.params for option in p.opts} for command in (train, file)]
    assert names[0] - names[1] == {"--algo", "--run", "-a", "-r", "--experiment-name", "-n"}
    assert names[1] - names[0] == {"config_file"}
    assert {"--config", "--env", "--env-config", "--stop", "-s", "--resume", "-vv"} <= names[1]


def accept(path):
    """Builds the config of all variants of a file, and the env."""
    experiments = load(path)
    for name, spec in experiments.items():
        spec["config"] = samplers({**spec["config"], "env": spec.pop("env")})
        check(name, spec)
        assert spec["stop"]["timesteps_total"] > 0
    return experiments


@pytest.mark.parametrize(
    "path",
    sorted([*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("paper/*.yaml"), *EXAMPLES.glob("comparisons/*.yaml")]),
    ids=lambda path: path.stem,
)
def test_tuned_examples_are_accepted(path):
    accept(path)


def test_the_papers_setting_is_the_papers():
    for spec in yaml.safe_load((EXAMPLES / "paper" / "figure5.yaml").read_text()).values():
        assert spec["stop"]["timesteps_total"] == 1_000_000
        assert spec["config"]["env_config"] == {"penalty": 2.0}  # all else is the env's default
