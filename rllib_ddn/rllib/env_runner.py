"""The env runner: whole episodes of a team, straight into episode arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.evaluation.episode_v2 import EpisodeV2
from ray.rllib.evaluation.metrics import RolloutMetrics
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID, SampleBatch
from ray.rllib.utils.annotations import override

from rllib_ddn.checks import check_values
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.envs.single import TeamEnv
from rllib_ddn.envs.vector import BROKEN, SequentialEnvs, VectorTeamEnv, warn_of_long_episode
from rllib_ddn.learning.episodes import Episodes, empty_episodes, resize_steps
from rllib_ddn.random_streams import episode_stream, seed_of_run, seed_sequence
from rllib_ddn.rllib.policy import ValueDecompositionPolicy
from rllib_ddn.rllib.process import ignore_sigterm
from rllib_ddn.team import TeamEnvError

WON = "battle_won"  # the key of an episode's last info that reports whether the team has won (as in SMAC)


class TeamEnvRunner(RolloutWorker):
    """A ``RolloutWorker`` that samples in rounds: one whole episode in each of its sub-environments.

    All sub-environments' agents act in one call of the network. An env that can step a batch of episodes
    does so (see :class:`rllib_ddn.envs.vector.VectorTeamEnv`); any other is stepped in a loop.

    An episode depends on the config's seed, the runner's index, the episode's number, the
    weights and epsilon, and on nothing else: its env seed and its exploration are derived from
    these. Therefore a restored run continues exactly.

    RLlib's callbacks are called as its own sampler calls them, with an ``EpisodeV2``;
    ``on_episode_step`` only if there is one. ``on_sample_end`` gets the round's episode-major
    batch (see :mod:`rllib_ddn.learning.episodes`). Where an env steps a batch of episodes, the sub-environments
    of ``base_env``, which callbacks get, are not stepped.
    """

    def __init__(self, *, env_creator: Callable, config: Any = None, worker_index: int = 0, **kwargs: Any):
        ignore_sigterm()
        if worker_index > 0:
            torch.set_num_threads(max(1, int(config.num_cpus_per_env_runner)))
        super().__init__(
            env_creator=lambda context: as_team_env(env_creator(context), context).shown,
            config=config,
            worker_index=worker_index,
            **kwargs,
        )
        self._vector_env: VectorTeamEnv | None = None
        self._rounds_played = 0
        self._episode_metrics: list[RolloutMetrics] = []
        self._timeouts_terminate = self.config.env_config.get("timeouts") == "terminate"
        self._run_seed = seed_of_run(self.config.seed)
        overridden = type(self.callbacks).on_episode_step is not RLlibCallback.on_episode_step
        self._calls_on_episode_step = overridden or self.config.callbacks_on_episode_step is not None

    @property
    def policy(self) -> ValueDecompositionPolicy:
        return self.policy_map[DEFAULT_POLICY_ID]

    @property
    def vector_env(self) -> VectorTeamEnv:
        """All sub-environments as one batch, made when first needed."""
        if self._vector_env is None:
            envs = [self._team_env(env) for env in self.async_env.get_sub_environments()]
            # Rendered envs are stepped one by one.
            self._vector_env = envs[0].vectorize(len(envs)) if envs[0].render_mode is None else None
            if self._vector_env is None:
                self._vector_env = SequentialEnvs(
                    envs, self._replace_env if self.config.restart_failed_sub_environments else None
                )
        return self._vector_env

    def _replace_env(self, e: int) -> TeamEnv:
        """A new env in the place of env e."""
        self.async_env.try_restart(e)
        return self._team_env(self.async_env.get_sub_environments()[e])

    def _team_env(self, env: MultiAgentEnv) -> TeamEnv:
        return as_team_env(env, self.config.env_config)

    @override(RolloutWorker)
    def sample(
        self, *, round_number: int | None = None, timestep: int | None = None, seed: int | None = None, **kwargs: Any
    ) -> SampleBatch:
        """Plays one exploring episode in each sub-environment.

        Args:
            round_number: number of the sampling round, from which the episodes' seeds are derived; by default
                the rounds of this runner are counted.
            timestep: env steps sampled before this round, which epsilon and a mixture follow; by default those of
                the last weights.
            seed: of the run; by default the config's, or of this runner alone where that is None.

        Returns:
            Episode-major arrays, a row per episode (see :mod:`rllib_ddn.learning.episodes`).

        Raises:
            TeamEnvError: an observation or reward is not finite, or an agent has no action.
        """
        if round_number is None:
            round_number = self._rounds_played
        self._rounds_played = round_number + 1
        if timestep is not None:
            self.set_global_vars({"timestep": timestep})
        which = self._run_seed if seed is None else seed, self.worker_index, round_number
        seeds = [seed_sequence("training_episode", *which, e) for e in range(self.config.num_envs_per_env_runner)]
        network = self.policy.network_of_round(seed_sequence("behaviour_network", *which))
        episodes, metrics = self.play(seeds, network, self.config.explore, for_training=True)
        self._episode_metrics.extend(metrics)
        batch = SampleBatch(episodes)
        make_callback(
            "on_sample_end",
            self.callbacks,
            self.config.callbacks_on_sample_end,
            kwargs={"worker": self, "samples": batch},
        )
        return batch

    def play(
        self,
        seeds: Sequence[np.random.SeedSequence],
        network: str,
        explore: bool,
        for_training: bool = False,
        on_step: Callable[[], None] | None = None,
    ) -> tuple[Episodes, list[RolloutMetrics]]:
        """Plays one episode per seed, at most as many as there are sub-environments.

        Args:
            seeds: of the episodes; see :mod:`rllib_ddn.random_streams`.
            network: the network that acts, of the config's ``networks``.
            explore: whether to act epsilon-greedily.
            for_training: whether the network acts with its online weights, and not with their averages, and the
                episodes are postprocessed.
            on_step: called after the reset and after each step, for rendering.

        Returns:
            The episodes (see :mod:`rllib_ddn.learning.episodes`) and RLlib's metrics of them, without those in which
            the env failed. The metrics' returns are the env's, without training's postprocessing.
        """
        envs, policy, spec = self.vector_env, self.policy, self.vector_env.spec
        count = len(seeds)
        rngs, env_seeds = zip(*map(episode_stream, seeds), strict=True)
        trackers = [self._start_episode(e, int(rng.integers(2**62))) for e, rng in enumerate(rngs)]
        envs.reset(np.array(env_seeds))
        room = envs.episode_limit or 64
        episodes = empty_episodes(count, room, spec)
        recurrent_state = policy.initial_recurrent_state(count)
        live, step, steps_played = np.arange(count), 0, 0
        runners = max(1, self.num_workers)  # epsilon assumes that all runners step at the same rate
        exploration = _Exploration(rngs, spec.num_agents) if explore else None
        self._record(episodes, envs, live, 0)
        for e, tracker in enumerate(trackers):
            self._callback("on_episode_start", tracker, e)
        if on_step:
            on_step()

        while live.size:
            epsilon, uniform = 0.0, None
            if exploration is not None:
                epsilon = policy.epsilon(policy.global_timestep + runners * steps_played)
                uniform = exploration.uniform(step, live)
            obs, state, mask = envs.obs, envs.state, envs.action_mask
            if live.size < len(obs):
                obs, state, mask = obs[live], state[live], mask[live]
            actions, recurrent_state, _ = policy.act(
                network, obs, state, mask, recurrent_state, epsilon, uniform, online=for_training
            )
            rewards, terminated, truncated = envs.step(actions, live)
            if not np.isfinite(rewards).all():
                raise TeamEnvError(
                    f"the env gave the reward {rewards[~np.isfinite(rewards)][0]}; rewards must be finite numbers."
                )
            if step == room:
                room *= 2
                episodes = resize_steps(episodes, room)
            episodes["actions"][live, step] = actions
            episodes["rewards"][live, step] = rewards
            step += 1
            steps_played += len(live)
            self._record(episodes, envs, live, step)
            warn_of_long_episode(getattr(self.config.env, "__name__", self.config.env), step)
            if self._calls_on_episode_step:
                for e, reward in zip(live.tolist(), rewards.tolist(), strict=True):
                    self._report_step(trackers[e], e, reward)
            if on_step:
                on_step()
            done = terminated | truncated
            if done.any():
                ended = live[done]
                episodes["terminated"][ended] = terminated[done] | self._timeouts_terminate
                episodes["length"][ended] = step
                hidden, last_action = recurrent_state
                recurrent_state = hidden[~done], last_action[~done]
                live = live[~done]
        episodes = resize_steps(episodes, step)
        whole = [e for e in range(count) if not envs.info(e).get(BROKEN)]
        if len(whole) < count:  # the env failed in the others
            episodes = {name: array[whole] for name, array in episodes.items()}
        metrics = [self._end_episode(episodes, row, trackers[e], e, for_training) for row, e in enumerate(whole)]
        return episodes, metrics

    @override(RolloutWorker)
    def stop(self) -> None:
        """Closes the envs, those that are stepped at once included."""
        if self._vector_env is not None:
            self._vector_env.close()
        super().stop()

    @override(RolloutWorker)
    def get_metrics(self) -> list[RolloutMetrics]:
        """Metrics of the episodes since the last call, those of :meth:`add_metrics` included."""
        metrics, self._episode_metrics = self._episode_metrics, []
        return metrics

    def add_metrics(self, metrics: list[RolloutMetrics]) -> None:
        """Adds metrics of other env runners, for the next call of :meth:`get_metrics`."""
        self._episode_metrics += metrics

    @override(RolloutWorker)
    def get_weights(self, policies: Any = None, inference_only: bool = False) -> dict[str, Any]:
        """All weights; with ``inference_only`` those that acting needs, which the learner broadcasts."""
        if inference_only:
            return {DEFAULT_POLICY_ID: self.policy.get_acting_weights()}
        return super().get_weights(policies, inference_only)

    @cached_property
    def _team(self) -> Any:
        return self._team_env(self.env).team

    def _record(self, episodes: Episodes, envs: VectorTeamEnv, live: np.ndarray, step: int) -> None:
        """Checks the current observations, and writes them into the episodes."""
        obs, state, mask = envs.obs[live], envs.state[live], envs.action_mask[live]
        check_values(obs, state, mask, f" at step {step}")
        episodes["obs"][live, step] = obs
        episodes["state"][live, step] = state
        episodes["action_mask"][live, step] = mask

    def _start_episode(self, env_index: int, episode_id: int) -> EpisodeV2:
        episode = EpisodeV2(env_index, self.policy_map, self.policy_mapping_fn, worker=self, callbacks=self.callbacks)
        episode.episode_id = episode_id
        self._callback("on_episode_created", episode, env_index)
        return episode

    def _report_step(self, episode: EpisodeV2, env_index: int, reward: float) -> None:
        episode.step()
        episode.total_reward += reward
        episode.set_last_info(self._team, self.vector_env.info(env_index))
        self._callback("on_episode_step", episode, env_index)

    def _callback(self, name: str, episode: EpisodeV2, env_index: int) -> None:
        arguments = {"worker": self, "base_env": self.async_env, "policies": self.policy_map}
        arguments |= {"episode": episode, "env_index": env_index}
        make_callback(name, self.callbacks, getattr(self.config, f"callbacks_{name}"), kwargs=arguments)

    def _end_episode(
        self, episodes: Episodes, row: int, episode: EpisodeV2, e: int, for_training: bool
    ) -> RolloutMetrics:
        """Callbacks, postprocessing and metrics of env e's episode, which lies in the given row."""
        length = int(episodes["length"][row])
        info = self.vector_env.info(e)
        episode.total_env_steps, episode.total_agent_steps = length, length * self.vector_env.spec.num_agents
        episode.total_reward = float(episodes["rewards"][row, :length].sum())
        episode.agent_rewards[(self._team, DEFAULT_POLICY_ID)] = episode.total_reward
        episode.set_last_info(self._team, info)
        if WON in info:
            episode.custom_metrics[WON] = float(info[WON])
        if for_training:
            self._postprocess(episodes, episode, row, length)
        self._callback("on_episode_end", episode, e)
        return RolloutMetrics(
            length,
            episode.total_reward,
            dict(episode.agent_rewards),
            episode.custom_metrics,
            {},
            episode.hist_data,
            episode.media,
        )

    def _postprocess(self, episodes: Episodes, episode: EpisodeV2, e: int, length: int) -> None:
        """RLlib's postprocessing hooks on one episode, as T rows that are views of the arrays."""
        ends = np.zeros((2, length), bool)
        ends[0 if episodes["terminated"][e] else 1, -1] = True
        row = {name: episodes[name][e] for name in ("obs", "state", "action_mask", "actions", "rewards")}
        trajectory = SampleBatch(
            {
                **{name: array[:length] for name, array in row.items()},
                **{f"new_{name}": row[name][1 : length + 1] for name in ("obs", "state", "action_mask")},
                SampleBatch.TERMINATEDS: ends[0],
                SampleBatch.TRUNCATEDS: ends[1],
                SampleBatch.T: np.arange(length),
                SampleBatch.EPS_ID: np.full(length, episode.episode_id),
            }
        )
        processed = self.policy.postprocess_trajectory(trajectory, {}, episode)
        self.callbacks.on_postprocess_trajectory(
            worker=self,
            episode=episode,
            agent_id=self._team,
            policy_id=DEFAULT_POLICY_ID,
            policies=self.policy_map,
            postprocessed_batch=processed,
            original_batches={self._team: (DEFAULT_POLICY_ID, self.policy, trajectory)},
        )
        episodes["rewards"][e, :length] = processed[SampleBatch.REWARDS]


class _Exploration:
    """The random numbers of exploration, from each episode's own generator, drawn some steps ahead."""

    BLOCK = 64  # steps

    def __init__(self, rngs: Sequence[np.random.Generator], num_agents: int):
        self._rngs, self._shape = rngs, (self.BLOCK, num_agents, 2)
        self._ahead = np.zeros(0)

    def uniform(self, step: int, live: np.ndarray) -> np.ndarray:
        """Numbers in [0, 1) for a step of some episodes, ``[len(live), N, 2]``; called for one step after the other."""
        if step % self.BLOCK == 0:
            self._ahead = np.stack([rng.random(self._shape) for rng in self._rngs])  # [E, block, N, 2]
        return self._ahead[live, step % self.BLOCK]
