"""Plays and trains on SMACv2 against the stand-in of the game: ``FILE`` that tells it to misbehave."""

import sys
from pathlib import Path

import numpy as np

from rllib_ddn.envs.vector import BROKEN
from support.configs import learner_stats, small_config
from support.starcraft import close, gone, play, random_actions, smac_envs

SMACV2 = {
    "version": 2,
    "map_name": "10gen_terran",
    "conic_fov": False,
    "obs_own_pos": True,
    "use_unit_ranges": True,
    "min_attack_range": 2,
    "capability_config": {
        "n_units": 5,
        "n_enemies": 5,
        "team_gen": {
            "dist_type": "weighted_teams",
            "unit_types": ["marine", "marauder", "medivac"],
            "weights": [0.45, 0.45, 0.1],
            "exception_unit_types": ["medivac"],
            "observe": True,
        },
        "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
    },
}

games, rng = smac_envs(1, SMACV2), np.random.default_rng(0)
spec = games.spec
assert (spec.num_agents, spec.num_actions, games.episode_limit) == (5, 6 + 5, 200)
teams, pids = [], []
for _ in range(3):
    returns, ends = play(games, [0], rng)
    assert ends[0] in ((True, False), (False, True))
    assert isinstance(games.info(0)["battle_won"], bool)
    assert 0 < returns[0] <= 20
    env = games.envs[0]._env
    teams.append(sorted(unit.unit_type for unit in env.agents.values()))
    pids.append(env._sc2_proc._proc.pid)
assert len(set(map(str, teams))) > 1, teams  # drawn anew for each episode
assert len(set(pids)) == 1  # in the same process
games.reset(np.arange(1))
Path(sys.argv[1]).write_text("die")
_, terminated, _ = games.step(random_actions(games.action_mask, rng), np.arange(1))
assert terminated[0]
assert games.info(0) == {BROKEN: True}
assert gone(pids[0])
close(games)
config = small_config(train_batch_size=2).environment("smac")
config.env_config = SMACV2
algo = config.build_algo()
stats = learner_stats(algo.train())
assert np.isfinite(stats["loss_global"])
pids = [game._env._sc2_proc._proc.pid for game in algo.env_runner.vector_env.envs]
algo.stop()
assert all(map(gone, pids))
