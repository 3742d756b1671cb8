"""The env "smax": JaxMARL's battles, all games in one compiled call."""

import sys

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from PIL import Image

from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.smax import MOVES, SMAXTeam, _battle
from rllib_ddn.team import TeamEnvError, TeamSpec
from support.configs import small_config
from support.tuned import EXAMPLES, accept

pytest.importorskip("jaxmarl", reason='JaxMARL is not installed: pip install "rllib-ddn[smax]"')

# The cheapest to compile.
THREE = {"map_name": "3m"}


def random_actions(mask, rng):
    return np.where(mask, rng.random(mask.shape), -1).argmax(-1)


@pytest.fixture(scope="module")
def games():
    return SMAXTeam(THREE).vectorize(5)


def test_sizes_follow_the_scenario():
    """Observations: own 10 numbers, 13 of each other unit; 5 moves and an attack on each enemy."""
    for name, allies, enemies in (
        ("3m", 3, 3),
        ("3s5z", 8, 8),
        ("3s_vs_5z", 3, 5),
        ("5m_vs_6m", 5, 6),
        ("3s5z_vs_3s6z", 8, 9),
    ):
        env = SMAXTeam({"map_name": name})
        spec = TeamSpec.from_spaces(env.observation_space, env.action_space)
        assert (spec.num_agents, spec.num_actions) == (allies, MOVES + enemies)
        assert spec.obs_dim == 13 * (allies + enemies - 1) + 10
        assert spec.state_dim == 10 * (allies + enemies)


def test_whole_battles_compile_once(games):
    """Whatever is live, at the start and at the end of battles: one step function, one reset function."""
    rng, returns, lengths = np.random.default_rng(0), np.zeros(5), np.zeros(5, int)
    compiled = lambda: (games._reset._cache_size(), games._step._cache_size())  # noqa: E731
    before = compiled()
    for _ in range(2):
        games.reset(rng.integers(2**31, size=5))
        live = np.arange(5)
        while live.size:
            rewards, terminated, truncated = games.step(random_actions(games.action_mask[live], rng), live)
            returns[live] += rewards
            lengths[live] += 1
            assert not (terminated & truncated).any()
            for row in np.flatnonzero(terminated | truncated):
                info = games.info(live[row])
                everyone_dead = 3 in (info["dead_allies"], info["dead_enemies"])
                assert terminated[row] == everyone_dead
                assert info["battle_won"] == (info["dead_enemies"] == 3 and info["dead_allies"] < 3)
            live = live[~(terminated | truncated)]
    assert (
        max(after - one for after, one in zip(compiled(), before, strict=True)) <= 1
    )  # 0 where other tests came first
    assert min(compiled()) >= 1
    assert lengths.max() <= 2 * games.episode_limit
    assert returns.max() <= 2 * 20  # of two battles, on SMAC's scale


def test_rewards_are_the_enemies_lost_health_on_smacs_scale(games):
    """10 times the mean share of health that the enemies lose, and 10 more for the victory."""
    health = lambda e: np.asarray(games._world[1].state.unit_health)[e, 3:].sum() / (3 * 45.0)  # noqa: E731
    rng = np.random.default_rng(1)
    games.reset(np.arange(5))
    live, seen = np.arange(5), 0
    while live.size:
        before = np.array([health(e) for e in live])
        rewards, terminated, truncated = games.step(random_actions(games.action_mask[live], rng), live)
        lost = before - np.array([health(e) for e in live])
        won = np.array([games.info(e).get("battle_won", False) for e in live])
        np.testing.assert_allclose(rewards, 10 * lost + 10 * won, atol=1e-4)
        seen += (rewards > 0).sum()
        live = live[~(terminated | truncated)]
    assert seen > 4


def test_the_final_observation_is_of_the_battle_that_ended(games):
    rng, live = np.random.default_rng(2), np.arange(5)
    games.reset(np.arange(5))
    while live.size:
        _, terminated, truncated = games.step(random_actions(games.action_mask[live], rng), live)
        for row in np.flatnonzero(terminated):
            e = live[row]
            state = games.state[e].reshape(-1)[: 6 * 10].reshape(6, 10)  # health first, zeros for the dead
            dead = games.info(e)
            assert ((state[:3, 0] == 0).sum(), (state[3:, 0] == 0).sum()) == (dead["dead_allies"], dead["dead_enemies"])
        live = live[~(terminated | truncated)]


def test_the_state_has_the_scale_of_the_observations(games):
    """An agent's own features end its observation; the state is these of all units, ours first."""
    games.reset(np.arange(5))
    rng = np.random.default_rng(6)
    for _ in range(40):
        games.step(random_actions(games.action_mask, rng), np.arange(5))
        units = games.state.reshape(5, 6, 10)
        np.testing.assert_allclose(units[:, :3], games.obs[:, :, -10:], atol=1e-6)
        world, (width, height) = games._world[1].state, (32, 32)
        alive = np.asarray(world.unit_alive)
        places = np.asarray(world.unit_positions) / (width, height) * alive[..., None]
        np.testing.assert_allclose(units[..., 1:3], places, atol=1e-6)
        assert units.min() >= 0
        assert units.max() <= 1
    assert not alive.all()


def test_dead_agents_may_only_stop(games):
    games.reset(np.arange(5))
    rng, checked = np.random.default_rng(3), 0
    for _ in range(60):
        games.step(random_actions(games.action_mask, rng), np.arange(5))
        dead = ~np.asarray(games._world[1].state.unit_alive)[:, :3]
        only_stop = np.arange(games.spec.num_actions) == MOVES - 1
        assert (games.action_mask[dead] == only_stop).all()
        checked += dead.sum()
    assert checked > 0


def test_a_seed_is_an_episode_whatever_the_number_of_games(games):
    """A game alone, through the ordinary env, plays what it plays among others."""
    env, rng = as_team_env(SMAXTeam(THREE), THREE), np.random.default_rng(4)
    games.reset(np.array([11, 12, 13, 14, 15]))
    observation, _ = env.reset(seed=13)
    for _ in range(20):
        actions = random_actions(games.action_mask, rng)
        rewards, terminated, _ = games.step(actions, np.arange(5))
        observation, reward, done, _, _ = env.step({"team": tuple(actions[2])})
        np.testing.assert_allclose(reward["team"], rewards[2], rtol=1e-5)
        assert done["__all__"] == terminated[2]
        if terminated[2]:
            break
        for i, agent in enumerate(observation["team"]):
            np.testing.assert_allclose(agent["obs"], games.obs[2, i], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(agent["state"], games.state[2], rtol=1e-5, atol=1e-6)
            assert agent["action_mask"].astype(bool).tolist() == games.action_mask[2, i].tolist()


def test_ddn_trains_and_reports_a_win_rate(build):
    config = (
        small_config()
        .environment("smax")
        .evaluation(evaluation_interval=2, evaluation_duration=2, evaluation_config={"num_envs_per_env_runner": 2})
    )
    config.env_config = dict(THREE)
    algo = build(config)
    for _ in range(2):
        result = algo.train()
    assert np.isfinite(result["info"]["learner"]["default_policy"]["learner_stats"]["loss_global"])
    assert 0 <= result["evaluation"]["leader"]["win_rate"] <= 1
    assert 0 <= result["evaluation"]["follower"]["win_rate"] <= 1


@pytest.mark.parametrize("path", sorted((EXAMPLES / "smax").glob("*.yaml")), ids=lambda path: path.stem)
def test_tuned_examples_are_accepted(path):
    accept(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"map_name": "2s_vs_1sc"}, r'SMAX has no 2s_vs_1sc: it lacks the spine crawler. The env "smac" has it'),
        ({"map_name": "MMM2"}, r"SMAX has no MMM2: it lacks the medivac"),
        ({"map_name": "3s5x"}, r"'3s5x' is unknown to SMAX; did you mean '3s5z'"),
        ({"map_name": "3m", "reward_scale": 0}, r'env_config\["reward_scale"\] is a number above 0; got 0'),
        (
            {"map_name": "3m", "walls_cause_deth": True},
            r"env_config\['walls_cause_deth'\] of smax is unknown; did you mean 'walls_cause_death'\?",
        ),
        ({"map_name": "3m", "render_mode": "human"}, r'"render_mode"\] of smax is None or "rgb_array"; got \'human\''),
    ],
)
def test_bad_arguments(config, message):
    with pytest.raises(TeamEnvError, match=message):
        SMAXTeam(config)


def test_lists_in_env_config_are_smaxs_arrays():
    """A marine's attack takes 9 of its 45; here, all."""
    attacks = [45.0, 10.0, 13.0, 8.0, 5.0, 12.0]
    battle, plain = _battle({**THREE, "unit_type_attacks": attacks}), _battle(dict(THREE))
    assert battle.unit_type_attacks.tolist() == attacks
    assert plain.unit_type_attacks.tolist() == [9.0, *attacks[1:]]
    assert _battle({**THREE, "unit_type_attacks": np.array(attacks)}) is battle  # compiled once
    with pytest.raises(TeamEnvError, match="env_config of smax holds numbers, booleans, names and lists of them"):
        _battle({**THREE, "unit_type_attacks": object()})


def test_without_jaxmarl(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax.smax_env", None)
    with pytest.raises(TeamEnvError, match=r'the env "smax" needs JaxMARL: pip install "rllib-ddn\[smax\]"'):
        SMAXTeam(THREE)


def test_frames_show_the_units(tmp_path):
    env = SMAXTeam({**THREE, "render_mode": "rgb_array"})
    assert env.action_space[0] == Discrete(8)
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape[2] == 3
    Image.fromarray(frame).save(tmp_path / "frame.png")
    blue = (frame[..., 2] > frame[..., 0] + 60).sum()
    red = (frame[..., 0] > frame[..., 2] + 60).sum()
    assert min(blue, red) > 50
