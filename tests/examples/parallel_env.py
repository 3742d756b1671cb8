import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from rllib_ddn import DDNConfig


class Meeting(ParallelEnv):
    """Two agents on a line of five places want to meet; each sees where it is, the state is where both are."""

    metadata = {"name": "meeting"}
    state_space = Box(0, 1, (10,), np.float32)

    def __init__(self, max_steps=10):
        self.max_steps, self.possible_agents = max_steps, ["left", "right"]

    def observation_space(self, agent):
        return Box(0, 1, (5,), np.float32)

    def action_space(self, agent):
        return Discrete(3)  # left, stay, right

    def state(self):
        return np.eye(5, dtype=np.float32)[[self.places[agent] for agent in self.possible_agents]].flatten()

    def observe(self):
        return {agent: np.eye(5, dtype=np.float32)[self.places[agent]] for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        left, right = np.random.default_rng(seed).permutation(5)[:2]
        self.agents, self.places, self.steps = list(self.possible_agents), {"left": left, "right": right}, 0
        return self.observe(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.places = {agent: int(np.clip(self.places[agent] + actions[agent] - 1, 0, 4)) for agent in self.agents}
        self.steps += 1
        met, late = self.places["left"] == self.places["right"], self.steps == self.max_steps
        everyone, each = self.agents, lambda value: dict.fromkeys(self.possible_agents, value)
        self.agents = [] if met or late else everyone
        return self.observe(), each(0.5 * met), each(met), each(late and not met), {agent: {} for agent in everyone}


# Saved as my_env.py in the working directory, its name is "my_env:Meeting"; the class itself will do in Python.
# A reward of 1 for the team is 0.5 for each.
config = DDNConfig().environment("pettingzoo", env_config={"env": Meeting, "max_steps": 8})
