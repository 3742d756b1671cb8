"""What every vector env promises, on all registered envs."""

import importlib.util

import numpy as np
import pytest

from rllib_ddn.envs import ENVS
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.single import TEAM, SingleTeamEnv
from rllib_ddn.envs.vector import SequentialEnvs, VectorTeamEnv

GAMES = {
    "predator_prey": {"grid_size": 4, "num_predators": 3, "num_prey": 2, "episode_limit": 20},
    "pettingzoo": {"env": "mpe2.simple_spread_v3:parallel_env", "max_cycles": 20},
    "smac": {"map_name": "3s_vs_5z", "seed": 5},
    "smax": {"map_name": "3m"},
}
COUNT = 5  # as in test_smax.py, so that JAX compiles once for both


@pytest.fixture(params=sorted(ENVS))
def name(request):
    if request.param == "smac":
        request.getfixturevalue("stand_in")
    if request.param == "smax" and importlib.util.find_spec("jaxmarl") is None:
        pytest.skip("JaxMARL is not installed")
    return request.param


def single(name):
    return as_team_env(ENVS[name](GAMES[name]), GAMES[name])


def vector(name, count=COUNT):
    env = single(name)
    games = env.vectorize(count) or SequentialEnvs([single(name) for _ in range(count)])
    assert isinstance(games, VectorTeamEnv)
    return games


def seen(games, envs=slice(None)):
    return [np.array(array[envs]) for array in (games.obs, games.state, games.action_mask)]


def same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def random_actions(mask, rng):
    return np.where(mask, rng.random(mask.shape), -1).argmax(-1)


def test_shapes_and_dtypes(name):
    games, rng, everyone = vector(name), np.random.default_rng(0), np.arange(COUNT)
    spec = games.spec
    games.reset(everyone)
    for _ in range(3):
        for array, shape, dtype in (
            (games.obs, (COUNT, spec.num_agents, spec.obs_dim), spec.obs_dtype),
            (games.state, (COUNT, spec.state_dim), spec.state_dtype),
            (games.action_mask, (COUNT, spec.num_agents, spec.num_actions), bool),
        ):
            assert isinstance(array, np.ndarray)
            assert (array.shape, array.dtype) == (shape, dtype)
        assert games.action_mask.any(-1).all()
        results = games.step(random_actions(games.action_mask, rng), everyone)
        assert [(array.shape, array.dtype) for array in results] == [
            ((COUNT,), kind) for kind in (np.float32, bool, bool)
        ]
        assert not (results[1] & results[2]).any()
        assert all(isinstance(games.info(e), dict) for e in everyone)
    assert games.episode_limit is None or games.episode_limit > 3
    games.close()


def test_seeds_and_actions_make_the_episodes(name):
    first, second, rng = vector(name), vector(name), np.random.default_rng(1)
    for games in (first, second):
        games.reset(np.arange(10, 10 + COUNT))
    start, live = seen(first), np.arange(COUNT)
    for _ in range(8):
        same(seen(first, live), seen(second, live))
        actions = random_actions(first.action_mask[live], rng)
        results = [games.step(actions, live) for games in (first, second)]
        same(*results)
        live = live[~(results[0][1] | results[0][2])]
    if name != "smac":  # whose games take no seed after their start
        first.reset(np.arange(10, 10 + COUNT))
        same(seen(first), start)
        first.reset(np.arange(90, 90 + COUNT))
        assert not np.array_equal(first.state, start[1])
    for games in (first, second):
        games.close()


def test_it_does_not_matter_which_game_has_a_seed(name):
    if name == "smac":
        pytest.skip("its games take no seed after their start")
    first, second, rng = vector(name), vector(name), np.random.default_rng(2)
    first.reset(np.arange(COUNT))
    second.reset(np.arange(COUNT)[::-1])
    live = np.arange(COUNT)
    for _ in range(8):
        same(seen(first, live), seen(second, COUNT - 1 - live))
        actions = random_actions(first.action_mask[live], rng)
        results = first.step(actions, live)
        same(results, second.step(actions, COUNT - 1 - live))
        live = live[~(results[1] | results[2])]


def test_games_that_are_not_stepped_stay_as_they_are(name):
    if name == "smax":
        pytest.skip("it steps all games in one call")
    games, twin, rng = vector(name), vector(name), np.random.default_rng(3)
    for each in (games, twin):
        each.reset(np.arange(COUNT))
    before, resting = seen(games), np.array([0, 2, 4])
    for _ in range(3):
        stepped = np.array([1, 3])
        games.step(random_actions(games.action_mask[stepped], rng), stepped)
        same(seen(games, resting), [array[resting] for array in before])
    for _ in range(5):  # and they go on like games beside which nothing was ever stepped
        actions = random_actions(games.action_mask[resting], rng)
        results = games.step(actions, resting)
        same(results, twin.step(actions, resting))
        same(seen(games, resting), seen(twin, resting))
        resting = resting[~(results[1] | results[2])]
    for each in (games, twin):
        each.close()


def test_fewer_games_than_there_are(name):
    """An evaluation may have fewer episodes left than there are games."""
    games, rng = vector(name), np.random.default_rng(4)
    games.reset(np.array([3, 4]))
    rewards, _, _ = games.step(random_actions(games.action_mask[:2], rng), np.arange(2))
    assert rewards.shape == (2,)
    games.close()


def test_the_single_env_is_the_vector_env_of_one_game(name):
    env, games, rng, one = single(name), vector(name, 1), np.random.default_rng(5), np.array([0])
    observation, _ = env.reset(seed=8)
    games.reset(np.array([8]))
    for _ in range(30):
        assert isinstance(observation[TEAM], tuple)
        assert env.observation_space.contains(observation[TEAM])
        for i, agent in enumerate(observation[TEAM]):
            same(
                [agent["obs"], agent["state"], agent["action_mask"]],
                [games.obs[0, i], games.state[0], games.action_mask[0, i]],
            )
        actions = random_actions(games.action_mask, rng)
        (reward,), (terminated,), (truncated,) = games.step(actions, one)
        observation, rewards, terminateds, truncateds, infos = env.step({TEAM: tuple(actions[0])})
        assert rewards == {TEAM: reward}
        assert (terminateds["__all__"], truncateds["__all__"]) == (terminated, truncated)
        assert infos[TEAM].get("battle_won") == games.info(0).get("battle_won")
        if terminated or truncated:
            break
    for each in (env, games):
        each.close()


def test_observations_of_the_single_env_are_its_own(name):
    """They do not change when the env goes on."""
    env = single(name)
    observation, _ = env.reset(seed=1)
    copies = [{key: value.copy() for key, value in agent.items()} for agent in observation[TEAM]]
    for _ in range(3):
        env.step({TEAM: tuple(int(agent["action_mask"].argmax()) for agent in observation[TEAM])})
    for agent, copy in zip(observation[TEAM], copies, strict=True):
        same(agent.values(), copy.values())
    env.close()


def test_resets_without_a_seed_follow_from_the_last_one():
    def states(seed):
        env = single("predator_prey")
        return [
            env.reset(seed=seed)[0][TEAM][0]["state"].tolist(),
            *(env.reset()[0][TEAM][0]["state"].tolist() for _ in range(3)),
        ]

    assert states(1) == states(1)
    assert len(set(map(str, states(1) + states(2)))) == 8


def test_registered_envs_are_derived_from_their_vector_envs():
    derived = {name for name, env in ENVS.items() if issubclass(env, SingleTeamEnv)}
    assert derived == {"predator_prey", "smax"}
    for name in derived:
        assert not {"reset", "step", "_observation"} & set(vars(ENVS[name]))
