"""Any value of any type for any key, alone and in pairs: refused in one line that names the key when the algorithm is
built, or three iterations run and are finite.

The keys come from the table of ranges. ``SETTINGS_CASES=20000`` in the environment tries as many instead of a few
hundred.
"""

import logging
import math
import os
import re

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ddn import DDN, DDNConfig, Mixer
from rllib_ddn.rllib.ranges import RANGES
from support.configs import learner_stats

pytestmark = pytest.mark.usefixtures("cluster")

CASES = int(os.environ.get("SETTINGS_CASES", "300"))
# RLlib's keys differ between its versions. Functions that it calls are the user's: what they raise is no key's error.
KEYS = sorted(key for key in RANGES.keys() & vars(DDNConfig()).keys() if not key.startswith("callbacks_on_"))


class TwoSteps(MultiAgentEnv):
    """Two agents for two steps."""

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = self.agents = ["team"]
        agent = {"obs": Box(-1, 1, (2,), np.float32), "state": Box(-1, 1, (2,), np.float32)}
        self.observation_space, self.action_space = Tuple([Dict(agent)] * 2), Tuple([Discrete(2)] * 2)

    def observe(self):
        now = np.array([self.t, 1 - self.t], np.float32) / 2
        return {"team": ({"obs": now, "state": now}, {"obs": -now, "state": now})}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observe(), {}

    def step(self, action_dict):
        self.t += 1
        return (
            self.observe(),
            {"team": float(sum(action_dict["team"]))},
            {"__all__": self.t == 2},
            {"__all__": False},
            {},
        )


# So small that a case takes a few hundredths of a second.
SMALL = {
    "env": TwoSteps,
    "train_batch_size": 2,
    "replay_buffer_config": {"capacity": 5},
    "agent_hidden_dim": 4,
    "fusion_embed_dim": 4,
    "fusion_hyper_dim": 2,
    "min_sample_timesteps_per_iteration": 1,
    "evaluation_interval": 3,
    "evaluation_duration": 1,
    "log_sys_usage": False,
    "log_level": "ERROR",
}
# Values up to which a key is tried, not only accepted: more takes other processes, or time, or memory.
LARGEST = {
    **dict.fromkeys(("num_env_runners", "evaluation_num_env_runners", "num_gpus"), 0),
    **dict.fromkeys(("agent_hidden_dim", "fusion_embed_dim", "fusion_hyper_dim"), 100),
    **dict.fromkeys(("num_envs_per_env_runner", "evaluation_duration", "updates_per_episode", "train_batch_size"), 8),
    **dict.fromkeys(("min_sample_timesteps_per_iteration", "min_train_timesteps_per_iteration"), 8),
    "num_cpus_for_main_process": 2,
    "min_time_s_per_iteration": 0.01,
    "replay_buffer_config": 10_000,
    "mixer_config": 100,
}


class NoMixer(Mixer):
    """Lacks forward()."""


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(
        [0.0, 1.0, -1.0, 0.5, 64.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, 10**400, -(10**400), 2**63]
    ),
    st.sampled_from(
        [np.int64(3), np.float32(0.5), np.float64(0.25), np.float32(np.nan), np.bool_(True), np.array(0.5), 1j]
    ),
    st.text(max_size=5),
    st.sampled_from(["no", "abc", "64", "0.5", "auto", "None", "EpsilonGreedy", "NoFilter", "MeanStdFilter"]),
)
NAMES = [
    "type",
    "capacity",
    "embed_dim",
    "epsilon_timestep",
    "epsilon_timesteps",
    "initial_epsilon",
    "alpha",
    "eps",
    "betas",
]
NAMES += [
    "explore",
    "lr",
    "norm",
    "a",
    "weight_decay",
    "CPU",
    "num_env_runners",
]
THINGS = st.sampled_from(
    [object(), Mixer, NoMixer, RLlibCallback, dict, len, lambda *_: None, b"abc", torch.zeros(2), np.zeros(3)]
)


@st.composite
def values(draw, name):
    """Any value; often one of the names that the key accepts, or what was given to it with one thing changed."""
    default = SMALL.get(name, vars(DDNConfig())[name])
    known = re.findall(r"'(\w+)'", RANGES[name].words)
    changed = st.dictionaries(st.sampled_from(NAMES), SCALARS, max_size=2)
    deep = st.recursive(
        SCALARS | THINGS, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.sampled_from(NAMES), x, max_size=2)
    )
    choices = [SCALARS, SCALARS, THINGS, changed, deep, st.dictionaries(SCALARS.filter(_hashable), SCALARS, max_size=1)]
    if known:
        choices += [
            st.sampled_from(known),
            st.fixed_dictionaries({"type": st.sampled_from(known)}, optional={"eps": SCALARS}),
        ]
    if isinstance(default, dict):
        choices += [changed.map(lambda more: {**default, **more})] * 3
    if "lr" in name:
        choices += [st.lists(st.tuples(SCALARS, SCALARS), max_size=3)]
    return draw(st.one_of(choices))


def _hashable(value):
    return getattr(type(value), "__hash__", None) is not None


def too_large(name, value):
    """Whether a value is not tried, since it takes too much of something."""
    amounts = value.values() if isinstance(value, dict) else [value]
    numbers = [amount for amount in amounts if isinstance(amount, (int, float, np.number))]
    return name in LARGEST and any(abs(number) > LARGEST[name] for number in numbers)


def tried(overrides):
    """Three iterations with these settings; or the line in which they are refused."""
    try:
        config = DDN.get_default_config().update_from_dict({**SMALL, **overrides})
        if any(too_large(name, value) for name, value in overrides.items()):
            config.validate()
            return None
        algo = config.build_algo() if len(overrides) == 1 else DDN(config={**SMALL, **overrides})
    except ValueError as error:
        return str(error)
    try:
        for _ in range(3):
            result = algo.train()
        # NaN is where there was no update; one that gives NaN raises.
        assert not np.isinf(list(learner_stats(result).values())).any(), learner_stats(result)
        for name, weight in algo.get_policy().model.state_dict().items():
            assert torch.isfinite(weight).all(), name
    finally:
        algo.stop()
    return None


def check(overrides):
    line = tried(overrides)
    if line is not None:
        assert "\n" not in line
        assert len(line) < 500, line
        assert any(
            re.search(rf"\b{name.removesuffix('_str').removesuffix('_class')}(_class)?\b", line) for name in overrides
        ), line


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    threads = torch.get_num_threads()
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def cases(share):
    return settings(
        max_examples=max(1, round(CASES * share)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def overrides(draw, keys):
    return {name: draw(values(name)) for name in keys}


@pytest.mark.timeout(0 if CASES > 1000 else 600)
@seed(1)
@cases(0.6)
@given(st.sampled_from(KEYS).flatmap(lambda name: overrides([name])))
def test_any_value_for_any_key(chosen):
    check(chosen)


@pytest.mark.timeout(0 if CASES > 1000 else 600)
@seed(2)
@cases(0.4)
@given(st.lists(st.sampled_from(KEYS), min_size=2, max_size=2, unique=True).flatmap(overrides))
def test_any_values_for_two_keys(chosen):
    check(chosen)
