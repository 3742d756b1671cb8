"""A PettingZoo env of two agents whose habits are those that a test gives it, and the same as an RLlib env."""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv


class Toy(ParallelEnv):
    """Takes five steps, then truncates, or terminates if ``terminates``. The agents see the time; each gets 1, b 2."""

    metadata = {"name": "toy"}
    state_space = Box(-10, 10, (2,), np.float32)
    steps, terminates = 5, False
    actions: tuple = ()  # the last ones

    def __init__(self):
        self.possible_agents, self.agents = ["a", "b"], []

    def observation_space(self, agent):
        return Box(-10, 10, (3,), np.float32)

    def action_space(self, agent):
        return Discrete(3)

    def state(self):
        return np.array([self.t, 1], np.float32)

    def observe(self, agent):
        return np.array([self.t, 2, 3], np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return {agent: self.observe(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        self.actions, self.t, agents = tuple(actions.values()), self.t + 1, self.agents
        end = self.t == self.steps
        observations = {agent: self.observe(agent) for agent in agents}
        self.agents = [] if end else agents
        rewards = {agent: 1.0 + (agent == "b") for agent in agents}
        ends = [dict.fromkeys(agents, end and which) for which in (self.terminates, not self.terminates)]
        return observations, rewards, *ends, {agent: {} for agent in agents}


class Grouped(MultiAgentEnv):
    """A :class:`Toy` as RLlib has envs: one agent, the team, with a Tuple of each space."""

    def __init__(self, toy):
        super().__init__()
        self.toy, self.state_space = toy, toy.state_space
        self.possible_agents = self.agents = ["team"]
        self.observation_space = Tuple([toy.observation_space(agent) for agent in toy.possible_agents])
        self.action_space = Tuple([toy.action_space(agent) for agent in toy.possible_agents])

    def state(self):
        return self.toy.state()

    def reset(self, *, seed=None, options=None):
        observations, _ = self.toy.reset(seed)
        return {"team": tuple(observations.values())}, {}

    def step(self, actions):
        chosen = dict(zip(self.toy.agents, actions["team"], strict=True))
        observations, rewards, terminations, truncations, _ = self.toy.step(chosen)
        ends = [{"__all__": any(flags.values())} for flags in (terminations, truncations)]
        return {"team": tuple(observations.values())}, {"team": sum(rewards.values())}, *ends, {}


def masked(key):
    """A Toy with ``{key: observation, "action_mask": mask}``: the last of the three actions is never available."""

    class Masked(Toy):
        def observation_space(self, agent):
            return Dict({key: super().observation_space(agent), "action_mask": Box(0, 1, (3,), np.int8)})

        def observe(self, agent):
            return {key: super().observe(agent), "action_mask": np.array([1, 1, 0], np.int8)}

    return Masked
