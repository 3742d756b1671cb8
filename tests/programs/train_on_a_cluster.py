"""Trains on a cluster of two nodes, kills one while its env runners play, and adds another: ``FOLDER [--ahead]``.

The last line that is printed is a report: figures with three env runners, at the loss of two, three rounds later, and
with three again; and whether all env runners act with the learner's weights.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from support.configs import small_config
from support.holding import Hold

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--ahead", action="store_true")
arguments = parser.parse_args()

hold = arguments.folder / "hold"
os.environ["HOLD"] = str(hold)  # Ray's workers inherit it
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(
    address=cluster.address, log_to_driver=False
)  # before there is another node that Ray might take for this process's
second = cluster.add_node(num_cpus=2)
algo = small_config(sample_ahead=arguments.ahead).callbacks(Hold).env_runners(num_env_runners=3).build_algo()
report = []


def figures():
    counters = algo._counters
    report.append(
        {
            "healthy": algo.env_runner_group.num_healthy_remote_workers(),
            "episodes": counters["num_episodes_sampled"],
            "lost": counters["num_episodes_lost"],
            "held": len(algo.local_replay_buffer),
            "updates": algo.get_policy().num_grad_updates,
        }
    )


def train_until(healthy):
    algo.train()
    while algo.env_runner_group.num_healthy_remote_workers() != healthy:
        algo.train()


def kill_when_both_are_held():
    while len(list(arguments.folder.glob("held-*"))) < 2:
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)


train_until(3)
figures()
hold.write_text(second.node_id)
killer = threading.Thread(target=kill_when_both_are_held)
killer.start()
train_until(1)
killer.join()
figures()
for _ in range(3):
    algo.train()
figures()
cluster.add_node(num_cpus=2)
train_until(3)
for _ in range(3):
    algo.train()
figures()
weights = algo.env_runner_group.foreach_env_runner(lambda r: r.get_weights(inference_only=True), local_env_runner=False)
ours = algo.get_policy().get_weights()
report.append(all(np.array_equal(value, ours[name]) for w in weights for name, value in w["default_policy"].items()))
algo.stop()
ray.shutdown()
cluster.shutdown()
print(json.dumps(report))
