import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune import register_env

from rllib_ddn import DDNConfig


class Echo(MultiAgentEnv):
    """Each of two agents sees a number and is to say it; the state is both numbers."""

    def __init__(self, numbers=4, max_steps=10):
        super().__init__()
        self.numbers, self.max_steps, self.random = numbers, max_steps, np.random.default_rng()
        self.agents = self.possible_agents = ["left", "right"]
        seen = Dict({"obs": Box(0, 1, (numbers,), np.float32), "state": Box(0, 1, (2 * numbers,), np.float32)})
        self.observation_spaces = dict.fromkeys(self.agents, seen)
        self.action_spaces = dict.fromkeys(self.agents, Discrete(numbers))

    def observe(self):
        self.drawn = self.random.integers(self.numbers, size=2)
        each = np.eye(self.numbers, dtype=np.float32)[self.drawn]
        return {agent: {"obs": one, "state": each.flatten()} for agent, one in zip(self.agents, each, strict=True)}

    def reset(self, *, seed=None, options=None):
        self.steps, self.random = 0, np.random.default_rng(seed) if seed is not None else self.random
        return self.observe(), {}

    def step(self, actions):
        rewards = {
            agent: float(actions[agent] == number) for agent, number in zip(self.agents, self.drawn, strict=True)
        }
        self.steps += 1
        return self.observe(), rewards, {"__all__": False}, {"__all__": self.steps == self.max_steps}, {}


def team(**env_config):
    """The agents as one team, whose reward is the sum of theirs."""
    env = Echo(**env_config)
    observations, actions = (Tuple(list(spaces.values())) for spaces in (env.observation_spaces, env.action_spaces))
    return env.with_agent_groups({"team": env.agents}, obs_space=observations, act_space=actions)


# Saved as my_env.py in the working directory, its name is "my_env:team", in Python and for `rllib train --env`.
register_env("echo", lambda env_config: team(**env_config))
config = DDNConfig().environment("echo", env_config={"numbers": 5})
