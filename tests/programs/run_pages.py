"""Runs the Python blocks of pages, each page from top to bottom, with a test's budgets: ``CHECKPOINT STORAGE
PAGE...``.
"""

import sys
from pathlib import Path

import ray
from ray import tune

from rllib_ddn import ValueDecompositionConfig
from support.configs import SMALL_GAME, plain_config
from support.pages import blocks

SMALL = {key: value for key, value in plain_config().items() if key not in ("env", "env_config")}
checkpoint, storage, *pages = sys.argv[1:]


def small(config):
    """A config dict with a test's budgets."""
    game = {"env_config": {**config.get("env_config", {}), **SMALL_GAME}} if config["env"] == "predator_prey" else {}
    return {**config, **SMALL, **game}


def build_small(self, build=ValueDecompositionConfig.build_algo):
    return build(self.update_from_dict(small({"env": self.env, "env_config": self.env_config})))


def run_small(trainable, *, config, stop, run=tune.run, **more):
    assert set(stop) <= {"timesteps_total", "training_iteration"}
    return run(trainable, config=small(config), stop={"training_iteration": 2}, storage_path=storage, verbose=0, **more)


ValueDecompositionConfig.build_algo = build_small
tune.run = run_small
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
for page in map(Path, pages):
    names = {"__name__": page.stem}
    for block in blocks(page, "python"):
        text = "\n" * (block.line - 1) + block.text.replace('"CHECKPOINT"', repr(checkpoint))
        exec(compile(text, str(page), "exec"), names)
        print("ran", block, flush=True)
