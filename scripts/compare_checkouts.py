"""Whether two versions of this package learn the same, bit for bit.

python scripts/compare_checkouts.py REVISION

Trains each of the cases below for three iterations on a small seeded Predator-Prey, with the code of REVISION
and with that of this checkout, on one core and on two, and compares a checksum of all weights (by value:
their names may differ), the evaluations and the learner statistics. Averaged weights are switched off, and with
--averaged on, where evaluations are not compared: training does not read the averages. Sums depend on the machine, so
that both sides are computed here. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GAME = {"grid_size": 4, "num_predators": 3, "num_prey": 2, "penalty": 0.5, "episode_limit": 12, "sight": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDN on QMIX": ("DDN", {}),
    "DDN on VDN, raw state": ("DDN", {"mixer": "vdn", "state_fusion": "raw", "fusion_embed_dim": 32}),
    "DDN, intrinsic reward on the env runner": ("DDN", {"intrinsic_reward_stage": "trajectory"}),
    "DDN, leader acting, no double Q": ("DDN", {"behaviour_network": "leader", "double_q": False}),
    "QMIX": ("QMIX", {}),
    "OW-QMIX": ("OWQMIX", {}),
    "QPLEX": ("QPLEX", {}),
    "CTDS": ("CTDS", {"fusion_embed_dim": 32}),
    "PTDE, second stage": ("PTDE", {"leader_timesteps": 100}),
    "IGM-DA": ("IGMDA", {"mixture_timesteps": 300, "fusion_embed_dim": 32}),
}
# Names that changed: a statistic of the first is compared with one of the second.
RENAMED = {"grad_norm_leader": "grad_norm_agent"}


def train(algorithm: str, options: dict[str, Any], cores: int, averaged: bool) -> dict[str, Any]:
    """The results of three iterations, as JSON can hold them."""
    import rllib_ddn

    config = (
        getattr(rllib_ddn, f"{algorithm}Config")()
        .environment("predator_prey", env_config=dict(GAME))
        .training(train_batch_size=4, replay_buffer_config={"capacity": 50}, agent_hidden_dim=16, **options)
        .env_runners(num_envs_per_env_runner=2)
        .evaluation(evaluation_interval=1, evaluation_duration=8)
        .resources(num_cpus_for_main_process=cores)
        .debugging(seed=3, log_level="ERROR")
    )
    config.target_update_interval_episodes = 10
    config.min_sample_timesteps_per_iteration = 80
    if hasattr(config, "weight_averaging") and not averaged:
        config.weight_averaging = None
    algo = config.build_algo()
    try:
        results = [algo.train() for _ in range(3)]
        policy = algo.get_policy()
        online = [value for name, value in policy.get_weights().items() if not name.startswith("averages.")]
        weights = {f"{v.shape}{hashlib.sha256(v.tobytes()).hexdigest()}" for v in online}
        return {
            "weights": hashlib.sha256("".join(sorted(weights)).encode()).hexdigest(),
            "updates": policy.num_grad_updates,
            "evaluations": [
                {f"{network}/{name}": value for network, figures in networks.items() for name, value in figures.items()}
                for networks in (
                    {k: v for k, v in r["evaluation"].items() if k in ("leader", "follower", "agent")} for r in results
                )
            ],
            "statistics": [_numbers(r["info"]["learner"]["default_policy"]["learner_stats"]) for r in results],
        }
    finally:
        algo.stop()


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if not math.isnan(float(value))}


def train_all(names: list[str], averaged: bool) -> dict[str, Any]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    return {f"{name}, {cores} core(s)": train(*CASES[name], cores, averaged) for name in names for cores in (1, 2)}


def results_of(checkout: Path, names: list[str], averaged: bool = False) -> dict[str, Any]:
    """The results of a checkout, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--train", str(out), *["--averaged"] * averaged]
        for name in names:
            command += ["--case", name]
        subprocess.run(command, check=True, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())


def differences(old: dict[str, Any], new: dict[str, Any], averaged: bool) -> list[str]:
    """What differs, a line each. Statistics that only one side has are no difference."""
    compared = ("weights", "updates", *["evaluations"] * (not averaged))
    found = [name for name in compared if old[name] != new[name]]
    for iteration, (a, b) in enumerate(zip(old["statistics"], new["statistics"], strict=True)):
        for name, value in a.items():
            other = b.get(name, b.get(RENAMED.get(name, "")))
            if other is not None and other != value:
                found.append(f"{name} of iteration {iteration}: {value} and {other}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "revision", nargs="?", default="HEAD", help="the version to compare with; default: the last commit"
    )
    parser.add_argument("--averaged", action="store_true", help="average this checkout's weights")
    parser.add_argument(
        "--case", action="append", choices=CASES, help="one of the cases; repeat it for several; default: all"
    )
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.case or list(CASES)
    if options.train:
        options.train.write_text(json.dumps(train_all(names, options.averaged)))
        return 0
    here = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "checkout"
        subprocess.run(
            ["git", "-C", str(here), "worktree", "add", "--detach", "-q", str(there), options.revision], check=True
        )
        try:
            old = results_of(there, names)
        finally:
            subprocess.run(["git", "-C", str(here), "worktree", "remove", "--force", str(there)], check=True)
    new, same = results_of(here, names, options.averaged), True
    for name, expected in old.items():
        found = differences(expected, new[name], options.averaged)
        same &= not found
        updates, weights = expected["updates"], expected["weights"][:12]
        print(f"{'differs' if found else 'the same'}: {name} ({updates} updates, weights {weights})")
        for line in found:
            print(f"    {line}")
    return not same


if __name__ == "__main__":
    sys.exit(main())
