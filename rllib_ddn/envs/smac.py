"""SMAC: StarCraft II micromanagement (Samvelyan et al. 2019), on ``smac.env.StarCraft2Env``.

Needs the game, its maps, and the packages ``smac`` (github.com/oxwhirl/smac; what PyPI calls smac is
another project) and ``pysc2``. docs/environments.md tells how to install them beside Ray and TensorBoard.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import signal
import subprocess
import time
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rllib_ddn.envs.vector import BROKEN, TEAM_KEYS, SingleTeamEnv, VectorTeamEnv
from rllib_ddn.names import did_you_mean
from rllib_ddn.team import TeamEnvError, TeamSpec, refuse_unknown_keys

SMAC_PAGE = "github.com/oxwhirl/smac"
OWN_KEYS = ("version", "save_replay", "max_restarts")  # of env_config, beside StarCraft2Env's arguments


class MapSizes(NamedTuple):
    """What ``StarCraft2Env`` tells of a map; ``limit`` is the most steps of an episode."""

    agents: int
    actions: int
    obs: int
    state: int
    limit: int


PAPER_MAPS = {
    "3s5z": MapSizes(8, 14, 128, 216, 150),
    "2s_vs_1sc": MapSizes(2, 7, 17, 27, 300),
    "3s_vs_5z": MapSizes(3, 11, 48, 68, 250),
    "5m_vs_6m": MapSizes(5, 12, 55, 98, 70),
    "3s5z_vs_3s6z": MapSizes(8, 15, 136, 230, 170),
    "MMM2": MapSizes(10, 18, 176, 322, 180),
}


class SMACTeam(SingleTeamEnv):
    """StarCraft II battles (SMAC and SMACv2).

    Registered as ``"smac"``.
    ``env_config`` holds the arguments of ``StarCraft2Env`` (``map_name``, ``difficulty``, ``seed``,
    ``replay_dir``, ...), the keys of :func:`rllib_ddn.envs.grouping.as_team_env`, and

    - ``version``: 1, or 2 for ``smacv2``'s ``StarCraftCapabilityEnvWrapper``;
    - ``save_replay``: whether the game writes a replay of each episode to ``replay_dir``;
    - ``max_restarts`` (5): times in a row that a game that cannot be started is tried again, after 1, 2, 4,
      ... seconds, before the error goes to RLlib, which restarts the env runner if
      ``restart_failed_env_runners`` is set.

    The game starts at the first reset. It takes its ``seed`` then, and none later: with a ``seed``, worker
    w's game e gets ``seed + 1000 w + e``. An episode in which the game fails ends with
    ``info["episode_broken"]``: it is left out of replay, returns and win rates, and counted in
    ``counters/num_episodes_broken``.

    Raises:
        TeamEnvError: a package, the game or its maps are missing, the map is unknown, or an argument is.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__(lambda num_games: SMACGames(num_games, config), "smac")


class SMACGames(VectorTeamEnv):
    """StarCraft II games as a vector env, stepped one after the other.

    Args:
        num_games: E.
        config: the ``env_config``, an ``EnvContext`` in RLlib.
    """

    def __init__(self, num_games: int, config: dict[str, Any]):
        worker, first = getattr(config, "worker_index", 0), getattr(config, "vector_index", 0) or 0
        self._games = [_Game(config, worker, first + e) for e in range(num_games)]
        self.spec = spec = self._games[0].spec
        self.episode_limit = self._games[0].episode_limit
        self.obs = np.zeros((num_games, spec.num_agents, spec.obs_dim), np.float32)
        self.state = np.zeros((num_games, spec.state_dim), np.float32)
        self.action_mask = np.ones((num_games, spec.num_agents, spec.num_actions), bool)
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_games)]

    def reset(self, seeds: np.ndarray) -> None:
        """Starts a new episode in the first ``len(seeds)`` games. Their seeds were given at their start."""
        for e in range(len(seeds)):
            self._games[e].reset()
            self._infos[e] = {}
            self._games[e].observe(self.obs[e], self.state[e], self.action_mask[e])

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rewards = np.zeros(len(envs), np.float32)
        terminated, truncated = np.zeros(len(envs), bool), np.zeros(len(envs), bool)
        for row, e in enumerate(envs):
            rewards[row], terminated[row], truncated[row], self._infos[e] = self._games[e].step(actions[row])
            self._games[e].observe(self.obs[e], self.state[e], self.action_mask[e])
        return rewards, terminated, truncated

    def info(self, env: int) -> dict[str, Any]:
        """SMAC's info of the last step; ``battle_won`` only at the end of an episode."""
        return self._infos[env]

    def close(self) -> None:
        """Ends the games' processes."""
        for game in self._games:
            game.close()


class _Game:
    """One ``StarCraft2Env``, which is restarted when it fails and whose process never outlives it."""

    FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a game that failed is started again

    def __init__(self, config: dict[str, Any], worker_index: int, env_index: int):
        arguments = {key: value for key, value in config.items() if key not in TEAM_KEYS}
        self._version = arguments.pop("version", 1)
        self._saves_replay = arguments.pop("save_replay", False)
        self._max_restarts = arguments.pop("max_restarts", 5)
        arguments.setdefault("map_name", "3s5z")
        if arguments.get("seed") is not None:
            arguments["seed"] += 1000 * worker_index + env_index
        self._make, self._arguments = _checked(self._version, arguments), arguments
        self._env: Any = None
        self._guard: _Guard | None = None
        self._dead = False
        env = self._create()
        sizes = env.get_env_info()
        self.episode_limit: int = sizes["episode_limit"]
        self.spec = TeamSpec(
            num_agents=sizes["n_agents"],
            num_actions=sizes["n_actions"],
            obs_dim=int(np.prod(sizes["obs_shape"])),
            state_dim=int(np.prod(sizes["state_shape"])),
            obs_dtype=np.dtype(np.float32),
            state_dtype=np.dtype(np.float32),
            has_action_mask=True,
        )
        self._steps = 0

    def reset(self) -> None:
        """Starts an episode, and the game if it does not run.

        Raises:
            Exception: what the game's start raised, after ``max_restarts`` more attempts.
        """
        wait = self.FIRST_WAIT
        for attempt in range(self._max_restarts + 1):
            try:
                self._create().reset()
                self._watch()
                break
            except Exception:
                self.close()
                if attempt == self._max_restarts:
                    raise
                time.sleep(wait)
                wait = min(2 * wait, self.LONGEST_WAIT)
        self._steps, self._dead = 0, False

    def step(self, actions: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Reward, terminated, truncated, info. A game that fails ends its episode as broken.

        Raises:
            AssertionError, ValueError: an action is not available, or their number is wrong.
        """
        try:
            reward, ended, info = self._env.step([int(action) for action in actions])
            self._watch()
        except (AssertionError, ValueError):  # StarCraft2Env refuses the actions: no fault of the game's
            raise
        except Exception:
            self.close()
            reward, ended, info = 0.0, True, {}
        self._steps += 1
        if ended and not info:  # also what StarCraft2Env itself says when its game has failed
            self._dead = True
            return 0.0, True, False, {BROKEN: True}
        info = dict(info)
        won = bool(info.pop("battle_won", False))
        decided = won or info.get("dead_allies") == self.spec.num_agents or self._steps < self.episode_limit
        truncated = bool(ended and (info.get("episode_limit", False) or not decided))
        if ended:
            info["battle_won"] = won
            if self._saves_replay:
                self._env.save_replay()
        return float(reward), bool(ended and not truncated), truncated, info

    def observe(self, obs: np.ndarray, state: np.ndarray, mask: np.ndarray) -> None:
        """Writes obs ``[N, O]``, state ``[S]`` and action mask ``[N, A]``; of a broken episode, what was last seen."""
        if self._dead:
            return
        obs[:] = self._env.get_obs()
        state[:] = self._env.get_state()
        mask[:] = self._env.get_avail_actions()

    def close(self) -> None:
        """Ends the process, whatever state it is in."""
        env, self._env = self._env, None
        try:
            if env is not None:
                env.close()
        except Exception:  # of a game that is gone already
            pass
        finally:
            if self._guard is not None:
                self._guard.end()
                self._guard = None

    def _create(self) -> Any:
        if self._env is None:
            self._env = self._make(**self._arguments)
        return self._env

    def _watch(self) -> None:
        """Has the present game process ended with this one; the env may have started another."""
        inner = getattr(self._env, "env", self._env)  # smacv2 wraps the env
        process = getattr(getattr(inner, "_sc2_proc", None), "_proc", None)
        pid = getattr(process, "pid", None)
        if pid is not None and (self._guard is None or self._guard.pid != pid):
            if self._guard is not None:
                self._guard.end()
            self._guard = _Guard(self, pid)


class _Guard:
    """Kills a process when this one ends, however it ends, or when the owner is collected.

    A shell waits at a pipe that only this process holds open: the system closes it even after SIGKILL.
    """

    def __init__(self, owner: Any, pid: int):
        self.pid = pid
        # The descriptor is not inherited by what this process starts (PEP 446).
        command = ["/bin/sh", "-c", f"read _; kill -9 {pid} 2>/dev/null"]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self._finalizer = weakref.finalize(owner, _Guard._kill, pid, self._shell)

    def end(self) -> None:
        """Kills the process, if it still runs, and ends the guard."""
        self._finalizer()

    @staticmethod
    def _kill(pid: int, shell: subprocess.Popen) -> None:
        shell.kill()
        shell.wait()
        if shell.stdin is not None:
            shell.stdin.close()
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _checked(version: Any, arguments: dict[str, Any]) -> Any:
    """The env's class, once all that it needs is there.

    Raises:
        TeamEnvError: see :class:`SMACTeam`.
    """
    if version not in (1, 2):
        raise TeamEnvError(f'env_config["version"] of smac is 1 (smac) or 2 (smacv2); got {version!r}.')
    package = "smac" if version == 1 else "smacv2"
    if importlib.util.find_spec(package) is None:
        raise TeamEnvError(
            f'the env "smac" with version {version} needs the package {package}: pip install --no-deps '
            f"git+https://github.com/oxwhirl/{package} (see docs/environments.md; `pip install smac` is another project)."
        )
    try:
        module = importlib.import_module(f"{package}.env")
        maps = importlib.import_module(f"{package}.env.starcraft2.maps.smac_maps")
    except TypeError as error:
        if "Descriptors cannot" not in str(error):
            raise
        raise TeamEnvError(
            "pysc2's message definitions do not work with this protobuf: pip install pys2clientprotocol "
            "(or set PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python, which is slower)."
        ) from error
    except ImportError as error:
        if error.name == f"{package}.env":
            raise TeamEnvError(
                f"the installed package smac has no smac.env: it is SMAC3, the hyperparameter optimizer that PyPI calls smac. "
                f"pip uninstall smac, then pip install --no-deps git+https://{SMAC_PAGE}."
            ) from error
        needs = "It needs pysc2 and pys2clientprotocol (see docs/environments.md)."
        raise TeamEnvError(f"{package} cannot be imported: {error}. {needs}") from error
    _check_game(version, arguments["map_name"], maps)
    refuse_unknown_keys("smac", arguments, [*inspect.signature(module.StarCraft2Env).parameters, *OWN_KEYS, *TEAM_KEYS])
    if version == 1:
        return module.StarCraft2Env
    return importlib.import_module("smacv2.env.starcraft2.wrapper").StarCraftCapabilityEnvWrapper


def _check_game(version: int, name: str, maps: Any) -> None:
    registry = maps.get_smac_map_registry()
    if name not in registry:
        raise TeamEnvError(
            f'env_config["map_name"] = {name!r} is no map of SMAC; {did_you_mean(name, registry, count=3)}'
        )
    path = Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()
    told = "SC2PATH" if os.environ.get("SC2PATH") else "SC2PATH is not set, and its default"
    if not path.is_dir():
        raise TeamEnvError(f"{told} {path} does not exist: install StarCraft II and set SC2PATH to its folder.")
    if not (path / "Versions").is_dir():
        raise TeamEnvError(
            f"{told} {path} holds no game (no folder Versions): set SC2PATH to the folder of StarCraft II."
        )
    files = {file.stem for file in (path / "Maps").rglob("*.SC2Map")} if (path / "Maps").is_dir() else set()
    needed = registry[name].get("map_name", name) if version == 2 else name
    if needed not in files:
        raise TeamEnvError(
            f"{path / 'Maps'} has no {needed}.SC2Map: unpack SMAC's maps there (SMAC_Maps.zip, {SMAC_PAGE})."
        )
