"""The two games that tell value decompositions apart, as PettingZoo envs with a global state."""

import numpy as np
from gymnasium.spaces import Box, Discrete
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
