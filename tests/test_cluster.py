"""Training on a Ray cluster of two nodes, one of which is killed while its env runners play."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: one process knows one cluster.
TRAINING = """
import json, pathlib, sys, threading, time
sys.path.insert(0, {tests!r})
import numpy as np, ray
from ray.cluster_utils import Cluster
from conftest import small_config
from holding import Hold

hold = pathlib.Path({folder!r}) / "hold"
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "include_dashboard": False}})
second = cluster.add_node(num_cpus=2)
variables = {{"PYTHONPATH": {tests!r}, "HOLD": str(hold)}}
ray.init(address=cluster.address, log_to_driver=False, runtime_env={{"env_vars": variables}})

config = small_config(sample_ahead={ahead}).callbacks(Hold).env_runners(num_env_runners=3)
algo = config.build_algo()
report = []

def figures():
    c = algo._counters
    report.append(dict(healthy=algo.env_runner_group.num_healthy_remote_workers(), episodes=c["num_episodes_sampled"],
                       lost=c["num_episodes_lost"], held=len(algo.local_replay_buffer),
                       updates=algo.get_policy().num_grad_updates))

def train_until(healthy):
    for _ in range(400):
        algo.train()
        if algo.env_runner_group.num_healthy_remote_workers() == healthy:
            return

def kill_when_both_are_held():
    while len(list(hold.parent.glob("held-*"))) < 2:
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
print("REPORT" + json.dumps(report))
algo.stop()
"""


@pytest.mark.parametrize("ahead", [False, True])
def test_a_node_that_dies_costs_only_the_episodes_in_flight(ahead, tmp_path):
    """Three runners with two games each on two nodes. The second node dies while its two runners play:
    their four games are lost and counted, training goes on with the runner that is left, and when
    another node joins, the two runners come back."""
    program = TRAINING.format(tests=str(Path(__file__).parent), ahead=ahead, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280)
    assert "REPORT" in done.stdout, done.stderr[-3000:]
    whole, killed, halved, again, same_weights = json.loads(done.stdout.split("REPORT")[1])
    assert whole == {"healthy": 3, "episodes": 6, "lost": 0, "held": 6, "updates": 6}
    assert killed["healthy"] == 1
    assert (halved["healthy"], halved["lost"]) == (1, 4)
    assert halved["episodes"] == killed["episodes"] + 3 * 2
    assert halved["updates"] == halved["episodes"]  # one each
    assert (again["healthy"], again["lost"]) == (3, 4)
    assert again["episodes"] >= halved["episodes"] + 3 * 6
    assert same_weights
