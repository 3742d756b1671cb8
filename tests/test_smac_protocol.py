"""The real packages smac, smacv2 and pysc2 against a stand-in of the game's process (tests/stand_in_game.py).

Runs where oxwhirl's smac (and smacv2) can be imported, say with ``PYTHONPATH`` set to checkouts of them, with
pysc2, pys2clientprotocol and websockets.
"""

import importlib.util
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rllib_ddn.cli import app
from rllib_ddn.envs import smac as module
from rllib_ddn.envs.smac import PAPER_MAPS
from rllib_ddn.envs.vector import BROKEN
from support.configs import learner_stats, small_config
from support.programs import run_program
from support.starcraft import close, gone, play, random_actions, smac_envs


def installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


MISSING = [name for name in ("smac.env.starcraft2.starcraft2", "pysc2", "websockets") if not installed(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not importable here: {', '.join(MISSING)}"),
]


@pytest.fixture(autouse=True)
def game(tmp_path, monkeypatch):
    """A folder like StarCraft II's, whose binary is the stand-in; the file that tells it to misbehave."""
    binary = tmp_path / "Versions" / "Base75689" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    script = Path(__file__).with_name("stand_in_game.py")
    binary.write_text(f"#!{sys.executable}\n{script.read_text()}")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    maps = tmp_path / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    for name in [*PAPER_MAPS, "32x32_flat"]:
        (maps / f"{name}.SC2Map").write_bytes(b"map")
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN_FAULT", str(tmp_path / "fault"))
    monkeypatch.setattr(module.SMACTeam, "FIRST_WAIT", 0.05)
    return tmp_path


def process(games):
    return games.envs[0]._env._sc2_proc._proc.pid


@pytest.mark.parametrize("name", PAPER_MAPS)
def test_episodes_on_each_map(name):
    games = smac_envs(1, {"map_name": name, "seed": 1})
    spec = games.spec
    assert (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim, games.episode_limit) == PAPER_MAPS[name]
    rng, env_returns = np.random.default_rng(0), []
    for _ in range(2):  # the second episode on the same map, in the same process
        returns, ends = play(games, [0], rng)
        info = games.info(0)
        assert ends[0] in ((True, False), (False, True))
        assert isinstance(info["battle_won"], bool)
        assert info["dead_allies"] + info["dead_enemies"] > 0 or ends[0][1]
        env_returns.append(float(returns[0]))
    assert 0 < max(env_returns) <= 20
    pid = process(games)
    close(games)
    assert gone(pid)


def test_attacking_wins_and_counts_as_a_win():
    """All attack the first enemy that they may attack, or walk right: the win is the game's, if it is one."""
    games = smac_envs(1, {"map_name": "3s_vs_5z"})
    games.reset(np.arange(1))
    right, over, total = 4, False, 0.0  # 2 north, 3 south, 4 east, 5 west
    env = games.envs[0]._env
    while not over:
        mask = games.action_mask[0]
        actions = np.where(
            mask[:, 6:].any(-1), 6 + mask[:, 6:].argmax(-1), np.where(mask[:, right], right, mask.argmax(-1))
        )
        rewards, terminated, truncated = games.step(actions[None], np.arange(1))
        total += rewards[0]
        over = bool(terminated[0] or truncated[0])
    info = games.info(0)
    assert info["battle_won"] == (info["dead_enemies"] == 5)
    assert total > 0
    assert env.battles_game == 1
    close(games)


@pytest.mark.parametrize("fault", ["die", "drop", "hang"])
def test_a_game_that_fails_breaks_its_episode_and_is_started_again(game, fault):
    games, rng = smac_envs(1, {"map_name": "3s_vs_5z"}), np.random.default_rng(0)
    games.reset(np.arange(1))
    if fault == "hang":
        from absl import flags

        close(games)
        flags.FLAGS.sc2_timeout = 3  # seconds
        games.reset(np.arange(1))
    first = process(games)
    games.step(random_actions(games.action_mask, rng), np.arange(1))
    (game / "fault").write_text(fault)
    _, terminated, truncated = games.step(random_actions(games.action_mask, rng), np.arange(1))
    assert (terminated[0], truncated[0], games.info(0)) == (True, False, {BROKEN: True})
    assert gone(first)
    play(games, [0], rng)
    assert "battle_won" in games.info(0)
    last = process(games)
    assert last != first
    close(games)
    assert gone(last)


def test_replays_are_written(game):
    games = smac_envs(1, {"map_name": "3s_vs_5z", "save_replay": True, "replay_dir": str(game / "mine")})
    play(games, [0], np.random.default_rng(0))
    close(games)
    (replay,) = (game / "mine").glob("*.SC2Replay")
    assert replay.read_bytes().startswith(b"3s_vs_5z ")


def test_the_env_check(game):
    maps = [["check-env", "smac", "--env-config", f'{{"map_name": "{name}"}}'] for name in ("3s_vs_5z", "MMM2")]
    for name, arguments in zip(("3s_vs_5z: 3 agents, 11 actions", "MMM2: 10 agents, 18 actions"), maps, strict=True):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert name in done.stdout
        assert "DIFFERENT" not in done.stdout
    done = CliRunner(env={"SC2PATH": str(game / "nowhere")}).invoke(app, maps[0])
    assert done.exit_code == 2
    assert done.stderr.startswith("rllib: SC2PATH")


def test_ddn_trains_on_it(build):
    config = (
        small_config(train_batch_size=2).environment("smac").evaluation(evaluation_interval=1, evaluation_duration=1)
    )
    config.env_config = {"map_name": "MMM2"}
    algo = build(config)
    result = algo.train()
    assert np.isfinite(learner_stats(result)["loss_global"])
    assert 0 <= result["evaluation"]["follower"]["win_rate"] <= 1
    pids = [game._env._sc2_proc._proc.pid for game in algo.env_runner.vector_env.envs]
    algo.stop()
    assert all(gone(pid) for pid in pids)
    assert os.path.isdir(os.environ["SC2PATH"])


@pytest.mark.skipif(not installed("smacv2"), reason="smacv2 is not importable here")
def test_smacv2(game):
    """In a process of its own: pysc2 refuses maps that smac has registered before."""
    run_program("play_smacv2", game / "fault", timeout=200)
