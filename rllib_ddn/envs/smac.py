"""SMAC: StarCraft II micromanagement (Samvelyan et al. 2019), on ``smac.env.StarCraft2Env``.

Needs the game, its maps, and the packages ``smac`` (github.com/oxwhirl/smac; what PyPI calls smac is
another project) and ``pysc2``. The README tells how to install them beside Ray and TensorBoard.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import signal
import subprocess
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ddn.envs.grouping import BROKEN
from rllib_ddn.team import ACTION_MASK, OBS, STATE, TeamEnvError, TeamSpec, team_spaces

TEAM = "team"
SMAC_PAGE = "github.com/oxwhirl/smac"


class SMACTeam(MultiAgentEnv):
    """The registered env ``"smac"``.

    ``env_config`` holds the arguments of ``StarCraft2Env`` (``map_name``, ``difficulty``, ``seed``,
    ``replay_dir``, ...), and

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
        super().__init__()
        self._game = _Game(config, getattr(config, "worker_index", 0), getattr(config, "vector_index", 0) or 0)
        self._config = config
        spec = self._game.spec
        self.observation_space, self.action_space = team_spaces(spec)
        self.possible_agents = self.agents = [TEAM]
        self.observation_spaces, self.action_spaces = {TEAM: self.observation_space}, {TEAM: self.action_space}
        self._arrays = _arrays(1, spec)

    def vectorize(self, num_envs: int) -> SMACGames:
        """``num_envs`` games whose observations are written straight into arrays."""
        return SMACGames(num_envs, self._config)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self._game.reset()
        return self._observation(), {TEAM: {}}

    def step(self, action_dict: dict):
        reward, terminated, truncated, info = self._game.step(action_dict[TEAM])
        over, cut = {TEAM: terminated, "__all__": terminated}, {TEAM: truncated, "__all__": truncated}
        return self._observation(), {TEAM: reward}, over, cut, {TEAM: info}

    def close(self) -> None:
        """Ends the game's process."""
        self._game.close()

    def _observation(self) -> dict:
        obs, state, mask = self._arrays
        self._game.observe(obs[0], state[0], mask[0])
        parts = zip(obs[0].copy(), mask[0].astype(np.int8), strict=True)
        return {TEAM: [{OBS: o, ACTION_MASK: m, STATE: state[0].copy()} for o, m in parts]}


class SMACGames:
    """E games as arrays: the interface of :class:`rllib_ddn.envs.grouping.TeamGames`.

    Args:
        num_envs: E.
        config: the ``env_config``, an ``EnvContext`` in RLlib.
    """

    def __init__(self, num_envs: int, config: dict[str, Any]):
        self._games = [_Game(config, getattr(config, "worker_index", 0), e) for e in range(num_envs)]
        self.spec = self._games[0].spec
        self.episode_limit: int | None = self._games[0].episode_limit
        self.obs, self.state, self.action_mask = _arrays(num_envs, self.spec)
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    def reset(self, seeds: np.ndarray) -> None:
        """Starts a new episode in the first ``len(seeds)`` games. Their seeds were given at their start."""
        for e in range(len(seeds)):
            self._games[e].reset()
            self._infos[e] = {}
            self._games[e].observe(self.obs[e], self.state[e], self.action_mask[e])

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps the given games, one after the other."""
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
        arguments = {key: value for key, value in config.items() if key != "state"}
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
            reward, over, info = self._env.step([int(action) for action in actions])
            self._watch()
        except (AssertionError, ValueError):  # StarCraft2Env refuses the actions: no fault of the game's
            raise
        except Exception:
            self.close()
            reward, over, info = 0.0, True, {}
        self._steps += 1
        if over and not info:  # also what StarCraft2Env itself says when its game has failed
            self._dead = True
            return 0.0, True, False, {BROKEN: True}
        info = dict(info)
        won = bool(info.pop("battle_won", False))
        decided = won or info.get("dead_allies") == self.spec.num_agents or self._steps < self.episode_limit
        truncated = bool(over and (info.get("episode_limit", False) or not decided))
        if over:
            info["battle_won"] = won
            if self._saves_replay:
                self._env.save_replay()
        return float(reward), bool(over and not truncated), truncated, info

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
            try:
                self._env = self._make(**self._arguments)
            except TypeError as error:
                raise TeamEnvError(f"env_config of smac: {error}; see the docstring of StarCraft2Env.") from error
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


def _arrays(count: int, spec: TeamSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """obs ``[E, N, O]``, state ``[E, S]``, action mask ``[E, N, A]``."""
    return (
        np.zeros((count, spec.num_agents, spec.obs_dim), np.float32),
        np.zeros((count, spec.state_dim), np.float32),
        np.ones((count, spec.num_agents, spec.num_actions), bool),
    )


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
            f"git+https://github.com/oxwhirl/{package} (see the README; `pip install smac` is another project)."
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
        needs = "It needs pysc2 and pys2clientprotocol (see the README)."
        raise TeamEnvError(f"{package} cannot be imported: {error}. {needs}") from error
    _check_game(version, arguments["map_name"], maps)
    if version == 1:
        return module.StarCraft2Env
    return importlib.import_module("smacv2.env.starcraft2.wrapper").StarCraftCapabilityEnvWrapper


def _check_game(version: int, name: str, maps: Any) -> None:
    registry = maps.get_smac_map_registry()
    if name not in registry:
        near = ", ".join(difflib.get_close_matches(str(name), registry, n=3, cutoff=0.3)) or "none is similar"
        raise TeamEnvError(f'env_config["map_name"] = {name!r} is no map of SMAC. Nearest: {near}.')
    path = Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()
    told = "SC2PATH" if os.environ.get("SC2PATH") else "SC2PATH is not set, and its default"
    if not path.is_dir():
        raise TeamEnvError(f"{told} {path} does not exist: install StarCraft II and set SC2PATH to its folder.")
    if not (path / "Versions").is_dir():
        raise TeamEnvError(f"{told} {path} holds no game (no folder Versions): set SC2PATH to the folder of StarCraft II.")
    files = {file.stem for file in (path / "Maps").rglob("*.SC2Map")} if (path / "Maps").is_dir() else set()
    needed = registry[name].get("map_name", name) if version == 2 else name
    if needed not in files:
        raise TeamEnvError(f"{path / 'Maps'} has no {needed}.SC2Map: unpack SMAC's maps there (SMAC_Maps.zip, {SMAC_PAGE}).")
