"""Trains, and saves checkpoint and weights in ``FOLDER/0`` after some iterations, in ``FOLDER/1`` after more, and so
on: ``FOLDER STAGE ITERATIONS... [--restore FOLDER]``."""

import argparse
from pathlib import Path

import numpy as np
import ray

from support.configs import small_config

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("stage")
parser.add_argument("iterations", type=int, nargs="+")
parser.add_argument("--restore", type=Path)
arguments = parser.parse_args()

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
config = small_config(
    store_buffer_in_checkpoints=True, intrinsic_reward_stage=arguments.stage, normalize_intrinsic_reward=True
)
config.evaluation(evaluation_interval=1, evaluation_duration=2)
algo = config.build_algo()
if arguments.restore:
    algo.restore(str(arguments.restore))
for number, iterations in enumerate(arguments.iterations):
    for _ in range(iterations):
        algo.train()
    folder = arguments.folder / str(number)
    folder.mkdir(parents=True)
    algo.save_checkpoint(str(folder))
    np.savez(folder / "weights.npz", **algo.get_policy().get_weights())
