"""PettingZoo envs: the two games that tell value decompositions apart, and one of unequal agents."""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv


class TeamGame(ParallelEnv):
    """Two agents that see where they are. ``places`` and ``actions`` are numbers of them."""

    places, actions = 1, 3
    metadata = {"name": "team_game"}

    def __init__(self):
        self.possible_agents = ["row", "column"]
        self.observation_spaces = dict.fromkeys(self.possible_agents, Box(0, 1, (self.places,), np.float32))
        self.action_spaces = dict.fromkeys(self.possible_agents, Discrete(self.actions))
        self.state_space = Box(0, 1, (self.places,), np.float32)

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def state(self):
        return np.eye(self.places, dtype=np.float32)[self.place]

    def reset(self, seed=None, options=None):
        self.agents, self.place = list(self.possible_agents), 0
        return dict.fromkeys(self.agents, self.state()), {agent: {} for agent in self.agents}

    def step(self, actions):
        reward, ended = self.play(actions["row"], actions["column"])
        agents = self.agents
        self.agents = [] if ended else agents
        each = lambda value: dict.fromkeys(agents, value)  # noqa: E731
        # The team's reward is the sum of its agents'.
        return each(self.state()), each(reward / 2), each(ended), each(False), {agent: {} for agent in agents}


class MatrixGame(TeamGame):
    """The one-step game of Son et al. 2019: the best joint action is surrounded by the worst."""

    payoff = np.array([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])

    def play(self, row, column):
        return self.payoff[row, column], True


class TwoStepGame(TeamGame):
    """The game of Rashid et al. 2018: the row's first action chooses between 7 for sure and a matrix with 8."""

    places, actions = 3, 2
    payoff = {1: np.array([[7.0, 7.0], [7.0, 7.0]]), 2: np.array([[0.0, 1.0], [1.0, 8.0]])}

    def play(self, row, column):
        if self.place == 0:
            self.place = 1 + int(row)
            return 0.0, False
        return self.payoff[self.place][row, column], True


class Uneven(ParallelEnv):
    """Two agents of different sizes; b leaves after its first step, a plays three."""

    metadata = {"name": "uneven"}

    def __init__(self, limit=None, has_state=True):
        self.possible_agents, self.limit, self.has_state = ["a", "b"], limit, has_state
        self.spaces = {
            "a": (Box(-1, 1, (3,), np.float32), Discrete(4)),
            "b": (
                Dict({"observation": Box(-1, 1, (2,), np.float32), "action_mask": Box(0, 1, (2,), np.int8)}),
                Discrete(2),
            ),
        }

    def observation_space(self, agent):
        return self.spaces[agent][0]

    def action_space(self, agent):
        return self.spaces[agent][1]

    def observe(self):
        b = {"observation": np.array([4, 5], np.float32), "action_mask": np.array([0, 1], np.int8)}
        return {agent: np.array([1, 2, 3], np.float32) if agent == "a" else b for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.agents, self.t = ["a", "b"], 0
        return self.observe(), {"a": {"action_mask": np.array([1, 0, 1, 1])}, "b": {}}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        observations, agents = self.observe(), self.agents
        ended = {agent: agent == "b" or self.t == 3 for agent in agents}
        cut = {agent: self.t == self.limit and not ended[agent] for agent in agents}
        self.agents = [agent for agent in agents if not ended[agent] and not cut[agent]]
        return observations, dict.fromkeys(agents, 1.0 + self.t), ended, cut, {agent: {} for agent in agents}

    def state(self):
        if not self.has_state:
            raise NotImplementedError
        return np.array([self.t, 9.0])
