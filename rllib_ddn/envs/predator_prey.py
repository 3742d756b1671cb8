"""Predator-Prey: predators must catch prey together (relative overgeneralization).

The task of Boehmer et al. 2020, with the settings that Weighted QMIX and the DDN paper
(section 5.2) use: 8 predators, 8 prey, a 10 x 10 grid, 5 x 5 views, reward 10 for a joint capture
and a penalty for a lone attempt.

:class:`PredatorPreyGames` steps any number of games at once in NumPy; a game's course
depends on its seed and its actions alone, not on the games beside it. :class:`parallel_env`
is a thin PettingZoo face on it with one game.

Rules of one step
    1. The predators move one after another in random order. A move into an occupied cell does
       nothing.
    2. Then each live prey, in random order, looks at its four neighbour cells. With k = number of
       live predators there that chose *catch*: if k >= catchers_needed, it is captured, the team
       gets ``capture_reward``, and the prey and all k predators leave the grid for good. If
       1 <= k < catchers_needed, the team gets ``-penalty``. A prey that is not captured moves to
       a uniformly random free neighbour cell and stays only if there is none.
    3. The game terminates when all prey or all predators are gone, and is truncated after
       ``episode_limit`` steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from rllib_ddn.envs.predator_prey_picture import RENDER_MODES, Picture

ACTIONS = ("right", "down", "left", "up", "stay", "catch")
STAY, CATCH = 4, 5
STATES = ("planes", "units")
_EMPTY, _PREDATOR, _PREY, _WALL = 0, 1, 2, 3


class PredatorPreyGames:
    """A number of Predator-Prey games in lock step.

    Args:
        num_games: G.
        grid_size: side of the bounded square grid.
        num_predators: P, the agents.
        num_prey: Q.
        sight: how far a predator sees; its view is ``2 * sight + 1`` cells wide.
        catchers_needed: predators that must catch together, 1 to 4.
        capture_reward: team reward for a capture.
        penalty: taken from the team reward when too few try to catch; 0 or more.
        episode_limit: steps after which a game is truncated.
        state: ``"planes"``, or ``"units"``, which adds where each predator and each prey is.

    Attributes:
        obs: ``[G, P, 2 * view * view]`` int8: predators and prey in the view, each a plane of zeros
            and ones; zeros outside the grid and for removed predators.
        state: ``[G, S]`` int8: both planes of the whole grid, ``2 * grid_size ** 2`` numbers. With ``"units"``,
            ``2 * grid_size`` more for each predator and then for each prey, in a fixed order, that of the
            agents: the row and the column, both one-hot; zeros when it is removed.
        action_mask: ``[G, P, 6]`` bool. Moves that stay on the grid; stay always; catch with a
            live prey in a neighbour cell; a removed predator has stay alone.
        terminated, truncated: ``[G]`` bool.
        num_captured: ``[G]``, captures so far.

    The three observation arrays are made anew at every step.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        num_games: int = 1,
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
            ("num_games", num_games, 1),
            ("grid_size", grid_size, 2),
            ("num_predators", num_predators, 1),
            ("num_prey", num_prey, 1),
            ("sight", sight, 1),
            ("catchers_needed", catchers_needed, 1),
            ("episode_limit", episode_limit, 1),
        ):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"predator_prey: {name} is a whole number of at least {least}; got {value!r}.")
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
        self.num_games, self.grid_size, self.num_predators, self.num_prey = (
            num_games,
            grid_size,
            num_predators,
            num_prey,
        )
        self.sight, self.catchers_needed, self.episode_limit = sight, catchers_needed, episode_limit
        self.capture_reward, self.penalty = float(capture_reward), float(penalty)

        # The grid lies in a frame of walls as wide as the view, so that no index needs a check.
        # Cells are numbered in this padded grid; all games' grids are one flat array.
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

        g, p, q = num_games, num_predators, num_prey
        self._games = np.arange(g)
        self._base = self._games * self._cells  # [G], each game's first cell
        self._grid = np.tile(self._empty_grid, (g, 1))  # [G, cells]
        self._who = np.zeros((g, self._cells), np.int64)  # [G, cells], which predator stands there
        self._predators = np.zeros((g, p), np.int64)  # [G, P] cells
        self._prey = np.zeros((g, q), np.int64)  # [G, Q] cells
        self._predator_alive = np.zeros((g, p), bool)
        self._prey_alive = np.zeros((g, q), bool)
        self._random = np.zeros(g, np.uint64)  # [G], state of each game's random stream
        self._step = np.zeros(g, np.int64)
        self.terminated, self.truncated = np.ones(g, bool), np.zeros(g, bool)
        self.num_captured = np.zeros(g, np.int64)
        self.reset(np.arange(g))

    def reset(self, seeds: np.ndarray | None = None, games: np.ndarray | None = None) -> None:
        """Starts new games: predators and prey on distinct random cells.

        Args:
            seeds: one for each game reset; None lets the games' random streams go on.
            games: indices of the games to reset; None means all.
        """
        games = self._games if games is None else np.asarray(games)
        p, q = self.num_predators, self.num_prey
        if seeds is not None:
            self._random[games] = _mix(np.asarray(seeds).astype(np.uint64) + _GOLDEN)
        cells = self._inside[np.argsort(self._draw(self.grid_size**2, games), axis=1)[:, : p + q]]
        self._predators[games], self._prey[games] = cells[:, :p], cells[:, p:]
        self._predator_alive[games] = self._prey_alive[games] = True
        self._step[games] = self.num_captured[games] = 0
        self.terminated[games] = self.truncated[games] = False
        self._place()
        self._observe()

    def place(self, predators: np.ndarray, prey: np.ndarray) -> None:
        """Puts all games' animals on given cells: ``[G, P, 2]`` and ``[G, Q, 2]`` (row, column)."""
        width = self.grid_size + 2 * self.sight
        to_cell = lambda place: (place[..., 0] + self.sight) * width + place[..., 1] + self.sight  # noqa: E731
        self._predators[:], self._prey[:] = to_cell(np.asarray(predators)), to_cell(np.asarray(prey))
        self._predator_alive[:] = self._prey_alive[:] = True
        self._place()
        self._observe()

    def step(self, actions: np.ndarray, games: np.ndarray | None = None) -> np.ndarray:
        """Plays one step of every game that has not ended.

        Args:
            actions: ``[G, P]``, indices into ``ACTIONS``. An unavailable action is a *stay*.
            games: indices of the games to play; None means all. The others stay as they are.

        Returns:
            ``[G]`` float32 team rewards; 0 for games that were not played.
        """
        p, q = self.num_predators, self.num_prey
        running = np.zeros(self.num_games, bool)  # [G]
        running[self._games if games is None else games] = True
        running &= ~(self.terminated | self.truncated)
        available = np.take_along_axis(self.action_mask, np.asarray(actions)[..., None], 2)[..., 0]
        actions = np.where(available & running[:, None], actions, STAY)  # [G, P]
        draws = np.zeros((self.num_games, p + 2 * q))  # [G, P + 2Q]
        draws[running] = self._draw(p + 2 * q, np.flatnonzero(running))
        grid, who, base = self._grid.ravel(), self._who.ravel(), self._base

        # Predators move one after another: in each round every game moves its next one.
        order = np.argsort(draws[:, :p], axis=1).T  # [P, G]
        for i in order:
            mover = self._games * p + i
            start = self._predators.ravel()[mover]
            end = start + self._delta[actions.ravel()[mover]]
            moves = grid[base + end] == _EMPTY  # a stay finds its own cell occupied
            moves &= self._predator_alive.ravel()[mover]
            mover, start, end, at, i = mover[moves], start[moves], end[moves], base[moves], i[moves]
            grid[at + start], grid[at + end] = _EMPTY, _PREDATOR
            who[at + end] = i
            self._predators.ravel()[mover] = end

        # Each live prey is captured, or moves.
        catches = (actions == CATCH) & self._predator_alive  # [G, P]
        captures, failures = np.zeros(self.num_games, np.int64), np.zeros(self.num_games, np.int64)
        order = np.argsort(draws[:, p : p + q], axis=1).T  # [Q, G]
        for turn, j in enumerate(order):
            alive = np.flatnonzero(self._prey_alive[self._games, j] & running)  # games
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
                at_captured, games = at[captured], alive[captured]
                captures[games] += 1
                self._prey_alive[games, j[captured]] = False
                grid[at_captured + cell[captured]] = _EMPTY
                row, side = np.nonzero(catching & captured[:, None])
                gone = neighbour[row, side]
                self._predator_alive[alive[row], gone] = catches[alive[row], gone] = False
                grid[at[row] + near[row, side]] = _EMPTY
            # The free neighbour whose turn the draw names: the n-th with n = floor(draw * free).
            free = (around == _EMPTY) & ~captured[:, None]
            count = free.sum(1)
            moves = np.flatnonzero(count)
            nth = (draws[alive[moves], p + q + turn] * count[moves]).astype(np.int64) + 1
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
        return (captures * self.capture_reward - failures * self.penalty).astype(np.float32)

    def picture(self, game: int = 0) -> np.ndarray:
        """One game's grid, ``[grid_size, grid_size]``: 0 empty, 1 predator, 2 prey."""
        return self._grid[game, self._inside].reshape(self.grid_size, self.grid_size)

    def _place(self) -> None:
        """Rebuilds the grids from the positions."""
        self._grid[:] = self._empty_grid
        games, p = np.nonzero(self._predator_alive)
        self._grid[games, self._predators[games, p]] = _PREDATOR
        self._who[games, self._predators[games, p]] = p
        games, q = np.nonzero(self._prey_alive)
        self._grid[games, self._prey[games, q]] = _PREY

    def _observe(self) -> None:
        g, p = self.num_games, self.num_predators
        grid, base = self._grid.ravel(), self._base
        alive = self._predator_alive[..., None]  # [G, P, 1]
        at = (base[:, None] + self._predators)[..., None]  # [G, P, 1]
        view = np.where(alive, grid[at + self._view], _EMPTY)  # [G, P, view * view]
        self.obs = np.concatenate([view == _PREDATOR, view == _PREY], 2).view(np.int8)
        inside = self._grid[:, self._inside]  # [G, grid_size ** 2]
        self.state = np.concatenate([inside == _PREDATOR, inside == _PREY], 1).view(np.int8)
        if self._tells_units:
            cells = np.concatenate([self._predators, self._prey], 1)  # [G, P + Q]
            present = np.concatenate([self._predator_alive, self._prey_alive], 1)
            units = self._row_and_column[cells] * present[..., None]  # [G, P + Q, 2 * grid_size]
            self.state = np.concatenate([self.state, units.reshape(g, -1)], 1)
        self.action_mask = np.ones((g, p, len(ACTIONS)), bool)
        self.action_mask[..., :STAY] = self._moves_on_grid[self._predators] & alive
        self.action_mask[..., CATCH] = (grid[at + self._delta[:4]] == _PREY).any(2) & alive[..., 0]

    def _draw(self, count: int, games: np.ndarray) -> np.ndarray:
        """``[games, count]`` uniform numbers in [0, 1), the next of each game's own stream.

        The streams are SplitMix64 (Steele et al. 2014): the n-th number is a hash of the stream's
        state plus n steps of a constant, so that all streams are computed at once.
        """
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(self._random[games, None] + steps)
        self._random[games] += steps[-1]
        return (bits >> np.uint64(11)) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 on ``uint64``."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class parallel_env(ParallelEnv):  # noqa: N801  (PettingZoo's name for it)
    """Predator-Prey as a PettingZoo ``ParallelEnv``.

    Takes the arguments of :class:`PredatorPreyGames` (but ``num_games``) and ``render_mode``:
    ``"ansi"``, ``"rgb_array"`` or ``"human"`` (a pygame window).

    A predator observes ``{"observation": [2, view, view] int8, "action_mask": [6] int8}``. Every
    predator gets the team's reward. Removed predators stay in ``agents`` until the game is over,
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
        self.games = PredatorPreyGames(1, **rules)
        self.possible_agents = [f"predator_{i}" for i in range(self.games.num_predators)]
        self.agents: list[str] = []
        view = 2 * self.games.sight + 1
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
        self.state_space = gymnasium.spaces.Box(0, 1, self.games.state.shape[1:], np.int8)
        self._picture = Picture()
        self.games.reset(np.random.SeedSequence().generate_state(1))

    def observation_space(self, agent: str) -> gymnasium.spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.spaces.Space:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None):
        """Starts a game. ``options`` may hold where it starts, ``{"predators": [P, 2], "prey": [Q, 2]}`` with the row
        and column of each."""
        self.games.reset(None if seed is None else np.array([seed]))
        if options and "predators" in options:
            self.games.place(np.array([options["predators"]]), np.array([options["prey"]]))
        self.agents = list(self.possible_agents)
        self._show()
        return self._observations(), self._infos()

    def step(self, actions: dict[str, int]):
        reward = float(self.games.step(np.array([[actions[agent] for agent in self.possible_agents]]))[0])
        terminated, truncated = bool(self.games.terminated[0]), bool(self.games.truncated[0])
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
        """``[S]`` int8; see :class:`PredatorPreyGames`."""
        return self.games.state[0]

    def render(self) -> str | np.ndarray | None:
        """One line a row with ``P``, ``q`` and ``.``; or an image; or None after drawing a window."""
        if self.render_mode is None:
            gymnasium.logger.warn("predator_prey: render() needs render_mode='ansi', 'rgb_array' or 'human'.")
            return None
        return self._picture.draw(self.games.picture(), self.render_mode)

    def close(self) -> None:
        self._picture.close()

    def _observations(self) -> dict[str, dict[str, np.ndarray]]:
        obs, mask = self.games.obs[0], self.games.action_mask[0].astype(np.int8)
        return {
            agent: {"observation": obs[i].reshape(self._view_shape), "action_mask": mask[i]}
            for i, agent in enumerate(self.possible_agents)
        }

    def _infos(self) -> dict[str, dict[str, int]]:
        return {agent: {"num_captured": int(self.games.num_captured[0])} for agent in self.possible_agents}

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()


def env(**kwargs: Any):
    """The same game in PettingZoo's turn-based (AEC) form."""
    return parallel_to_aec(parallel_env(**kwargs))
