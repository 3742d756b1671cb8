"""DDN, the Double Distillation Network: a base algorithm with a leader, a follower, and an intrinsic reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Never, Self

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override
from ray.rllib.utils.from_config import NotProvided

from rllib_ddn.learning import FOLLOWER, LEADER
from rllib_ddn.learning.distillation import DistillationTerm
from rllib_ddn.learning.intrinsic import IntrinsicReward
from rllib_ddn.learning.targets import Targets
from rllib_ddn.networks import LEADERS, MIXERS, Follower, Leader, Mixer, TeamSizes
from rllib_ddn.rllib.components import check_component, check_options, class_of, intrinsic_reward_class
from rllib_ddn.rllib.config import LearningRate, Optimizer, ValueDecompositionConfig, configured_by
from rllib_ddn.rllib.ddn_policy import DDNTorchPolicy
from rllib_ddn.rllib.value_decomposition import ValueDecomposition

# What an intrinsic reward gets from other keys than intrinsic_reward_config.
_SHARED_OPTIONS = ("coefficient", "mask_probability", "normalize", "gamma")


class DDNConfig(ValueDecompositionConfig):
    """Configures :class:`DDN`: all keys of :class:`ValueDecompositionConfig`, and those of the leader, the
    follower and the intrinsic reward.

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

    With two cores or more for the learner (``num_cpus_for_main_process``), leader and follower learn concurrently.
    """

    state_fusion: str | type[Leader] = "personalized"
    fusion_embed_dim: int = 64
    fusion_hyper_dim: int = 4
    block_loss_coeff: float = 1.0
    q_loss_coeff: float = 1.0
    feature_loss_coeff: float = 1.0
    q_loss: str | type[DistillationTerm] = "kl"
    distillation_terms: Mapping[str, tuple[str | type[DistillationTerm], float]] = {}
    distillation_temperature: float = 1.0
    follower_agent: Literal["own", "leader"] = "own"
    follower_update_interval: int = 1
    leader_timesteps: int | None = None
    follower_lr: LearningRate | None = None
    follower_optimizer: Optimizer = "adam"
    intrinsic_reward: bool | str | type[IntrinsicReward] = True
    intrinsic_reward_config: dict[str, Any] = {}
    mask_probability: float = 0.75
    intrinsic_reward_coeff: float = 1.0
    normalize_intrinsic_reward: bool = False
    intrinsic_reward_stage: Literal["replay", "trajectory"] = "replay"
    intrinsic_lr: LearningRate | None = None
    intrinsic_optimizer: Optimizer = "adam"
    behaviour_network: Literal["leader", "follower", "mixture"] = "leader"
    mixture_timesteps: int = 50_000

    def training(
        self,
        *,
        state_fusion: str | type[Leader] = NotProvided,
        fusion_embed_dim: int = NotProvided,
        fusion_hyper_dim: int = NotProvided,
        block_loss_coeff: float = NotProvided,
        q_loss_coeff: float = NotProvided,
        feature_loss_coeff: float = NotProvided,
        q_loss: str | type[DistillationTerm] = NotProvided,
        distillation_terms: Mapping[str, tuple[str | type[DistillationTerm], float]] = NotProvided,
        distillation_temperature: float = NotProvided,
        follower_agent: Literal["own", "leader"] = NotProvided,
        follower_update_interval: int = NotProvided,
        leader_timesteps: int | None = NotProvided,
        follower_lr: LearningRate | None = NotProvided,
        follower_optimizer: Optimizer = NotProvided,
        intrinsic_reward: bool | str | type[IntrinsicReward] = NotProvided,
        intrinsic_reward_config: dict[str, Any] = NotProvided,
        mask_probability: float = NotProvided,
        intrinsic_reward_coeff: float = NotProvided,
        normalize_intrinsic_reward: bool = NotProvided,
        intrinsic_reward_stage: Literal["replay", "trajectory"] = NotProvided,
        intrinsic_lr: LearningRate | None = NotProvided,
        intrinsic_optimizer: Optimizer = NotProvided,
        behaviour_network: Literal["leader", "follower", "mixture"] = NotProvided,
        mixture_timesteps: int = NotProvided,
        mixer: str | type[Mixer] = NotProvided,
        mixer_config: dict[str, Any] = NotProvided,
        agent_hidden_dim: int = NotProvided,
        lr: LearningRate = NotProvided,
        optimizer: Optimizer = NotProvided,
        grad_clip: float | None = NotProvided,
        gamma: float = NotProvided,
        td_lambda: float = NotProvided,
        targets: str | Targets | None = NotProvided,
        double_q: bool = NotProvided,
        target_update_interval_episodes: int = NotProvided,
        target_update_interval_updates: int | None = NotProvided,
        tau: float = NotProvided,
        weight_averaging: float | None = NotProvided,
        train_batch_size: int = NotProvided,
        updates_per_episode: float = NotProvided,
        replay_buffer_config: dict[str, Any] = NotProvided,
        store_buffer_in_checkpoints: bool = NotProvided,
        sample_ahead: bool = NotProvided,
        video_interval: int | None = NotProvided,
        **others: Never,
    ) -> Self:
        """Sets the training related configuration.

        Args:
            state_fusion: What the leader makes of the state: "personalized" (the paper's two blocks, section 4.2),
                "raw" (the state as it is; Table 3), "concatenated" (the agent networks see ``z_i`` beside the blocks'
                output), a subclass of :class:`rllib_ddn.Leader`, which names its follower, or its ``module:name``.
                Default: 'personalized'.
            fusion_embed_dim: D, size of S_hat and o_hat, 1 to 8,192. Default: 64.
            fusion_hyper_dim: K, hidden size of the hypernetwork that generates W, 1 to 8,192. Default: 4.
            block_loss_coeff: Weight of L_B (Equation 6), 0 to 1,000,000; 0 switches it off (Table 4). Default: 1.0.
            q_loss_coeff: Weight of L_Q (Equation 6), likewise. Default: 1.0.
            feature_loss_coeff: Weight of L_F (Equation 6), likewise. Default: 1.0.
            q_loss: What L_Q is: "kl" (Equation 6), "squared" (difference of the Q values), "imitation" (cross-entropy
                of the leader's greedy action), a subclass of :class:`rllib_ddn.DistillationTerm`, or its
                ``module:name``. Default: 'kl'.
            distillation_terms: More terms of L_local (Equation 7), ``{name: (term, coefficient)}``, each a name of
                :mod:`rllib_ddn.learning.distillation`, a subclass of :class:`rllib_ddn.DistillationTerm`, or its
                ``module:name``; logged as ``loss_<name>``. Default: {}.
            distillation_temperature: tau in softmax(Q / tau) of L_Q, positive. Default: 1.0.
            follower_agent: "own", or "leader": the follower acts through the leader's agent network and learns its
                fusion block only, from L_B. Default: 'own'.
            follower_update_interval: The follower learns in every so many-th update (without ``leader_timesteps``,
                whose second stage is the follower's). 2 makes updates cheaper by a fifth on one core. Default: 1.
            leader_timesteps: Env steps of a first stage, in which the leader learns alone; in the second it is fixed,
                and the follower learns from it. None: both learn throughout. Default: None.
            follower_lr: The follower's learning rate or schedule, as ``lr``; None: the same as ``lr``. Default: None.
            follower_optimizer: The follower's optimizer, as ``optimizer``. Default: 'adam'.
            intrinsic_reward: True: the Internal Distillation Module (section 4.3); False: no intrinsic reward (Table
                5); or a subclass of :class:`rllib_ddn.IntrinsicReward`, or its ``module:name``. Default: True.
            intrinsic_reward_config: Options of the intrinsic reward, the arguments of its class; of the IDM ``norm``,
                "mean" or "sum" (see :class:`rllib_ddn.learning.intrinsic.IDM`). Default: {}.
            mask_probability: mu, the probability with which a step gets its intrinsic reward (Equation 9). Default:
                0.75.
            intrinsic_reward_coeff: Scale of the intrinsic reward, 0 to 1,000,000. Default: 1.0.
            normalize_intrinsic_reward: Whether the intrinsic reward is divided by a running standard deviation of its
                discounted sums over the episodes, as in RND. Default: False.
            intrinsic_reward_stage: "replay" adds it to each sampled batch, from the current predictor (Algorithm 1,
                line 20); "trajectory" adds it once, on the env runner, in ``postprocess_trajectory()``.
                Default: 'replay'.
            intrinsic_lr: The intrinsic reward's learning rate or schedule, as ``lr``; None: the same as ``lr``.
                Default: None.
            intrinsic_optimizer: The intrinsic reward's optimizer, as ``optimizer``. Default: 'adam'.
            behaviour_network: The network that acts in training: "leader", "follower", or "mixture", DAgger's: in each
                sampling round it is the leader with a probability that falls from 1 to 0. The paper can be read either
                way (Algorithm 1, section 4.4). Default: 'leader'.
            mixture_timesteps: Env steps over which the leader's probability falls from 1 to 0 in a "mixture".
                Default: 50000.

        The other arguments are those of :meth:`ValueDecompositionConfig.training`.

        Returns:
            This config.

        Raises:
            ValueError: an argument is unknown (the message suggests the nearest name) or not supported.
        """
        return self._set_training(locals())

    @property
    def networks(self) -> tuple[str, ...]:
        return (LEADER, FOLLOWER)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks all values.

        Raises:
            ValueError: a value is not accepted; the message names its key, what was given, and what
                is accepted.
        """
        super().validate()
        if not class_of(self.mixer, MIXERS).hosts_ddn:
            hosts = ", ".join(repr(name) for name, mixer in MIXERS.items() if mixer.hosts_ddn)
            raise ValueError(
                f"mixer is a host that a follower can learn from, one of {hosts}; {self.mixer!r} exists alone: "
                "QTRANConfig, or any host's config with this mixer, trains it."
            )
        leader = class_of(self.state_fusion, LEADERS)
        if not issubclass(getattr(leader, "follower", object), Follower):
            raise ValueError(
                f"state_fusion: {leader.__name__} names no follower; set its attribute follower to a subclass of "
                "Follower."
            )
        taken = {"block", "q", "feature", "global", "idm"} & self.distillation_terms.keys()
        if taken:
            raise ValueError(f"distillation_terms[{min(taken)!r}]: that name is taken, choose another.")
        reward = intrinsic_reward_class(self.intrinsic_reward)
        if reward is not None:
            check_options("intrinsic_reward_config", reward, self.intrinsic_reward_config, _SHARED_OPTIONS)
        if self.follower_agent == "leader" and (
            self.q_loss_coeff or self.feature_loss_coeff or self.distillation_terms
        ):
            raise ValueError(
                'follower_agent="leader" leaves the follower its fusion block, which learns from L_B: '
                "set q_loss_coeff and feature_loss_coeff to 0, and leave distillation_terms "
                "empty."
            )
        if self.intrinsic_reward_stage == "trajectory" and reward is None:
            raise ValueError('intrinsic_reward_stage="trajectory" needs an intrinsic_reward.')

    @override(ValueDecompositionConfig)
    def check_components(self, sizes: TeamSizes) -> None:
        super().check_components(sizes)
        reward = intrinsic_reward_class(self.intrinsic_reward)
        if reward is not None:
            check_component("intrinsic_reward", reward, sizes, self.intrinsic_reward_config)


@configured_by(DDNConfig)
class DDN(ValueDecomposition):
    """The Double Distillation Network.

    A *leader* sees the global state, personalized for each agent, and learns from the team's reward through
    the host's mixer. A *follower* sees what an agent sees, and learns from the leader alone.
    """

    @classmethod
    @override(Algorithm)
    def get_default_policy_class(cls, config: AlgorithmConfig) -> type[DDNTorchPolicy]:
        return DDNTorchPolicy
