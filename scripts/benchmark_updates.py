"""The sections of scripts/benchmark.py on updates: their time beside the yardstick, its parts, and how it grows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import IN_PLACE_FLOP, Measurements, random_episodes, with_threads
from ray.rllib.policy.sample_batch import SampleBatch
from torch.utils.flop_counter import FlopCounterMode
from yardstick import qmix_update

from rllib_ddn import ENVS, HOSTS, QTRAN, DDNConfig, TeamSpec, ValueDecomposition, ValueDecompositionConfig
from rllib_ddn.learning.batch import make_batch
from rllib_ddn.learning.episodes import Episodes
from rllib_ddn.learning.optimizers import clip_gradients
from rllib_ddn.learning.replay import EpisodeReplay
from rllib_ddn.learning.update import td_loss

STEPS, BATCH, AGENTS = 200, 32, 8  # the paper's Predator-Prey: 8 agents, obs 50, state 200, 6 actions


def ddn_on(mixer: str) -> DDNConfig:
    return DDNConfig().training(mixer=mixer)


LEARNERS: dict[str, Callable[[], ValueDecompositionConfig]] = {
    **{host.__name__: host.get_default_config for host in HOSTS},
    **{f"DDN on {host.__name__}": partial(ddn_on, host.__name__.lower()) for host in HOSTS if host is not QTRAN},
}
QUICK_LEARNERS = ("VDN", "QMIX", "DDN on VDN", "DDN on QMIX")


class Updates(Measurements):
    """The sections on updates, and algorithms to measure."""

    def __init__(self, quick: bool, gpu: bool):
        super().__init__(2 if quick else 7, gpu)
        self.quick = quick
        self.flop: dict[tuple[str, int, int, int], int] = {}  # by learner, agents, steps and batch

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


def play(algo: ValueDecomposition) -> list[Episodes]:
    """A round of the local env runner."""
    return [algo.env_runner.sample()]
