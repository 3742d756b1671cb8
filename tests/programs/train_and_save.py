"""Trains a while and saves a checkpoint and the weights: ``FOLDER STAGE ITERATIONS [--restore FOLDER]``."""

import argparse
from pathlib import Path

import numpy as np

from support.configs import small_config

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("stage")
parser.add_argument("iterations", type=int)
parser.add_argument("--restore", type=Path)
arguments = parser.parse_args()

config = small_config(store_buffer_in_checkpoints=True, intrinsic_reward_stage=arguments.stage, normalize_intrinsic_reward=True)
config.evaluation(evaluation_interval=1, evaluation_duration=2)
algo = config.build_algo()
if arguments.restore:
    algo.restore(str(arguments.restore))
for _ in range(arguments.iterations):
    algo.train()
algo.save_checkpoint(str(arguments.folder))
np.savez(arguments.folder / "weights.npz", **algo.get_policy().get_weights())
