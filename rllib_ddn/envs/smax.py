"""SMAX: StarCraft-like battles without StarCraft (JaxMARL, Rutherford et al. 2023), all episodes in one
call.

SMAX's scenarios have the names of SMAC's maps, but it is a benchmark of its own with a scripted enemy:
its win rates say nothing about SMAC's. It needs the extra ``smax``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
from typing import Any

import numpy as np

from rllib_ddn.envs.single import TEAM_KEYS, SingleTeamEnv
from rllib_ddn.envs.vector import VectorTeamEnv
from rllib_ddn.names import did_you_mean
from rllib_ddn.team import TeamEnvError, TeamSpec, refuse_unknown_keys

MOVES = 5  # four directions and "stop"; the attacks on each enemy come after them
WITHOUT_UNITS = {"2s_vs_1sc": "it lacks the spine crawler", "MMM2": "it lacks the medivac"}


class SMAXTeam(SingleTeamEnv):
    """Battles like StarCraft's, simulated by JaxMARL.

    Registered as ``"smax"``.
    ``env_config``: ``map_name`` (default "3s5z"), ``reward_scale`` (10: a won battle is worth 20 at least,
    as in SMAC), ``render_mode`` (None or "rgb_array"), and arguments of JaxMARL's ``HeuristicEnemySMAX``,
    of which ``see_enemy_actions`` and ``walls_cause_death`` are True and ``attack_mode`` is "closest" by
    default; also the keys of :func:`rllib_ddn.envs.grouping.as_team_env`.

    The state holds each unit's health, position, cooldown and type between 0 and 1, and zeros for the dead;
    JaxMARL's own has positions and cooldowns of 30 and more, on which Q values diverge.

    JAX takes one thread of its own in each process, and no GPU memory in advance. To change that, set
    ``PJRT_NPROC`` or ``XLA_PYTHON_CLIENT_PREALLOCATE`` in the environment of Ray's workers.

    Raises:
        TeamEnvError: JaxMARL is missing, the scenario is unknown, or an argument is.
    """

    def __init__(self, config: dict[str, Any]):
        arguments = {key: value for key, value in config.items() if key not in ("render_mode", *TEAM_KEYS)}
        super().__init__(lambda num_envs: VectorSMAX(num_envs, **arguments), "smax", config.get("render_mode"))


class VectorSMAX(VectorTeamEnv):
    """Battles as a vector env.

    Every call steps all E battles, whichever are asked for, so that the shapes are always the same and
    JAX compiles once.

    Args:
        num_envs: E.
        arguments: as in ``env_config`` of :class:`SMAXTeam`.
    """

    render_modes = ("rgb_array",)

    def __init__(self, num_envs: int, **arguments: Any):
        self._battle = _battle(arguments)
        self.spec = spec = _sizes(self._battle, arguments)
        self.names = list(self._battle.agents)
        self.episode_limit = self._battle.max_steps + 1  # SMAX looks at its clock before it moves it
        self._num_envs, self._scale = num_envs, float(arguments.get("reward_scale", 10.0))
        self._reset, self._step = _compiled(self._battle)
        self._world: Any = None
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self.obs = np.zeros((num_envs, spec.num_agents, spec.obs_dim), np.float32)
        self.state = np.zeros((num_envs, spec.state_dim), np.float32)
        self.action_mask = np.ones((num_envs, spec.num_agents, spec.num_actions), bool)

    def reset(self, seeds: np.ndarray) -> None:
        """Starts new battles in the first ``len(seeds)`` envs, each with its own seed, and any in the rest."""
        all_seeds = np.resize(np.asarray(seeds, np.uint32), self._num_envs)
        self._world, observed = self._reset(all_seeds)
        self._observe(observed)
        self._infos = [{} for _ in range(self._num_envs)]

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        everyone = np.full((self._num_envs, self.spec.num_agents), MOVES - 1, np.int32)
        everyone[envs] = actions
        self._world, observed, outcome = self._step(self._world, everyone)
        self._observe(observed)
        rewards, terminated, truncated, won, dead_allies, dead_enemies = (np.asarray(array)[envs] for array in outcome)
        for row, e in enumerate(envs):
            self._infos[e] = {"dead_allies": int(dead_allies[row]), "dead_enemies": int(dead_enemies[row])}
            if terminated[row] or truncated[row]:
                self._infos[e]["battle_won"] = bool(won[row])
        return self._scale * rewards, terminated, truncated

    def info(self, env: int) -> dict[str, Any]:
        """SMAC's keys: ``dead_allies``, ``dead_enemies``, and at the end ``battle_won``."""
        return self._infos[env]

    def render(self, mode: str) -> np.ndarray:
        """The battlefield, ``[height, width, 3]`` uint8."""
        return _draw(self._battle, self._world[1].state)

    def _observe(self, observed: tuple) -> None:
        self.obs, self.state, self.action_mask = map(np.asarray, observed)


@functools.cache
def _compiled(battle: Any) -> tuple[Any, Any]:
    """The functions that reset and step any number of envs, compiled once in a process for each number.

    ``reset(seeds [E])`` gives the world and what is observed (obs, state, action masks); ``step(world,
    actions [E, N])`` these and the outcome (reward, terminated, truncated, won, dead allies, dead enemies).
    """
    import jax
    import jax.numpy as jnp

    agents, allies, enemies = battle.agents, battle.num_agents, battle.num_enemies

    def observe(obs: Any, state: Any) -> tuple:
        masks = battle.get_avail_actions(state)
        stack = lambda parts: jnp.stack([parts[agent] for agent in agents])  # noqa: E731
        return stack(obs), units(state.state), stack(masks).astype(bool)

    def units(state: Any) -> Any:
        """``[all units, 4 + types]``, flat: JaxMARL's global state on the scale of its observations."""
        types = state.unit_types
        health = state.unit_health / battle.unit_type_health[types]
        positions = state.unit_positions / jnp.array([battle.map_width, battle.map_height])
        cooldowns = jnp.clip(state.unit_weapon_cooldowns / battle.unit_type_weapon_cooldowns[types], 0.0, 1.0)
        kinds = jax.nn.one_hot(types, len(battle.unit_type_health))
        features = jnp.concatenate([health[:, None], positions, cooldowns[:, None], kinds], -1)
        return (features * state.unit_alive[:, None]).reshape(-1)

    def reset(seed: Any) -> tuple:
        key, first = jax.random.split(jax.random.PRNGKey(seed))
        obs, state = battle.reset(first)
        # Python numbers in it have weak types, with which the first step would be compiled by itself.
        state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
        return (key, state), observe(obs, state)

    def step(world: tuple, actions: Any) -> tuple:
        key, now = jax.random.split(world[0])
        obs, state, rewards, dones, _ = battle.step_env(now, world[1], dict(zip(agents, actions, strict=True)))
        alive = state.state.unit_alive
        dead = (~alive[:allies]).sum(), (~alive[allies:]).sum()
        lost, won = dead[0] == allies, dead[1] == enemies
        decided = lost | won
        outcome = rewards[agents[0]], decided, dones["__all__"] & ~decided, won & ~lost, *dead
        return (key, state), observe(obs, state), outcome

    return jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(step))


def _battle(arguments: dict[str, Any]) -> Any:
    """JaxMARL's env for these arguments, one for all of a process.

    Raises:
        TeamEnvError: see :class:`SMAXTeam`.
    """
    # Before JAX starts: a thread of its own, and memory as it goes, so that the learner keeps both.
    os.environ.setdefault("PJRT_NPROC", "1")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    arguments = {key: value for key, value in arguments.items() if key != "reward_scale"}
    name = arguments.pop("map_name", "3s5z")
    if name in WITHOUT_UNITS:
        raise TeamEnvError(f'env_config["map_name"]: SMAX has no {name}: {WITHOUT_UNITS[name]}. The env "smac" has it.')
    try:
        with contextlib.redirect_stdout(None):  # JaxMARL greets
            from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO
    except ImportError as error:
        raise TeamEnvError(f'the env "smax" needs JaxMARL: pip install "rllib-ddn[smax]" ({error}).') from error
    if name not in MAP_NAME_TO_SCENARIO:
        hint = did_you_mean(name, MAP_NAME_TO_SCENARIO, count=3)
        raise TeamEnvError(f'env_config["map_name"] = {name!r} is unknown to SMAX; {hint}')
    refuse_unknown_keys("smax", arguments, _arguments())
    try:
        plain = json.dumps(arguments, sort_keys=True, default=lambda array: array.tolist())
    except AttributeError as error:
        raise TeamEnvError(
            f"env_config of smax holds numbers, booleans, names and lists of them; got {arguments}."
        ) from error
    return _make(name, plain)


@functools.cache
def _arguments() -> frozenset[str]:
    """The keys of an ``env_config``."""
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax.smax_env import SMAX

    named = {*inspect.signature(HeuristicEnemySMAX).parameters, *inspect.signature(SMAX).parameters}
    not_free = {"env_kwargs", "scenario", "num_allies", "num_enemies"}  # the map says them
    return frozenset(named - not_free | {"map_name", "reward_scale", "render_mode", *TEAM_KEYS})


@functools.cache
def _make(name: str, arguments: str) -> Any:
    """The env of a scenario and JSON of further arguments, of which lists become arrays."""
    import jax.numpy as jnp
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    given = {
        key: jnp.array(value) if isinstance(value, list) else value for key, value in json.loads(arguments).items()
    }
    defaults = {"see_enemy_actions": True, "walls_cause_death": True, "attack_mode": "closest"}
    return HeuristicEnemySMAX(scenario=map_name_to_scenario(name), **{**defaults, **given})


def _sizes(battle: Any, arguments: dict[str, Any]) -> TeamSpec:
    scale = arguments.get("reward_scale", 10.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or scale <= 0:
        raise TeamEnvError(f'env_config["reward_scale"] is a number above 0; got {scale!r}.')
    return TeamSpec(
        num_agents=battle.num_agents,
        num_actions=battle.num_ally_actions,
        obs_dim=battle.obs_size,
        state_dim=(battle.num_agents + battle.num_enemies) * (4 + len(battle.unit_type_health)),
        obs_dtype=np.dtype(np.float32),
        state_dtype=np.dtype(np.float32),
    )


def _draw(battle: Any, units: Any) -> np.ndarray:
    """Units as circles with their health, attacks as lines; ours are blue."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    allies = battle.num_agents
    positions, alive = np.asarray(units.unit_positions[0]), np.asarray(units.unit_alive[0])
    types, attacks = np.asarray(units.unit_types[0]), np.asarray(units.prev_attack_actions[0])
    health = np.asarray(units.unit_health[0]) / np.asarray(battle.unit_type_health)[types]
    radius = np.asarray(battle.unit_type_radiuses)[types]
    figure = Figure(figsize=(4.8, 4.8), dpi=80, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.set(xlim=(0, battle.map_width), ylim=(0, battle.map_height), aspect="equal", xticks=[], yticks=[])
    for i in np.flatnonzero(alive):
        color = "#265c99" if i < allies else "#b3262a"
        target = attacks[i] - MOVES
        if target >= 0 and int(units.step[0]) > 0:
            other = allies + target if i < allies else allies - 1 - target  # enemies count our units backwards
            axes.plot(*positions[[i, other]].T, color=color, linewidth=1, alpha=0.6)
        x, y = positions[i]
        axes.add_patch(_circle((x, y), radius[i] * 1.4, color, 0.2 + 0.8 * float(health[i])))
        axes.text(x, y, battle.unit_type_shorthands[types[i]], ha="center", va="center", fontsize=7, color="white")
        axes.plot([x - 0.8, x - 0.8 + 1.6 * health[i]], [y + radius[i] * 1.4 + 0.4] * 2, color="#3c8d40", linewidth=2)
    axes.set_title(f"step {int(units.step[0])}: {alive[:allies].sum()} against {alive[allies:].sum()}", fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _circle(center: tuple[float, float], radius: float, color: str, alpha: float) -> Any:
    from matplotlib.patches import Circle

    return Circle(center, radius, color=color, alpha=alpha)
