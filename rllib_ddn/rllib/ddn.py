"""DDN, the Double Distillation Network: a host with a leader, a follower, and an intrinsic reward."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override

from rllib_ddn.learning import FOLLOWER, LEADER
from rllib_ddn.learning.distillation import TERMS, DistillationTerm
from rllib_ddn.learning.intrinsic import INTRINSIC_REWARDS, IntrinsicReward
from rllib_ddn.networks import LEADERS, MIXERS, Follower, Leader, TeamSizes
from rllib_ddn.rllib.config import ValueDecompositionConfig, check_options, check_part, configured_by
from rllib_ddn.rllib.ddn_policy import DDNTorchPolicy
from rllib_ddn.rllib.keys import (
    COEFFICIENT,
    COUNT,
    DICT,
    FLAG,
    LEARNING_RATE,
    OPTIMIZER,
    PROBABILITY,
    SIZE,
    Accepts,
    between,
    entry_of,
    key,
    one_of,
)
from rllib_ddn.rllib.model import MIXTURE, class_of, intrinsic_reward_class
from rllib_ddn.rllib.value_decomposition import ValueDecomposition


class _Terms(Accepts):
    """More terms, each checked by itself."""

    def validate(self, name: str, value: Any) -> None:
        super().validate(name, value)
        for term, (choice, _) in value.items():
            entry_of(TERMS, DistillationTerm).validate(f"{name}[{term!r}]", choice)


def _are_pairs(value: Any) -> bool:
    return DICT.check(value) and all(
        isinstance(entry, (tuple, list)) and len(entry) == 2 and COEFFICIENT.check(entry[1]) for entry in value.values()
    )


_SHARED = ("coefficient", "mask_probability", "normalize", "gamma")  # what an intrinsic reward gets from other keys
_TERMS = _Terms(
    "{name: (term, coefficient)} with names or subclasses of DistillationTerm and coefficients from 0 to 1,000,000",
    _are_pairs,
)


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

    With two cores or more for the learner (``num_cpus_for_main_process``), leader and follower learn side by side.
    """

    state_fusion: Any = key(
        "personalized",
        entry_of(LEADERS, Leader),
        'what the leader makes of the state: "personalized" (the paper\'s two blocks, section 4.2), "raw" (the state as '
        'it is; Table 3), "concatenated" (the agent networks see ``z_i`` beside the blocks\' output), or a subclass of '
        ":class:`rllib_ddn.Leader`, which names its follower.",
    )
    fusion_embed_dim: int = key(64, SIZE, "D, size of S_hat and o_hat.")
    fusion_hyper_dim: int = key(4, SIZE, "K, hidden size of the hypernetwork that generates W.")
    block_loss_coeff: float = key(1.0, COEFFICIENT, "weight of L_B (Equation 6); 0 switches it off (Table 4).")
    q_loss_coeff: float = key(1.0, COEFFICIENT, "weight of L_Q (Equation 6); 0 switches it off.")
    feature_loss_coeff: float = key(1.0, COEFFICIENT, "weight of L_F (Equation 6); 0 switches it off.")
    imitation_loss_coeff: float = key(
        1.0,
        COEFFICIENT,
        "weight of the imitation loss, the cross-entropy of the leader's greedy actions (Hong et al. 2022), which keeps the "
        "follower's actions close to its leader's; 0, the paper's, switches it off.",
    )
    q_loss: Any = key(
        "kl",
        entry_of({name: TERMS[name] for name in ("kl", "squared", "imitation")}, DistillationTerm),
        'what L_Q is: "kl" (Equation 6), "squared" (difference of the Q values), "imitation" (cross-entropy of the '
        "leader's greedy action), or a subclass of :class:`rllib_ddn.DistillationTerm`.",
    )
    distillation_terms: dict[str, Any] = key(
        {},
        _TERMS,
        "more terms of L_local, ``{name: (term, coefficient)}``, each a name of :mod:`rllib_ddn.learning.distillation` or a "
        "subclass of :class:`rllib_ddn.DistillationTerm`; logged as ``loss_<name>``.",
    )
    distillation_temperature: float = key(1.0, between(0.000_001, 1_000_000), "tau in softmax(Q / tau) of L_Q.")
    follower_agent: str = key(
        "own",
        one_of("own", "leader"),
        '"own", or "leader": the follower acts through the leader\'s agent network and learns its fusion block only, from L_B.',
    )
    follower_update_interval: int = key(
        1,
        COUNT,
        "the follower learns in every so many-th update (without ``leader_timesteps``, whose second stage is the follower's). "
        "2 makes updates cheaper by a fifth on one core.",
    )
    leader_timesteps: int | None = key(
        None,
        COUNT.or_none(),
        "env steps of a first stage, in which the leader learns alone; in the second it is fixed, and the follower learns "
        "from it. None: both learn throughout.",
    )
    intrinsic_reward: Any = key(
        "idm",
        entry_of(INTRINSIC_REWARDS, IntrinsicReward, True, False, None),
        '"idm" or True: the Internal Distillation Module (section 4.3); None or False: no intrinsic reward (Table 5); or a '
        "subclass of :class:`rllib_ddn.IntrinsicReward`.",
    )
    intrinsic_reward_config: dict[str, Any] = key(
        {},
        DICT,
        'options of the intrinsic reward\'s class; of "idm": ``norm``, "mean" or "sum" (see '
        ":class:`rllib_ddn.learning.intrinsic.IDM`).",
    )
    mask_probability: float = key(
        0.75, PROBABILITY, "mu, probability in [0, 1] with which a step gets its intrinsic reward (Equation 9)."
    )
    intrinsic_reward_coeff: float = key(1.0, COEFFICIENT, "scale of the intrinsic reward.")
    normalize_intrinsic_reward: bool = key(
        False,
        FLAG,
        "divide the intrinsic reward by a running standard deviation of its discounted sums over the episodes, as RND does.",
    )
    intrinsic_reward_stage: str = key(
        "replay",
        one_of("replay", "trajectory"),
        '"replay" adds it to each sampled batch, from the current predictor; "trajectory" adds it once, on the env runner, in '
        "``postprocess_trajectory``.",
    )
    behaviour_network: str = key(
        "leader",
        one_of(LEADER, FOLLOWER, MIXTURE),
        'who acts in training: "leader", "follower", or "mixture", DAgger\'s: each round it is the leader with a probability '
        "that falls from 1 to 0. The paper can be read either way (Algorithm 1, section 4.4).",
    )
    mixture_timesteps: int = key(
        50_000, COUNT, 'env steps over which the leader\'s probability falls from 1 to 0 in a "mixture".'
    )
    follower_lr: Any = key(
        None,
        LEARNING_RATE.or_none(),
        "the follower's learning rate or schedule, in the form of ``lr``; None: the same as ``lr``.",
    )
    intrinsic_lr: Any = key(
        None,
        LEARNING_RATE.or_none(),
        "the intrinsic reward's learning rate or schedule, in the form of ``lr``; None: the same as ``lr``.",
    )
    follower_optimizer: Any = key("adam", OPTIMIZER, "the follower's optimizer, as ``optimizer``.")
    intrinsic_optimizer: Any = key("adam", OPTIMIZER, "the intrinsic reward's optimizer, as ``optimizer``.")

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
                f"state_fusion: {leader.__name__} names no follower; set its attribute follower to a subclass of Follower."
            )
        taken = {"block", "q", "feature", "imitation", "global", "idm"} & self.distillation_terms.keys()
        if taken:
            raise ValueError(f"distillation_terms[{min(taken)!r}]: that name is taken, choose another.")
        reward = intrinsic_reward_class(self.intrinsic_reward)
        if reward is not None:
            check_options("intrinsic_reward_config", reward, self.intrinsic_reward_config, _SHARED)
        if self.follower_agent == "leader" and (
            self.q_loss_coeff or self.feature_loss_coeff or self.imitation_loss_coeff or self.distillation_terms
        ):
            raise ValueError(
                'follower_agent="leader" leaves the follower its fusion block, which learns from L_B: '
                "set q_loss_coeff, feature_loss_coeff and imitation_loss_coeff to 0, and leave distillation_terms empty."
            )
        if self.intrinsic_reward_stage == "trajectory" and reward is None:
            raise ValueError('intrinsic_reward_stage="trajectory" needs an intrinsic_reward, "idm" for one.')

    @override(ValueDecompositionConfig)
    def check_parts(self, sizes: TeamSizes) -> None:
        super().check_parts(sizes)
        reward = intrinsic_reward_class(self.intrinsic_reward)
        if reward is not None:
            check_part("intrinsic_reward", reward, sizes, self.intrinsic_reward_config)


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
