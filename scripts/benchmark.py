"""Measures what docs/performance.md says about speed and size, and prints it as tables.

python scripts/benchmark.py [SECTION ...] [--quick] [--json FILE] [--compare FILE]

Updates are given as ratios to a plain step-by-step QMIX update (scripts/yardstick.py), which takes
turns with them: seconds depend on the machine and its mood, ratios much less. So does the machine's
limit, which is a large matrix product. All figures are medians. Leave the machine otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.policy.sample_batch import SampleBatch
from ray.tune.registry import register_env
from torch.utils.flop_counter import FlopCounterMode
from yardstick import qmix_update

from rllib_ddn import ENVS, HOSTS, QTRAN, DDNConfig, TeamSpec, ValueDecomposition, ValueDecompositionConfig
from rllib_ddn.deploy import ExportedPolicy
from rllib_ddn.envs.predator_prey import PredatorPreyGames
from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
from rllib_ddn.learning.batch import make_batch
from rllib_ddn.learning.episodes import EpisodeReplay, Episodes, empty_episodes
from rllib_ddn.learning.optimizers import clip_gradients
from rllib_ddn.learning.update import td_loss

ON_REQUEST = ("smax", "win")  # they take long and need JaxMARL
STEPS, BATCH, AGENTS = 200, 32, 8  # the paper's Predator-Prey: 8 agents, obs 50, state 200, 6 actions


def ddn_on(mixer: str) -> DDNConfig:
    return DDNConfig().training(mixer=mixer)


LEARNERS: dict[str, Callable[[], ValueDecompositionConfig]] = {
    **{host.__name__: host.get_default_config for host in HOSTS},
    **{f"DDN on {host.__name__}": partial(ddn_on, host.__name__.lower()) for host in HOSTS if host is not QTRAN},
}
QUICK_LEARNERS = ("VDN", "QMIX", "DDN on VDN", "DDN on QMIX")


class Benchmark:
    """Runs the sections; ``results`` holds every figure under its section."""

    def __init__(self, quick: bool, gpu: bool):
        self.quick, self.gpu = quick, gpu
        self.repeats = 2 if quick else 7
        self.results: dict[str, Any] = {}
        self.flop: dict[tuple[str, int, int, int], int] = {}  # by learner, agents, steps and batch

    # -- Sections -------------------------------------------------------------------------------

    def update(self) -> None:
        """One update of each learner on 32 full episodes, beside the yardstick."""
        for threads in (1,) if self.gpu else (1, 2):
            updates = self.compare_updates(list(QUICK_LEARNERS if self.quick else LEARNERS), threads)
            rows = [
                (
                    name,
                    f"{u['seconds'] * 1000:.0f} ms",
                    f"{u['yardsticks']:.2f}",
                    f"{u['GFLOP']:.1f}",
                    f"{u['of the limit']:.0%}",
                )
                for name, u in updates.items()
            ]
            where = "GPU" if self.gpu else f"{threads} thread{'s' * (threads > 1)}"
            self.table(f"update, {where}", ("learner", "median", "yardsticks", "GFLOP", "of the machine's limit"), rows)
            self.results[f"update, {where}"] = updates

    def parts(self) -> None:
        """Where the time of a DDN-QMIX update goes, on one thread."""
        algo = self.build(DDNConfig(), threads=1)
        policy, config = algo.get_policy(), algo.config
        model, replay, rng = policy.model, EpisodeReplay(BATCH), np.random.default_rng(0)
        replay.add(random_episodes(policy.spec, BATCH, STEPS))
        sample = {**replay.sample(BATCH, rng), "uniform": rng.random((BATCH, STEPS))}
        tensors = {name: torch.from_numpy(array).to(policy.device) for name, array in sample.items()}
        batch = make_batch(tensors, model.local_input)
        host, distillation, intrinsic = model.host, model.distillation, model.intrinsic
        leader, follower = host.unroll(batch), distillation.unroll(batch)
        td = td_loss(host, leader, batch.rewards, batch)[0]
        local = distillation.loss(follower, leader, batch)[0]
        error = intrinsic.loss(batch)[0]

        def step() -> None:
            clip_gradients(policy.optimizers, config.grad_clip)
            for optimizer in policy.optimizers.values():
                optimizer.step()

        def whole() -> None:
            policy.learn_on_batch(SampleBatch(sample, _zero_padded=True))

        seconds = self.medians(
            {
                "sample from the replay": lambda: replay.sample(BATCH, rng),
                "pack, cast, one-hots": lambda: make_batch(tensors, model.local_input),
                "leader, forward": lambda: host.unroll(batch),
                "target leader, both mixers, TD loss": lambda: td_loss(host, leader, batch.rewards, batch),
                "follower, forward": lambda: distillation.unroll(batch),
                "distillation losses": lambda: distillation.loss(follower, leader, batch),
                "IDM, forward": lambda: intrinsic.networks(batch.state),
                "leader and mixer, backward": lambda: td.backward(retain_graph=True),
                "follower, backward": lambda: local.backward(retain_graph=True),
                "IDM, backward": lambda: error.backward(retain_graph=True),
            }
        )
        # These change the weights that the graphs above hold.
        averages = {} if model.averages is None else {"averaged weights": lambda: model.averages.update(model.networks)}
        seconds |= self.medians({"clipping, optimizers": step, **averages, "the whole update": whole})
        total = seconds["the whole update"]
        rows = [(name, f"{s * 1000:.1f} ms", f"{100 * s / total:.0f} %") for name, s in seconds.items()]
        self.table("parts of a DDN-QMIX update, 1 thread", ("part", "median", "share"), rows)
        self.results["parts"] = seconds
        algo.stop()

    def sampling(self) -> None:
        """Env core; and env steps of whole episodes through the env runner, 8-agent GRU policy included."""
        games = PredatorPreyGames(64)
        rng = np.random.default_rng(0)

        def step_games() -> float:
            seconds = 0.0
            for _ in range(200):
                mask = games.action_mask
                actions = np.where(mask, rng.random(mask.shape), -1).argmax(-1)
                start = time.perf_counter()
                games.step(actions)
                over = np.flatnonzero(games.terminated | games.truncated)
                if len(over):
                    games.reset(games=over)
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
        """Remote env runners of an env that needs 10 ms a step, one game each."""
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
        """Training on SMAX's 3s5z, without evaluations: on one core, and with one core that plays while the other learns."""
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
        """Time until a network wins 0.8 of 64 greedy games on SMAX's 2s3z, of DDN the follower, evaluations included: one core
        plays, the other learns."""
        rows: list[tuple[str, ...]] = []
        for name, network in (("QMIX", "agent"), ("DDN on QMIX", "follower")):
            for seed in (1,) if self.quick else (1, 2):
                algo = smax_config(name, "2s3z", 2).debugging(seed=seed).build_algo()
                algo.evaluate()  # compiles the games of evaluations, which later algorithms find compiled
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

    def growth(self) -> None:
        """How the update grows with agents, episode length and batch, on one thread; how acting does with agents."""
        grids = {
            "agents": (4, 8) if self.quick else (4, 8, 16, 32),
            "steps": (50, 100) if self.quick else (50, 100, 200, 400),
            "batch": (8, 16) if self.quick else (8, 32, 128),
        }
        for name, values in grids.items():
            rows = []
            for value in values:
                updates = self.compare_updates(["VDN", "QMIX", "DDN on QMIX"], 1, **{name: value})
                self.results[f"growth, {name} {value}"] = updates
                row = [f"{u['seconds'] * 1000:.0f} ms ({u['yardsticks']:.2f})" for u in list(updates.values())[1:]]
                if name == "agents":
                    algo = self.build(DDNConfig(), threads=1, envs=64, agents=value)
                    rate = self.rate(partial(play, algo))
                    algo.stop()
                    self.results[f"growth, {name} {value}"]["sampling, env steps/s"] = rate
                    row.append(f"{rate:,.0f}")
                rows.append((str(value), *row))
            columns = (name, "VDN", "QMIX", "DDN on QMIX", *["sampling, env steps/s"] * (name == "agents"))
            self.table(f"update by {name}, 1 thread (yardsticks of the same size)", columns, rows)

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

    # -- Tools ----------------------------------------------------------------------------------

    def compare_updates(
        self, learners: list[str], threads: int, agents: int = AGENTS, steps: int = STEPS, batch: int = BATCH
    ) -> dict[str, dict[str, float]]:
        """An update of the yardstick and of each learner, which take turns: seconds, yardsticks, GFLOP of its
        matrix products, and what share that is of the products the machine can do in this time."""
        spec = self.spec(agents)
        device = "cuda" if self.gpu else "cpu"
        sizes = {"agents": agents, "obs": spec.obs_dim, "state": spec.state_dim, "actions": spec.num_actions}
        update = qmix_update(**sizes, steps=steps, batch=batch, device=device)
        updates = {"yardstick": partial(with_threads, threads, update)}
        algos = []
        for name in learners:
            algo = self.build(LEARNERS[name](), threads=threads, agents=agents, batch=batch)
            algo.local_replay_buffer.add(random_episodes(spec, batch, steps))
            updates[name] = partial(
                with_threads, torch.get_num_threads(), algo._update
            )  # as the algorithm has set them
            algos.append(algo)
        matrix = torch.ones(2048, 2048, device=device)
        product = partial(with_threads, threads, lambda: matrix @ matrix)
        seconds = self.medians({**updates, "product": product})
        limit = 2 * 2048**3 / seconds["product"]
        figures = {}
        for name, function in updates.items():
            if threads == 1:  # the counter sees one thread only
                with FlopCounterMode(display=False, custom_mapping=IN_PLACE_FLOP) as counter:
                    function()
                self.flop[name, agents, steps, batch] = counter.get_total_flops()
            flop = self.flop[name, agents, steps, batch]
            figures[name] = {
                "seconds": seconds[name],
                "yardsticks": seconds[name] / seconds["yardstick"],
                "GFLOP": flop / 1e9,
                "of the limit": flop / seconds[name] / limit,
            }
        for algo in algos:
            algo.stop()
        return figures

    def build(
        self,
        config: ValueDecompositionConfig,
        threads: int,
        envs: int = 1,
        runners: int = 0,
        agents: int = AGENTS,
        batch: int = BATCH,
    ) -> ValueDecomposition:
        config.environment(
            config.env or "predator_prey", env_config={"num_predators": agents, "num_prey": agents, "penalty": 2.0}
        )
        config.env_runners(num_env_runners=runners, num_envs_per_env_runner=envs)
        config.training(train_batch_size=batch, replay_buffer_config={"capacity": 2 * batch})
        config.resources(num_cpus_for_main_process=threads, num_gpus=int(self.gpu))
        config.evaluation(evaluation_interval=None).debugging(log_level="ERROR")
        return config.build_algo()

    def spec(self, agents: int) -> Any:
        rules = {"num_predators": agents, "num_prey": agents}
        env = ENVS["predator_prey"](rules)
        return TeamSpec.from_spaces(env.observation_space, env.action_space)

    def medians(self, functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        """Median seconds of each function; they take turns, after one turn that does not count."""
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(self.repeats + 1):
            for name, function in functions.items():
                self.wait()
                start = time.perf_counter()
                function()
                self.wait()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def rate(self, play: Callable[[], list[Episodes]]) -> float:
        """Median env steps per second of a function that plays episodes."""
        play()
        rates = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            steps = sum(int(batch["length"].sum()) for batch in play())
            self.wait()
            rates.append(steps / (time.perf_counter() - start))
        return statistics.median(rates)

    def compare(self, earlier: Mapping[str, Any]) -> None:
        """A table of all figures that an earlier run's JSON has, too."""
        before, now = (dict(leaves(results)) for results in (earlier, self.results))
        shared = [name for name in now if before.get(name)]
        rows = [
            (name, f"{before[name]:,.4g}", f"{now[name]:,.4g}", f"{now[name] / before[name]:.2f}") for name in shared
        ]
        self.table("held against the earlier run", ("figure", "earlier", "now", "ratio"), rows)

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def table(self, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        print(flush=True)


def smax_config(name: str, map_name: str, cores: int) -> ValueDecompositionConfig:
    """The settings of tuned_examples/comparisons/smax.yaml; the first core learns, and plays where it is the only one."""
    config = LEARNERS[name]().environment("smax", env_config={"map_name": map_name})
    config.env_runners(num_env_runners=cores - 1, num_envs_per_env_runner=32, sample_timeout_s=600)
    config.training(updates_per_episode=0.25, sample_ahead=cores > 1).reporting(
        min_sample_timesteps_per_iteration=15_000
    )
    config.evaluation(evaluation_duration=64, evaluation_config={"num_envs_per_env_runner": 64})
    return config.debugging(log_level="ERROR")


class SlowPredatorPrey(PredatorPreyTeam):
    """Predator-Prey that takes 10 ms a step, as games of StarCraft do."""

    vectorize = None  # type: ignore[assignment]  # one game after the other

    def step(self, actions: Any) -> Any:
        time.sleep(0.01)
        return super().step(actions)


def product_flop(_, left: Sequence[int], right: Sequence[int], **__: Any) -> int:
    """Floating-point operations of a product of matrices of these shapes, or of a batch of them."""
    return 2 * math.prod(left) * right[-1]


# Products that torch's counter leaves out: those added in place.
IN_PLACE_FLOP = {torch.ops.aten.addmm_: product_flop, torch.ops.aten.baddbmm_: product_flop}


def leaves(results: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Name and value of all figures, seconds left out where yardsticks tell more."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}, ")
        elif isinstance(value, int | float) and not (name == "seconds" and "yardsticks" in results):
            yield above + name, value


def random_episodes(spec: Any, count: int, steps: int) -> Episodes:
    """Full episodes of noise in the env's own types."""
    rng = np.random.default_rng(0)
    episodes = empty_episodes(count, steps, spec)
    for name in ("obs", "state", "action_mask"):
        episodes[name][:] = rng.integers(0, 2, episodes[name].shape)
    episodes["action_mask"][..., 0] = True
    episodes["actions"][:] = rng.integers(0, spec.num_actions, episodes["actions"].shape)
    episodes["rewards"][:] = rng.normal(size=episodes["rewards"].shape)
    episodes["length"][:] = steps
    return episodes


def with_threads(count: int, function: Callable[[], Any]) -> None:
    torch.set_num_threads(count)
    function()


def play(algo: ValueDecomposition) -> list[Episodes]:
    """A round of the local env runner."""
    return [algo.env_runner.sample()]


def play_and_learn(algo: ValueDecomposition, step: Callable[[], Any]) -> list[Episodes]:
    """A step of training, and its episodes."""
    before = algo._counters["num_env_steps_sampled"]
    step()
    return [{"length": np.array(algo._counters["num_env_steps_sampled"] - before)}]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
