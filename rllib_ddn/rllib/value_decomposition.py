"""Value decomposition as an RLlib algorithm: Algorithm 1 of the paper, which DDN and every host alone share."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ray import cloudpickle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.evaluation.metrics import RolloutMetrics, summarize_episodes
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
from torch import Tensor

from rllib_ddn.envs.vector import warn_once
from rllib_ddn.learning.optimizers import DivergenceError
from rllib_ddn.learning.replay import EpisodeReplay, ReplayMemoryError
from rllib_ddn.learning.returns import ReturnRange
from rllib_ddn.random_streams import seed_of_run, seed_sequence
from rllib_ddn.rllib import resources
from rllib_ddn.rllib.checkpoint import whole_checkpoint, write_best
from rllib_ddn.rllib.config import ValueDecompositionConfig, configured_by
from rllib_ddn.rllib.env_creator import creator_of
from rllib_ddn.rllib.env_runner import TeamEnvRunner
from rllib_ddn.rllib.evaluation import compare, evaluate_network
from rllib_ddn.rllib.faults import EnvRunnersError, Runners
from rllib_ddn.rllib.policy import ValueDecompositionPolicy
from rllib_ddn.rllib.process import ignore_sigterm, keep_freed_memory
from rllib_ddn.rllib.progress import clear_progress, report_progress
from rllib_ddn.rllib.ray_internals import AlgorithmInternals, algorithm_class, learn
from rllib_ddn.rllib.rendering import RENDERED, frames_of, random_state_kept, write_gif
from rllib_ddn.rllib.score import BEST, Score
from rllib_ddn.team import TeamEnvError

_logger = logging.getLogger(__name__)

NUM_EPISODES_SAMPLED = "num_episodes_sampled"
NUM_EPISODES_LOST = "num_episodes_lost"  # with env runners that died, hung or raised during them
NUM_EPISODES_BROKEN = "num_episodes_broken"  # in which the env failed
NUM_ROUNDS = "num_sampling_rounds"


@configured_by(ValueDecompositionConfig)
class ValueDecomposition(AlgorithmInternals):
    """Samples whole episodes of a team, keeps them in a replay, and learns from batches of them.

    :meth:`training_step` is Algorithm 1 of the paper; without the follower and the intrinsic reward it is
    PyMARL's training of QMIX. :mod:`rllib_ddn.rllib.ray_internals` shows when RLlib calls what.

    A ``config.seed`` of None is drawn and is ``seed`` of each result. It seeds this package's random streams alone:
    envs, exploration and the replay's batches of a run that is given it are the same. Its initial weights are not, for
    without a seed in the config neither RLlib nor this package seeds PyTorch.

    Attributes:
        seed: of all random streams: the config's; a restored run without one has its checkpoint's.
        local_replay_buffer: the replay.
        runners: the env runners that sample.
        eval_runners: those that evaluate, which may be the same.
        score: of the evaluations so far.
        returns: the range of the discounted returns so far.
    """

    config_class: ClassVar[type[ValueDecompositionConfig]]
    config: ValueDecompositionConfig
    seed: int
    local_replay_buffer: EpisodeReplay

    # -- Setup ----------------------------------------------------------------------------------

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
        """The resources of a Tune trial.

        Raises:
            ValueError: the cluster, which this process started, has less.
        """
        request = super().default_resource_request(config)
        resources.check_trial(request.required_resources)
        return request

    @override(Algorithm)
    def setup(self, config: ValueDecompositionConfig) -> None:
        ignore_sigterm()
        keep_freed_memory()
        if isinstance(config, ValueDecompositionConfig):
            config.check_gpus()
            config.check_env()
        resources.check_env_runners(self.config, self.config.get_evaluation_config_object())
        super().setup(config)
        # Before the first update: with more OpenMP threads than cores, in whichever threads, all of them are slow.
        torch.set_num_threads(self.get_policy().learner_threads)
        self._statistics = self.get_policy().statistics_names()
        # With a seed, RLlib makes torch deterministic, and torch then fills all memory that it reserves.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._seed_streams(seed_of_run(self.config.seed))
        self._replay_rng = np.random.default_rng(seed_sequence("learner", self.seed))
        self.runners = Runners(self.env_runner_group, self.config)
        if self.eval_env_runner_group is None:
            self.eval_runners = Runners(self.env_runner_group, self.config)
        else:
            self.eval_runners = Runners(self.eval_env_runner_group, self.evaluation_config)
        self.returns = ReturnRange()
        self.score = Score()
        self._evaluated = b"", 0, 0  # the pickled state of the newest evaluation, its iteration and its env steps
        self._best_state = b""  # that of the best one

    def _seed_streams(self, seed: int) -> None:
        self.seed = seed
        if self.config.seed is None:  # else the policy has it
            self.get_policy().seed_exploration(seed)

    @staticmethod
    @override(AlgorithmInternals)
    def creator_of_env(env: Any, config: Any) -> Callable[[dict[str, Any]], Any]:
        return creator_of(env, config)

    @override(AlgorithmInternals)
    def make_replay(self, config: AlgorithmConfig) -> EpisodeReplay:
        return EpisodeReplay(**config["replay_buffer_config"])

    # -- Training: Algorithm 1 ------------------------------------------------------------------

    @override(Algorithm)
    def training_step(self) -> dict[str, Any]:
        """One sampling round of Algorithm 1, and its updates.

        - Each env runner plays one episode in each of its environments (lines 2 to 12).
        - With at least a batch of episodes in replay, ``updates_per_episode`` updates are made for
          each new episode, each on a fresh sample (lines 13 to 25).
        - The targets are updated every so many episodes or updates (lines 26 to 28).
        - The env runners get the weights that acting needs.

        Returns:
            RLlib's learner results, averaged over the round's updates; NaN where there was none.
        """
        counters, config = self.counters, self.config
        before = counters[NUM_EPISODES_SAMPLED]
        with self.timers[SAMPLE_TIMER]:
            for episodes in self._sample_round():
                self._store(episodes)
            if config.sample_ahead and self.env_runner_group.num_remote_env_runners() > 0:
                self.runners.submit(self._sampling_call())
        report_progress(self)

        updates: list[dict[str, Tensor]] = []
        self.get_policy().on_global_var_update({"timestep": counters[NUM_ENV_STEPS_SAMPLED]})
        if len(self.local_replay_buffer) >= config.train_batch_size:
            rate = config.updates_per_episode
            for _ in range(math.floor(counters[NUM_EPISODES_SAMPLED] * rate) - math.floor(before * rate)):
                updates.append(self._update())

        interval = config.target_update_interval_episodes
        due = counters[NUM_EPISODES_SAMPLED] // interval > before // interval
        if due and config.target_update_interval_updates is None:
            self._update_target()

        with self.timers[SYNCH_WORKER_WEIGHTS_TIMER]:
            self.env_runner_group.sync_weights(
                global_vars={"timestep": counters[NUM_ENV_STEPS_SAMPLED]}, inference_only=True
            )
        statistics = _means(updates, self._statistics)
        if config.targets is None:  # custom ones may be on another scale
            self._warn_of_drift(statistics, len(updates))
        return {DEFAULT_POLICY_ID: {LEARNER_STATS_KEY: statistics}}

    def _sample_round(self) -> list[SampleBatch]:
        """The episodes of all healthy env runners.

        Raises:
            TeamEnvError: an env gave NaN or an empty action mask.
            EnvRunnersError: the local env runner failed, or remote ones more often than is tolerated.
        """
        runners = self.runners
        if self.env_runner_group.num_remote_env_runners() == 0:
            results = [runners.call_local(self._sampling_call())]
        else:
            if not runners.pending:
                runners.submit(self._sampling_call())
            results, failures = runners.gather(self.config.sample_timeout_s)
            self.counters[NUM_EPISODES_LOST] += len(failures) * self.config.num_envs_per_env_runner
        for _, metrics in results:
            self.env_runner.add_metrics(metrics)
        if any(len(episodes["length"]) for episodes, _ in results):
            runners.failures_in_a_row = 0
        elif results:
            runners.count_failure("all episodes have failed")
        return [episodes for episodes, _ in results]

    def _sampling_call(self) -> Callable[[TeamEnvRunner], tuple[SampleBatch, list[RolloutMetrics]]]:
        """The call that samples a round which begins now: it returns the round's episodes and their metrics."""
        settings = {
            "round_number": self.counters[NUM_ROUNDS],
            "timestep": self.counters[NUM_ENV_STEPS_SAMPLED],
            "seed": self.seed,
        }
        self.counters[NUM_ROUNDS] += 1
        return lambda runner: (runner.sample(**settings), runner.get_metrics())

    def _store(self, episodes: SampleBatch) -> None:
        """Adds an env runner's episodes to the replay, and counts them."""
        self.local_replay_buffer.add(episodes)
        self.returns.add(episodes, self.config.gamma)
        count, steps = len(episodes["length"]), int(episodes["length"].sum())
        self.counters[NUM_EPISODES_BROKEN] += self.config.num_envs_per_env_runner - count
        self.counters[NUM_EPISODES_SAMPLED] += count
        self.counters[NUM_ENV_STEPS_SAMPLED] += steps
        self.counters[NUM_AGENT_STEPS_SAMPLED] += steps * self.get_policy().spec.num_agents

    def _update(self) -> dict[str, Tensor]:
        """One update on a fresh sample; returns its statistics."""
        policy, counters = self.get_policy(), self.counters
        episodes = self.local_replay_buffer.sample(self.config.train_batch_size, self._replay_rng)
        episodes["uniform"] = self._replay_rng.random(episodes["rewards"].shape)  # for what an update draws at random
        steps = int(episodes["length"].sum())
        trained = counters[NUM_ENV_STEPS_TRAINED], counters[NUM_AGENT_STEPS_TRAINED]
        statistics = learn(self, episodes)
        # RLlib has counted the batch's rows, which are episodes.
        counters[NUM_ENV_STEPS_TRAINED] = trained[0] + steps
        counters[NUM_AGENT_STEPS_TRAINED] = trained[1] + steps * policy.spec.num_agents
        interval = self.config.target_update_interval_updates
        if interval is not None and policy.num_grad_updates % interval == 0:
            self._update_target()
        return {**statistics, **policy.gradient_norms}

    def _update_target(self) -> None:
        self.get_policy().update_target()
        self.counters[NUM_TARGET_UPDATES] += 1

    def _warn_of_drift(self, statistics: dict[str, float], updates: int) -> None:
        mean, bonus = statistics["target_mean"], statistics.get("intrinsic_reward_mean", math.nan)
        if self.returns.check(mean, bonus, updates, self.config.gamma):
            _logger.warning(
                "the mean target is %.4g, far outside of the discounted returns of all episodes so far (%.4g to %.4g): "
                "the Q values drift. Where all episodes end at one time limit, set "
                'env_config={"timeouts": "terminate"}.',
                mean,
                self.returns.low,
                self.returns.high,
            )

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Restores env runners that Ray has restarted. RLlib calls this before each training step and evaluation.

        It does not wait for one that is not back yet, as long as another can sample; a training without any waits.

        Raises:
            EnvRunnersError: none is left, and none comes back.
        """
        training = env_runner_group is self.env_runner_group
        runners = self.runners if training else self.eval_runners
        restored = runners.restore_unhealthy(wait=training, state=self.env_runner.get_state)
        self.counters["total_num_restored_workers"] += len(restored)
        return restored

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """RLlib's iteration. If an env gives unusable data, env runners fail or the training diverges, a checkpoint is
        saved first.

        Raises:
            TeamEnvError: an env gave NaN or an empty action mask; the message names the checkpoint.
            EnvRunnersError: env runners failed more often than is tolerated; likewise.
            DivergenceError: a loss or gradient is NaN or infinite; likewise. The update is not applied.
            ReplayMemoryError: the replay does not fit into memory; likewise.
        """
        interval, parallel = self.config.evaluation_interval, self.config.evaluation_parallel_to_training
        try:
            if parallel and interval and (self.iteration + 1) % interval == 0:
                self._begin_evaluation(self.iteration)  # before the training's thread changes what is evaluated
            results = super().step()
        except (TeamEnvError, EnvRunnersError, DivergenceError, ReplayMemoryError) as error:
            self.save_checkpoint(f"{self.logdir}/checkpoint_before_error")
            steps, updates = self.counters[NUM_ENV_STEPS_SAMPLED], self.get_policy().num_grad_updates
            when, where = f"After {steps:,} env steps and {updates:,} updates", self.kept("checkpoint_before_error")
            raise type(error)(f"{when}: {error} All that was trained before is saved in {where}.") from error
        finally:
            clear_progress(self)
        if (interval := self.config.video_interval) and (self.iteration + 1) % interval == 0:
            self._record_video()
        policy, replay = self.get_policy(), self.local_replay_buffer
        results["seed"] = self.seed
        results["info"] |= {
            "num_env_runners_hung": self.runners.hung + self.eval_runners.hung,
            "cur_epsilon": policy.epsilon(self.counters[NUM_ENV_STEPS_SAMPLED]),
            **policy.learning_rates(),
            "num_updates": policy.num_grad_updates,
            "replay_episodes": len(replay),
            "replay_steps": replay.num_steps,
        }
        if self.config.evaluation_interval:
            # The same keys in every result: loggers fix their columns at the first.
            evaluation = results.setdefault("evaluation", compare(dict.fromkeys(self.config.networks)))
            state, iteration, steps = self._evaluated
            if self.score.update(evaluation[policy.model.acting_network], iteration, steps):
                self._best_state = state
            results |= self.score.results()
        return results

    def _record_video(self) -> None:
        """Writes a GIF of one greedy episode; where that fails, training continues without it."""
        seed = seed_sequence("video", self.seed, self.iteration).generate_state(1)[0] >> 1
        try:
            with random_state_kept(), closing(self.config.make_env(**RENDERED)) as env:
                frames = frames_of(self.get_policy(), env, int(seed))
            write_gif(Path(self.logdir, "videos", f"iteration_{self.iteration + 1:06d}.gif"), frames)
            self.kept("videos")
        except Exception as error:
            warn_once(f"no video is written, training continues: {type(error).__name__}: {error}")

    # -- Evaluation -----------------------------------------------------------------------------

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Plays ``evaluation_duration`` greedy episodes of each network, all on the same seeds.

        Returns:
            For each of the config's ``networks`` (``leader`` and ``follower``; of a host alone ``agent``)
            ``episode_return_mean``, ``win_rate`` where the env reports it, and more; of DDN also
            ``knowledge_transfer``; and under ``env_runners`` RLlib's own summary of the episodes of the
            network that acts for a user.
        """
        if parallel_train_future is None:
            self._begin_evaluation(self.iteration + 1)
        config, arguments = self.evaluation_config, {"algorithm": self, "metrics_logger": self.metrics}
        make_callback("on_evaluate_start", self.callbacks, self.config.callbacks_on_evaluate_start, kwargs=arguments)
        seeds = [seed_sequence("evaluation", self.seed, self.iteration, k) for k in range(config.evaluation_duration)]
        played = {
            network: evaluate_network(self.eval_runners, network, seeds, bool(config.explore))
            for network in config.networks
        }
        results = compare(played)
        results["env_runners"] = summarize_episodes(played[self.get_policy().model.acting_network])
        steps = sum(episode.episode_length for episodes in played.values() for episode in episodes)
        results["timesteps_this_iter"] = self.counters[NUM_ENV_STEPS_SAMPLED_FOR_EVALUATION_THIS_ITER] = steps
        arguments["evaluation_metrics"] = results
        make_callback("on_evaluate_end", self.callbacks, self.config.callbacks_on_evaluate_end, kwargs=arguments)
        return results

    def _begin_evaluation(self, iteration: int) -> None:
        """Sends the evaluated weights to the env runners that evaluate, and keeps the state after so many
        iterations."""
        # All networks, also where the training's env runners evaluate: for sampling they get the acting one alone.
        self.eval_runners.group.sync_weights(
            from_worker_or_learner_group=self.env_runner if self.eval_env_runner_group else None,
            global_vars={"timestep": self.counters[NUM_ENV_STEPS_SAMPLED]},
        )
        state = cloudpickle.dumps(self._state_to_evaluate(iteration))
        self._evaluated = state, iteration, self.counters[NUM_ENV_STEPS_SAMPLED]

    # -- Checkpoints ----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {
            **state,
            "algorithm_class": algorithm_class(self),
            "policies": state["worker"]["policy_states"],  # which RLlib itself writes to other files
            "rng": self._replay_rng.bit_generator.state,
            "seed": self.seed,
            "episode_history": list(self.episode_history),
            "score": dataclasses.asdict(self.score),
            "returns": dataclasses.asdict(self.returns),
            BEST: self._best_state,
        }

    def _state_to_evaluate(self, iteration: int) -> dict[str, Any]:
        """The state after so many iterations, without the replay and the best evaluation's state."""
        replay, best = self.local_replay_buffer, self._best_state
        self.local_replay_buffer, self._best_state = None, b""  # type: ignore[assignment]
        try:
            state = self.__getstate__()
        finally:
            self.local_replay_buffer, self._best_state = replay, best
        del state["worker"]["policy_states"]  # they are in state["policies"]
        return {**state, "training_iteration": iteration}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["worker"]["policy_states"] = state["policies"]
        if not self.config.store_buffer_in_checkpoints:  # RLlib would warn of a replay that is not wanted
            state = {name: value for name, value in state.items() if name != "local_replay_buffer"}
        super().__setstate__(state)
        self.runners.discard()  # the calls of the run before
        self._replay_rng.bit_generator.state = state["rng"]
        if self.config.seed is None:
            self._seed_streams(state["seed"])
        self.episode_history = state["episode_history"]
        self.returns = ReturnRange(**state["returns"])
        self._best_state = state[BEST]
        self.score = Score(**state["score"]) if self._best_state else Score()

    @override(Algorithm)
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """As RLlib's, and the folder ``best`` is a checkpoint of the best evaluation so far, without the replay. An
        interrupted save leaves the checkpoint that was there before (see :mod:`rllib_ddn.rllib.checkpoint`)."""
        with whole_checkpoint(Path(checkpoint_dir)) as folder:
            super().save_checkpoint(str(folder))
            if self._best_state:
                write_best(folder, self._best_state, self.score.best, self.get_policy())


def _means(updates: list[dict[str, Tensor]], names: list[str]) -> dict[str, float]:
    """Means over a round's updates, brought to the CPU at once. The given names are in every result, NaN where there is
    no figure: loggers fix their columns at the first."""
    means = dict.fromkeys(names, float("nan"))
    for name in {name: None for update in updates for name in update}:
        values = [torch.as_tensor(update[name]) for update in updates if name in update]
        means[name] = float(torch.stack(values).float().mean())
    return means
