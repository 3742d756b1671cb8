"""Starts a game of the stand-in of smac, prints its process id and waits: ``FOLDER`` of the stand-in."""

import sys

sys.path.insert(0, sys.argv[1])

import numpy as np

from support.starcraft import smac_envs

games = smac_envs(1, {"map_name": "3s_vs_5z"})
games.reset(np.arange(1))
print(games.envs[0]._env._sc2_proc._proc.pid, flush=True)
sys.stdin.read()
