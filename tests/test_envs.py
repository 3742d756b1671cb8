"""Team envs: the grouping convention, PettingZoo envs, and the vectorized path."""

import importlib.util

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Tuple
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.examples.envs.classes.multi_agent.two_step_game import TwoStepGame, TwoStepGameWithGroupedAgents

from rllib_ddn import DDNConfig
from rllib_ddn.envs import predator_prey
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.pettingzoo_env import PettingZooTeam
from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
from rllib_ddn.envs.vector import SequentialEnvs
from rllib_ddn.team import TeamEnvError, TeamSpec, encode, team_members
from support.games import Uneven

# PettingZoo 1.27 replaced version 4 by version 5.
PURSUIT = "pursuit_v5" if importlib.util.find_spec("pettingzoo.sisl.pursuit_v5") else "pursuit_v4"


def team(**config):
    return PettingZooTeam({"env": Uneven, **config})


def arrays(env, observation):
    """obs, state and mask of what RLlib sees."""
    members = team_members(env.observation_space, env.action_space)
    spec = TeamSpec.from_spaces(env.observation_space, env.action_space)
    assert spec == env.team_spec
    obs, mask, state = encode(observation[env.team], members, spec)
    for array, own in zip((obs, state, mask), env.seen(), strict=True):
        np.testing.assert_array_equal(array, own)
    return obs, state, mask


def test_padding_and_masks():
    env = team()
    spec = TeamSpec.from_spaces(env.observation_space, env.action_space)
    assert (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim) == (2, 4, 3, 2)
    obs, state, mask = arrays(env, env.reset()[0])
    assert obs.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert state.tolist() == [0, 9]
    assert mask.tolist() == [[True, False, True, True], [False, True, False, False]]


def test_agents_that_leave_stay_with_a_no_op():
    env = team()
    env.reset()
    observation, rewards, terminateds, truncateds, _ = env.step({"team": (0, 1)})
    obs, state, mask = arrays(env, observation)
    assert obs.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert mask[1].tolist() == [True, False, False, False]
    assert state.tolist() == [1, 9]
    assert rewards["team"] == 4  # both agents' 2
    assert not terminateds["__all__"]
    assert not truncateds["__all__"]
    _, rewards, *_ = env.step({"team": (0, 0)})
    assert rewards["team"] == 3  # a alone
    *_, terminateds, truncateds, _ = env.step({"team": (0, 0)})
    assert terminateds["__all__"]
    assert not truncateds["__all__"]


def test_a_time_limit_truncates():
    env = team(limit=2)
    env.reset()
    env.step({"team": (0, 1)})
    observation, _, terminateds, truncateds, _ = env.step({"team": (0, 0)})
    assert truncateds["__all__"]
    assert not terminateds["__all__"]
    assert arrays(env, observation)[0][0].tolist() == [1, 2, 3]  # the final observation, to bootstrap from


def test_the_teams_info_is_the_first_members_who_is_still_there():
    env = team()
    env.reset()
    assert env._info({"a": {"battle_won": False}, "b": {"battle_won": True}})["battle_won"] is False
    told = env._info({"b": {"battle_won": True}})  # a has left
    assert told == {"battle_won": True, "agents": {"b": {"battle_won": True}}}


def test_the_members_infos_are_the_teams_where_rllib_has_grouped_them():
    class Told(TwoStepGame):
        """Only the second member tells that its game broke, both tell who they are."""

        def step(self, actions):
            *results, _ = super().step(actions)
            return *results, {0: {"battle_won": True, "who": 0}, 1: {"who": 1, "episode_broken": True}}

    game = Told({"one_hot_state_encoding": True, "separate_state_space": True})
    spaces = Tuple([game.observation_space] * 2), Tuple([game.action_space] * 2)
    games = SequentialEnvs([as_team_env(game.with_agent_groups({"both": [0, 1]}, *spaces), {})])
    games.reset(np.array([0]))
    games.step(np.zeros((1, 2), int), np.array([0]))
    told = games.info(0)
    assert (told["battle_won"], told["who"], told["episode_broken"]) == (True, 0, True)


def test_masks_in_infos_are_masks_of_the_agents():
    told = [(member.has_action_mask, member.mask_in_info) for member in team().members]
    assert told == [(False, True), (True, False)]  # a's comes in its info, b's in its observation


@pytest.mark.parametrize(
    ("declared", "state", "dtype"),
    [
        (Box(0, 1, (2,), np.float32), [0, 1], np.float32),
        (Box(0, 1, (2,), np.float64), np.zeros(2, int), np.float32),
        (Box(0, 9, (2,), np.uint8), [0, 1], np.uint8),
        (None, [0, 1], np.float32),
        (None, np.zeros(2), np.float32),
        (None, np.zeros(2, np.int16), np.int16),
    ],
)
def test_a_state_has_the_dtype_that_the_env_says(monkeypatch, declared, state, dtype):
    monkeypatch.setattr(Uneven, "state_space", declared, raising=False)
    monkeypatch.setattr(Uneven, "state", lambda _: state)
    assert team().observation_space[0]["state"].dtype == dtype


def test_team_reward_as_a_mean():
    env = team(team_reward="mean")
    env.reset()
    assert env.step({"team": (0, 1)})[1]["team"] == 2
    assert env.step({"team": (0, 0)})[1]["team"] == 1.5  # of both agents, although one has left


def test_concatenated_state():
    env = as_team_env(team(state="concat", has_state=False), {"state": "concat"})
    _, state, mask = arrays(env, env.reset()[0])
    assert state.tolist() == [1, 2, 3, 4, 5, 0]
    assert mask.tolist() == [[True, False, True, True], [False, True, False, False]]


def test_no_state_is_an_error_that_offers_concat():
    with pytest.raises(TeamEnvError, match=r'has no state\(\): choose env_config={"state": "concat"}'):
        team(has_state=False)


def test_two_step_game_state_is_taken_once():
    config = {"one_hot_state_encoding": True, "separate_state_space": True}
    env = as_team_env(TwoStepGameWithGroupedAgents(config), {})
    spec = env.team_spec
    assert (env.team, spec.num_agents, spec.num_actions, spec.obs_dtype) == ("agents", 2, 2, np.int8)
    obs, state, mask = arrays(env, env.reset()[0])
    # MultiDiscrete([2, 2, 2, 3]) one-hot: state (1, 0, 0), then who observes.
    assert obs.tolist() == [[0, 1, 1, 0, 1, 0, 0, 1, 0], [0, 1, 1, 0, 1, 0, 0, 0, 1]]
    assert state.tolist() == [0, 1, 1, 0, 1, 0]
    assert mask.all()


def test_two_step_game_grouped_by_hand_with_concat():
    game = TwoStepGame({})
    spaces = {"obs_space": Tuple([game.observation_space] * 2), "act_space": Tuple([game.action_space] * 2)}
    env = as_team_env(game.with_agent_groups({"both": [0, 1]}, **spaces), {"state": "concat"})
    games = SequentialEnvs([env])
    games.reset(np.array([0]))
    assert games.spec.state_dim == 12
    assert games.obs[0].argmax(-1).tolist() == [0, 3]
    np.testing.assert_array_equal(games.state[0], games.obs[0].ravel())
    games.step(np.array([[1, 0]]), np.array([0]))
    rewards, terminated, truncated = games.step(np.array([[1, 1]]), np.array([0]))
    assert (rewards[0], terminated[0], truncated[0]) == (8, True, False)


def test_state_from_a_method():
    class WithMethod(TwoStepGameWithGroupedAgents):
        def __init__(self, config):
            super().__init__(config)
            self.state_space = Box(0, 1, (3,), np.float32)

        def state(self):
            return np.array([0.0, 0.5, 1.0], np.float32)

    env = as_team_env(WithMethod({}), {})
    assert arrays(env, env.reset()[0])[1].tolist() == [0, 0.5, 1]


RULES = {"grid_size": 4, "num_predators": 3, "num_prey": 2, "episode_limit": 15}


def test_vectorized_predator_prey_equals_the_single_games():
    """The registered env and the PettingZoo env, grouped, see the same arrays at every step."""
    fast = PredatorPreyTeam(RULES).vectorize(3)
    config = {
        **RULES,
        "env": predator_prey.parallel_env,
        "team_reward": "mean",
    }  # every predator gets the team's reward
    plain = SequentialEnvs([PettingZooTeam(config) for _ in range(3)])
    rng, live = np.random.default_rng(0), np.arange(3)
    for games in (fast, plain):
        games.reset(np.array([5, 6, 7]))
    assert fast.spec == plain.spec
    for _ in range(15):
        for name in ("obs", "state", "action_mask"):
            a, b = getattr(fast, name), getattr(plain, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a[live], b[live])
        actions = rng.integers(6, size=(live.size, 3))
        results = [games.step(actions, live) for games in (fast, plain)]
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)
        assert [fast.info(e)["num_captured"] for e in live] == [plain.info(e)["num_captured"] for e in live]
        live = live[~(results[0][1] | results[0][2])]
    assert live.size == 0


def trained(env, env_config, build, **training):
    config = (
        DDNConfig()
        .environment(env, env_config=env_config)
        .training(train_batch_size=2, agent_hidden_dim=8, **training)
        .evaluation(evaluation_interval=None)
        .debugging(seed=0)
    )
    config.min_sample_timesteps_per_iteration = 1
    algo = build(config)
    for _ in range(3):
        result = algo.train()
    return algo, result["info"]["learner"]["default_policy"]["learner_stats"]


@pytest.mark.parametrize(
    ("name", "env_config"),
    [
        ("predator_prey", {"episode_limit": 3}),
        ("examples.multi_agent_env.team", {"max_steps": 3}),
        ("smax", {"map_name": "3m"}),
    ],
)
def test_what_a_time_limit_is_may_be_said_of_any_env(name, env_config):
    config = DDNConfig().environment(name, env_config={**env_config, "timeouts": "terminate"})
    assert config.check_env().num_agents > 1
    config.env_config = {**config.env_config, "timeouts": "pymarl"}
    with pytest.raises(TeamEnvError, match=r'env_config\["timeouts"\] is "truncate" or "terminate"; got \'pymarl\''):
        config.check_env()


def test_pursuit_trains_and_draws(build):
    env_config = {
        "env": f"pettingzoo.sisl.{PURSUIT}:parallel_env",
        "max_cycles": 12,
        "n_pursuers": 3,
        "state": "concat",
    }
    algo, stats = trained("pettingzoo", env_config, build)
    assert np.isfinite(stats["loss_global"])
    assert algo.get_policy().spec.obs_dim == 7 * 7 * 3
    drawn = PettingZooTeam({**env_config, "render_mode": "rgb_array"})
    drawn.reset(seed=0)
    frame = drawn.render()
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    assert frame.std() > 0


@pytest.mark.parametrize("timeouts", ["truncate", "terminate"])
def test_mpe_trains_with_its_own_state(build, timeouts):
    env_config = {
        "env": "mpe2.simple_spread_v3:parallel_env",
        "max_cycles": 10,
        "team_reward": "mean",
        "timeouts": timeouts,
    }
    algo, stats = trained("pettingzoo", env_config, build)
    spec = algo.get_policy().spec
    assert (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim) == (3, 5, 18, 54)
    assert np.isfinite(stats["loss_global"])
    episodes = algo.local_replay_buffer.sample(2, np.random.default_rng(0))
    assert (episodes["length"] == 10).all()
    assert episodes["terminated"].tolist() == 2 * [timeouts == "terminate"]


def test_rllibs_two_step_game_trains_as_it_is(build):
    """DDN learns at least the safe branch's 7 of 8 in RLlib's own env class."""
    config = (
        DDNConfig()
        .environment(
            TwoStepGameWithGroupedAgents, env_config={"one_hot_state_encoding": True, "separate_state_space": True}
        )
        .training(
            train_batch_size=32,
            agent_hidden_dim=16,
            lr=3e-3,
            target_update_interval_episodes=50,
            intrinsic_reward=False,
        )
        .env_runners(num_envs_per_env_runner=8, exploration_config={"epsilon_timesteps": 1500})
        .evaluation(evaluation_interval=None, evaluation_duration=2)
        .debugging(seed=0)
    )
    config.min_sample_timesteps_per_iteration = 2000
    algo = build(config)
    algo.train()
    results = algo.evaluate()
    assert results["leader"]["episode_return_mean"] >= 7
    assert results["follower"]["episode_return_mean"] >= 7
    name = f"{TwoStepGameWithGroupedAgents.__module__}.{TwoStepGameWithGroupedAgents.__name__}"
    by_name = DDNConfig().environment(name, env_config=config.env_config).check_env()
    assert (by_name.num_agents, by_name.num_actions, by_name.obs_dim, by_name.state_dim) == (2, 2, 9, 6)


def test_plain_spaces_are_observations():
    class Plain(MultiAgentEnv):
        observation_space = Tuple([Box(0, 1, (2,), np.float64)] * 2)
        action_space = Tuple([Discrete(3)] * 2)

        def __init__(self):
            super().__init__()
            self.possible_agents = self.agents = ["t"]

    env = as_team_env(Plain(), {"state": "concat"})
    spec = TeamSpec.from_spaces(env.observation_space, env.action_space)
    assert (spec.obs_dtype, spec.state_dim, env.members[0].has_action_mask) == (np.float32, 4, False)
