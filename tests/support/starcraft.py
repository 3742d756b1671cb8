"""StarCraft without StarCraft: fixtures of the env "smac" (a plugin of pytest), and random play."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ray.rllib.env.env_context import EnvContext

from rllib_ddn.envs import smac as module
from rllib_ddn.envs.smac import PAPER_MAPS, SMACTeam
from rllib_ddn.envs.vector import SequentialEnvs
from support.programs import TESTS

STAND_IN = TESTS / "stand_in"


def forget_smac():
    """Takes the modules of whatever is called smac out, and returns them."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "smac"}


@pytest.fixture
def no_smac():
    """The test begins without one; the real one, which cannot be imported twice, comes back."""
    real = forget_smac()
    yield
    forget_smac()
    sys.modules.update(real)


@pytest.fixture
def game(tmp_path, monkeypatch):
    """A folder that looks like StarCraft II with SMAC's maps."""
    (tmp_path / "Versions").mkdir()
    maps = tmp_path / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    for name in PAPER_MAPS:
        (maps / f"{name}.SC2Map").touch()
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def stand_in(game, no_smac, monkeypatch):
    """The stand-in in the place of the package smac, without waiting between restarts."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setattr(module.SMACTeam, "FIRST_WAIT", 0.01)
    import smac.env

    yield smac.env
    smac.env.FAULTS.clear()
    smac.env.REPLAYS.clear()
    smac.env.START_FAULTS[0] = 0


def smac_envs(count, config, worker_index=0):
    """So many envs "smac", stepped one after the other."""
    return SequentialEnvs(
        [SMACTeam(EnvContext(config, worker_index=worker_index, vector_index=e)) for e in range(count)]
    )


def close(envs):
    for env in envs.envs:
        env.close()


def random_actions(mask, rng):
    return np.where(mask, rng.random(mask.shape), -1).argmax(-1)


def play(games, envs, rng):
    """Whole episodes; the rewards and the last terminated and truncated of each env."""
    games.reset(np.arange(len(envs)))
    live, returns, ends = np.array(envs), np.zeros(len(envs)), {}
    while live.size:
        rewards, terminated, truncated = games.step(random_actions(games.action_mask[live], rng), live)
        returns[live] += rewards
        for row in np.flatnonzero(terminated | truncated):
            ends[int(live[row])] = bool(terminated[row]), bool(truncated[row])
        live = live[~(terminated | truncated)]
    return returns, ends


def gone(pid, seconds=10):
    """Whether a process ends in time (a zombie has ended)."""
    for _ in range(int(seconds * 20)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False
