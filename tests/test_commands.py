"""What the ``rllib`` command does besides training: examples, the env check, films; and what it says while it
trains.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import typer
from gymnasium.spaces import Box, Discrete
from mpe2 import simple_spread_v3
from pettingzoo import ParallelEnv
from ray import tune

import rllib_ddn
from rllib_ddn.cli import app, check_env, main, show
from rllib_ddn.cli.show import EXAMPLES
from rllib_ddn.rllib.progress import clear_progress, first_iteration, report_progress
from rllib_ddn.rllib.rendering import write_mp4
from support.command import rllib
from support.configs import SMALL_GAME, plain_config

pytestmark = pytest.mark.usefixtures("cluster")


def test_examples_are_listed_and_shown():
    listed = [line.split()[0] for line in rllib("example", "list").splitlines()]
    assert set(listed) == {path.relative_to(EXAMPLES).with_suffix("").as_posix() for path in EXAMPLES.glob("**/*.yaml")}
    some = rllib("example", "list", "3S5Z_ddn").splitlines()
    assert [line.split()[0] for line in some] == ["smac/3s5z_ddn", "smax/3s5z_ddn"]
    assert rllib("example", "get", "smax/3s5z_ddn") == (EXAMPLES / "smax" / "3s5z_ddn.yaml").read_text()
    assert "did you mean 'smax/3s5z_ddn'" in rllib("example", "get", "smax/3s5zddn", code=2)


def test_an_example_is_summed_up_by_its_first_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(show, "EXAMPLES", tmp_path)
    (tmp_path / "b.yaml").write_text("# QMIX on a game of\n# its own. Slow.\nb: {run: QMIX}  # no word of this\n")
    (tmp_path / "a.yaml").write_text("a: {run: QMIX}\n")
    assert rllib("example", "list") == "a\nb  QMIX on a game of its own\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--algo", "DDN", "--nope", "3"], "rllib: No such option: --nope"),
        (["evaluate", "--episodes", "0", "x"], "rllib: Invalid value for '--episodes'"),
        (["evalute", "x"], "rllib: No such command 'evalute'"),
        (["plot"], "rllib: Missing argument"),
        (["plot", "nowhere", "--by", "years"], "rllib: Invalid value for '--by'"),
        (["reproduce", "table9"], "rllib: there is no table 'table9'; there are table1"),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--num-samples", "0"],
            "rllib: --num-samples is at least 1",
        ),
        (
            ["train", "--algo", "DDN", "--env", "predator_prey", "--storage-path", "nope://x"],
            "rllib: results cannot be written to nope",
        ),
        (
            ["check-env", "nowhere"],
            "rllib: there is no env 'nowhere'; there are predator_prey, pettingzoo, smac, smax.",
        ),
    ],
)
def test_every_error_is_one_line_and_exit_2(arguments, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rllib", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(told)


def test_a_command_without_its_words_shows_its_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rllib", "example"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()
    assert "list" in told.out + told.err
    assert "Prints an example's file" in told.out + told.err


def test_the_bare_command_shows_its_help_and_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rllib"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit):
        main()
    told = "".join(capsys.readouterr())
    assert told.startswith("Usage: ")
    assert "rllib: " not in told


def test_help_shows_whole_option_names_at_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = rllib("train", "--help")
    command = typer.main.get_command(app).commands["train"]
    options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    assert "--checkpoint-score-attr" in options
    assert [name for name in options if name not in shown] == []
    assert max(map(len, shown.splitlines())) <= 80


def test_the_version_names_package_ray_and_torch():
    assert re.fullmatch(r"rllib-ddn 0\.\d+\.\d+, ray 2\.\d+\.\d+, torch 2\.\S+\n", rllib("--version"))


def test_algorithms_envs_and_keys_are_listed():
    listed = [line.split()[0] for line in rllib("list", "algos").splitlines()]
    assert listed[:2] == ["DDN", "VDN"]
    assert "ValueDecomposition" not in listed
    listed = dict(line.split(maxsplit=1) for line in rllib("list", "envs").splitlines())
    assert {*rllib_ddn.ENVS, "module:name"} == listed.keys()
    lines = rllib("list", "keys", "OWQMIX").splitlines()
    assert [line.split()[0] for line in lines] == rllib_ddn.OWQMIXConfig.keys_with_defaults()
    assert lines[0].split()[:2] == ["mixer", "'owqmix'"]  # the default that this algorithm has
    (line,) = [line for line in rllib("list", "keys").splitlines() if line.startswith("mask_probability")]
    assert line.split(maxsplit=2) == ["mask_probability", "0.75", "a probability in [0, 1]"]


def test_an_address_where_no_cluster_answers(tmp_path):
    options = ["--storage-path", tmp_path, "--ray-address", "127.0.0.1:1"]
    told = rllib("train", "--algo", "DDN", "--env", "predator_prey", *options, code=2)
    assert told.startswith("rllib: no Ray cluster answers at 127.0.0.1:1 ")
    assert not list(tmp_path.iterdir())


class Broken:
    """A game that gives NaN in its third observation."""

    def __new__(cls):
        game = simple_spread_v3.parallel_env(N=2, max_cycles=9)
        step, count = game.step, [0]

        def broken(actions):
            count[0] += 1
            observations, *rest = step(actions)
            if count[0] == 2:
                observations["agent_1"][:] = np.nan
            return observations, *rest

        game.step = broken
        return game


def test_an_env_is_checked_by_playing():
    told = rllib("check-env", "predator_prey", "--env-config", json.dumps(SMALL_GAME))
    assert told.startswith(
        "predator_prey: 3 agents, 6 actions, observations of 18 and a state of 32 numbers, at most 12 steps\n"
    )
    assert "action masks: of 3 of 3 agents" in told
    game = {"env": "mpe2.simple_spread_v3:parallel_env", "N": 2, "max_cycles": 7}
    told = rllib("check-env", "pettingzoo", "--env-config", json.dumps(game))
    assert "2 agents, 5 actions" in told
    assert "action masks: none" in told
    assert "of 5 random episodes 5 truncated after 7 steps" in told
    assert "all 2 agents get the same reward" in told
    assert "last info: {}" in told
    told = rllib("check-env", "pettingzoo", "--env-config", json.dumps({"env": f"{__name__}:Broken"}), code=2)
    assert "NaN" in told
    assert "agent 1" in told


class Endless(ParallelEnv):
    """A game that goes on for ever."""

    possible_agents = agents = ["a", "b"]
    metadata = {"name": "endless"}
    state_space = Box(0, 1, (1,), np.float32)

    def observation_space(self, agent):
        return Box(0, 1, (1,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def state(self):
        return np.zeros(1, np.float32)

    def reset(self, seed=None, options=None):
        return dict.fromkeys(self.agents, self.state()), {}

    def step(self, actions):
        no = dict.fromkeys(self.agents, False)
        return dict.fromkeys(self.agents, self.state()), dict.fromkeys(self.agents, 0.0), no, no, {}


def test_a_game_without_an_end_is_told(monkeypatch):
    monkeypatch.setattr(check_env, "MOST_STEPS", 50)
    told = rllib("check-env", "pettingzoo", "--env-config", json.dumps({"env": f"{__name__}:Endless"}), code=2)
    assert "the env's episode has not ended after 50 steps with random actions" in told
    assert "max_cycles" in told
    # The env's own limit is an end.
    game = {**SMALL_GAME, "episode_limit": 80, "num_predators": 2, "catchers_needed": 2, "num_prey": 1, "grid_size": 9}
    assert "5 random episodes" in rllib("check-env", "predator_prey", "--env-config", json.dumps(game))


def test_a_film_has_all_frames(tmp_path):
    frames = [np.full((33, 40, 3), shade, np.uint8) for shade in (0, 120, 240)]
    write_mp4(tmp_path / "a" / "film.mp4", frames)
    with av.open(str(tmp_path / "a" / "film.mp4")) as file:
        seen = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert [frame.shape for frame in seen] == [(32, 40, 3)] * 3
    np.testing.assert_allclose([frame.mean() for frame in seen], [0, 120, 240], atol=3)


def trial(iteration=0, **counters):
    config = SimpleNamespace(train_batch_size=32, min_sample_timesteps_per_iteration=10_000)
    return SimpleNamespace(iteration=iteration, logdir="/anywhere/a_trial", counters=counters, config=config)


def told(**arguments):
    report_progress(trial(**arguments))
    return first_iteration("a_trial")


def test_what_is_played_before_the_first_result():
    assert first_iteration("unknown") == "in its first iteration"
    counted = told(num_episodes_sampled=24, num_env_steps_sampled=4_800)
    assert counted == "24 episodes sampled of the 32 of a batch; then it learns"
    counted = told(num_episodes_sampled=40, num_env_steps_sampled=8_000)
    assert counted == "learning in its first iteration: 8,000 of 10,000 env steps sampled"
    assert (
        told(iteration=1, num_episodes_sampled=99, num_env_steps_sampled=9) == counted
    )  # has a result to show by then
    clear_progress(trial(iteration=0))
    assert first_iteration("a_trial") == "in its first iteration"


def test_a_trial_tells_the_command_what_it_plays(tmp_path):
    def ask(*, algorithm, **info):
        (tmp_path / "told").write_text(first_iteration(Path(algorithm.logdir).name))

    config = plain_config(train_batch_size=9, callbacks_on_evaluate_end=ask)
    analysis = tune.run("DDN", config=config, stop={"training_iteration": 1}, storage_path=str(tmp_path), verbose=0)
    assert (tmp_path / "told").read_text() == "2 episodes sampled of the 9 of a batch; then it learns"
    (trial,) = analysis.trials
    assert first_iteration(Path(trial.path).name) == "in its first iteration"  # nothing is left of it
