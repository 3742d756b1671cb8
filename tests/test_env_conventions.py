"""Habits of envs: what is common is right by itself, what is suspicious is logged once, what cannot be is refused."""

import logging

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from ray.rllib.evaluation.metrics import RolloutMetrics

from rllib_ddn.envs import vector
from rllib_ddn.envs.conventions import described
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.pettingzoo_env import PettingZooTeam
from rllib_ddn.envs.vector import BROKEN, SequentialEnvs
from rllib_ddn.rllib.evaluation import compare, summarize
from rllib_ddn.team import TeamEnvError
from support.toy import Grouped, Toy, masked


@pytest.fixture(autouse=True)
def warnings(caplog):
    """The warnings so far, as lines; none has been given before."""
    vector.warn_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("rllib_ddn")]


def parallel(env_class, **config):
    return as_team_env(PettingZooTeam({"env": env_class, **config}), config)


def grouped(env_class, **config):
    return as_team_env(Grouped(env_class()), config)


both_kinds = pytest.mark.parametrize("team", [parallel, grouped])


def played(team, steps=9, action=0):
    """The env after an episode of at most so many steps; its rewards, and what ended it."""
    envs = SequentialEnvs([team])
    envs.reset(np.array([1]))
    rewards, end = [], (False, False)
    while len(rewards) < steps and not any(end):
        reward, terminated, truncated = envs.step(np.full((1, 2), action), np.arange(1))
        rewards.append(float(reward[0]))
        end = bool(terminated[0]), bool(truncated[0])
    return envs, rewards, end


def refused(env_class, message):
    with pytest.raises(TeamEnvError, match=message) as error:
        played(parallel(env_class))
    assert "\n" not in str(error.value)


@both_kinds
@pytest.mark.parametrize("key", ["obs", "observation", "observations"])
def test_masks_beside_observations_of_each_name(team, key, warnings):
    envs, *_ = played(team(masked(key)), steps=1)
    assert envs.action_mask[0].tolist() == [[True, True, False]] * 2
    assert envs.obs[0].tolist() == [[1, 2, 3]] * 2
    assert not warnings()


@both_kinds
def test_what_may_be_meant_as_a_mask_is_logged_once(team, warnings):
    class Legal(Toy):
        def observation_space(self, agent):
            moves = Dict({"legal_moves": Box(0, 1, (3,), np.int8)})
            return Dict({"avail_actions": Box(0, 1, (3,), np.int8), "moves": moves, "obs": Box(0, 9, (1,), np.float32)})

        def observe(self, agent):
            return {
                "avail_actions": np.ones(3, np.int8),
                "moves": {"legal_moves": np.ones(3, np.int8)},
                "obs": np.zeros(1, np.float32),
            }

    for _ in range(2):
        assert played(team(Legal), steps=1)[0].spec.obs_dim == 7
    assert len(warnings()) == 4  # two keys of two agents
    assert all("avail_actions" in text or "legal_moves" in text for text in warnings())


def test_masks_in_infos_under_another_name_are_logged_once(warnings):
    class Told(Toy):
        def reset(self, seed=None, options=None):
            observations, infos = super().reset()
            return observations, {agent: {"avail_actions": [1, 0, 1]} for agent in infos}

    played(parallel(Told), steps=1)
    assert ["avail_actions" in text for text in warnings()] == [True, True]


@both_kinds
def test_parts_beside_the_observation_are_observed(team):
    class Goal(Toy):
        def observation_space(self, agent):
            parts = {"observation": super().observation_space(agent), "desired_goal": Box(-10, 10, (2,), np.float32)}
            return Dict({**parts, "action_mask": Box(0, 1, (3,), np.int8)})

        def observe(self, agent):
            return {
                "observation": super().observe(agent),
                "desired_goal": np.array([7, 8], np.float32),
                "action_mask": np.array([0, 1, 1], np.int8),
            }

    envs, *_ = played(team(Goal), steps=1, action=1)
    assert envs.obs[0].tolist() == [[7, 8, 1, 2, 3]] * 2  # a Dict space is sorted
    assert envs.action_mask[0].tolist() == [[False, True, True]] * 2


@both_kinds
@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize("end", ["raises", "empty"])
def test_a_state_that_is_not_given_after_the_end(team, terminates, end, warnings):
    class Over(Toy):
        def state(self):
            if not self.agents:
                return np.zeros(0, np.float32) if end == "empty" else {}["living"]
            return super().state()

    Over.terminates = terminates
    envs, rewards, ended = played(team(Over))
    assert ended == (terminates, not terminates)
    assert rewards == [3] * 5  # the last one, too
    assert not envs.info(0).get(BROKEN)
    assert envs.state[0].tolist() == [4, 1]
    assert [("no state after a truncation" in text) for text in warnings()] == [True] * (not terminates)


@both_kinds
def test_a_state_that_is_not_given_in_mid_episode(team):
    class Never(Toy):
        def state(self):
            return super().state() if self.t < 2 else {}["living"]

    with pytest.raises(KeyError, match="living"):
        played(team(Never))


def test_a_state_beside_the_observations(warnings):
    class Seen(Toy):
        terminates = True

        def observation_space(self, agent):
            return Dict({"obs": super().observation_space(agent), "state": Discrete(6)})

        def observe(self, agent):
            return {"obs": super().observe(agent), "state": self.t}

        def state(self):
            raise NotImplementedError

        def step(self, actions):
            observations, *rest = super().step(actions)
            return (observations if self.agents else {}), *rest

    env = parallel(Seen)
    envs, *_ = played(env)
    assert (envs.spec.obs_dim, envs.spec.state_dim) == (3, 6)
    assert envs.state[0].tolist() == [0, 0, 0, 0, 1, 0]  # before the end, after which nothing is observed
    assert played(env, steps=2)[0].state[0].tolist() == [0, 0, 1, 0, 0, 0]
    assert not warnings()
    assert played(parallel(Seen, state="concat"), steps=1)[0].state[0].tolist() == [1, 2, 3, 1, 2, 3]


def test_rewards_as_arrays_of_one_number():
    class Arrays(Toy):
        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            return observations, {agent: np.array([reward]) for agent, reward in rewards.items()}, *rest

    assert played(parallel(Arrays))[1] == [3] * 5


@both_kinds
@pytest.mark.parametrize(
    ("space", "state", "numbers"),
    [
        (Discrete(4), 2, [0, 0, 1, 0]),
        (Discrete(3, start=2), 2, [1, 0, 0]),
        (MultiDiscrete([2, 3]), np.array([1, 2]), [0, 1, 0, 0, 1]),
        (Tuple([Discrete(2), Box(0, 9, (2,), np.float32)]), (1, np.array([5, 6], np.float32)), [0, 1, 5, 6]),
        (
            Dict({"b": Box(0, 9, (1,), np.float32), "a": Discrete(2)}),
            {"a": 0, "b": np.array([7], np.float32)},
            [1, 0, 7],
        ),
    ],
)
def test_states_are_flattened_by_their_space(team, space, state, numbers):
    class Spaced(Toy):
        state_space = space

        def state(self):
            return state

    env = team(Spaced)
    assert played(env, steps=1)[0].state[0].tolist() == numbers
    observation = env.reset(seed=0)[0]["team"]
    assert env.observation_space.contains(observation)


@both_kinds
def test_actions_from_a_start_on(team):
    class Numbered(Toy):
        def action_space(self, agent):
            return Discrete(3, start=2)

    env = team(Numbered)
    played(env, steps=1, action=1)
    assert (env.env if team is parallel else env.env.toy).actions == (3, 3)
    env.reset(seed=0)
    env.step({"team": tuple(space.start + 2 for space in env.action_space)})  # as RLlib has its spaces
    assert (env.env if team is parallel else env.env.toy).actions == (4, 4)


@pytest.mark.parametrize("terminates", [True, False])
def test_all_ends_an_episode(terminates, warnings):
    class All(Toy):
        def step(self, actions):
            observations, rewards, terminations, truncations, infos = super().step(actions)
            self.agents, no = list(self.possible_agents), dict.fromkeys(self.possible_agents, False)
            ends = [{**no, "__all__": any(flags.values())} for flags in (terminations, truncations)]
            return observations, rewards, *ends, infos

    All.terminates = terminates
    envs, rewards, end = played(parallel(All), steps=100)
    assert (len(rewards), end) == (5, (terminates, not terminates))
    assert envs.obs[0].any() == (not terminates)  # a truncated episode's last observation is bootstrapped from
    assert not warnings()


@pytest.mark.parametrize("part", ["observation", "reward", "info"])
def test_what_is_for_nobody_in_the_team(part):
    class Stranger(Toy):
        def step(self, actions):
            observations, rewards, *ends, infos = super().step(actions)
            {"observation": observations, "reward": rewards, "info": infos}[part]["referee"] = rewards["a"]
            infos = {**infos, "referee": {}} if part == "info" else infos
            return observations, rewards, *ends, infos

    refused(Stranger, rf"gave an? {part} to 'referee'; its team is 'a', 'b'")


def test_an_info_for_all_is_the_teams():
    class Common(Toy):
        def step(self, actions):
            *results, infos = super().step(actions)
            return *results, {**infos, "__common__": {"battle_won": True}}

    assert played(parallel(Common))[0].info(0)["battle_won"] is True


def test_wins_that_are_reported_in_won_episodes_alone():
    def episodes(won, count=8):
        return [RolloutMetrics(5, 1.0, {}, {"battle_won": 1.0} if k < won else {}, {}, {}, {}) for k in range(count)]

    assert summarize(episodes(1))["win_rate"] == 1 / 8
    assert "win_rate" not in summarize(episodes(0))
    results = compare({"leader": episodes(2), "follower": episodes(0)})
    assert (results["leader"]["win_rate"], results["follower"]["win_rate"]) == (1 / 4, 0)
    assert results["knowledge_transfer"] == 0


@both_kinds
def test_what_terminates_as_the_time_is_over_has_terminated(team):
    class Both(Toy):
        def step(self, actions):
            observations, rewards, _, truncations, infos = super().step(actions)
            return observations, rewards, truncations, truncations, infos

    assert played(team(Both))[2] == (True, False)


class Rewarded(Toy):
    """Pays what ``pay(time)`` says."""

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, dict(zip(rewards, self.pay(self.t), strict=True)), *rest


@pytest.mark.parametrize(
    ("pay", "config", "word"),
    [
        (lambda t: (t - 2, 2 - t), {}, "sum to zero"),
        (lambda t: (t, t), {}, "team_reward"),
        (lambda t: (t, t), {"team_reward": "mean"}, None),
        (lambda t: (t, t), {"team_reward": "sum"}, None),
        (lambda t: (t, 2 * t), {}, None),
        (lambda t: (0, 0), {}, None),
        (lambda t: (-1, 1) if t < 5 else (2, 1), {}, None),
    ],
)
def test_two_sides_and_equal_rewards_are_logged_once(pay, config, word, warnings):
    env = parallel(type("Paying", (Rewarded,), {"pay": lambda _, t: pay(t)}), **config)
    for _ in range(3):
        played(env)
    assert [word in text for text in warnings()] == ([True] if word else [])


class OldReset(Toy):
    def reset(self, seed=None, options=None):
        return super().reset(seed)[0]


class OldStep(Toy):
    def step(self, actions):
        observations, rewards, _, truncations, infos = super().step(actions)
        return observations, rewards, truncations, infos


class NoInfos(Toy):
    def step(self, actions):
        *results, _ = super().step(actions)
        return *results, None


class InfosOfNone(Toy):
    def step(self, actions):
        *results, infos = super().step(actions)
        return *results, dict.fromkeys(infos)


@pytest.mark.parametrize(
    ("env_class", "given"),
    [
        (OldReset, r"reset\(\).*"),
        (OldStep, "4 values"),
        (NoInfos, "None as infos"),
        (InfosOfNone, "None as info of agent 'a'"),
    ],
)
def test_old_apis(env_class, given):
    refused(env_class, rf"{given}.*reset\(\) returns \(observations, infos\), step\(\) \(observations, rewards, ")


def test_an_old_api_of_rllib():
    class Old(Grouped):
        def step(self, actions):
            observations, rewards, _, truncations, infos = super().step(actions)
            return observations, rewards, truncations, infos

    with pytest.raises(TeamEnvError, match="4 values"):
        played(as_team_env(Old(Toy()), {}))


def test_an_exception_is_one_line_with_the_envs_own():
    class Raises(Toy):
        def step(self, actions):
            return np.linalg.inv(np.zeros((2, 2)))

    with pytest.raises(np.linalg.LinAlgError) as error:
        played(parallel(Raises))
    text = described(error.value)
    assert text.startswith("LinAlgError: Singular matrix (test_env_conventions.py, line ")
    assert text.endswith(", in step)")
