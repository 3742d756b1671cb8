"""SMAC: StarCraft II micromanagement (Samvelyan et al. 2019), on ``smac.env.StarCraft2Env``.

Needs StarCraft II, SMAC's maps, and the packages ``smac`` (github.com/oxwhirl/smac; what PyPI calls smac is
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

from rllib_ddn.envs.single import TEAM_KEYS, TeamEnv
from rllib_ddn.envs.vector import BROKEN
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


class SMACTeam(TeamEnv):
    """StarCraft II battles (SMAC and SMACv2).

    Registered as ``"smac"``.
    ``env_config`` holds the arguments of ``StarCraft2Env`` (``map_name``, ``difficulty``, ``seed``,
    ``replay_dir``, ...), the keys of :func:`rllib_ddn.envs.grouping.as_team_env`, and

    - ``version``: 1, or 2 for ``smacv2``'s ``StarCraftCapabilityEnvWrapper``;
    - ``save_replay``: whether StarCraft writes a replay of each episode to ``replay_dir``;
    - ``max_restarts`` (5): times in a row that a start of StarCraft that fails is repeated, after 1, 2, 4, ... seconds,
      before the error goes to RLlib, which restarts the env runner if ``restart_failed_env_runners`` is set.

    StarCraft starts at the first reset. It takes its ``seed`` then, and none later: with a ``seed``, the e-th
    sub-environment of worker w gets ``seed + 1000 w + e``. An episode in which it fails ends with
    ``info["episode_broken"]``: it is left out of replay, returns and win rates, and counted in
    ``counters/num_episodes_broken``. Its process never outlives this one.

    Args:
        config: the ``env_config``, an ``EnvContext`` in RLlib.

    Raises:
        TeamEnvError: a package, StarCraft or its maps are missing, the map is unknown, or an argument is.
    """

    FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a start that has failed is repeated

    def __init__(self, config: dict[str, Any]):
        arguments = {key: value for key, value in config.items() if key not in TEAM_KEYS}
        version = arguments.pop("version", 1)
        self._saves_replay = arguments.pop("save_replay", False)
        self._max_restarts = arguments.pop("max_restarts", 5)
        arguments.setdefault("map_name", "3s5z")
        if arguments.get("seed") is not None:
            worker, env = getattr(config, "worker_index", 0), getattr(config, "vector_index", 0) or 0
            arguments["seed"] += 1000 * worker + env
        self._make, self._arguments = _checked(version, arguments), arguments
        self._env: Any = None
        self._guard: _Guard | None = None
        self._steps = 0
        sizes = self._create().get_env_info()
        self.episode_limit: int = sizes["episode_limit"]
        agents, actions, float32 = sizes["n_agents"], sizes["n_actions"], np.dtype(np.float32)
        obs, state = (int(np.prod(sizes[f"{name}_shape"])) for name in ("obs", "state"))
        super().__init__(TeamSpec(agents, actions, obs, state, float32, float32))

    def start(self, seed: int | None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Starts an episode, and StarCraft if it does not run.

        Raises:
            Exception: of the start of StarCraft, after ``max_restarts`` more attempts.
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
        self._steps = 0
        self._observe()
        return {}

    def advance(self, actions: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step, after which the info is SMAC's, with ``battle_won`` at the end of an episode only. Where StarCraft
        fails, the episode ends as broken, and the arrays stay what they were.

        Raises:
            AssertionError, ValueError: an action is not available, or their number is wrong.
        """
        try:
            reward, ended, info = self._env.step([int(action) for action in actions])
            self._watch()
        except (AssertionError, ValueError):  # StarCraft2Env refuses the actions: it has not failed
            raise
        except Exception:
            self.close()
            reward, ended, info = 0.0, True, {}
        self._steps += 1
        if ended and not info:  # also what StarCraft2Env itself returns when StarCraft has failed
            return 0.0, True, False, {BROKEN: True}
        info = dict(info)
        won = bool(info.pop("battle_won", False))
        decided = won or info.get("dead_allies") == self.team_spec.num_agents or self._steps < self.episode_limit
        truncated = bool(ended and (info.get("episode_limit", False) or not decided))
        if ended:
            info["battle_won"] = won
            if self._saves_replay:
                self._env.save_replay()
        self._observe()
        return float(reward), bool(ended and not truncated), truncated, info

    def close(self) -> None:
        """Ends the process, whatever state it is in."""
        env, self._env = self._env, None
        try:
            if env is not None:
                env.close()
        except Exception:  # it has ended already
            pass
        finally:
            if self._guard is not None:
                self._guard.end()
                self._guard = None

    def _observe(self) -> None:
        self.obs[:] = self._env.get_obs()
        self.state[:] = self._env.get_state()
        self.action_mask[:] = self._env.get_avail_actions()

    def _create(self) -> Any:
        if self._env is None:
            self._env = self._make(**self._arguments)
        return self._env

    def _watch(self) -> None:
        """Guards the present process; the env may have started another."""
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
            f"git+https://github.com/oxwhirl/{package} (see docs/environments.md; `pip install smac` is another "
            "project)."
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
                "the installed package smac has no smac.env: it is SMAC3, the hyperparameter optimizer that PyPI "
                "calls smac. "
                f"pip uninstall smac, then pip install --no-deps git+https://{SMAC_PAGE}."
            ) from error
        needs = "It needs pysc2 and pys2clientprotocol (see docs/environments.md)."
        raise TeamEnvError(f"{package} cannot be imported: {error}. {needs}") from error
    _check_starcraft(version, arguments["map_name"], maps)
    refuse_unknown_keys("smac", arguments, [*inspect.signature(module.StarCraft2Env).parameters, *OWN_KEYS, *TEAM_KEYS])
    if version == 1:
        return module.StarCraft2Env
    return importlib.import_module("smacv2.env.starcraft2.wrapper").StarCraftCapabilityEnvWrapper


def _check_starcraft(version: int, name: str, maps: Any) -> None:
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
            f"{told} {path} holds no StarCraft II (no folder Versions): set SC2PATH to the folder of StarCraft II."
        )
    files = {file.stem for file in (path / "Maps").rglob("*.SC2Map")} if (path / "Maps").is_dir() else set()
    needed = registry[name].get("map_name", name) if version == 2 else name
    if needed not in files:
        raise TeamEnvError(
            f"{path / 'Maps'} has no {needed}.SC2Map: unpack SMAC's maps there (SMAC_Maps.zip, {SMAC_PAGE})."
        )
