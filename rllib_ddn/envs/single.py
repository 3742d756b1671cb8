"""One env of a team, as RLlib wants it: a ``MultiAgentEnv`` with one agent, the team."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ddn.envs.conventions import warn_of_masks
from rllib_ddn.envs.vector import ConcatenatedStates, VectorTeamEnv, warn_once
from rllib_ddn.team import ACTION_MASK, OBS, STATE, Member, TeamEnvError, TeamSpec, flatten, team_members, team_spaces

TEAM = "team"  # the agent id of a team
TEAM_KEYS = ("state", "max_input_size", "timeouts")  # of every env_config, see as_team_env()


class TeamEnv(MultiAgentEnv):
    """One env of a team. Derived classes fill arrays in :meth:`start` and :meth:`advance`; RLlib's methods follow from
    them.

    Args:
        spec: the sizes and dtypes.
        members: the N agents; by default numbered ones, all of these sizes.

    Attributes:
        team: RLlib's agent id of the team.
        obs: ``[N, O]`` of ``spec.obs_dtype``: what the agents observe.
        state: ``[S]`` of ``spec.state_dtype``: the global state; not read where it is the concatenated observations.
        action_mask: ``[N, A]`` bool: the available actions.
        concatenates: whether the state is the concatenated observations.
        state_space: of the state as the env gives it, where it is not ``[S]`` numbers already.
        member_rewards: the N agents' own rewards of the last step, where they are known.
        render_mode: None, or what :meth:`render` returns.

    The arrays may be filled anew at every step, or be replaced.
    """

    team: Any = TEAM
    state_space: spaces.Space | None = None
    given_state: Any = None  # the state before it is flattened
    env: Any = None  # that is wrapped, if any
    member_rewards: Sequence[float] | None = None
    episode_limit: int | None = None  # most steps that an episode can take, where it is known
    render_mode: str | None = None
    state_choices: tuple[str, ...] = ()  # values of env_config["state"] for which the env has a state of its own

    def __init__(self, spec: TeamSpec, members: Sequence[Member] | None = None):
        super().__init__()
        self.team_spec, self.concatenates = spec, False
        self.members = team_members(*team_spaces(spec)) if members is None else list(members)
        for member in self.members:
            warn_of_masks(member.id, member.observation_space)
        self.obs = np.zeros((spec.num_agents, spec.obs_dim), spec.obs_dtype)
        self.state = np.zeros(spec.state_dim, spec.state_dtype)
        self.action_mask = np.ones((spec.num_agents, spec.num_actions), bool)
        self._set_spaces(*team_spaces(spec))

    @abstractmethod
    def start(self, seed: int | None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Starts an episode; returns its info."""

    @abstractmethod
    def advance(self, actions: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """Takes one step.

        Args:
            actions: ``[N]``, indices of available actions.

        Returns:
            The team's reward, terminated, truncated, and the info. Of the keys in the last info ``battle_won`` counts
            as a win or not, and :data:`rllib_ddn.envs.vector.BROKEN` leaves the episode out.
        """

    @property
    def shown(self) -> MultiAgentEnv:
        """What RLlib and its callbacks see: this, or the env inside where it has all that a team has."""
        return self

    def vectorize(self, num_envs: int) -> VectorTeamEnv | None:
        """So many envs of this kind that are stepped together, if there are such."""
        return None

    def concatenate_state(self) -> None:
        """Makes the concatenated observations the state."""
        self.team_spec, self.concatenates = self.team_spec.with_concatenated_state(), True
        self._set_spaces(*team_spaces(self.team_spec))

    def seen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """obs ``[N, O]``, state ``[S]`` and action mask ``[N, A]``, valid until the next step."""
        return self.obs, self.obs.reshape(-1) if self.concatenates else self.state, self.action_mask

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        info = self.start(seed, options)
        return {self.team: self._observation()}, {self.team: info}

    def step(self, action_dict: dict):
        actions = np.array(action_dict[self.team]) - [space.start for space in self.action_space]
        reward, terminated, truncated, info = self.advance(actions)
        return (
            {self.team: self._observation()},
            {self.team: reward},
            {self.team: terminated, "__all__": terminated},
            {self.team: truncated, "__all__": truncated},
            {self.team: info},
        )

    def read_state(self, give: Callable[[], Any], terminated: bool = False, truncated: bool = False) -> None:
        """Fills ``state``. Where the env gives none at the end of an episode, the last state stays; after a termination
        it is never used.

        Args:
            give: returns the state as the env has it.
            terminated, truncated: whether this is the end of an episode.

        Raises:
            TeamEnvError: the state does not fit ``state_space``.
        """
        try:
            given = give()
            flat = flatten(self.state_space, given, f"the state of {self.env}")
            self.state = flat.astype(self.team_spec.state_dtype, copy=False)
            self.given_state = given
        except Exception as error:
            if not (terminated or truncated):
                raise
            if truncated:
                warn_once(
                    f"{self.env} gives no state after a truncation ({type(error).__name__}): the one before takes its "
                    "place in the bootstrap value."
                )

    def _observation(self) -> tuple[dict[str, Any], ...]:
        obs, state, mask = map(np.copy, self.seen())
        return tuple({OBS: o, ACTION_MASK: m, STATE: state} for o, m in zip(obs, mask.astype(np.int8), strict=True))

    def _set_spaces(self, observation_space: Any, action_space: Any) -> None:
        self.possible_agents = self.agents = [self.team]
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_spaces, self.action_spaces = {self.team: observation_space}, {self.team: action_space}


class SingleTeamEnv(TeamEnv):
    """A vector env of one env.

    ``reset()`` without a seed continues with seeds that follow from the last one given.

    Args:
        make: makes a vector env of so many envs.
        name: the registered env's, for errors.
        render_mode: None, or one of the vector env's ``render_modes``.

    Raises:
        TeamEnvError: the vector env cannot be rendered in this mode.
    """

    def __init__(self, make: Callable[[int], VectorTeamEnv], name: str, render_mode: str | None = None):
        self._make, self.vector, self.render_mode = make, make(1), render_mode
        if render_mode not in (None, *self.vector.render_modes):
            modes = " or ".join(["None", *(f'"{mode}"' for mode in self.vector.render_modes)])
            raise TeamEnvError(f'env_config["render_mode"] of {name} is {modes}; got {render_mode!r}.')
        self._seeds, self.episode_limit = np.random.default_rng(), self.vector.episode_limit
        super().__init__(self.vector.spec, team_members(*team_spaces(self.vector.spec), self.vector.names))

    @property
    def shown(self) -> MultiAgentEnv:
        """What RLlib and its callbacks see: this, or the env inside where it has all that a team has."""
        return self

    def vectorize(self, num_envs: int) -> VectorTeamEnv:
        env = self._make(num_envs)
        return ConcatenatedStates(env) if self.concatenates else env

    def start(self, seed: int | None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self.vector.reset(np.array([self._seeds.integers(2**31) if seed is None else seed]))
        return self._info()

    def advance(self, actions: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        rewards, terminated, truncated = self.vector.step(actions[None], np.array([0]))
        return float(rewards[0]), bool(terminated[0]), bool(truncated[0]), self._info()

    def render(self) -> Any:
        return None if self.render_mode is None else self.vector.render(self.render_mode)

    def close(self) -> None:
        self.vector.close()

    def _info(self) -> dict[str, Any]:
        self.obs, self.state, self.action_mask = self.vector.obs[0], self.vector.state[0], self.vector.action_mask[0]
        return self.vector.info(0)
