"""Measures the figures of docs/performance.md on speed and size, and prints it as tables.

python scripts/benchmark.py [SECTION ...] [--quick] [--json FILE] [--compare FILE]

Updates are given as ratios to a plain step-by-step QMIX update (scripts/yardstick.py), which takes
turns with them: seconds depend on the machine and its load, ratios much less. So does the machine's
limit, which is a large matrix product. All figures are medians. Leave the machine otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from benchmark_updates import AGENTS, BATCH, LEARNERS, STEPS, Updates, play
from measure import random_episodes, resident, with_threads
from ray.tune.registry import register_env
from yardstick import qmix_update

from rllib_ddn import DDNConfig, ValueDecomposition, ValueDecompositionConfig
from rllib_ddn.deploy import ExportedPolicy
from rllib_ddn.envs.predator_prey import VectorPredatorPrey
from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
from rllib_ddn.learning.episodes import Episodes
from rllib_ddn.learning.replay import EpisodeReplay

ON_REQUEST = ("smax", "win")  # they take long and need JaxMARL


class Benchmark(Updates):
    """All other sections."""

    def sampling(self) -> None:
        """Env core; and env steps of whole episodes through the env runner, 8-agent GRU policy included."""
        games = VectorPredatorPrey(64)
        rng = np.random.default_rng(0)

        def step_games() -> float:
            seconds = 0.0
            for _ in range(200):
                mask = games.action_mask
                actions = np.where(mask, rng.random(mask.shape), -1).argmax(-1)
                start = time.perf_counter()
                games.step(actions, np.arange(64))
                over = np.flatnonzero(games.terminated | games.truncated)
                if len(over):
                    games.reset(rng.integers(2**31, size=len(over)), over)
                seconds += time.perf_counter() - start
            return 200 * 64 / seconds

        core = statistics.median(step_games() for _ in range(self.repeats))
        figures = {"env core alone, 64 games": core}
        for envs in (64,) if self.quick else (1, 8, 64, 256):
            algo = self.build(DDNConfig(), threads=1, envs=envs)
            figures[f"env runner, {envs} sub-envs"] = self.rate(partial(play, algo))
            algo.stop()
        for runners in () if self.quick else (1, 2):
            algo = self.build(DDNConfig(), threads=1, envs=64, runners=runners)
            figures[f"{runners} remote env runners, 64 sub-envs each"] = self.rate(algo._play_round)
            algo.stop()
        self.table("sampling", ("what", "env steps/s"), [(name, f"{rate:,.0f}") for name, rate in figures.items()])
        self.results["sampling"] = figures

    def scaling(self) -> None:
        """Remote env runners of an env that needs 10 ms a step, one episode at a time."""
        figures: dict[str, float] = {}
        rows = []
        for runners in (1, 2) if self.quick else (1, 2, 4):
            config = DDNConfig().environment("slow_predator_prey")
            algo = self.build(config, threads=1, runners=runners)
            rate = figures[f"{runners} env runner{'s' * (runners > 1)}"] = self.rate(algo._play_round)
            algo.stop()
            rows.append((str(runners), f"{rate:,.1f}", f"{rate / runners / figures['1 env runner']:.2f}"))
        self.table("a slow env, 10 ms a step", ("env runners", "env steps/s", "efficiency"), rows)
        self.results["scaling"] = figures

    def end_to_end(self) -> None:
        """Rounds of 8 full episodes with one update per episode, as in training; and how many updates of
        the yardstick (QMIX, step by step, one thread) an episode takes, acting and learning together."""
        figures, rows, spec = {}, [], self.spec(AGENTS)
        update = qmix_update(
            AGENTS, spec.obs_dim, spec.state_dim, spec.num_actions, STEPS, BATCH, "cuda" if self.gpu else "cpu"
        )
        for name in ("DDN on QMIX",) if self.quick else ("QMIX", "DDN on QMIX"):
            for threads in (2,) if self.quick else (1, 2):
                algo = self.build(LEARNERS[name](), threads=threads, envs=8)
                algo.local_replay_buffer.add(random_episodes(algo.get_policy().spec, BATCH, STEPS))
                inside = torch.get_num_threads()  # as the algorithm has set it
                yardstick = self.medians({"yardstick": partial(with_threads, 1, update)})["yardstick"]
                torch.set_num_threads(inside)
                what = f"{name}, {threads} core{'s' * (threads > 1)}"
                rate = self.rate(partial(play_and_learn, algo, algo.training_step))
                figures[what] = {"env steps/s": rate, "yardsticks per episode": STEPS / rate / yardstick}
                rows.append((what, f"{rate:,.0f}", f"{figures[what]['yardsticks per episode']:.2f}"))
                algo.stop()
        self.table("end to end, one update per episode", ("what", "env steps/s", "yardsticks per episode"), rows)
        self.results["end to end"] = figures

    def smax(self) -> None:
        """Training on SMAX 3s5z, without evaluations: on one core, and on two, one of which samples."""
        rows, figures = [], {}
        for name in ("QMIX", "DDN on QMIX"):
            for cores in (1, 2):
                algo = smax_config(name, "3s5z", cores).evaluation(evaluation_interval=None).build_algo()
                figures[f"{name}, {cores} core{'s' * (cores > 1)}"] = rate = self.rate(
                    partial(play_and_learn, algo, algo.train)
                )
                rows.append((name, str(cores), f"{rate:,.0f}"))
                algo.stop()
        self.table("SMAX 3s5z, an update for every fourth episode", ("learner", "cores", "env steps/s"), rows)
        self.results["smax"] = figures

    def win(self) -> None:
        """Time until a network wins 0.8 of 64 greedy episodes on SMAX 2s3z, the follower for DDN; evaluations included:
        one core plays, the other learns."""
        rows: list[tuple[str, ...]] = []
        for name, network in (("QMIX", "agent"), ("DDN on QMIX", "follower")):
            for seed in (1,) if self.quick else (1, 2):
                algo = smax_config(name, "2s3z", 2).debugging(seed=seed).build_algo()
                algo.evaluate()  # compiles the evaluation, also for later algorithms
                start, won, steps = time.perf_counter(), 0.0, 0
                while won < 0.8 and steps < 500_000:
                    result = algo.train()
                    won, steps = result["evaluation"][network]["win_rate"], result["timesteps_total"]
                seconds = time.perf_counter() - start
                algo.stop()
                rows.append((name, str(seed), f"{steps:,}", f"{seconds:.0f} s", f"{won:.2f}"))
                self.results[f"win, {name}, seed {seed}"] = {"steps": steps, "s": seconds, "win rate": won}
        self.table(
            "SMAX 2s3z, until a greedy win rate of 0.8", ("learner", "seed", "env steps", "time", "win rate"), rows
        )

    def memory(self) -> None:
        """Replay of full episodes, and whether it grows; weights that env runners get."""
        spec = self.spec(AGENTS)
        count = 500 if self.quick else 5000
        replay = EpisodeReplay(count)
        episodes = random_episodes(spec, 50, STEPS)
        before = resident()
        for _ in range(count // 50):
            replay.add(episodes)
        full = resident()
        for _ in range(count // 50):
            replay.add(episodes)
        again = resident()
        algo = self.build(DDNConfig(), threads=1)
        policy = algo.get_policy()
        figures = {
            "weights that env runners get": sum(value.nbytes for value in policy.get_acting_weights().values()),
            "all weights": sum(value.nbytes for value in policy.model.state_dict().values()),
            "bytes per full episode": replay.nbytes / count,
            f"resident memory of {count} episodes, bytes": full - before,
            f"growth over {count} more episodes, bytes": again - full,
        }
        algo.stop()
        self.table("memory", ("what", "bytes"), [(name, f"{value:,.0f}") for name, value in figures.items()])
        self.results["memory"] = figures

    def deploy(self) -> None:
        """One greedy step of exported networks, outside of Ray, beside RLlib's own call; on one thread."""
        algo = self.build(DDNConfig(), threads=1)
        policy, rng = algo.get_policy(), np.random.default_rng(0)
        episodes = random_episodes(policy.spec, 64, 1)
        obs, mask, state = (episodes[name][:, 0] for name in ("obs", "action_mask", "state"))
        steps: dict[str, Callable[[], Any]] = {}
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for network, file_format in (("follower", "onnx"), ("follower", "torch"), ("leader", "onnx")):
                file = policy.export(Path(folder, file_format, network), network, file_format)
                rows.append((f"{network}, {file_format}", f"{file.stat().st_size:,}"))
                self.results[f"deploy, bytes of {network}, {file_format}"] = file.stat().st_size
                for teams in (1, 64):
                    player = ExportedPolicy(file.parent)
                    player.reset(teams)
                    name = f"{network}, {file_format}, {teams} team{'s' * (teams > 1)}"
                    steps[name] = partial(player.act, obs[:teams], mask[:teams], state[:teams])
            alone = ExportedPolicy(Path(folder, "onnx", "follower"), agent="predator_0")
            steps["follower, onnx, one agent alone"] = partial(
                alone.act, {"observation": obs[0, 0], "action_mask": mask[0, 0]}
            )
        team = tuple({"obs": o, "action_mask": m, "state": state[0]} for o, m in zip(obs[0], mask[0], strict=True))
        recurrent_state = policy.get_initial_state()
        steps["compute_single_action"] = partial(algo.compute_single_action, team, recurrent_state, explore=False)
        many = policy.initial_recurrent_state(64)
        steps["the env runner's policy, 64 teams"] = partial(policy.act, "follower", obs, state, mask, many)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(100 if self.quick else 1000):
            for name in rng.permutation(list(steps)):
                start = time.perf_counter()
                steps[name]()
                seconds[name].append(time.perf_counter() - start)
        algo.stop()
        self.table("exported networks", ("what", "bytes"), rows)
        figures = {
            name: {"median": np.median(values), "p99": np.percentile(values, 99)} for name, values in seconds.items()
        }
        columns = ("a step of", "median", "99th percentile")
        self.table(
            "a greedy step, 1 thread",
            columns,
            [(name, f"{f['median'] * 1000:.3f} ms", f"{f['p99'] * 1000:.3f} ms") for name, f in figures.items()],
        )
        self.results["deploy"] = figures


def smax_config(name: str, map_name: str, cores: int) -> ValueDecompositionConfig:
    """The settings of tuned_examples/comparisons/smax.yaml; a second core samples, or else the first."""
    config = LEARNERS[name]().environment("smax", env_config={"map_name": map_name})
    config.env_runners(num_env_runners=cores - 1, num_envs_per_env_runner=32, sample_timeout_s=600)
    config.training(updates_per_episode=0.25, sample_ahead=cores > 1).reporting(
        min_sample_timesteps_per_iteration=15_000
    )
    config.evaluation(evaluation_duration=64, evaluation_config={"num_envs_per_env_runner": 64})
    return config.debugging(log_level="ERROR")


class SlowPredatorPrey(PredatorPreyTeam):
    """Predator-Prey that takes 10 ms a step, as StarCraft does."""

    vectorize = None  # type: ignore[assignment]  # one env after the other

    def step(self, actions: Any) -> Any:
        time.sleep(0.01)
        return super().step(actions)


def play_and_learn(algo: ValueDecomposition, step: Callable[[], Any]) -> list[Episodes]:
    """A step of training, and its episodes."""
    before = algo._counters["num_env_steps_sampled"]
    step()
    return [{"length": np.array(algo._counters["num_env_steps_sampled"] - before)}]


def main() -> None:
    sections = {
        "memory": Benchmark.memory,  # first: later sections leave freed memory that it would use
        "update": Benchmark.update,
        "parts": Benchmark.parts,
        "sampling": Benchmark.sampling,
        "scaling": Benchmark.scaling,
        "end-to-end": Benchmark.end_to_end,
        "growth": Benchmark.growth,
        "deploy": Benchmark.deploy,
        "smax": Benchmark.smax,
        "win": Benchmark.win,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections)}; default: all but smax and win"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats and sizes: less than 2 minutes")
    parser.add_argument("--gpu", action="store_true", help="the learners and the yardstick on the GPU")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="an earlier run's --json file, to hold this run against"
    )
    options = parser.parse_args()
    unknown = set(options.sections) - set(sections)
    if unknown:
        parser.error(f"there is no section {min(unknown)}; there are {', '.join(sections)}.")
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu: torch finds no GPU here.")
    earlier = json.loads(options.compare.read_text()) if options.compare else None
    register_env("slow_predator_prey", SlowPredatorPrey)
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    benchmark = Benchmark(options.quick, options.gpu)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "cores": os.cpu_count(),
    }
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    for name in options.sections or [section for section in sections if section not in ON_REQUEST]:
        sections[name](benchmark)
    peak = benchmark.results["peak memory, bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory of this process: {peak:,} bytes")
    if earlier:
        benchmark.compare(earlier)
    if options.json:
        options.json.write_text(json.dumps({"versions": versions, **benchmark.results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
