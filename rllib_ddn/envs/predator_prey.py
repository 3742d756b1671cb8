"""Predator-Prey: predators must catch prey together (relative overgeneralization).

The task of Boehmer et al. 2020, with the settings that Weighted QMIX and the DDN paper
(section 5.2) use: 8 predators, 8 prey, a 10 x 10 grid, 5 x 5 views, reward 10 for a joint capture
and a penalty for a lone attempt.

:class:`VectorPredatorPrey` steps any number of envs at once in NumPy; :class:`parallel_env` is one of them as a
PettingZoo env. Nothing here imports Ray.

Rules of one step
    1. The predators move one after another in random order. A move into an occupied cell does
       nothing.
    2. Then each live prey, in random order, looks at its four neighbour cells. With k = number of
       live predators there that chose *catch*: if k >= catchers_needed, it is captured, the team
       gets ``capture_reward``, and the prey and all k predators leave the grid for good. If
       1 <= k < catchers_needed, the team gets ``-penalty``. A prey that is not captured moves to
       a uniformly random free neighbour cell and stays only if there is none.
    3. The episode terminates when all prey or all predators are gone, and is truncated after
       ``episode_limit`` steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from rllib_ddn.envs.vector import VectorTeamEnv
from rllib_ddn.team import TeamSpec

ACTIONS = ("right", "down", "left", "up", "stay", "catch")
STAY, CATCH = 4, 5
STATES = ("planes", "units")
RENDER_MODES = ("ansi", "rgb_array", "human")
_EMPTY, _PREDATOR, _PREY, _WALL = 0, 1, 2, 3
_SCALE = 24  # pixels of a cell


class VectorPredatorPrey(VectorTeamEnv):
    """E Predator-Prey envs, stepped together.

    Args:
        num_envs: E.
        grid_size: side of the bounded square grid.
        num_predators: P, the agents.
        num_prey: Q.
        sight: how far a predator sees; its view is ``2 * sight + 1`` cells wide.
        catchers_needed: predators that must catch together, 1 to 4.
        capture_reward: team reward for a capture.
        penalty: taken from the team reward when too few try to catch; 0 or more.
        episode_limit: steps after which an episode is truncated.
        state: ``"planes"``, or ``"units"``, which adds where each predator and each prey is.

    Attributes:
        obs: ``[E, P, 2 * view * view]`` int8: predators and prey in the view, each a plane of zeros
            and ones; zeros outside the grid and for removed predators.
        state: ``[E, S]`` int8: both planes of the whole grid, ``2 * grid_size ** 2`` numbers. With ``"units"``,
            ``2 * grid_size`` more for each predator and then for each prey, in a fixed order, that of the
            agents: the row and the column, both one-hot; zeros when it is removed.
        action_mask: ``[E, P, 6]`` bool. Moves that stay on the grid; stay always; catch with a
            live prey in a neighbour cell; a removed predator has stay alone.
        terminated, truncated: ``[E]`` bool.
        num_captured: ``[E]``, captures so far.

    New observation arrays are made at every step.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """

    episode_limit: int
    render_modes = RENDER_MODES

    def __init__(
        self,
        num_envs: int = 1,
        *,
        grid_size: int = 10,
        num_predators: int = 8,
        num_prey: int = 8,
        sight: int = 2,
        catchers_needed: int = 2,
        capture_reward: float = 10.0,
        penalty: float = 2.0,
        episode_limit: int = 200,
        state: str = "planes",
    ):
        for name, value, least in (
            ("num_envs", num_envs, 1),
            ("grid_size", grid_size, 2),
            ("num_predators", num_predators, 1),
            ("num_prey", num_prey, 1),
            ("sight", sight, 1),
            ("catchers_needed", catchers_needed, 1),
            ("episode_limit", episode_limit, 1),
        ):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"predator_prey: {name} is an integer of at least {least}; got {value!r}.")
        if catchers_needed > 4:
            raise ValueError(
                f"predator_prey: catchers_needed is 1 to 4, for a cell has 4 neighbours; got {catchers_needed}."
            )
        if num_predators + num_prey > grid_size**2:
            raise ValueError(
                f"predator_prey: num_predators + num_prey = {num_predators + num_prey} do not fit on "
                f"grid_size ** 2 = {grid_size**2} cells."
            )
        if penalty < 0:
            raise ValueError(f"predator_prey: penalty is 0 or more (it is subtracted); got {penalty!r}.")

        if state not in STATES:
            raise ValueError(f"predator_prey: state is one of {', '.join(map(repr, STATES))}; got {state!r}.")

        self._tells_units = state == "units"
        self.grid_size, self.sight = grid_size, sight
        self.num_predators, self.num_prey = num_predators, num_prey
        self.catchers_needed, self.episode_limit = catchers_needed, episode_limit
        self.names = [f"predator_{i}" for i in range(num_predators)]
        self.capture_reward, self.penalty = float(capture_reward), float(penalty)

        # The grid lies in a frame of walls as wide as the view, so that no index needs a check.
        # Cells are numbered in this padded grid; all grids are one flat array.
        width = grid_size + 2 * sight
        self._cells = width * width
        inside = np.full((width, width), False)
        inside[sight:-sight, sight:-sight] = True
        self._inside = np.flatnonzero(inside)  # [grid_size ** 2]
        # Of each cell: its row and its column, one-hot.  [cells, 2 * grid_size]
        row, column = np.divmod(np.arange(self._cells), width)
        along = np.arange(sight, sight + grid_size)
        self._row_and_column = np.concatenate([row[:, None] == along, column[:, None] == along], 1).astype(np.int8)
        self._empty_grid = np.where(inside, _EMPTY, _WALL).astype(np.uint8).ravel()
        # right, down, left, up; stay and catch do not move.
        self._delta = np.array([1, width, -1, -width, 0, 0])
        around = np.arange(-sight, sight + 1)
        self._view = (around[:, None] * width + around).ravel()  # [view * view]
        self._moves_on_grid = (
            self._empty_grid[(np.arange(self._cells)[:, None] + self._delta[:4]) % self._cells] == _EMPTY
        )

        e, p, q = num_envs, num_predators, num_prey
        self._envs = np.arange(e)
        self._base = self._envs * self._cells  # [E], each grid's first cell
        self._grid = np.tile(self._empty_grid, (e, 1))  # [E, cells]
        self._who = np.zeros((e, self._cells), np.int64)  # [E, cells], which predator stands there
        self._predators = np.zeros((e, p), np.int64)  # [E, P] cells
        self._prey = np.zeros((e, q), np.int64)  # [E, Q] cells
        self._predator_alive = np.zeros((e, p), bool)
        self._prey_alive = np.zeros((e, q), bool)
        self._random = np.zeros(e, np.uint64)  # [E], state of each env's random stream
        self._step = np.zeros(e, np.int64)
        self.terminated, self.truncated = np.ones(e, bool), np.zeros(e, bool)
        self.num_captured = np.zeros(e, np.int64)
        self._window: Any = None
        self.reset(np.arange(e))
        self.spec = TeamSpec(
            num_agents=p,
            num_actions=len(ACTIONS),
            obs_dim=self.obs.shape[-1],
            state_dim=self.state.shape[-1],
            obs_dtype=self.obs.dtype,
            state_dtype=self.state.dtype,
        )

    def reset(self, seeds: np.ndarray, envs: np.ndarray | None = None) -> None:
        """Starts new episodes: predators and prey on distinct random cells.

        Args:
            seeds: one for each env that is reset.
            envs: which these are; by default the first.
        """
        envs = self._envs[: len(seeds)] if envs is None else np.asarray(envs)
        p, q = self.num_predators, self.num_prey
        self._random[envs] = _mix(np.asarray(seeds).astype(np.uint64) + _GOLDEN)
        cells = self._inside[np.argsort(self._draw(self.grid_size**2, envs), axis=1)[:, : p + q]]
        self._predators[envs], self._prey[envs] = cells[:, :p], cells[:, p:]
        self._predator_alive[envs] = self._prey_alive[envs] = True
        self._step[envs] = self.num_captured[envs] = 0
        self.terminated[envs] = self.truncated[envs] = False
        self._place()
        self._observe()

    def place(self, predators: np.ndarray, prey: np.ndarray) -> None:
        """Puts all envs' predators and prey on given cells: ``[E, P, 2]`` and ``[E, Q, 2]`` (row, column)."""
        width = self.grid_size + 2 * self.sight
        to_cell = lambda place: (place[..., 0] + self.sight) * width + place[..., 1] + self.sight  # noqa: E731
        self._predators[:], self._prey[:] = to_cell(np.asarray(predators)), to_cell(np.asarray(prey))
        self._predator_alive[:] = self._prey_alive[:] = True
        self._place()
        self._observe()

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Takes one step in the given envs; an episode that has ended rests, with a reward of 0.

        Args:
            actions: ``[len(envs), P]``, indices into ``ACTIONS``. An unavailable action is a *stay*.
            envs: indices of the envs to step. The others stay as they are.

        Returns:
            Team rewards (float32), terminated and truncated (bool), each ``[len(envs)]``.
        """
        count, p, q = len(self._envs), self.num_predators, self.num_prey
        running = np.zeros(count, bool)  # [E]
        running[envs] = True
        running &= ~(self.terminated | self.truncated)
        chosen = np.full((count, p), STAY)  # [E, P]
        chosen[envs] = actions
        available = np.take_along_axis(self.action_mask, chosen[..., None], 2)[..., 0]
        actions = np.where(available & running[:, None], chosen, STAY)  # [E, P]
        draws = np.zeros((count, p + 2 * q))  # [E, P + 2Q]
        draws[running] = self._draw(p + 2 * q, np.flatnonzero(running))
        grid, who, base = self._grid.ravel(), self._who.ravel(), self._base

        # Predators move one after another: in each round every env moves its next one.
        order = np.argsort(draws[:, :p], axis=1).T  # [P, E]
        for i in order:
            mover = self._envs * p + i
            start = self._predators.ravel()[mover]
            end = start + self._delta[actions.ravel()[mover]]
            moves = grid[base + end] == _EMPTY  # a stay finds its own cell occupied
            moves &= self._predator_alive.ravel()[mover]
            mover, start, end, at, i = mover[moves], start[moves], end[moves], base[moves], i[moves]
            grid[at + start], grid[at + end] = _EMPTY, _PREDATOR
            who[at + end] = i
            self._predators.ravel()[mover] = end

        # Each live prey is captured, or moves.
        catches = (actions == CATCH) & self._predator_alive  # [E, P]
        captures, failures = np.zeros(count, np.int64), np.zeros(count, np.int64)
        order = np.argsort(draws[:, p : p + q], axis=1).T  # [Q, E]
        for turn, j in enumerate(order):
            alive = np.flatnonzero(self._prey_alive[self._envs, j] & running)  # envs
            j = j[alive]
            at, cell = base[alive], self._prey[alive, j]
            near = cell[:, None] + self._delta[:4]  # [alive, 4]
            around = grid[at[:, None] + near]
            neighbour = who[at[:, None] + near]  # meaningful where a predator stands
            catching = (around == _PREDATOR) & catches[alive[:, None], neighbour]
            k = catching.sum(1)
            captured = k >= self.catchers_needed
            failures[alive[(k > 0) & ~captured]] += 1
            if captured.any():
                at_captured, caught = at[captured], alive[captured]
                captures[caught] += 1
                self._prey_alive[caught, j[captured]] = False
                grid[at_captured + cell[captured]] = _EMPTY
                row, side = np.nonzero(catching & captured[:, None])
                gone = neighbour[row, side]
                self._predator_alive[alive[row], gone] = catches[alive[row], gone] = False
                grid[at[row] + near[row, side]] = _EMPTY
            # The free neighbour whose turn the draw names: the n-th with n = floor(draw * free).
            free = (around == _EMPTY) & ~captured[:, None]
            num_free = free.sum(1)
            moves = np.flatnonzero(num_free)
            nth = (draws[alive[moves], p + q + turn] * num_free[moves]).astype(np.int64) + 1
            side = np.argmax(np.cumsum(free[moves], axis=1) == nth[:, None], axis=1)
            end, at = near[moves, side], at[moves]
            grid[at + cell[moves]], grid[at + end] = _EMPTY, _PREY
            self._prey[alive[moves], j[moves]] = end

        self.num_captured += captures
        self._step += running
        decided = ~(self._predator_alive.any(1) & self._prey_alive.any(1))
        self.terminated |= decided & running
        self.truncated |= ~decided & running & (self._step >= self.episode_limit)
        self._observe()
        rewards = (captures * self.capture_reward - failures * self.penalty).astype(np.float32)
        return rewards[envs], self.terminated[envs], self.truncated[envs]

    def info(self, env: int) -> dict[str, Any]:
        """``num_captured``: prey captured so far."""
        return {"num_captured": int(self.num_captured[env])}

    def grid(self, env: int = 0) -> np.ndarray:
        """One env's grid, ``[grid_size, grid_size]``: 0 empty, 1 predator, 2 prey."""
        return self._grid[env, self._inside].reshape(self.grid_size, self.grid_size)

    def render(self, mode: str) -> str | np.ndarray | None:
        """``"ansi"``: a line a row with ``P``, ``q`` and ``.``; ``"rgb_array"``: an image, ``[24 side, 24 side, 3]``
        uint8, predators blue and prey orange; ``"human"``: None, after drawing it in a pygame window."""
        grid = self.grid()
        if mode == "ansi":
            return "\n".join("".join(".Pq"[cell] for cell in row) for row in grid)
        colours = np.array([[244, 241, 235], [38, 92, 153], [222, 120, 38]], np.uint8)
        image = colours[np.kron(grid, np.ones((_SCALE, _SCALE), np.uint8))]
        image[::_SCALE] = image[:, ::_SCALE] = 214
        if mode == "rgb_array":
            return image
        import pygame

        if self._window is None:
            pygame.display.init()
            pygame.display.set_caption("Predator-Prey")
            self._window = pygame.display.set_mode(image.shape[:2])
        self._window.blit(pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        return None

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            self._window = None

    def _place(self) -> None:
        """Rebuilds the grids from the positions."""
        self._grid[:] = self._empty_grid
        envs, p = np.nonzero(self._predator_alive)
        self._grid[envs, self._predators[envs, p]] = _PREDATOR
        self._who[envs, self._predators[envs, p]] = p
        envs, q = np.nonzero(self._prey_alive)
        self._grid[envs, self._prey[envs, q]] = _PREY

    def _observe(self) -> None:
        grid, base = self._grid.ravel(), self._base
        alive = self._predator_alive[..., None]  # [E, P, 1]
        at = (base[:, None] + self._predators)[..., None]  # [E, P, 1]
        view = np.where(alive, grid[at + self._view], _EMPTY)  # [E, P, view * view]
        self.obs = np.concatenate([view == _PREDATOR, view == _PREY], 2).view(np.int8)
        inside = self._grid[:, self._inside]  # [E, grid_size ** 2]
        self.state = np.concatenate([inside == _PREDATOR, inside == _PREY], 1).view(np.int8)
        if self._tells_units:
            cells = np.concatenate([self._predators, self._prey], 1)  # [E, P + Q]
            present = np.concatenate([self._predator_alive, self._prey_alive], 1)
            units = self._row_and_column[cells] * present[..., None]  # [E, P + Q, 2 * grid_size]
            self.state = np.concatenate([self.state, units.reshape(len(units), -1)], 1)
        self.action_mask = np.ones((*self._predators.shape, len(ACTIONS)), bool)
        self.action_mask[..., :STAY] = self._moves_on_grid[self._predators] & alive
        self.action_mask[..., CATCH] = (grid[at + self._delta[:4]] == _PREY).any(2) & alive[..., 0]

    def _draw(self, count: int, envs: np.ndarray) -> np.ndarray:
        """``[envs, count]`` uniform numbers in [0, 1), the next of each env's own stream.

        The streams are SplitMix64 (Steele et al. 2014): the n-th number is a hash of the stream's
        state plus n steps of a constant, so that all streams are computed at once.
        """
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(self._random[envs, None] + steps)
        self._random[envs] += steps[-1]
        return (bits >> np.uint64(11)) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 on ``uint64``."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class parallel_env(ParallelEnv):  # noqa: N801  (PettingZoo's name for it)
    """Predator-Prey as a PettingZoo ``ParallelEnv``.

    Takes the arguments of :class:`VectorPredatorPrey` (but ``num_envs``) and ``render_mode``:
    ``"ansi"``, ``"rgb_array"`` or ``"human"`` (a pygame window).

    A predator observes ``{"observation": [2, view, view] int8, "action_mask": [6] int8}``. Every
    predator gets the team's reward. Removed predators stay in ``agents`` until the episode ends,
    with an observation of zeros and *stay* as their one action. An unavailable action is a *stay*.
    ``infos[agent]["num_captured"]`` counts the captures.
    """

    metadata: dict[str, Any] = {
        "name": "predator_prey_v0",
        "render_modes": list(RENDER_MODES),
        "render_fps": 8,
        "is_parallelizable": True,
    }

    def __init__(self, *, render_mode: str | None = None, **rules: Any):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"predator_prey: render_mode is one of {self.metadata['render_modes']} or None; got {render_mode!r}."
            )
        self.render_mode = render_mode
        self.vector = VectorPredatorPrey(1, **rules)
        self.possible_agents = [f"predator_{i}" for i in range(self.vector.num_predators)]
        self.agents: list[str] = []
        view = 2 * self.vector.sight + 1
        self._view_shape = (2, view, view)
        self.observation_spaces = {
            agent: gymnasium.spaces.Dict(
                {
                    "observation": gymnasium.spaces.Box(0, 1, self._view_shape, np.int8),
                    "action_mask": gymnasium.spaces.Box(0, 1, (len(ACTIONS),), np.int8),
                }
            )
            for agent in self.possible_agents
        }
        self.action_spaces: dict[str, gymnasium.spaces.Space] = {
            agent: gymnasium.spaces.Discrete(len(ACTIONS)) for agent in self.possible_agents
        }
        self.state_space = gymnasium.spaces.Box(0, 1, self.vector.state.shape[1:], np.int8)
        self._seeds = np.random.default_rng()

    def observation_space(self, agent: str) -> gymnasium.spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.spaces.Space:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None):
        """Starts an episode. ``options`` may hold where it starts, ``{"predators": [P, 2], "prey": [Q, 2]}`` with the
        row and column of each."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self.vector.reset(np.array([self._seeds.integers(2**31) if seed is None else seed]))
        if options and "predators" in options:
            self.vector.place(np.array([options["predators"]]), np.array([options["prey"]]))
        self.agents = list(self.possible_agents)
        self._show()
        return self._observations(), self._infos()

    def step(self, actions: dict[str, int]):
        chosen = np.array([[actions[agent] for agent in self.possible_agents]])
        reward, terminated, truncated = (array[0].item() for array in self.vector.step(chosen, np.array([0])))
        agents = self.agents
        self.agents = [] if terminated or truncated else agents
        self._show()
        return (
            self._observations(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            self._infos(),
        )

    def state(self) -> np.ndarray:
        """``[S]`` int8; see :class:`VectorPredatorPrey`."""
        return self.vector.state[0]

    def render(self) -> str | np.ndarray | None:
        """See :meth:`VectorPredatorPrey.render`."""
        if self.render_mode is None:
            gymnasium.logger.warn("predator_prey: render() needs render_mode='ansi', 'rgb_array' or 'human'.")
            return None
        return self.vector.render(self.render_mode)

    def close(self) -> None:
        self.vector.close()

    def _observations(self) -> dict[str, dict[str, np.ndarray]]:
        obs, mask = self.vector.obs[0], self.vector.action_mask[0].astype(np.int8)
        return {
            agent: {"observation": obs[i].reshape(self._view_shape), "action_mask": mask[i]}
            for i, agent in enumerate(self.possible_agents)
        }

    def _infos(self) -> dict[str, dict[str, Any]]:
        return {agent: self.vector.info(0) for agent in self.possible_agents}

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()


def env(**kwargs: Any):
    """The same env in PettingZoo's turn-based (AEC) form."""
    return parallel_to_aec(parallel_env(**kwargs))
