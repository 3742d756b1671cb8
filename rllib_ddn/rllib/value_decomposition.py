"""Value decomposition as an RLlib algorithm: what DDN and every host alone share."""

from __future__ import annotations

import ctypes
import dataclasses
import inspect
import json
import logging
import math
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from pyarrow.fs import copy_files
from ray import cloudpickle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.evaluation.metrics import RolloutMetrics, summarize_episodes
from ray.rllib.execution.train_ops import multi_gpu_train_one_step, train_one_step
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID, SampleBatch
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_TRAINED,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_FOR_EVALUATION_THIS_ITER,
    NUM_ENV_STEPS_TRAINED,
    NUM_TARGET_UPDATES,
    SAMPLE_TIMER,
    SYNCH_WORKER_WEIGHTS_TIMER,
)
from ray.rllib.utils.metrics.learner_info import LEARNER_STATS_KEY
from ray.tune import PlacementGroupFactory

from rllib_ddn.envs.named import creator_of
from rllib_ddn.envs.vector import warn_once
from rllib_ddn.learning.episodes import EpisodeReplay, ReplayMemoryError
from rllib_ddn.learning.optimizers import DivergenceError
from rllib_ddn.learning.returns import ReturnRange
from rllib_ddn.random_streams import seed_of_run, seed_sequence
from rllib_ddn.rllib.config import ValueDecompositionConfig, configured_by
from rllib_ddn.rllib.env_runner import TeamEnvRunner
from rllib_ddn.rllib.evaluation import compare, evaluate_network
from rllib_ddn.rllib.faults import EnvRunnersError, Failure, Runners, outlive_sigterm
from rllib_ddn.rllib.policy import ValueDecompositionPolicy
from rllib_ddn.rllib.progress import forget_progress, tell_progress
from rllib_ddn.rllib.score import BEST, Score
from rllib_ddn.rllib.videos import RENDERED, frames_of, random_state_kept, write_gif
from rllib_ddn.team import TeamEnvError

_logger = logging.getLogger(__name__)

NUM_EPISODES_SAMPLED = "num_episodes_sampled"
NUM_EPISODES_LOST = "num_episodes_lost"  # with env runners that died, hung or raised while they played them
NUM_EPISODES_BROKEN = "num_episodes_broken"  # in which the game failed
NUM_ROUNDS = "num_sampling_rounds"
UNFINISHED = ".unfinished-"  # how the name of a folder begins in which a checkpoint is being written


@configured_by(ValueDecompositionConfig)
class ValueDecomposition(Algorithm):
    """Plays whole episodes of a team, keeps them in a replay, and learns from samples of it.

    :meth:`training_step` is Algorithm 1 of the paper; without the follower and the intrinsic reward it is
    PyMARL's training of QMIX.

    A ``config.seed`` of None is drawn and is ``seed`` of each result. It seeds this package's random streams alone: envs,
    exploration and the replay's samples of a run that is given it are the same. Its initial weights are not, for without a
    seed in the config neither RLlib nor this package seeds PyTorch.
    """

    config_class: ClassVar[type[ValueDecompositionConfig]]
    config: ValueDecompositionConfig
    seed: int  # of all random streams: the config's; a restored run that was given none has its checkpoint's
    local_replay_buffer: EpisodeReplay

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ValueDecompositionConfig:
        return cls.config_class()

    @classmethod
    @override(Algorithm)
    def get_default_policy_class(cls, config: AlgorithmConfig) -> type[ValueDecompositionPolicy]:
        return ValueDecompositionPolicy

    @classmethod
    @override(Algorithm)
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """What a trial of Tune needs.

        Raises:
            ValueError: the cluster, which is this machine alone, has less.
        """
        request = super().default_resource_request(config)
        if ray.is_initialized():
            _check_resources("a trial needs", request.required_resources)
        return request

    @staticmethod
    @override(Algorithm)
    def _get_env_id_and_creator(env_specifier: Any, config: Any) -> tuple[Any, Callable[[dict[str, Any]], Any]]:
        return env_specifier, creator_of(env_specifier, config)

    @override(Algorithm)
    def setup(self, config: ValueDecompositionConfig) -> None:
        outlive_sigterm()
        _keep_freed_memory()
        if isinstance(config, ValueDecompositionConfig):
            config.check_gpus()
            config.check_env()
        self._check_env_runners_resources()
        super().setup(config)
        # Before the first update: with more OpenMP threads than cores, whichever thread they belong to, all of them are slow.
        torch.set_num_threads(self.get_policy().learner_threads)
        self._statistics = self.get_policy().statistics_names()
        # With a seed, RLlib makes torch deterministic, and torch then fills all memory that it reserves.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._seed_streams(seed_of_run(self.config.seed))
        self._rng = np.random.default_rng(seed_sequence("learner", self.seed))
        self.runners = Runners(self.env_runner_group, self.config)
        own = self.eval_env_runner_group is not None
        group = self.eval_env_runner_group if own else self.env_runner_group
        self.eval_runners = Runners(group, self.evaluation_config if own else self.config)
        self.score = Score()
        self.returns = ReturnRange()
        self._evaluated = b"", 0, 0  # the state that the newest evaluation is of, its iteration and its env steps
        self._best = b""  # the state at the best one

    def _seed_streams(self, seed: int) -> None:
        self.seed = seed
        if self.config.seed is None:  # which the policy has
            self.get_policy().seed_exploration(seed)

    def _check_env_runners_resources(self) -> None:
        """Outside Tune, which has reserved a trial's resources, Ray lets env runners wait without a word."""
        groups = [group for group in (self.config, self.config.get_evaluation_config_object()) if group.num_env_runners]
        if groups and ray.util.get_current_placement_group() is None:  # which starts Ray where it is not running
            cpus = sum(group.num_env_runners * group.num_cpus_per_env_runner for group in groups)
            gpus = sum(group.num_env_runners * group.num_gpus_per_env_runner for group in groups)
            _check_resources("the env runners need", {"CPU": cpus, "GPU": gpus}, ray.available_resources())

    @override(Algorithm)
    def _create_local_replay_buffer_if_necessary(self, config: Any) -> EpisodeReplay:
        return EpisodeReplay(**config["replay_buffer_config"])

    @override(Algorithm)
    def training_step(self) -> dict[str, Any]:
        """One round of Algorithm 1.

        - Each env runner plays one episode in each of its environments (lines 2 to 12).
        - With at least a batch of episodes in replay, ``updates_per_episode`` updates are made for
          each new episode, each on a fresh sample (lines 13 to 25).
        - The targets are updated every so many episodes or updates (lines 26 to 28).
        - The env runners get the weights that acting needs.

        Returns:
            RLlib's learner results, averaged over the round's updates; NaN where there was none.
        """
        before = self._counters[NUM_EPISODES_SAMPLED]
        with self._timers[SAMPLE_TIMER]:
            for batch in self._play_round():
                self.local_replay_buffer.add(batch)
                self.returns.add(batch, self.config.gamma)
                self._counters[NUM_EPISODES_BROKEN] += self.config.num_envs_per_env_runner - len(batch["length"])
                self._counters[NUM_EPISODES_SAMPLED] += len(batch["length"])
                self._counters[NUM_ENV_STEPS_SAMPLED] += int(batch["length"].sum())
                self._counters[NUM_AGENT_STEPS_SAMPLED] += (
                    int(batch["length"].sum()) * self.get_policy().spec.num_agents
                )
            if self.config.sample_ahead and self.env_runner_group.num_remote_env_runners() > 0:
                self.runners.ask(self._episodes_of_a_round())
        after = self._counters[NUM_EPISODES_SAMPLED]
        tell_progress(self)

        updates: list[dict[str, Any]] = []
        self.get_policy().on_global_var_update({"timestep": self._counters[NUM_ENV_STEPS_SAMPLED]})
        if len(self.local_replay_buffer) >= self.config.train_batch_size:
            rate = self.config.updates_per_episode
            for _ in range(math.floor(after * rate) - math.floor(before * rate)):
                updates.append(self._update())

        interval = self.config.target_update_interval_episodes
        if self.config.target_update_interval_updates is None and after // interval > before // interval:
            self._update_target()

        with self._timers[SYNCH_WORKER_WEIGHTS_TIMER]:
            self.env_runner_group.sync_weights(
                global_vars={"timestep": self._counters[NUM_ENV_STEPS_SAMPLED]}, inference_only=True
            )
        statistics = _mean_stats(updates, self._statistics)
        if self.config.targets is None:  # custom ones may be on another scale
            self._warn_of_drift(statistics, len(updates))
        return {DEFAULT_POLICY_ID: {LEARNER_STATS_KEY: statistics}}

    def _warn_of_drift(self, statistics: dict[str, float], updates: int) -> None:
        mean, bonus = statistics["target_mean"], statistics.get("intrinsic_reward_mean", math.nan)
        if self.returns.check(mean, bonus, updates, self.config.gamma):
            _logger.warning(
                "the mean target is %.4g, far outside of the discounted returns of all episodes so far (%.4g to %.4g): "
                'the Q values drift. Where all episodes end at one time limit, set env_config={"timeouts": "terminate"}.',
                mean,
                self.returns.low,
                self.returns.high,
            )

    def _play_round(self) -> list[SampleBatch]:
        """Episodes from all healthy env runners.

        Raises:
            TeamEnvError: an env gave NaN or an empty action mask.
            EnvRunnersError: the local env runner failed, or remote ones more often than is tolerated.
        """
        runners = self.runners
        if self.env_runner_group.num_remote_env_runners() == 0:
            results = [runners.call_local(self._episodes_of_a_round())]
        else:
            if not runners.asked:
                runners.ask(self._episodes_of_a_round())
            results, failures = runners.answers(self.config.sample_timeout_s)
            self._counters[NUM_EPISODES_LOST] += len(failures) * self.config.num_envs_per_env_runner
        batches: list[SampleBatch] = []
        for result in results:
            if isinstance(result, TeamEnvError):
                raise result
            batch, metrics = result
            batches.append(batch)
            self.env_runner.add_metrics(metrics)
        if any(len(batch["length"]) for batch in batches):
            runners.failures_in_a_row = 0
        elif batches:
            runners.count(Failure("all games have failed"))
        return batches

    def _episodes_of_a_round(self) -> Callable[[TeamEnvRunner], tuple[SampleBatch, list[RolloutMetrics]]]:
        """What env runners are asked for: the episodes of a round that begins now, and their metrics."""
        asked = {
            "round_number": self._counters[NUM_ROUNDS],
            "timestep": self._counters[NUM_ENV_STEPS_SAMPLED],
            "seed": self.seed,
        }
        self._counters[NUM_ROUNDS] += 1
        return lambda runner: (runner.sample(**asked), runner.get_metrics())

    @override(Algorithm)
    def _remote_worker_ids_for_metrics(self) -> Iterator[int]:  # type: ignore[override]
        """Nobody: metrics come with the episodes, and who plays ahead would answer after the round only. It is an iterator,
        for RLlib takes an empty list to mean all."""
        return iter(())

    def _update(self) -> dict[str, Any]:
        """One update on a fresh sample; returns its statistics."""
        config = self.config
        episodes = self.local_replay_buffer.sample(config.train_batch_size, self._rng)
        episodes["uniform"] = self._rng.random(episodes["rewards"].shape)  # for what an update draws at random
        steps = int(episodes["length"].sum())
        trained = self._counters[NUM_ENV_STEPS_TRAINED], self._counters[NUM_AGENT_STEPS_TRAINED]
        train = (
            train_one_step if math.ceil(config.num_gpus) <= 1 and not config._fake_gpus else multi_gpu_train_one_step
        )
        results = train(self, SampleBatch(episodes, _zero_padded=True))
        # RLlib has counted the batch's rows, which are episodes.
        self._counters[NUM_ENV_STEPS_TRAINED] = trained[0] + steps
        self._counters[NUM_AGENT_STEPS_TRAINED] = trained[1] + steps * self.get_policy().spec.num_agents
        interval = config.target_update_interval_updates
        if interval is not None and self.get_policy().num_grad_updates % interval == 0:
            self._update_target()
        return results[DEFAULT_POLICY_ID][LEARNER_STATS_KEY]

    def _update_target(self) -> None:
        self.get_policy().update_target()
        self._counters[NUM_TARGET_UPDATES] += 1

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Brings back env runners that Ray has restarted. RLlib calls this before each training step and evaluation.

        Nobody waits for one that is not back yet, as long as another can play; a training without any waits.

        Raises:
            EnvRunnersError: none is left, and none comes back.
        """
        training = env_runner_group is self.env_runner_group
        back = (self.runners if training else self.eval_runners).bring_back(wait=training)
        if back:  # RLlib's own way of bringing them up to date asks the others that are out of service, too, and waits for them
            self._counters["total_num_restored_workers"] += len(back)
            state = self.env_runner.get_state()
            for policy in state["policy_states"].values():
                policy.pop("connector_configs", None)
            held = ray.put(state)
            env_runner_group.foreach_env_runner(
                lambda runner: runner.set_state(ray.get(held)),
                remote_worker_ids=back,
                local_env_runner=False,
                timeout_seconds=self.config.env_runner_restore_timeout_s,
            )
        return back

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """RLlib's iteration. If an env gives unusable data, env runners fail or the training diverges, what is trained
        is saved first.

        Raises:
            TeamEnvError: see :meth:`_play_round`; the message names the checkpoint.
            EnvRunnersError: see :meth:`_play_round`; likewise.
            DivergenceError: a loss or gradient is NaN or infinite; likewise. The update is not applied.
            ReplayMemoryError: the replay does not fit into memory; likewise.
        """
        interval, parallel = self.config.evaluation_interval, self.config.evaluation_parallel_to_training
        try:
            if parallel and interval and (self.iteration + 1) % interval == 0:
                self._begin_evaluation(self.iteration)  # before the training's thread changes what is evaluated
            results = super().step()
        except (TeamEnvError, EnvRunnersError, DivergenceError, ReplayMemoryError) as error:
            directory = self._save_before_error()
            steps, updates = self._counters[NUM_ENV_STEPS_SAMPLED], self.get_policy().num_grad_updates
            when = f"After {steps:,} env steps and {updates:,} updates: "
            raise type(error)(f"{when}{error} All that was trained before is saved in {directory}.") from error
        finally:
            forget_progress(self)
        if (interval := self.config.video_interval) and (self.iteration + 1) % interval == 0:
            self._record_video()
        policy, replay = self.get_policy(), self.local_replay_buffer
        results["seed"] = self.seed
        results["info"] |= {
            "num_env_runners_hung": self.runners.hung + self.eval_runners.hung,
            "cur_epsilon": policy.epsilon(self._counters[NUM_ENV_STEPS_SAMPLED]),
            **policy.learning_rates(),
            "num_updates": policy.num_grad_updates,
            "replay_episodes": len(replay),
            "replay_steps": replay.num_steps,
        }
        if self.config.evaluation_interval and "evaluation" not in results:
            # The same keys in every result: loggers fix their columns at the first.
            results["evaluation"] = compare(dict.fromkeys(self.config.networks))
        if self.config.evaluation_interval:
            deployed = results["evaluation"][policy.model.acting_network]
            state, iteration, steps = self._evaluated
            if self.score.update(deployed, iteration, steps):
                self._best = state
            results |= self.score.results()
        return results

    def _save_before_error(self) -> str:
        """Saves a checkpoint and returns where it lies."""
        self.save_checkpoint(os.path.join(self.logdir, "checkpoint_before_error"))
        return self._kept("checkpoint_before_error")

    def _record_video(self) -> None:
        """Writes a GIF of one greedy episode; where that fails, training continues without it."""
        seed = seed_sequence("video", self.seed, self.iteration).generate_state(1)[0] >> 1
        try:
            with random_state_kept(), closing(self.config.make_env(**RENDERED)) as env:
                frames = frames_of(self.get_policy(), env, int(seed))
            write_gif(Path(self.logdir, "videos", f"iteration_{self.iteration + 1:06d}.gif"), frames)
            self._kept("videos")
        except Exception as error:
            warn_once(f"no video is written, training continues: {type(error).__name__}: {error}")

    def _kept(self, name: str) -> str:
        """Where a folder of :attr:`logdir` lies: under Tune it is copied to the trial's folder, for logdir is temporary there."""
        directory = os.path.join(self.logdir, name)
        if self._storage is None:
            return directory
        kept = f"{self._storage.trial_fs_path}/{name}"
        self._storage.storage_filesystem.create_dir(kept)
        copy_files(directory, kept, destination_filesystem=self._storage.storage_filesystem)
        return kept

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Plays ``evaluation_duration`` greedy episodes of each network, both on the same seeds.

        Returns:
            For each of the config's ``networks`` (``leader`` and ``follower``; of a host alone ``agent``)
            ``episode_return_mean``, ``win_rate`` where the env knows it, and more; of DDN also
            ``knowledge_transfer``; and under ``env_runners`` RLlib's own summary of the episodes of the
            network that acts for a user.
        """
        self._before_evaluate()
        if parallel_train_future is None:
            self._begin_evaluation(self.iteration + 1)
        config, told = self.evaluation_config, {"algorithm": self, "metrics_logger": self.metrics}
        make_callback("on_evaluate_start", self.callbacks, self.config.callbacks_on_evaluate_start, kwargs=told)
        seeds = [seed_sequence("evaluation", self.seed, self.iteration, k) for k in range(config.evaluation_duration)]
        played = {
            network: evaluate_network(self.eval_runners, network, seeds, bool(config.explore))
            for network in config.networks
        }
        results = compare(played)
        results["env_runners"] = summarize_episodes(played[self.get_policy().model.acting_network])
        steps = sum(episode.episode_length for episodes in played.values() for episode in episodes)
        results["timesteps_this_iter"] = self._counters[NUM_ENV_STEPS_SAMPLED_FOR_EVALUATION_THIS_ITER] = steps
        told["evaluation_metrics"] = results
        make_callback("on_evaluate_end", self.callbacks, self.config.callbacks_on_evaluate_end, kwargs=told)
        return results

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {
            **state,
            # Not the subclass that Ray makes for an actor: of it a pickle names every method, none of which could ever be renamed.
            "algorithm_class": getattr(type(self), "__ray_actor_class__", type(self)),
            "policies": state["worker"]["policy_states"],  # which RLlib itself writes to other files
            "rng": self._rng.bit_generator.state,
            "seed": self.seed,
            "episode_history": list(self._episode_history),  # over which RLlib smooths the results of env_runners
            "score": dataclasses.asdict(self.score),
            "returns": dataclasses.asdict(self.returns),
            BEST: self._best,
        }

    def _begin_evaluation(self, iteration: int) -> None:
        """Sends what is evaluated to who evaluates, and keeps it as the state after so many iterations."""
        # All networks, also to the training's env runners where these evaluate: for playing they are sent the acting one alone.
        self.eval_runners.group.sync_weights(
            from_worker_or_learner_group=self.env_runner if self.eval_env_runner_group else None,
            global_vars={"timestep": self._counters[NUM_ENV_STEPS_SAMPLED]},
        )
        self._evaluated = self._packed(iteration), iteration, self._counters[NUM_ENV_STEPS_SAMPLED]

    def _packed(self, iteration: int) -> bytes:
        """The state after so many iterations, pickled, without the replay and the best state."""
        here: Any = object.__new__(type(self))
        here.__dict__ |= {**vars(self), "local_replay_buffer": None, "_best": b"", "_iteration": iteration}
        state = here.__getstate__()
        del state["worker"]["policy_states"]  # they are in state["policies"]
        return cloudpickle.dumps(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["worker"]["policy_states"] = state.get("policies", state["worker"]["policy_states"])  # older ones lack it
        if not self.config.store_buffer_in_checkpoints:  # RLlib would warn of a replay that is not wanted
            state = {name: value for name, value in state.items() if name != "local_replay_buffer"}
        super().__setstate__(state)
        self.runners.drop_calls()  # of the run that is left
        self._rng.bit_generator.state = state["rng"]
        if self.config.seed is None:
            self._seed_streams(
                state.get("seed", 0)
            )  # older ones lack it, and are evaluated on the same episodes each time
        self._episode_history = state.get("episode_history", [])  # older ones lack it
        self.returns = ReturnRange(**state.get("returns", {}))  # older ones lack it
        self._best = state.get(BEST, b"")
        self.score = Score(**state["score"]) if self._best else Score()

    @override(Algorithm)
    def compute_single_action(self, *args: Any, **kwargs: Any) -> Any:
        """As RLlib's, without its warning, which names a replacement that the old API stack does not have."""
        return inspect.unwrap(Algorithm.compute_single_action)(self, *args, **kwargs)

    @override(Algorithm)
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """As RLlib's, and the folder ``best`` is a checkpoint of the best evaluation so far, without the replay.

        Each file, and ``best`` as a whole, is written beside and put in its place when all are whole.

        Whatever is interrupted or killed leaves the checkpoint that was there before, or the new one, and no mixture:
        ``algorithm_state.pkl`` is moved first, in one step, and holds all that is restored. ``policies/`` is for
        ``Policy.from_checkpoint()`` alone; ``rllib_checkpoint.json``, which tells a checkpoint, comes last.
        """
        folder = Path(checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for killed in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(killed, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as name:
            super().save_checkpoint(name)
            if self._best:
                self._write_best(Path(name, BEST))
            best, replaced = Path(name, BEST), Path(name, "replaced")  # which is removed with the rest
            if not self._best and (folder / BEST).exists():  # of another run
                (folder / BEST).rename(replaced)
            for path in sorted(path for path in Path(name).rglob("*") if path == best or path.is_file()):
                if best in path.parents or replaced in path.parents:
                    continue
                target = folder / path.relative_to(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if path == best and target.exists():  # the whole folder, so that score.json is of the state beside it
                    target.rename(replaced)
                path.replace(target)

    def _write_best(self, folder: Path) -> None:
        (folder / "policies").mkdir(parents=True)
        (folder / "algorithm_state.pkl").write_bytes(self._best)
        (folder / "score.json").write_text(json.dumps(self.score.best) + "\n")
        shutil.copy(folder.parent / "rllib_checkpoint.json", folder)
        states = pickle.loads(self._best)["policies"]
        self.get_policy().export_checkpoint(
            str(folder / "policies" / DEFAULT_POLICY_ID), policy_state=states[DEFAULT_POLICY_ID]
        )


def _started_here() -> bool:
    """Whether the cluster is what this process's ``ray.init()`` started; False where Ray no longer says so."""
    node = getattr(getattr(getattr(ray, "_private", None), "worker", None), "_global_node", None)
    return bool(getattr(node, "head", False))


def _check_resources(need: str, wanted: Mapping[str, float], free: Mapping[str, float] | None = None) -> None:
    """Checks whether the cluster has the CPUs and GPUs that something would otherwise wait for.

    A warning is enough for a cluster that others started, which may grow, and for resources that are in use.

    Args:
        need: who needs them, with its verb.
        wanted: the resources needed.
        free: those that nobody uses now; None where that does not matter.

    Raises:
        ValueError: the cluster is what this process's ``ray.init()`` started, and has less.
    """
    advice = {
        "CPU": "lower num_env_runners (or evaluation_num_env_runners), set num_cpus_per_env_runner to a fraction such as 0.5, or "
        "start Ray with more CPUs than there are: ray.init(num_cpus=...), rllib train --ray-num-cpus",
        "GPU": "leave num_gpus and num_gpus_per_env_runner 0 to learn and play on CPU cores",
    }
    there = ray.cluster_resources()
    for kind, hint in advice.items():
        amount, available = wanted.get(kind, 0), there.get(kind, 0)
        if amount <= available:
            if free is not None and amount > (unused := free.get(kind, 0)):
                line = f"{need} {amount:g} {kind}s, and of the cluster's {available:g} only {unused:g} are not in use"
                warn_once(
                    f"{line}: waiting until they are released, as by stop() of another algorithm. Otherwise {hint}."
                )
            continue
        line = f"{need} {amount:g} {kind}s, and the cluster has {available:g}"
        if _started_here():
            raise ValueError(f"{line}: {hint}.")
        warn_once(f"{line}: waiting until nodes with more of them join. Otherwise {hint}.")


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for reuse. By default it gives large blocks back to the system at the
    end of each update, and gets them again page by page in the next: a sixth of its time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # as in malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**27)
        mallopt(mmap_max, 0)


def _mean_stats(updates: list[dict[str, Any]], names: list[str]) -> dict[str, float]:
    """Means over a round's updates, brought to the CPU at once.

    The given names are in every result, NaN where there is no figure: loggers fix their columns at the first.
    """
    stats = dict.fromkeys(names, float("nan"))
    for name in {name: None for update in updates for name in update}:
        values = [torch.as_tensor(update[name]) for update in updates if name in update]
        stats[name] = float(torch.stack(values).float().mean())
    return stats
