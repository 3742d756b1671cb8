"""The algorithms that the paper compares with, each a trainable of its name with a config class.

- The *hosts* alone (Figure 4, Table 1): one agent network on the local information ``z_i = (o_i, u_i, i)``,
  trained through a mixer.
- The *teacher-student peers* (Table 2): leader and follower, or teacher and student, or expert and
  learner, which differ from DDN's in what the leader sees, what the follower learns from, and who acts.
"""

from __future__ import annotations

from rllib_ddn.rllib.config import ValueDecompositionConfig, configured_by
from rllib_ddn.rllib.ddn import DDN, DDNConfig
from rllib_ddn.rllib.value_decomposition import ValueDecomposition


class VDNConfig(ValueDecompositionConfig):
    """Configures :class:`VDN`."""

    mixer = "vdn"


@configured_by(VDNConfig)
class VDN(ValueDecomposition):
    """Value-Decomposition Networks (Sunehag et al. 2018)."""


class QMIXConfig(ValueDecompositionConfig):
    """Configures :class:`QMIX`."""

    mixer = "qmix"


@configured_by(QMIXConfig)
class QMIX(ValueDecomposition):
    """QMIX (Rashid et al. 2018, 2020b)."""


class QattenConfig(ValueDecompositionConfig):
    """Configures :class:`Qatten`."""

    mixer = "qatten"


@configured_by(QattenConfig)
class Qatten(ValueDecomposition):
    """Qatten (Yang et al. 2020)."""


class QPLEXConfig(ValueDecompositionConfig):
    """Configures :class:`QPLEX`."""

    mixer = "qplex"


@configured_by(QPLEXConfig)
class QPLEX(ValueDecomposition):
    """QPLEX (Wang et al. 2020)."""


class CWQMIXConfig(ValueDecompositionConfig):
    """Configures :class:`CWQMIX`."""

    mixer = "cwqmix"


@configured_by(CWQMIXConfig)
class CWQMIX(ValueDecomposition):
    """Centrally-weighted QMIX (Rashid et al. 2020a)."""


class OWQMIXConfig(ValueDecompositionConfig):
    """Configures :class:`OWQMIX`."""

    mixer = "owqmix"


@configured_by(OWQMIXConfig)
class OWQMIX(ValueDecomposition):
    """Optimistically-weighted QMIX (Rashid et al. 2020a)."""


class QTRANConfig(ValueDecompositionConfig):
    """Configures :class:`QTRAN`."""

    mixer = "qtran"


@configured_by(QTRANConfig)
class QTRAN(ValueDecomposition):
    """QTRAN-base (Son et al. 2019)."""


class CTDSConfig(DDNConfig):
    """Configures :class:`CTDS`."""

    state_fusion = "raw"
    q_loss = "squared"
    block_loss_coeff = 0.0
    feature_loss_coeff = 0.0
    intrinsic_reward = False


@configured_by(CTDSConfig)
class CTDS(DDN):
    """Centralized Teacher with Decentralized Student (Zhao et al. 2022).

    The teacher sees the state beside its local information, as it is; the student regresses the teacher's
    Q values; the teacher acts in training.
    """


class PTDEConfig(DDNConfig):
    """Configures :class:`PTDE`."""

    state_fusion = "concatenated"
    follower_agent = "leader"
    q_loss_coeff = 0.0
    feature_loss_coeff = 0.0
    intrinsic_reward = False
    leader_timesteps = 800_000


@configured_by(PTDEConfig)
class PTDE(DDN):
    """Personalized Training with Distilled Execution (Chen et al. 2024).

    A hypernetwork of local information personalizes the state, which the agent network sees beside the local
    information. In the second stage, after ``leader_timesteps``, all that is fixed, and a network of local
    information learns to predict the personalized state and stands in for it.
    """


class IGMDAConfig(DDNConfig):
    """Configures :class:`IGMDA`."""

    state_fusion = "raw"
    q_loss = "imitation"
    block_loss_coeff = 0.0
    feature_loss_coeff = 0.0
    intrinsic_reward = False
    behaviour_network = "mixture"


@configured_by(IGMDAConfig)
class IGMDA(DDN):
    """DAgger-based IGM (Hong et al. 2022).

    The expert sees the state beside its local information; the learner imitates the expert's actions, on
    episodes that either of them plays: first the expert, with time the learner (``mixture_timesteps``).
    """


HOSTS: tuple[type[ValueDecomposition], ...] = (VDN, QMIX, Qatten, QPLEX, CWQMIX, OWQMIX, QTRAN)
PEERS: tuple[type[DDN], ...] = (CTDS, PTDE, IGMDA)
