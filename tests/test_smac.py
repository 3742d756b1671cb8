"""The env "smac" against a stand-in of StarCraft2Env with the six maps' true sizes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ray.tune.registry import get_trainable_cls

from rllib_ddn.envs import smac as module
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.smac import PAPER_MAPS, SMACTeam
from rllib_ddn.envs.vector import BROKEN
from rllib_ddn.team import TeamEnvError, TeamSpec
from support.command import rllib
from support.configs import learner_stats, small_config
from support.programs import TESTS
from support.starcraft import STAND_IN, close, gone, play, random_actions, smac_envs
from support.tuned import EXAMPLES, accept

pytestmark = pytest.mark.usefixtures("no_smac")


@pytest.mark.parametrize("name", PAPER_MAPS)
def test_sizes_and_a_training_iteration_on_each_map(build, stand_in, name):
    env = as_team_env(SMACTeam({"map_name": name}), {})
    spec = TeamSpec.from_spaces(env.observation_space, env.action_space)
    assert (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim) == PAPER_MAPS[name][:4]
    assert env.episode_limit == PAPER_MAPS[name][4]
    config = (
        small_config(train_batch_size=2).environment("smac").evaluation(evaluation_interval=1, evaluation_duration=1)
    )
    config.env_config = {"map_name": name}
    algo = build(config)
    result = algo.train()
    assert np.isfinite(learner_stats(result)["loss_global"])
    assert result["evaluation"]["leader"]["win_rate"] in (0, 1)
    assert algo._counters["num_episodes_broken"] == 0


def test_observations_masks_and_rewards_are_the_games(stand_in):
    games, rng = smac_envs(2, {"map_name": "3s_vs_5z", "seed": 3}), np.random.default_rng(0)
    games.reset(np.arange(2))
    for _ in range(20):
        envs = [game._env for game in games.envs]
        for e, env in enumerate(envs):
            np.testing.assert_array_equal(games.obs[e], env.get_obs())
            np.testing.assert_array_equal(games.state[e], env.get_state())
            np.testing.assert_array_equal(games.action_mask[e], np.array(env.get_avail_actions(), bool))
            dead = env.allies == 0
            assert (games.action_mask[e][dead].argmax(-1) == 0).all()
            assert (games.action_mask[e][dead].sum(-1) == 1).all()
        before = np.array([env.enemies.sum() for env in envs])
        rewards, terminated, truncated = games.step(random_actions(games.action_mask, rng), np.arange(2))
        after = np.array([env.enemies.sum() for env in envs])
        np.testing.assert_allclose(rewards, before - after + 10 * (after == 0), rtol=1e-6)
        if (terminated | truncated).any():
            break
    close(games)


@pytest.mark.parametrize("continuing", [False, True])
def test_time_limit_cuts_off_and_a_battle_ends(stand_in, continuing):
    """With and without the info's own flag, which StarCraft2Env sets for continuing episodes only."""
    games = smac_envs(1, {"map_name": "5m_vs_6m", "continuing_episode": continuing})
    _, ends = play(games, [0], np.random.default_rng(0))
    assert ends[0] == (True, False)  # somebody has won
    assert "battle_won" in games.info(0)
    games.reset(np.arange(1))
    env = games.envs[0]._env
    for step in range(70):
        env.allies[:], env.enemies[:] = 1, 1  # nobody dies
        _, terminated, truncated = games.step(np.ones((1, 5), int), np.arange(1))
        assert (bool(terminated[0]), bool(truncated[0])) == (False, step == 69)
    assert games.info(0)["battle_won"] is False
    close(games)


@pytest.mark.parametrize("timeouts", ["truncate", "terminate"])
@pytest.mark.parametrize("continuing", [False, True])
def test_time_limits_terminate_as_in_pymarl(build, stand_in, monkeypatch, continuing, timeouts):
    """A time limit ends an episode like a lost battle, whatever the info says of it; only where it is asked for."""
    advance = SMACTeam.advance

    def nobody_dies(self, actions):
        self._env.allies[:], self._env.enemies[:] = 1, 1
        return advance(self, actions)

    monkeypatch.setattr(SMACTeam, "advance", nobody_dies)
    config = small_config(train_batch_size=1).environment("smac")
    config.env_config = {"map_name": "5m_vs_6m", "timeouts": timeouts, "continuing_episode": continuing}
    algo = build(config)
    result = algo.train()
    assert result["env_runners"]["custom_metrics"]["battle_won_mean"] == 0
    episodes = algo.local_replay_buffer.sample(1, np.random.default_rng(0))
    assert episodes["length"].tolist() == [70]
    assert episodes["terminated"].tolist() == [timeouts == "terminate"]


def test_bad_keys(stand_in):
    config = small_config().environment("smac")
    config.env_config = {"map_name": "MMM2", "timeouts": "pymarl"}
    with pytest.raises(TeamEnvError, match=r'env_config\["timeouts"\] is "truncate" or "terminate"; got \'pymarl\''):
        config.check_env()
    with pytest.raises(TeamEnvError, match=r"env_config\['timeout'\] of smac is unknown; did you mean 'timeouts'\?"):
        SMACTeam({"map_name": "MMM2", "timeout": "terminate"})


def test_arguments_pass_through_and_each_game_has_its_own_seed(stand_in):
    config = {"map_name": "MMM2", "difficulty": "3", "seed": 5, "replay_dir": "there"}
    games = smac_envs(2, config, worker_index=2)
    assert [game._create()._seed for game in games.envs] == [2005, 2006]
    assert {game._create().difficulty for game in games.envs} == {"3"}
    with pytest.raises(
        TeamEnvError, match=r"env_config\['dificulty'\] of smac is unknown; did you mean 'difficulty'\?"
    ):
        SMACTeam({"map_name": "MMM2", "dificulty": "3"})


@pytest.mark.parametrize("fault", ["crash", "die"])
def test_a_broken_episode_ends_and_the_game_goes_on(stand_in, fault):
    games, rng = smac_envs(1, {"map_name": "3s_vs_5z"}), np.random.default_rng(0)
    stand_in.FAULTS[:] = [None, None, fault]
    _, ends = play(games, [0], rng)
    assert ends[0] == (True, False)
    assert games.info(0) == {BROKEN: True}
    play(games, [0], rng)
    assert "battle_won" in games.info(0)
    close(games)


def test_actions_that_the_game_refuses_are_no_fault_of_the_game(stand_in):
    games = smac_envs(1, {"map_name": "3s_vs_5z"})
    games.reset(np.arange(1))
    with pytest.raises(ValueError, match="agent 0 cannot perform action 0"):
        games.step(np.zeros((1, 3), int), np.arange(1))  # the no-op is for the dead
    close(games)


def test_broken_episodes_count_nowhere_but_in_their_counter(build, stand_in):
    config = small_config(train_batch_size=2).environment("smac")
    config.env_config = {"map_name": "3s_vs_5z"}
    algo = build(config)
    stand_in.FAULTS[:] = [None, None, "crash"]
    result = algo.train()
    assert algo._counters["num_episodes_broken"] == 1
    assert len(algo.local_replay_buffer) == 1
    assert algo._counters["num_episodes_sampled"] == 1
    assert result["env_runners"]["num_episodes"] == 1
    assert result["counters"]["num_episodes_broken"] == 1
    stand_in.FAULTS[:] = ["crash", "crash"]
    algo.train()  # a round of nothing, and a whole one
    assert algo._counters["num_episodes_broken"] == 3
    assert len(algo.local_replay_buffer) == 3
    pids = [game._env._sc2_proc._proc.pid for game in algo.env_runner.vector_env.envs]
    algo.stop()
    assert all(gone(pid) for pid in pids)


def test_a_game_that_does_not_start_is_tried_again_with_back_off(stand_in, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    monkeypatch.setattr(module.SMACTeam, "FIRST_WAIT", 1.0)
    games = smac_envs(1, {"map_name": "3s_vs_5z"})
    stand_in.START_FAULTS[0] = 3
    games.reset(np.arange(1))
    assert waits == [1, 2, 4]
    stand_in.START_FAULTS[0] = 100
    with pytest.raises(ConnectionError, match="does not start"):
        games.reset(np.arange(1))
    assert waits == [1, 2, 4] + [1, 2, 4, 8, 16]
    close(games)


def test_no_game_outlives_its_env(stand_in):
    def started():
        games = smac_envs(1, {"map_name": "3s_vs_5z"})
        games.reset(np.arange(1))
        return games, games.envs[0]._env._sc2_proc._proc.pid

    games, pid = started()
    close(games)
    assert gone(pid)
    games, pid = started()
    stand_in.FAULTS[:] = ["die"]
    games.step(np.ones((1, 3), int), np.arange(1))
    assert gone(pid)
    games, pid = started()
    del games  # collected, never closed
    assert gone(pid)


def test_no_game_outlives_a_killed_worker(stand_in):
    command = [sys.executable, TESTS / "programs" / "hold_smac.py", STAND_IN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ, text=True) as worker:
        pid = int(worker.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        worker.send_signal(signal.SIGKILL)
    assert gone(pid)


def test_replays_are_saved_after_each_episode(stand_in):
    games = smac_envs(1, {"map_name": "3s_vs_5z", "save_replay": True, "replay_dir": "there"})
    play(games, [0], np.random.default_rng(0))
    ((folder, steps),) = stand_in.REPLAYS
    assert folder == "there"
    assert steps > 1
    close(games)


def test_evaluation_saves_replays(build, stand_in, tmp_path):
    """What ``rllib evaluate --save-replay`` does, here in this process, where the stand-in is."""
    config = small_config(train_batch_size=2).environment("smac")
    config.env_config = {"map_name": "3s_vs_5z"}
    algo = build(config)
    algo.train()
    checkpoint = Path(algo.save(str(tmp_path / "checkpoint")).checkpoint.path)
    options = ["--episodes", 2, "--save-replay", tmp_path / "replays", "--json"]
    results = json.loads(rllib("evaluate", checkpoint, *options))
    assert [folder for folder, _ in stand_in.REPLAYS] == [str(tmp_path / "replays")] * 4
    assert results["follower"]["win_rate"] in (0, 0.5, 1)


@pytest.mark.parametrize("name", PAPER_MAPS)
def test_tuned_examples_have_the_papers_settings(stand_in, name):
    """Section B.3: 3s5z_vs_3s6z has a learning rate, an exploration and a length of its own."""
    hard = name == "3s5z_vs_3s6z"
    for kind, runs in (
        ("ddn", {"DDN"}),
        ("baselines", {"VDN", "QMIX", "Qatten", "QPLEX", "CWQMIX", "OWQMIX", "QTRAN"}),
    ):
        experiments = accept(EXAMPLES / "smac" / f"{name}_{kind}.yaml")
        assert {spec["run"] for spec in experiments.values()} == runs
        for spec in experiments.values():
            variant = {**spec["config"], "seed": 1}
            config = get_trainable_cls(spec["run"]).get_default_config().update_from_dict(variant)
            assert config.env_config == {"map_name": name, "difficulty": "7"}
            assert spec["stop"] == {"timesteps_total": 5_000_000 if hard else 2_000_000}
            assert config.lr == (1e-3 if hard else 5e-4)
            assert config.exploration_config["epsilon_timesteps"] == (1_000_000 if hard else 50_000)
            assert config.exploration_config["final_epsilon"] == 0.05


@pytest.mark.parametrize("name", PAPER_MAPS)
def test_tuned_examples_have_the_settings_of_pymarl2(stand_in, name):
    """Its qmix.yaml; for 3s5z_vs_3s6z its qmix_large.yaml."""
    large = name == "3s5z_vs_3s6z"
    experiments = accept(EXAMPLES / "smac" / f"{name}_tuned.yaml")
    assert {spec["run"] for spec in experiments.values()} == {"QMIX", "DDN"}
    for spec in experiments.values():
        config = get_trainable_cls(spec["run"]).get_default_config().update_from_dict({**spec["config"], "seed": 1})
        assert config.env_config == {"map_name": name, "difficulty": "7", "timeouts": "terminate"}
        assert (config.optimizer, config.lr, config.td_lambda, config.train_batch_size) == ("adam", 1e-3, 0.6, 128)
        assert config.updates_per_episode == 1 / config.num_env_runners == 1 / 8  # one for a round of games
        assert (config.replay_buffer_config["capacity"], config.target_update_interval_episodes) == (5000, 200)
        assert config.exploration_config["epsilon_timesteps"] == 100_000
        assert config.agent_hidden_dim == (256 if large else 64)
        assert config.mixer_config == ({"embed_dim": 64, "hypernet_dim": 256} if large else {})


def test_without_smac(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TeamEnvError, match=r"needs the package smac: pip install --no-deps git\+https://github.com/oxwhirl/smac"
    ):
        SMACTeam({})
    with pytest.raises(TeamEnvError, match="needs the package smacv2"):
        SMACTeam({"version": 2})
    with pytest.raises(TeamEnvError, match=r"is 1 \(smac\) or 2 \(smacv2\); got 3"):
        SMACTeam({"version": 3})


def package(folder, monkeypatch, text):
    """Another package of the name smac."""
    (folder / "smac").mkdir()
    (folder / "smac" / "__init__.py").write_text("")
    for name, content in text.items():
        path = folder / "smac" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(str(folder))


def test_the_wrong_smac(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, {"facade.py": "class HyperparameterOptimizationFacade: ..."})
    with pytest.raises(TeamEnvError, match="it is SMAC3, the hyperparameter optimizer"):
        SMACTeam({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "raise TypeError('Descriptors cannot be created directly.')",
            "pip install pys2clientprotocol .or set PROTOCOL_BUFFERS",
        ),
        ("import no_pysc2_here", "smac cannot be imported: No module named 'no_pysc2_here'. It needs pysc2"),
    ],
)
def test_a_smac_that_cannot_be_imported(tmp_path, monkeypatch, text, message):
    package(tmp_path, monkeypatch, {"env/__init__.py": text})
    with pytest.raises(TeamEnvError, match=message):
        SMACTeam({})


def test_without_the_game_its_maps_or_the_map(stand_in, game, monkeypatch):
    with pytest.raises(TeamEnvError, match=r"'MMM3' is no map of SMAC; did you mean .MMM2.\?"):
        SMACTeam({"map_name": "MMM3"})
    (game / "Maps" / "SMAC_Maps" / "MMM2.SC2Map").unlink()
    with pytest.raises(TeamEnvError, match=r"Maps has no MMM2.SC2Map: unpack SMAC's maps there"):
        SMACTeam({"map_name": "MMM2"})
    (game / "Versions").rmdir()
    with pytest.raises(TeamEnvError, match=r"holds no StarCraft II .no folder Versions.: set SC2PATH"):
        SMACTeam({"map_name": "3s5z"})
    monkeypatch.setenv("SC2PATH", str(game / "nowhere"))
    with pytest.raises(TeamEnvError, match=r"SC2PATH .*nowhere does not exist: install StarCraft II"):
        SMACTeam({"map_name": "3s5z"})
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setenv("HOME", str(game / "home"))
    with pytest.raises(TeamEnvError, match=r"SC2PATH is not set, and its default .*StarCraftII does not exist"):
        SMACTeam({"map_name": "3s5z"})
