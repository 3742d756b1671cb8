"""Envs that are slightly wrong: one line that says which agent, which key, what was given and what is expected."""

import logging

import numpy as np
import pytest
import tree
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune import register_env

from rllib_ddn.checks import check_values
from rllib_ddn.envs import vector
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.pettingzoo_env import PettingZooTeam
from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
from rllib_ddn.envs.vector import SequentialEnvs
from rllib_ddn.team import TeamEnvError, flatten
from support.configs import SMALL_GAME, small_config
from support.games import Uneven
from support.toy import Grouped, Toy


@pytest.fixture(autouse=True)
def warnings(caplog):
    """The warnings so far, as lines; none has been given before."""
    vector.warn_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("rllib_ddn")]


def one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


class Team(MultiAgentEnv):
    """A team of two; ``spoil(agent_observations)`` returns what it is to observe at its second step."""

    def __init__(self, spoil=lambda agents: agents, reward=1.0, obs_space=None):
        super().__init__()
        self.spoil, self.reward = spoil, reward
        self.possible_agents = self.agents = ["team"]
        self.obs_space = obs_space or Box(-1, 1, (3,), np.float32)
        parts = {"obs": self.obs_space, "action_mask": Box(0, 1, (2,), np.int8), "state": Box(-1, 1, (2,), np.float32)}
        self.observation_space, self.action_space = Tuple([Dict(parts)] * 2), Tuple([Discrete(2)] * 2)

    def observe(self):
        space = self.obs_space
        obs = (
            {k: np.zeros(s.shape, s.dtype) for k, s in space.items()}
            if isinstance(space, Dict)
            else np.zeros(space.shape, space.dtype)
        )
        agents = [{"obs": obs, "action_mask": np.ones(2, np.int8), "state": np.zeros(2, np.float32)} for _ in range(2)]
        return {"team": tuple(self.spoil(agents) if self.t == 2 else agents)}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observe(), {}

    def step(self, action_dict):
        self.t += 1
        reward = self.reward if self.t == 2 else 1.0
        return self.observe(), {"team": reward}, {"__all__": self.t == 4}, {"__all__": False}, {}


def played(env):
    games = SequentialEnvs([as_team_env(env, {})])
    games.reset(np.array([0]))
    for _ in range(3):
        games.step(np.zeros((1, 2), int), np.array([0]))


def changed(agent, **parts):
    """Changes an agent's parts; None takes one out."""

    def spoil(agents):
        for key, value in parts.items():
            agents[agent].pop(key)
            if value is not None:
                agents[agent][key] = value
        return agents

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(1, obs=np.zeros(2)), r'"obs" of agent 1 has the shape \(2,\); its space has \(3,\)'),
        (
            changed(1, action_mask=np.ones(1)),
            r'"action_mask" of agent 1 has the shape \(1,\); its space has \(2,\)',
        ),
        (changed(0, state=np.zeros(5)), r'"state" of agent 0 has the shape \(5,\); its space has \(2,\)'),
        (
            changed(1, action_mask=None),
            r"observation of agent 1 has no \"action_mask\", .*; got \['obs', 'state'\]",
        ),
        (changed(1, obs=None), r'observation of agent 1 has no "obs"'),
        (changed(0, state=None), r'observation has no "state"'),
        (changed(1, obs="abc"), r"\"obs\" of agent 1 is 'abc'; its space Box\(.*\) has numbers"),
        (lambda agents: agents[:1], r"team's observation has 1 entries, but there are 2 agents"),
        (lambda agents: [agents[0], np.zeros(3)], r'observation of agent 1 has no "obs", .*; got ndarray'),
    ],
)
def test_observations_that_do_not_fit(spoil, message):
    played(Team())
    with pytest.raises(TeamEnvError, match=f"step 2: .*{message}") as error:
        played(Team(spoil))
    one_line(error)


@pytest.mark.parametrize("reward", ["1.5", "much", None, [1.0, 2.0]])
def test_rewards_that_are_no_numbers(reward):
    played(Team(reward=np.float64(2)))
    with pytest.raises(
        TeamEnvError, match=r"step 2: the reward of team 'team' is .*; a reward is a finite number"
    ) as error:
        played(Team(reward=reward))
    one_line(error)


class Replaced(Team):
    """Some of what its steps return is replaced; its observations get a state of its own method."""

    state_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, **parts):
        super().__init__()
        self.parts = parts
        spaces_without = {key: space for key, space in self.observation_space[0].items() if key != "state"}
        self.observation_space = Tuple([Dict(spaces_without)] * 2)

    def state(self):
        return np.zeros(1, np.float32)

    def observe(self):
        agents = super().observe()["team"]
        return {"team": tuple({"obs": agent["obs"], "action_mask": agent["action_mask"]} for agent in agents)}

    def step(self, action_dict):
        names = ("observation", "reward", "terminateds", "truncateds", "infos")
        result = dict(zip(names, super().step(action_dict), strict=True))
        return tuple(self.parts.get(name, value) for name, value in result.items())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"reward": {"team_0": 5.0}}, r"step 1: the env gave a reward to 'team_0'; its team is 'team'"),
        ({"reward": {"team": 1.0, "__all__": 5.0}}, r"gave a reward to '__all__'"),
        ({"observation": {}}, r"returned no observation for its team 'team' \(got \[\]\)"),
        ({"observation": {**Replaced().reset()[0], "ghost": 1}}, r"gave an observation to 'ghost'"),
        (
            {"terminateds": {"team_0": True}},
            r"terminateds have neither \"__all__\" nor its team 'team' \(got \['team_0'\]\)",
        ),
        ({"truncateds": {}}, r"truncateds have neither"),
    ],
)
def test_what_goes_to_others_than_the_team_is_refused(parts, message):
    with pytest.raises(TeamEnvError, match=message) as error:
        played(Replaced(**parts))
    one_line(error)


def test_a_team_without_a_reward_gets_none_and_its_own_end_is_the_end():
    games = SequentialEnvs([as_team_env(Replaced(reward={}, truncateds={"team": True, "__all__": False}), {})])
    games.reset(np.array([0]))
    rewards, terminated, truncated = games.step(np.zeros((1, 2), int), np.array([0]))
    assert (rewards[0], terminated[0], truncated[0]) == (0, False, True)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (Discrete(3), 0.5, r"x holds 0.5; its space Discrete\(3\) has integers"),
        (Discrete(3), np.nan, r"x holds nan; its space Discrete\(3\) has integers"),
        (Discrete(3), 3, r"x is 3, which is not in its space Discrete\(3\)"),
        (Discrete(3), -1, r"x is -1, which is not in its space"),
        (MultiDiscrete([2, 3]), [1, 2.5], r"x holds 2.5; its space MultiDiscrete\(\[2 3\]\) has integers"),
        (MultiDiscrete([2, 3]), [2, 2], r"x is \[2, 2\], which is not in its space"),
        (MultiBinary(2), [0, 2], r"x is \[0, 2\], which is not in its space"),
        (Box(0, 9, (2,), np.int8), [1, 300], r"x holds 300; its space .* has integers"),
        (Box(0, 9, (2,), np.int8), [1, np.inf], r"x holds inf; its space .* has integers"),
        (Box(0, 9, (2,)), [[1], [2], [3]], r"x has the shape \(3, 1\); its space has \(2,\)"),
        (Dict({"a": Discrete(2)}), {"b": 1}, r"x lacks 'a', which its space has"),
        (Dict({"a": Discrete(2)}), {"a": 5}, r"x, 'a', is 5, which is not in its space"),
        (Tuple([Discrete(2), Discrete(2)]), (1,), r"x is \(1,\), but its space has 2 entries"),
    ],
)
def test_values_that_are_not_in_their_space(space, value, message):
    with pytest.raises(TeamEnvError, match=message) as error:
        flatten(space, value, "x")
    one_line(error)


@pytest.mark.parametrize(
    "space",
    [
        Discrete(3),
        Discrete(4, start=2),
        MultiDiscrete([2, 3]),
        MultiBinary(3),
        Box(-1, 1, (2, 3), np.float32),
        Box(0, 255, (2,), np.uint8),
        Dict({"b": Discrete(2), "a": Tuple([Box(0, 1, (2,)), MultiDiscrete([3, 2])])}),
    ],
)
def test_flatten_is_gymnasiums(space):
    space.seed(0)
    for _ in range(10):
        value = space.sample()
        ours, theirs = flatten(space, value, "x"), spaces.flatten(space, value)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_values_that_no_network_can_act_on():
    def arrays():
        return np.zeros((6, 2, 4), np.float32), np.zeros((6, 5), np.float32), np.ones((6, 2, 3), bool)

    check_values(*arrays())
    obs, state, mask = arrays()
    obs[3, 1, 2] = np.inf
    with pytest.raises(TeamEnvError, match="observation that holds NaN or infinity at step 4, of agent 1; "):
        check_values(obs, state, mask, " at step 4")
    obs, state, mask = arrays()
    state[5, 0] = np.nan
    with pytest.raises(TeamEnvError, match="state that holds NaN or infinity; "):
        check_values(obs, state, mask)
    obs, state, mask = arrays()
    mask[2, 1] = False
    with pytest.raises(TeamEnvError, match="action mask of agent 1 is all zero: leave at least one action"):
        check_values(obs, state, mask)


def test_compute_single_action_takes_what_the_env_gives_and_refuses_what_training_refuses(build):
    algo = build()
    env, state = PredatorPreyTeam(SMALL_GAME), algo.get_policy().get_initial_state()
    observation = env.reset(seed=1)[0]["team"]
    actions, *_ = algo.compute_single_action(observation, state, explore=False)
    env.step({"team": actions})
    blocked = tuple({**agent, "action_mask": np.zeros(6, np.int8)} for agent in observation)
    with pytest.raises(TeamEnvError, match="the action mask of agent 0 is all zero"):
        algo.compute_single_action(blocked, state)
    fractions = tuple({**agent, "obs": agent["obs"] + 0.5} for agent in observation)
    with pytest.raises(TeamEnvError, match=r'"obs" of agent 0 holds \d.5; its space .* has integers'):
        algo.compute_single_action(fractions, state)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (Box(-1, 1, (3,), np.float32), np.array([0, np.nan, 0]), "observation that holds NaN or infinity, of agent 1"),
        (Discrete(4), np.float32(1.5), r'"obs" of agent 1 holds 1.5; its space Discrete\(4\) has integers'),
        (Discrete(4), np.float32(np.nan), r'"obs" of agent 1 holds nan; its space Discrete\(4\) has integers'),
    ],
)
def test_compute_single_action_refuses_values_that_are_not_in_the_space(build, space, value, message):
    register_env("team_of_two", lambda _: Team(obs_space=space))
    config = small_config()
    config.env_config = {}
    config.environment("team_of_two")
    algo, env = build(config), Team(obs_space=space)
    observation, state = env.reset()[0]["team"], algo.get_policy().get_initial_state()
    algo.compute_single_action(observation, state)
    with pytest.raises(TeamEnvError, match=message):
        algo.compute_single_action((observation[0], {**observation[1], "obs": value}), state)


def test_compute_actions_of_observations_with_parts(build):
    """A team's observations may be dicts, batched or not."""
    space = Dict({"far": Box(-1, 1, (2,), np.float32), "near": Box(-1, 1, (3,), np.float32)})
    register_env("team_with_parts", lambda _: Team(obs_space=space))
    config = small_config()
    config.env_config = {}
    algo, env = build(config.environment("team_with_parts")), Team(obs_space=space)
    observation, state = env.reset()[0]["team"], algo.get_policy().get_initial_state()
    observation[0]["obs"]["near"][:] = 1
    _, _, single = algo.compute_single_action(observation, state, explore=False)
    batched = tree.map_structure(lambda part: np.stack([part, part]), observation)
    _, _, both = algo.get_policy().compute_actions(batched, explore=False)
    assert both["q_values"].shape == (2, 2, 2)
    np.testing.assert_allclose(both["q_values"][1], single["q_values"], rtol=1e-6)


def test_compute_single_action_on_wrapped_envs(build):
    """What the wrappers return is what RLlib's calls take."""
    for env_config in ({"env": Uneven}, {"env": Uneven, "state": "concat"}):
        config = small_config()
        config.env_config = {}
        config.environment("pettingzoo", env_config=env_config)
        algo = build(config)
        env = as_team_env(PettingZooTeam(env_config), env_config)
        observation = env.reset(seed=0)[0]["team"]
        actions, *_ = algo.compute_single_action(observation, algo.get_policy().get_initial_state(), explore=False)
        assert env.action_space.contains(tuple(actions))
        env.step({"team": actions})


def test_compute_single_action_counts_actions_as_the_env_does(build):
    class Numbered(Toy):
        def action_space(self, agent):
            return Discrete(3, start=5)

    register_env("numbered", lambda _: Grouped(Numbered()))
    config = small_config()
    config.env_config = {}
    algo, env = build(config.environment("numbered")), Grouped(Numbered())
    algo.train()
    observation, state = env.reset()[0]["team"], algo.get_policy().get_initial_state()
    for _ in range(5):
        actions, state, _ = algo.compute_single_action(observation, state, explore=True)
        assert env.action_space.contains(tuple(actions))
        observation = env.step({"team": actions})[0]["team"]


class Stale(Uneven):
    """Leaves its agents in ``agents``, b too, of which it says only once that it has terminated; truncates if
    ``limit`` is set."""

    def step(self, actions):
        observations, rewards, terminations, *rest = super().step(actions)
        self.agents = ["a", "b"]
        terminations["b"] = self.t == 1
        return observations, rewards, terminations, *rest


@pytest.mark.parametrize(("limit", "ends"), [(None, (True, False)), (2, (False, True))])
def test_an_env_that_leaves_its_agents_when_all_have_ended(limit, ends, warnings):
    env = PettingZooTeam({"env": Stale, "limit": limit, "team_reward": "sum"})
    for _ in range(2):
        observation, _ = env.reset()
        for step in range(limit or 3):
            assert observation["team"][1]["action_mask"].tolist() == (
                [0, 1, 0, 0] if step == 0 else [1, 0, 0, 0]
            )  # b has left
            observation, _, terminateds, truncateds, _ = env.step({"team": (0, 1 if step == 0 else 0)})
            ended = (terminateds["__all__"], truncateds["__all__"])
            assert ended == (ends if step == (limit or 3) - 1 else (False, False))
    (warning,) = warnings()
    assert "uneven has terminated or truncated all agents, but leaves 2 of them in its `agents`" in warning


class Solved(Uneven):
    """Says of both agents that they have terminated and that the time is over."""

    def step(self, actions):
        observations, rewards, _, _, infos = super().step(actions)
        return observations, rewards, {"a": True, "b": True}, {"a": True, "b": True}, infos


def test_what_terminates_as_the_time_is_over_has_terminated():
    env = PettingZooTeam({"env": Solved})
    env.reset()
    *_, terminateds, truncateds, _ = env.step({"team": (0, 1)})
    assert (terminateds["__all__"], truncateds["__all__"]) == (True, False)


def test_an_env_that_empties_its_agents_is_not_warned_of(warnings):
    env = PettingZooTeam({"env": Uneven})
    env.reset()
    for step in range(3):
        *_, terminateds, _, _ = env.step({"team": (0, 1 if step == 0 else 0)})
    assert terminateds["__all__"]
    assert not warnings()


def test_an_episode_that_never_ends_is_warned_of_once(warnings):
    for step in range(9_990, 10_050):
        vector.warn_of_long_episode("Endless", step)
    vector.warn_of_long_episode("Endless", 10_000)
    (warning,) = warnings()
    assert warning.startswith("an episode of Endless has not ended after 10,000 steps")


def test_env_runners_warn_of_long_episodes(build, warnings, monkeypatch):
    monkeypatch.setattr(vector, "LONG_EPISODE", 7)
    algo = build()  # of 12 steps
    for _ in range(2):
        algo.train()
    (warning,) = warnings()
    assert warning.startswith("an episode of predator_prey has not ended after 7 steps")


def test_an_aec_env():
    with pytest.raises(
        TeamEnvError, match=r"is an AEC env, in which agents take turns: use \"mpe2.simple_spread_v3:parallel_env\""
    ) as error:
        PettingZooTeam({"env": "mpe2.simple_spread_v3:env"})
    one_line(error)
    with pytest.raises(TeamEnvError, match=r"makes a dict, which is no ParallelEnv"):
        PettingZooTeam({"env": dict})


class Images(ParallelEnv):
    metadata = {"name": "images"}

    def __init__(self, shape=(280, 480, 3)):
        self.possible_agents, self.shape = ["a", "b"], shape

    def observation_space(self, agent):
        return Box(0, 255, self.shape, np.uint8)

    def action_space(self, agent):
        return Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: np.zeros(self.shape, np.uint8) for agent in self.agents}, {agent: {} for agent in self.agents}

    def state(self):
        return np.zeros(4, np.float32)


def test_images_are_refused_before_anything_is_built():
    config = small_config()
    config.env_config = {}
    config.environment("pettingzoo", env_config={"env": Images})
    with pytest.raises(
        TeamEnvError,
        match=r"an agent's observation has 403,200 numbers, more than 20,000: .*\"max_input_size\": 403200}",
    ) as error:
        config.check_env()
    one_line(error)
    config.env_config = {"env": Images, "state": "concat", "shape": (70, 50, 3)}
    with pytest.raises(TeamEnvError, match=r"the state has 21,000 numbers, more than 20,000"):
        config.check_env()
    config.env_config["max_input_size"] = 21_000
    config.check_env()
    config.env_config["max_input_size"] = "many"
    with pytest.raises(TeamEnvError, match=r'env_config\["max_input_size"\] is a positive integer; got \'many\''):
        config.check_env()


def test_every_env_takes_the_size_limit():
    config = {**SMALL_GAME, "max_input_size": 17}
    with pytest.raises(TeamEnvError, match=r"an agent's observation has 18 numbers, more than 17"):
        as_team_env(PredatorPreyTeam(config), config)


class Unfit(Uneven):
    """Returns an observation, a mask, a state or a reward that does not fit, after a reset."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def step(self, actions):
        observations, rewards, *ends, infos = super().step(actions)
        if self.wrong == "obs":
            observations["a"] = np.zeros(2, np.float32)
        if self.wrong == "mask":
            infos["a"] = {"action_mask": np.ones(7)}
        if self.wrong == "reward":
            rewards["b"] = "2"
        if self.wrong == "no mask":
            del observations["b"]["action_mask"]
            ends[0]["b"] = False
        return observations, rewards, *ends, infos

    def state(self):
        return np.zeros(5 if self.wrong == "state" and self.t else 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("obs", r"the observation of agent 'a' has the shape \(2,\); its space has \(3,\)"),
        ("mask", r"\"action_mask\" of agent 'a' has the shape \(7,\); its space has \(4,\)"),
        ("no mask", r"the observation of agent 'b' has no \"action_mask\", which its space has"),
        ("state", r"the state of uneven has the shape \(5,\); its space has \(2,\)"),
        ("reward", r"the reward of agent 'b' is '2'; a reward is a finite number"),
    ],
)
def test_parallel_envs_that_do_not_fit(wrong, message):
    env = PettingZooTeam({"env": Unfit, "wrong": wrong})
    env.reset()
    with pytest.raises(TeamEnvError, match=message) as error:
        env.step({"team": (0, 1)})
    one_line(error)


def test_unknown_keys_get_the_nearest_name():
    with pytest.raises(
        TeamEnvError, match=r"env_config\['grid_sze'\] of predator_prey is unknown; did you mean 'grid_size'\?"
    ):
        PredatorPreyTeam({"grid_sze": 5})
    with pytest.raises(
        TeamEnvError, match=r"env_config\['colour'\] of predator_prey is unknown; there are capture_reward, "
    ):
        PredatorPreyTeam({"colour": "red"})
    with pytest.raises(
        TeamEnvError, match=r'env_config\["render_mode"\] of predator_prey is None or "ansi" or .*; got \'gif\''
    ):
        PredatorPreyTeam({"render_mode": "gif"})
    with pytest.raises(TeamEnvError, match="Uneven cannot be rendered: it takes no render_mode"):
        PettingZooTeam({"env": Uneven, "render_mode": "rgb_array"})


def passes_on(**arguments):
    return Uneven(**arguments)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (Uneven, r"env_config\['limt'\] of Uneven is unknown; did you mean 'limit'\?"),
        (
            passes_on,
            r"env_config of passes_on has a key that its factory does not take: .* unexpected keyword argument 'limt'",
        ),
    ],
)
def test_keys_that_a_factory_does_not_take(factory, message):
    with pytest.raises(TeamEnvError, match=message) as error:
        PettingZooTeam({"env": factory, "limt": 3})
    one_line(error)
    PettingZooTeam({"env": factory, "limit": 3})
