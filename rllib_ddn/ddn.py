"""DDN, the Double Distillation Network, as an RLlib algorithm."""

from __future__ import annotations

import ctypes
import difflib
import inspect
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.env.env_context import EnvContext
from ray.rllib.evaluation.metrics import summarize_episodes
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

from rllib_ddn.ddn_env_runner import DDNEnvRunner
from rllib_ddn.ddn_torch_model import AGENT, MIXTURE, NETWORKS
from rllib_ddn.ddn_torch_policy import LEARNER_STATS, DDNTorchPolicy
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.evaluation import compare, evaluate_network
from rllib_ddn.losses import Q_LOSSES
from rllib_ddn.networks import MIXERS, STATE_FUSIONS, Mixer, TeamSizes
from rllib_ddn.replay import EpisodeReplay
from rllib_ddn.team import TeamEnvError

NUM_EPISODES_SAMPLED = "num_episodes_sampled"
NUM_EPISODES_LOST = "num_episodes_lost"  # with env runners that died while they played them
NUM_EPISODES_BROKEN = "num_episodes_broken"  # in which the game failed
NUM_ROUNDS = "num_sampling_rounds"
STAGES = ("replay", "trajectory")


class DDNConfig(AlgorithmConfig):
    """Configures :class:`DDN`. The defaults are the paper's (section B.3), or PyMARL's where it is silent.

    .. code-block:: python

        import rllib_ddn
        from rllib_ddn import DDNConfig

        config = (
            DDNConfig()
            .environment("predator_prey", env_config={"penalty": 0.0})
            .training(mixer="qmix", mask_probability=0.75)
        )
        algo = config.build_algo()
        print(algo.train())

    RLlib's own keys that matter most, with DDN's meaning and default:

    ===================================  =========  ==================================================
    key                                  default    meaning
    ===================================  =========  ==================================================
    ``lr``                               5e-4       leader and mixer (RMSprop, alpha 0.99, eps 1e-5)
    ``gamma``                            0.99       discount
    ``grad_clip``                        10         largest gradient norm of each optimizer; None: off
    ``train_batch_size``                 32         *episodes* per update
    ``replay_buffer_config["capacity"]`` 5000       *episodes* kept
    ``exploration_config``               1 to 0.05  EpsilonGreedy over ``epsilon_timesteps`` = 50,000
                                                    env steps, each agent by itself
    ``min_sample_timesteps_per_...``     10,000     env steps per iteration, ``..._per_iteration``
    ``evaluation_interval``              1          iterations between evaluations
    ``evaluation_duration``              32         greedy episodes of each network
    ``num_envs_per_env_runner``          1          an env runner plays one episode in each per round
    ``num_cpus_for_main_process``        1          cores of the learner: with two or more, leader and
                                                    follower learn side by side
    ===================================  =========  ==================================================
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or DDN)

        # DDN's own keys; training() explains them.
        self.mixer: str | type[Mixer] = "qmix"
        self.mixer_config: dict[str, Any] = {}
        self.state_fusion = "personalized"
        self.fusion_embed_dim = 32
        self.fusion_hyper_dim = 16
        self.agent_hidden_dim = 64
        self.block_loss_coeff = 1.0
        self.q_loss_coeff = 1.0
        self.feature_loss_coeff = 1.0
        self.distillation_temperature = 1.0
        self.intrinsic_reward = True
        self.mask_probability = 0.75
        self.intrinsic_reward_coeff = 1.0
        self.normalize_intrinsic_reward = False
        self.intrinsic_reward_stage = "replay"
        self.q_loss = "kl"
        self.follower_agent = "own"
        self.leader_timesteps: int | None = None
        self.distillation = True  # False in the hosts alone (see rllib_ddn.variants)
        self.behaviour_network = "follower"
        self.mixture_timesteps = 50_000
        self.double_q = True
        self.lpn_lr: float | None = None
        self.idm_lr: float | None = None
        self.target_update_interval_episodes = 200
        self.updates_per_episode: float = 1.0
        self.sample_ahead = False
        self.replay_buffer_config: dict[str, Any] = {"capacity": 5000}
        self.store_buffer_in_checkpoints = False

        # RLlib's keys with DDN's defaults.
        self.enable_rl_module_and_learner = False
        self.enable_env_runner_and_connector_v2 = False
        self.framework_str = "torch"
        self.env_runner_cls = DDNEnvRunner
        self.batch_mode = "complete_episodes"
        self._disable_preprocessor_api = True  # observations stay in the env's dtype
        self.lr = 5e-4
        self.gamma = 0.99
        self.grad_clip = 10.0
        self.train_batch_size = 32
        self.num_env_runners = 0
        # How long a round waits for an env runner that is gone to answer again.
        self.env_runner_health_probe_timeout_s = 1.0
        self.exploration_config = {
            "type": "EpsilonGreedy",
            "initial_epsilon": 1.0,
            "final_epsilon": 0.05,
            "epsilon_timesteps": 50_000,
        }
        self.min_sample_timesteps_per_iteration = 10_000
        self.evaluation_interval = 1
        self.evaluation_duration = 32
        self.evaluation_config = {"explore": False}

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that can act."""
        return NETWORKS if self.distillation else (AGENT,)

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        mixer: str | type[Mixer] = NotProvided,
        mixer_config: dict[str, Any] = NotProvided,
        state_fusion: str = NotProvided,
        fusion_embed_dim: int = NotProvided,
        fusion_hyper_dim: int = NotProvided,
        agent_hidden_dim: int = NotProvided,
        block_loss_coeff: float = NotProvided,
        q_loss_coeff: float = NotProvided,
        feature_loss_coeff: float = NotProvided,
        q_loss: str = NotProvided,
        distillation_temperature: float = NotProvided,
        follower_agent: str = NotProvided,
        leader_timesteps: int | None = NotProvided,
        intrinsic_reward: bool = NotProvided,
        mask_probability: float = NotProvided,
        intrinsic_reward_coeff: float = NotProvided,
        normalize_intrinsic_reward: bool = NotProvided,
        intrinsic_reward_stage: str = NotProvided,
        behaviour_network: str = NotProvided,
        mixture_timesteps: int = NotProvided,
        double_q: bool = NotProvided,
        lpn_lr: float | None = NotProvided,
        idm_lr: float | None = NotProvided,
        target_update_interval_episodes: int = NotProvided,
        updates_per_episode: float = NotProvided,
        sample_ahead: bool = NotProvided,
        replay_buffer_config: dict[str, Any] = NotProvided,
        store_buffer_in_checkpoints: bool = NotProvided,
        **kwargs: Any,
    ) -> DDNConfig:
        """Sets the training related configuration.

        Args:
            mixer: the host: how the agents' Q values make Q_tot (section 3.2). "vdn", "qmix", "qatten",
                "qplex", "cwqmix", "owqmix", or a class of your own (see
                :class:`rllib_ddn.networks.Mixer`).
            mixer_config: options of the mixer; its class in :mod:`rllib_ddn.networks.mixers` explains them.
            state_fusion: "personalized" (the paper's two blocks, section 4.2); "raw": the leader gets the
                state as it is (Table 3); or "concatenated": the agent networks see ``z_i`` beside the
                blocks' output.
            fusion_embed_dim: D, size of S_hat and o_hat.
            fusion_hyper_dim: K, hidden size of the hypernetworks that generate W and B.
            agent_hidden_dim: H, size of the agent networks' features and GRU.
            block_loss_coeff: weight of L_B (Equation 6), 0 or more; 0 switches it off (Table 4).
            q_loss_coeff: weight of L_Q, likewise.
            feature_loss_coeff: weight of L_F, likewise.
            q_loss: what L_Q is: "kl" (Equation 6), "squared" (difference of the Q values) or "imitation"
                (cross-entropy of the leader's greedy action).
            distillation_temperature: tau in softmax(Q / tau) of L_Q, above 0.
            follower_agent: "own", or "leader": the follower acts through the leader's agent network and
                learns its fusion block only, from L_B.
            leader_timesteps: env steps of a first stage, in which the leader learns alone; in the second
                it is fixed, and the follower learns from it. None: both learn throughout.
            intrinsic_reward: whether there is an IDM (section 4.3; Table 5).
            mask_probability: mu, probability in [0, 1] with which a step gets its intrinsic reward.
            intrinsic_reward_coeff: scale of the intrinsic reward, 0 or more.
            normalize_intrinsic_reward: divide it by a running standard deviation of L_I, as RND does.
            intrinsic_reward_stage: "replay" adds it to each sampled batch, from the current predictor;
                "trajectory" adds it once, on the env runner, in ``postprocess_trajectory``.
            behaviour_network: who acts in training: "follower", "leader", or "mixture", DAgger's: each round
                it is the leader with a probability that falls from 1 to 0.
            mixture_timesteps: env steps over which it falls, linearly.
            double_q: the online leader chooses the target's actions; else the target leader does.
            lpn_lr: the follower's learning rate (Adam); None: ``lr``.
            idm_lr: the IDM predictor's learning rate (Adam); None: ``lr``.
            target_update_interval_episodes: sampled episodes between hard copies to the targets.
            updates_per_episode: updates per sampled episode, above 0; 0.25 is one in four.
            sample_ahead: remote env runners play the next round while the learner learns from the last
                one, with weights that are one round older. Runs are then not exactly reproducible.
            replay_buffer_config: ``{"capacity": episodes}``.
            store_buffer_in_checkpoints: whether checkpoints hold the replay. With it, a restored run
                continues exactly (``num_env_runners=0`` and a ``seed``); without it, learning waits until
                ``train_batch_size`` new episodes are there.
            kwargs: RLlib's own arguments of ``AlgorithmConfig.training()``.

        Returns:
            This config.

        Raises:
            ValueError: an argument is unknown; the message suggests the nearest name.
        """
        known = [*inspect.signature(DDNConfig.training).parameters, *inspect.signature(AlgorithmConfig.training).parameters]
        for key in kwargs:
            if key not in known:
                raise ValueError(_unknown_key(key, [name for name in known if name not in ("self", "kwargs")]))
        own = {key: value for key, value in locals().items() if key in inspect.signature(DDNConfig.training).parameters}
        for key in ("self", "kwargs"):
            own.pop(key)
        super().training(**kwargs)
        for key, value in own.items():
            if value is not NotProvided:
                if key == "replay_buffer_config":
                    value = {**self.replay_buffer_config, **value}
                setattr(self, key, value)
        return self

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> DDNConfig:
        """As in RLlib, but a key that no config has is refused.

        Raises:
            ValueError: unknown key; the message suggests the nearest name.
        """
        # Tune and RLlib put notes of their own into dicts.
        config_dict = {k: v for k, v in config_dict.items() if not k.startswith("__") and k != "class"}
        for key in config_dict:
            translated = self._translate_special_keys(key, warn_deprecated=False)
            if not hasattr(self, translated) and key not in _DICT_KEYS:
                raise ValueError(_unknown_key(key, [name for name in vars(self) if not name.startswith("_")]))
        return super().update_from_dict(config_dict)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks all values.

        Raises:
            ValueError: a value is not accepted; the message names its key, what was given, and what
                is accepted.
        """
        super().validate()
        _one_of("state_fusion", self.state_fusion, STATE_FUSIONS)
        _one_of("intrinsic_reward_stage", self.intrinsic_reward_stage, STAGES)
        _one_of("behaviour_network", self.behaviour_network, (*self.networks, *[MIXTURE] * self.distillation))
        _one_of("q_loss", self.q_loss, tuple(Q_LOSSES))
        _one_of("follower_agent", self.follower_agent, ("own", "leader"))
        if self.follower_agent == "leader" and (self.q_loss_coeff or self.feature_loss_coeff):
            raise ValueError(
                'follower_agent="leader" leaves the follower its fusion block, which learns from L_B: '
                "set q_loss_coeff and feature_loss_coeff to 0."
            )
        if self.leader_timesteps is not None and not self.distillation:
            raise ValueError("leader_timesteps is for algorithms with a follower; leave it None.")
        if self.intrinsic_reward_stage == "trajectory" and not self.intrinsic_reward:
            raise ValueError('intrinsic_reward_stage="trajectory" needs intrinsic_reward=True.')
        for key in (
            "distillation",
            "intrinsic_reward",
            "normalize_intrinsic_reward",
            "double_q",
            "sample_ahead",
            "store_buffer_in_checkpoints",
        ):
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"{key} is True or False; got {getattr(self, key)!r}.")
        for key in (
            "fusion_embed_dim",
            "fusion_hyper_dim",
            "agent_hidden_dim",
            "target_update_interval_episodes",
            "train_batch_size",
            "mixture_timesteps",
            *["leader_timesteps"] * (self.leader_timesteps is not None),
        ):
            _number(key, getattr(self, key), "a whole number above 0", lambda x: x == int(x) and x > 0)
        for key in ("block_loss_coeff", "q_loss_coeff", "feature_loss_coeff", "intrinsic_reward_coeff"):
            _number(key, getattr(self, key), "a number of at least 0", lambda x: x >= 0)
        for key in ("distillation_temperature", "updates_per_episode", "lr"):
            _number(key, getattr(self, key), "a number above 0", lambda x: x > 0)
        for key in ("lpn_lr", "idm_lr", "grad_clip"):
            if getattr(self, key) is not None:
                _number(key, getattr(self, key), "a number above 0, or None", lambda x: x > 0)
        _number("mask_probability", self.mask_probability, "a probability in [0, 1]", lambda x: 0 <= x <= 1)
        _number("gamma", self.gamma, "a number in [0, 1]", lambda x: 0 <= x <= 1)
        self._validate_mixer()
        self._validate_replay()
        kind = self.exploration_config.get("type", "EpsilonGreedy")
        if "EpsilonGreedy" not in (kind if isinstance(kind, str) else getattr(kind, "__name__", "")):
            raise ValueError(f'exploration_config["type"] is "EpsilonGreedy", DDN explores epsilon-greedily; got {kind!r}.')
        if self.enable_rl_module_and_learner or self.enable_env_runner_and_connector_v2:
            raise ValueError(
                "DDN runs on RLlib's Policy API: leave enable_rl_module_and_learner and enable_env_runner_and_connector_v2 False."
            )
        if self.framework_str != "torch":
            raise ValueError(f'framework is "torch"; got {self.framework_str!r}.')
        if not issubclass(self.env_runner_cls, DDNEnvRunner):
            raise ValueError(f"env_runner_cls is DDNEnvRunner or a subclass of it; got {self.env_runner_cls!r}.")
        if self.batch_mode != "complete_episodes":
            raise ValueError(f'batch_mode is "complete_episodes", DDN learns from whole episodes; got {self.batch_mode!r}.')
        if self.remote_worker_envs:
            raise ValueError("remote_worker_envs is False; use more env runners instead.")
        if list(self.policies) != [DEFAULT_POLICY_ID]:
            raise ValueError(
                f"DDN trains one team with one policy, {DEFAULT_POLICY_ID!r}; got the policies {sorted(self.policies)}."
            )
        if self.evaluation_duration_unit != "episodes" or not isinstance(self.evaluation_duration, int):
            raise ValueError(
                "evaluation_duration is a number of episodes of each network (evaluation_duration_unit='episodes'); "
                f"got {self.evaluation_duration!r} {self.evaluation_duration_unit}."
            )

    def check_env(self) -> None:
        """Builds the env once, here in this process, and checks it.

        Raises:
            TeamEnvError: the env breaks the convention (see :mod:`rllib_ddn.envs.grouping`).
        """
        if self.env is None:
            raise TeamEnvError('no env is set: DDNConfig().environment("predator_prey"), say.')
        _, creator = DDN._get_env_id_and_creator(self.env, self)
        context = EnvContext(self.env_config, worker_index=0)
        env = as_team_env(creator(context), context)
        if hasattr(env, "close"):
            env.close()

    def _validate_mixer(self) -> None:
        mixer = self.mixer
        if not (isinstance(mixer, type) and issubclass(mixer, Mixer)):
            hosts = [name for name in MIXERS if MIXERS[name].hosts_ddn or not self.distillation]
            _one_of("mixer", mixer, tuple(hosts))
            mixer = MIXERS[mixer]
        elif self.distillation and not mixer.hosts_ddn:
            raise ValueError(f"mixer {mixer.__name__} says that it cannot be DDN's host (hosts_ddn is False).")
        accepted = [*inspect.signature(mixer).parameters][1:]
        for key in self.mixer_config:
            if key not in accepted:
                options = ", ".join(accepted) or "no options"
                raise ValueError(f"mixer_config[{key!r}] is unknown: the mixer {self.mixer!r} has {options}.")
        mixer(TeamSizes(1, 1, 1, 1, 1), **self.mixer_config)  # checks the options' values

    def _validate_replay(self) -> None:
        for key in self.replay_buffer_config:
            if key != "capacity":
                raise ValueError(f"replay_buffer_config[{key!r}] is unknown: DDN's episode replay has one option, capacity.")
        EpisodeReplay(**self.replay_buffer_config)
        if self.replay_buffer_config["capacity"] < self.train_batch_size:
            raise ValueError(
                f"replay_buffer_config['capacity'] = {self.replay_buffer_config['capacity']} is less than train_batch_size = "
                f"{self.train_batch_size}: nothing could ever be learned."
            )


class DDN(Algorithm):
    """The Double Distillation Network on RLlib.

    :meth:`training_step` is Algorithm 1 of the paper.
    """

    config: DDNConfig
    local_replay_buffer: EpisodeReplay

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> DDNConfig:
        return DDNConfig()

    @classmethod
    @override(Algorithm)
    def get_default_policy_class(cls, config: AlgorithmConfig) -> type[DDNTorchPolicy]:
        return DDNTorchPolicy

    @override(Algorithm)
    def setup(self, config: DDNConfig) -> None:
        _keep_freed_memory()
        if isinstance(config, DDNConfig):
            config.check_env()
        super().setup(config)
        # On a CPU leader and follower learn side by side, each with half of the threads.
        threads, policy = math.ceil(self.config.num_cpus_for_main_process or 1), self.get_policy()
        overlap = threads > 1 and self.config.distillation and policy.device.type == "cpu"
        torch.set_num_threads(threads // 2 if overlap else threads)
        for model in policy.model_gpu_towers:
            model.overlap = overlap
        # With a seed, RLlib makes torch deterministic, and torch then fills all memory that it reserves.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        seed = self.config.seed
        self._rng = np.random.default_rng(seed)  # samples the replay and masks the intrinsic reward
        self._empty_rounds = 0
        self._playing_ahead = 0  # env runners that play the next round already
        self._evaluation_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

    @override(Algorithm)
    def _create_local_replay_buffer_if_necessary(self, config: Any) -> EpisodeReplay:
        return EpisodeReplay(**config["replay_buffer_config"])

    @override(Algorithm)
    def training_step(self) -> dict[str, Any]:
        """One round of Algorithm 1.

        - Each env runner plays one episode in each of its environments (lines 2 to 12).
        - With at least a batch of episodes in replay, ``updates_per_episode`` updates are made for
          each new episode, each on a fresh sample (lines 13 to 25).
        - The targets are copied every ``target_update_interval_episodes`` episodes (lines 26 to 28).
        - The env runners get the weights that acting needs.

        Returns:
            RLlib's learner results, averaged over the round's updates; NaN where there was none.
        """
        before = self._counters[NUM_EPISODES_SAMPLED]
        with self._timers[SAMPLE_TIMER]:
            for batch in self._play_round():
                self.local_replay_buffer.add(batch)
                self._counters[NUM_EPISODES_BROKEN] += self.config.num_envs_per_env_runner - len(batch["length"])
                self._counters[NUM_EPISODES_SAMPLED] += len(batch["length"])
                self._counters[NUM_ENV_STEPS_SAMPLED] += int(batch["length"].sum())
                self._counters[NUM_AGENT_STEPS_SAMPLED] += int(batch["length"].sum())
        after = self._counters[NUM_EPISODES_SAMPLED]

        updates = []
        if len(self.local_replay_buffer) >= self.config.train_batch_size:
            rate = self.config.updates_per_episode
            for _ in range(math.floor(after * rate) - math.floor(before * rate)):
                updates.append(self._update())

        interval = self.config.target_update_interval_episodes
        if after // interval > before // interval:
            self.get_policy().update_target()
            self._counters[NUM_TARGET_UPDATES] += 1

        with self._timers[SYNCH_WORKER_WEIGHTS_TIMER]:
            self.env_runner_group.sync_weights(global_vars={"timestep": self._counters[NUM_ENV_STEPS_SAMPLED]}, inference_only=True)
        return {DEFAULT_POLICY_ID: {LEARNER_STATS_KEY: _mean_stats(updates)}}

    def _play_round(self) -> list[SampleBatch]:
        """Episodes from all healthy env runners.

        Raises:
            TeamEnvError: an env gave NaN or an empty action mask. (An env runner that fails in
                another way is RLlib's to ignore or to restart.)
            RuntimeError: all env runners are gone, for
                ``num_consecutive_env_runner_failures_tolerance`` rounds.
        """
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            asked, results = 1, group.foreach_env_runner(self._episodes_of_a_round())
        elif self.config.sample_ahead:
            asked = self._playing_ahead or group.foreach_env_runner_async(self._episodes_of_a_round())
            results = [result for _, result in group.fetch_ready_async_reqs(timeout_seconds=None)]
            self._playing_ahead = group.foreach_env_runner_async(self._episodes_of_a_round())
        else:
            asked = group.num_healthy_remote_workers()
            results = group.foreach_env_runner(self._episodes_of_a_round(), local_env_runner=False)
        self._counters[NUM_EPISODES_LOST] += (asked - len(results)) * self.config.num_envs_per_env_runner
        for result in results:
            if isinstance(result, TeamEnvError):
                raise result
        self._empty_rounds = 0 if results else self._empty_rounds + 1
        if self._empty_rounds > self.config.num_consecutive_env_runner_failures_tolerance:
            raise RuntimeError(f"no env runner has played for {self._empty_rounds} rounds; their logs tell why they failed.")
        return results

    def _episodes_of_a_round(self) -> Callable[[DDNEnvRunner], SampleBatch | TeamEnvError]:
        """What env runners are asked for; errors in the env's data come back as values."""
        number = self._counters[NUM_ROUNDS]
        self._counters[NUM_ROUNDS] += 1

        def play(runner: DDNEnvRunner) -> SampleBatch | TeamEnvError:
            try:
                return runner.sample(round_number=number)
            except TeamEnvError as error:
                return error

        return play

    def _update(self) -> dict[str, Any]:
        """One update on a fresh sample; returns its statistics."""
        config, policy = self.config, self.get_policy()
        if config.leader_timesteps is not None:
            first_stage = self._counters[NUM_ENV_STEPS_SAMPLED] <= config.leader_timesteps
            for model in policy.model_gpu_towers:
                model.leader_learns, model.follower_learns = first_stage, not first_stage
        episodes = self.local_replay_buffer.sample(config.train_batch_size, self._rng)
        episodes["keep"] = self._rng.random(episodes["rewards"].shape) < config.mask_probability  # m ~ Bernoulli(mu)
        steps = int(episodes["length"].sum())
        trained = self._counters[NUM_ENV_STEPS_TRAINED], self._counters[NUM_AGENT_STEPS_TRAINED]
        train = train_one_step if math.ceil(config.num_gpus) <= 1 and not config._fake_gpus else multi_gpu_train_one_step
        results = train(self, SampleBatch(episodes, _zero_padded=True))
        # RLlib has counted the batch's rows, which are episodes.
        self._counters[NUM_ENV_STEPS_TRAINED] = trained[0] + steps
        self._counters[NUM_AGENT_STEPS_TRAINED] = trained[1] + steps
        return results[DEFAULT_POLICY_ID][LEARNER_STATS_KEY]

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """RLlib's iteration. If an env gives unusable data, what is trained is saved first.

        Raises:
            TeamEnvError: see :meth:`_play_round`; the message names the checkpoint.
        """
        try:
            results = super().step()
        except TeamEnvError as error:
            directory = os.path.join(self.logdir, "checkpoint_before_error")
            os.makedirs(directory, exist_ok=True)
            self.save_checkpoint(directory)
            raise TeamEnvError(f"{error} All that was trained before is saved in {directory}.") from error
        if self.config.evaluation_interval and "evaluation" not in results:
            # The same keys in every result: loggers fix their columns at the first.
            results["evaluation"] = compare(dict.fromkeys(self.config.networks))
        return results

    @override(Algorithm)
    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Plays ``evaluation_duration`` greedy episodes of each network, both on the same seeds.

        Returns:
            ``leader`` and ``follower`` with ``episode_return_mean``, ``win_rate`` where the env knows it,
            and more; ``knowledge_transfer``; and under ``env_runners`` RLlib's own summary of the
            behaviour network's episodes.
        """
        self._before_evaluate()
        runners = self.eval_env_runner_group or self.env_runner_group
        if runners is self.eval_env_runner_group:
            runners.sync_weights(
                from_worker_or_learner_group=self.env_runner_group.local_env_runner,
                global_vars={"timestep": self._counters[NUM_ENV_STEPS_SAMPLED]},
            )
        self.callbacks.on_evaluate_start(algorithm=self, metrics_logger=self.metrics)
        config = self.evaluation_config
        seeds = [[self._evaluation_seed, self.iteration, k] for k in range(config.evaluation_duration)]
        played = {network: evaluate_network(runners, network, seeds, bool(config.explore)) for network in config.networks}
        results = compare(played)
        results["env_runners"] = summarize_episodes(played[self.get_policy().model.behaviour_network])
        steps = sum(episode.episode_length for episodes in played.values() for episode in episodes)
        results["timesteps_this_iter"] = self._counters[NUM_ENV_STEPS_SAMPLED_FOR_EVALUATION_THIS_ITER] = steps
        self.callbacks.on_evaluate_end(algorithm=self, metrics_logger=self.metrics, evaluation_metrics=results)
        return results

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rng": self._rng.bit_generator.state, "evaluation_seed": self._evaluation_seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rng.bit_generator.state = state["rng"]
        self._evaluation_seed = state["evaluation_seed"]


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next update. By default it gives large blocks back to the
    system at the end of each, and gets them again page by page in the next: a sixth of its time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # as in malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**27)
        mallopt(mmap_max, 0)


# Keys that RLlib takes in config dicts although no attribute has their name.
_DICT_KEYS = ("multiagent", "_enable_new_api_stack", "_is_frozen")


def _unknown_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"unknown config key {key!r}" + (
        f"; did you mean {near[0]!r}?" if near else "; see the docstring of DDNConfig.training()."
    )


def _one_of(key: str, value: Any, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        near = difflib.get_close_matches(str(value), accepted, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{key} is one of {', '.join(map(repr, accepted))}; got {value!r}.{hint}")


def _number(key: str, value: Any, accepted: str, check: Callable[[Any], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not check(value):
        raise ValueError(f"{key} is {accepted}; got {value!r}.")


def _mean_stats(updates: list[dict[str, Any]]) -> dict[str, float]:
    """Means over a round's updates, brought to the host at once; NaN where there is no figure."""
    stats = dict.fromkeys(LEARNER_STATS, float("nan"))
    for name in LEARNER_STATS:
        values = [update[name] for update in updates if name in update]
        if values:
            stats[name] = float(torch.stack([torch.as_tensor(value) for value in values]).mean())
    return stats
