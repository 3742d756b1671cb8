"""Trains DDN in a Tune actor with a remote env runner: ``STORAGE``."""

import sys

import ray
from ray import tune

import rllib_ddn  # noqa: F401
from support.configs import plain_config

ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
config = plain_config(num_env_runners=1, evaluation_interval=None)
analysis = tune.run("DDN", config=config, stop={"training_iteration": 2}, storage_path=sys.argv[1], verbose=0)
print(analysis.trials[0].status)
