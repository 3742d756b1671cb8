"""Every rule of Predator-Prey on hand-placed boards, and PettingZoo's own tests."""

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test
from pettingzoo.test import test_save_obs as save_obs_test
from pettingzoo.test.render_test import render_test

from rllib_ddn.envs import predator_prey
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.predator_prey import ACTIONS, VectorPredatorPrey
from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
from rllib_ddn.team import TeamEnvError, TeamSpec
from support.configs import small_config

RIGHT, DOWN, LEFT, UP, STAY, CATCH = range(6)


def board(predators, prey, games=1, grid_size=6, **rules):
    """Envs with predators and prey on the given (row, column) cells."""
    world = VectorPredatorPrey(games, grid_size=grid_size, num_predators=len(predators), num_prey=len(prey), **rules)
    world.place(np.tile(predators, (games, 1, 1)), np.tile(prey, (games, 1, 1)))
    return world


def act(world, *actions):
    return step(world, np.tile(actions, (len(world.obs), 1)))


def step(world, actions):
    """The rewards of a step of all envs."""
    return world.step(actions, np.arange(len(actions)))[0]


def cells(world, kind, game=0):
    return [tuple(map(int, cell)) for cell in np.argwhere(world.grid(game) == kind)]


def predators(world, game=0):
    return cells(world, 1, game)


def prey(world, game=0):
    return cells(world, 2, game)


def test_capture_by_two():
    world = board([(0, 1), (1, 0)], [(0, 0)])
    assert act(world, CATCH, CATCH) == 10
    assert not prey(world)
    assert not predators(world)
    assert world.terminated[0]
    assert not world.truncated[0]
    assert world.num_captured[0] == 1


def test_capture_by_three_removes_all_three_for_one_reward():
    world = board([(0, 1), (1, 0), (1, 2), (5, 5)], [(1, 1), (5, 0)])
    assert act(world, CATCH, CATCH, CATCH, STAY) == 10
    assert predators(world) == [(5, 5)]
    assert len(prey(world)) == 1
    assert not world.terminated[0]


def test_three_catchers_needed():
    world = board([(0, 1), (1, 0), (1, 2)], [(1, 1)], catchers_needed=3)
    assert act(world, CATCH, CATCH, STAY) == -2
    assert len(predators(world)) == 3
    world = board([(0, 1), (1, 0), (1, 2)], [(1, 1)], catchers_needed=3)
    assert act(world, CATCH, CATCH, CATCH) == 10


def test_a_lone_catch_costs_the_penalty_and_the_prey_moves_on():
    world = board([(0, 1), (5, 5)], [(0, 0)], penalty=1.5)
    assert act(world, CATCH, STAY) == -1.5
    assert predators(world) == [(0, 1), (5, 5)]
    assert prey(world) == [(1, 0)]  # its only free neighbour


def test_two_lone_catches_cost_twice():
    world = board([(0, 1), (5, 4)], [(0, 0), (5, 5)])
    assert act(world, CATCH, CATCH) == -4


def test_two_prey_share_a_catcher():
    """A catcher is removed with the first prey: the second prey, in whatever order, finds one left."""
    #  prey a at (2, 1), prey b at (2, 3); the predator between them at (2, 2) is a neighbour of both.
    world = board([(2, 2), (1, 1), (1, 3)], [(2, 1), (2, 3)], games=64)
    rewards = act(world, CATCH, CATCH, CATCH)
    assert (rewards == 10 - 2).all()
    first = [len([c for c in prey(world, g) if c[1] < 2]) == 0 for g in range(64)]
    assert 0 < sum(first) < 64  # the order of the prey is random
    assert all(len(predators(world, g)) == 1 for g in range(64))


def test_a_shared_catcher_serves_twice_if_the_first_prey_gets_away():
    """One catcher between two prey, nobody else: two failed attempts."""
    world = board([(2, 2), (5, 5)], [(2, 1), (2, 3)], games=8)
    assert (act(world, CATCH, STAY) == -4).all()


def test_four_catchers_around_two_prey():
    world = board([(0, 0), (0, 2), (5, 0), (5, 2)], [(0, 1), (5, 1)])
    assert act(world, CATCH, CATCH, CATCH, CATCH) == 20
    assert world.terminated[0]


def test_moves():
    for action, end in ((RIGHT, (2, 3)), (DOWN, (3, 2)), (LEFT, (2, 1)), (UP, (1, 2)), (STAY, (2, 2))):
        world = board([(2, 2)], [(5, 5)])
        act(world, action)
        assert predators(world) == [end]


def test_a_move_into_an_occupied_cell_does_nothing():
    world = board([(2, 2), (2, 3)], [(1, 2)], games=4)
    act(world, RIGHT, STAY)
    assert all((2, 2) in predators(world, g) for g in range(4))
    world = board([(0, 1), (1, 1), (1, 0)], [(0, 0)])  # the prey cannot move
    act(world, LEFT, STAY, STAY)
    assert (0, 1) in predators(world)
    assert prey(world) == [(0, 0)]


def test_predators_move_in_random_order():
    """Follow-my-leader along a row: who follows gets on only if the one before it moved first."""
    world = board([(0, 0), (0, 1)], [(5, 5)], games=400)
    act(world, RIGHT, RIGHT)
    followed = np.mean([predators(world, g) == [(0, 1), (0, 2)] for g in range(400)])
    stuck = np.mean([predators(world, g) == [(0, 0), (0, 2)] for g in range(400)])
    assert followed + stuck == 1
    assert 0.4 < followed < 0.6


def test_two_predators_never_share_a_cell():
    world = board([(0, 0), (0, 2)], [(5, 5)], games=100)
    act(world, RIGHT, LEFT)
    assert all(len(predators(world, g)) == 2 for g in range(100))
    winners = [predators(world, g) for g in range(100)]
    assert [(0, 0), (0, 1)] in winners
    assert [(0, 1), (0, 2)] in winners


def test_prey_move_uniformly_to_free_neighbours():
    world = board([(5, 5), (2, 3)], [(2, 2)], games=900)
    act(world, STAY, STAY)
    ends = [prey(world, g)[0] for g in range(900)]
    counts = {cell: ends.count(cell) for cell in set(ends)}
    assert set(counts) == {(1, 2), (3, 2), (2, 1)}  # not (2, 3), where a predator stands; never stays
    assert all(220 < count < 380 for count in counts.values())  # 300 expected, standard deviation 14


def test_a_prey_stays_only_if_nothing_is_free():
    world = board([(0, 1), (1, 0), (5, 5)], [(0, 0)])
    act(world, STAY, STAY, STAY)
    assert prey(world) == [(0, 0)]


def test_prey_move_after_predators():
    """The predator steps away first and frees the only cell that the prey can go to."""
    world = board([(0, 1), (1, 0)], [(0, 0)], games=50)
    act(world, RIGHT, STAY)
    assert all(prey(world, g) == [(0, 1)] for g in range(50))


def test_masks():
    world = board([(0, 0), (3, 3), (3, 5)], [(3, 4)])
    corner, beside, edge = world.action_mask[0]
    assert [ACTIONS[a] for a in np.flatnonzero(corner)] == ["right", "down", "stay"]
    # A move into the prey's cell is allowed (and does nothing); so is the catch.
    assert [ACTIONS[a] for a in np.flatnonzero(beside)] == ["right", "down", "left", "up", "stay", "catch"]
    assert [ACTIONS[a] for a in np.flatnonzero(edge)] == ["down", "left", "up", "stay", "catch"]


def test_a_diagonal_prey_cannot_be_caught():
    world = board([(2, 2)], [(3, 3)])
    assert not world.action_mask[0, 0, CATCH]


def test_an_unavailable_action_is_a_stay():
    world = board([(0, 0), (4, 4)], [(5, 0)])
    assert act(world, UP, CATCH) == 0
    assert predators(world) == [(0, 0), (4, 4)]


def test_removed_predators_see_nothing_and_only_stay():
    world = board([(0, 1), (1, 0), (4, 4)], [(0, 0), (5, 4)])
    act(world, CATCH, CATCH, STAY)
    assert not world.obs[0, :2].any()
    assert world.action_mask[0, :2].tolist() == [[False] * 4 + [True, False]] * 2
    act(world, RIGHT, CATCH, STAY)
    assert predators(world) == [(4, 4)]


def test_observation_by_hand():
    world = board([(0, 0), (1, 2), (5, 5)], [(1, 1)])
    planes = world.obs[0, 0].reshape(2, 5, 5)  # around (0, 0): rows and columns -2 to 2
    expected = np.zeros((2, 5, 5))
    expected[0, 2, 2] = expected[0, 3, 4] = expected[1, 3, 3] = 1
    np.testing.assert_array_equal(planes, expected)


def test_state_by_hand():
    world = board([(0, 1), (5, 5)], [(2, 3)])
    expected = np.zeros((2, 6, 6))
    expected[0, 0, 1] = expected[0, 5, 5] = expected[1, 2, 3] = 1
    np.testing.assert_array_equal(world.state[0], expected.ravel())


def test_units_by_hand():
    """The planes, then row and column of each predator and each prey, one-hot, zeros for the removed."""

    def unit(row, column):
        one_hot = [0] * 12
        one_hot[row] = one_hot[6 + column] = 1
        return one_hot

    world = board([(0, 1), (1, 0), (5, 4)], [(0, 0), (2, 3)], state="units")
    state = world.state[0]
    assert state.dtype == np.int8
    assert state.shape == (2 * 36 + 5 * 12,)
    assert state[72:].tolist() == unit(0, 1) + unit(1, 0) + unit(5, 4) + unit(0, 0) + unit(2, 3)
    act(world, CATCH, CATCH, STAY)
    (where,) = prey(world)
    assert world.state[0, 72:].tolist() == [0] * 24 + unit(5, 4) + [0] * 12 + unit(*where)


def test_units_are_beside_the_planes_and_change_nothing_else():
    rng = np.random.default_rng(3)
    planes, units = (VectorPredatorPrey(4, state=state) for state in ("planes", "units"))
    for world in (planes, units):
        world.reset(np.arange(4))
    for _ in range(60):
        actions = np.where(planes.action_mask, rng.random(planes.action_mask.shape), -1).argmax(-1)
        np.testing.assert_array_equal(step(planes, actions), step(units, actions))
        np.testing.assert_array_equal(planes.obs, units.obs)
        np.testing.assert_array_equal(planes.state, units.state[:, :200])
        told = units.state[:, 200:].reshape(4, 16, 2, 10)
        assert (told.sum(-1)[..., 0] == told.sum(-1)[..., 1]).all()
        for game in range(4):
            for kind, rows in ((1, told[game, :8]), (2, told[game, 8:])):
                present = rows[rows.any((1, 2))].argmax(-1)
                assert sorted(map(tuple, present.tolist())) == sorted(cells(units, kind, game))


@pytest.mark.parametrize(
    ("state", "size"), [("planes", 200), ("env", 200), ("units", 200 + 16 * 20), ("concat", 8 * 50)]
)
def test_the_states_that_env_config_knows(state, size):
    env = as_team_env(PredatorPreyTeam({"state": state}), {"state": state})
    spec = TeamSpec.from_spaces(env.observation_space, env.action_space)
    assert (spec.state_dim, spec.state_dtype) == (size, np.int8)
    assert env.observation_space.contains(env.reset(seed=0)[0]["team"])


def test_games_with_concatenated_observations_are_stepped_at_once():
    """As they are one by one: each state is its game's observations, one agent's behind another's."""
    env = as_team_env(PredatorPreyTeam({"state": "concat"}), {"state": "concat"})
    games, seeds = env.vectorize(3), np.array([5, 6, 7])
    assert games.spec == TeamSpec.from_spaces(env.observation_space, env.action_space)
    games.reset(seeds)
    first = [env.reset(seed=int(seed))[0]["team"][0]["state"] for seed in seeds]
    np.testing.assert_array_equal(games.state, first)
    actions = games.action_mask.argmax(-1)
    games.step(actions[1:], np.array([1, 2]))
    observation = env.step({"team": tuple(actions[2].tolist())})[0]["team"]  # the env plays the last seed's game
    np.testing.assert_array_equal(games.state[2], observation[0]["state"])
    np.testing.assert_array_equal(games.state[0], first[0])
    games.close()


def test_a_state_that_there_is_not():
    with pytest.raises(TeamEnvError, match=r'"state"\] is "env" or "planes" or "units" or "concat"; got \'unit\''):
        as_team_env(PredatorPreyTeam({"state": "unit"}), {"state": "unit"})


def test_a_large_grid_with_little_sight(build):
    """A larger gap between the state and what a predator sees."""
    config = small_config()
    config.env_config = {}
    config.environment("predator_prey", env_config={"grid_size": 14, "sight": 1, "episode_limit": 6})
    algo = build(config)
    assert np.isfinite(algo.train()["env_runners"]["episode_return_mean"])
    spec = algo.get_policy().spec
    assert (spec.obs_dim, spec.state_dim) == (2 * 3 * 3, 2 * 14 * 14)


def test_truncated_at_the_limit_and_not_terminated():
    world = board([(0, 0)], [(5, 5)], episode_limit=3)
    for _ in range(2):
        act(world, STAY)
        assert not world.truncated[0]
    act(world, STAY)
    assert world.truncated[0]
    assert not world.terminated[0]


def test_the_end_at_the_limit_is_an_end():
    world = board([(0, 1), (1, 0)], [(0, 0)], episode_limit=1)
    act(world, CATCH, CATCH)
    assert world.terminated[0]
    assert not world.truncated[0]


def test_a_finished_game_rests():
    world = board([(0, 1), (1, 0), (4, 4)], [(0, 0)])
    act(world, CATCH, CATCH, STAY)
    assert world.terminated[0]  # no prey is left
    assert act(world, STAY, STAY, RIGHT) == 0
    assert predators(world) == [(4, 4)]


def test_start_is_on_distinct_random_cells():
    world = VectorPredatorPrey(300, grid_size=4, num_predators=8, num_prey=8)
    assert all(len(predators(world, g)) == 8 and len(prey(world, g)) == 8 for g in range(300))
    roomy = VectorPredatorPrey(500, grid_size=5, num_predators=1, num_prey=1)
    roomy.reset(np.arange(500))
    counts = np.zeros((5, 5))
    for g in range(500):
        counts[predators(roomy, g)[0]] += 1
    assert counts.min() > 4  # 20 expected in each of the 25 cells
    assert counts.max() < 44


def test_a_game_depends_on_its_seed_and_actions_alone():
    """Many games at once are the very games that run one at a time."""
    seeds, rules = [3, 14, 15], {"grid_size": 5, "num_predators": 3, "num_prey": 3}
    together = VectorPredatorPrey(3, **rules)
    together.reset(np.array(seeds))
    alone = [VectorPredatorPrey(1, **rules) for _ in seeds]
    for world, seed in zip(alone, seeds, strict=True):
        world.reset(np.array([seed]))
    rng = np.random.default_rng(0)
    for k in range(40):
        actions = rng.integers(6, size=(3, 3))
        if k == 20:  # a restart of one game leaves the others alone
            together.reset(np.array([99]), np.array([1]))
            alone[1].reset(np.array([99]))
        rewards = step(together, actions)
        for g, world in enumerate(alone):
            assert step(world, actions[g : g + 1])[0] == rewards[g]
            np.testing.assert_array_equal(world.obs[0], together.obs[g])
            np.testing.assert_array_equal(world.state[0], together.state[g])
            np.testing.assert_array_equal(world.action_mask[0], together.action_mask[g])


def test_against_a_plain_python_game():
    """The conservation laws of a long random play: no cell is shared, returns add up, nobody revives."""
    world = VectorPredatorPrey(32, penalty=3.0)
    world.reset(np.arange(32))
    rng, returns, failures = np.random.default_rng(1), np.zeros(32), np.zeros(32)
    for _ in range(200):
        before = world.num_captured.copy()
        alive_before = [len(predators(world, g)) for g in range(32)]
        mask = world.action_mask
        actions = np.argmax(np.where(mask, rng.random(mask.shape), -1), -1)
        rewards = step(world, actions)
        returns += rewards
        new = world.num_captured - before
        failures += (new * 10 - rewards) / 3
        for g in range(32):
            left = len(predators(world, g))
            assert len(prey(world, g)) == 8 - world.num_captured[g]
            assert 2 * new[g] <= alive_before[g] - left <= 4 * new[g]
            assert world.state[g].sum() == left + len(prey(world, g))
    np.testing.assert_allclose(returns, world.num_captured * 10 - failures * 3)
    np.testing.assert_allclose(failures, failures.round())
    assert (world.terminated | world.truncated).all()
    assert world.num_captured.max() <= 4


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"grid_size": 1}, "grid_size is an integer of at least 2; got 1"),
        ({"num_predators": 0}, "num_predators is an integer of at least 1"),
        ({"grid_size": 3}, r"num_predators \+ num_prey = 16 do not fit on grid_size \*\* 2 = 9 cells"),
        ({"catchers_needed": 5}, "catchers_needed is 1 to 4"),
        ({"penalty": -1}, "penalty is 0 or more"),
        ({"state": "all"}, "state is one of 'planes', 'units'; got 'all'"),
        ({"render_mode": "gif"}, "render_mode is one of"),
    ],
)
def test_bad_rules(rules, message):
    with pytest.raises(ValueError, match=message):
        predator_prey.parallel_env(**rules)


def test_pettingzoo_api():
    parallel_api_test(predator_prey.parallel_env(), num_cycles=300)


def test_pettingzoo_seed():
    parallel_seed_test(predator_prey.parallel_env, num_cycles=60)


def test_pettingzoo_save_obs():
    save_obs_test(predator_prey.env())


def test_pettingzoo_render():
    render_test(predator_prey.env)


def test_renderings_agree_with_the_grid():
    env = predator_prey.parallel_env(render_mode="ansi", grid_size=5, num_predators=2, num_prey=3)
    env.reset(seed=1)
    text = env.render().replace("\n", "")
    assert [".Pq".index(c) for c in text] == env.vector.grid().ravel().tolist()
    env.render_mode = "rgb_array"
    image = env.render()
    colours = {
        tuple(image[r * 24 + 12, c * 24 + 12]) for r in range(5) for c in range(5) if env.vector.grid()[r, c] == 2
    }
    assert image.shape == (120, 120, 3)
    assert colours == {(222, 120, 38)}


def test_every_predator_gets_the_teams_reward():
    env = predator_prey.parallel_env(grid_size=4, num_predators=2, num_prey=1)
    env.reset(seed=0, options={"predators": [[0, 1], [1, 0]], "prey": [[0, 0]]})
    _, rewards, terminations, truncations, infos = env.step({"predator_0": CATCH, "predator_1": CATCH})
    assert rewards == {"predator_0": 10, "predator_1": 10}
    assert all(terminations.values())
    assert not any(truncations.values())
    assert infos["predator_0"]["num_captured"] == 1
    assert env.agents == []
