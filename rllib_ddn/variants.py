"""The algorithms that the paper compares with: DDN with other choices. Each is a trainable of its name
with a config class, ``QMIX`` with ``QMIXConfig``, say.

- The *hosts* alone (Figure 4, Table 1): value decomposition without distillation and without IDM. One
  network on the local information ``z_i = (o_i, u_i, i)``, trained through a mixer.
- The *teacher-student peers* (Table 2): leader and follower, or teacher and student, or expert and
  learner, which differ from DDN's in what the leader sees, what the follower learns from, and who acts.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ddn.ddn import DDN, DDNConfig
from rllib_ddn.ddn_torch_model import AGENT, LEADER, MIXTURE


class VariantConfig(DDNConfig):
    """Configures a variant: :class:`DDNConfig` with the variant's choices."""

    ALGORITHM: type[DDN]
    CHOICES: dict[str, Any]

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or self.ALGORITHM)
        for key, value in self.CHOICES.items():
            setattr(self, key, value)


def _variant(name: str, title: str, **choices: Any) -> tuple[type[DDN], type[VariantConfig]]:
    """An algorithm class and its config class, as RLlib wants one of each."""

    def get_default_config(cls: type[DDN]) -> AlgorithmConfig:
        return config()

    here = {"__module__": __name__}
    algorithm = type(name, (DDN,), {**here, "__doc__": title, "get_default_config": classmethod(get_default_config)})
    about = {"__doc__": f"Configures :class:`{name}`.", "ALGORITHM": algorithm, "CHOICES": choices}
    config = type(f"{name}Config", (VariantConfig,), {**here, **about})
    return algorithm, config


def _host(name: str, mixer: str, title: str) -> tuple[type[DDN], type[VariantConfig]]:
    return _variant(name, title, mixer=mixer, distillation=False, intrinsic_reward=False, behaviour_network=AGENT)


VDN, VDNConfig = _host("VDN", "vdn", "Value-Decomposition Networks (Sunehag et al. 2018).")
QMIX, QMIXConfig = _host("QMIX", "qmix", "QMIX (Rashid et al. 2018, 2020b).")
Qatten, QattenConfig = _host("Qatten", "qatten", "Qatten (Yang et al. 2020).")
QPLEX, QPLEXConfig = _host("QPLEX", "qplex", "QPLEX (Wang et al. 2020).")
CWQMIX, CWQMIXConfig = _host("CWQMIX", "cwqmix", "Centrally-weighted QMIX (Rashid et al. 2020a).")
OWQMIX, OWQMIXConfig = _host("OWQMIX", "owqmix", "Optimistically-weighted QMIX (Rashid et al. 2020a).")
QTRAN, QTRANConfig = _host("QTRAN", "qtran", "QTRAN-base (Son et al. 2019).")

CTDS, CTDSConfig = _variant(
    "CTDS",
    """Centralized Teacher with Decentralized Student (Zhao et al. 2022).

    The teacher sees the state beside its local information, as it is; the student regresses the teacher's
    Q values; the teacher acts in training.""",
    state_fusion="raw",
    q_loss="squared",
    block_loss_coeff=0.0,
    feature_loss_coeff=0.0,
    intrinsic_reward=False,
    behaviour_network=LEADER,
)
PTDE, PTDEConfig = _variant(
    "PTDE",
    """Personalized Training with Distilled Execution (Chen et al. 2024).

    A hypernetwork of local information personalizes the state, which the agent network sees beside the local
    information. In the second stage, after ``leader_timesteps``, all that is fixed, and a network of local
    information learns to predict the personalized state and stands in for it.""",
    state_fusion="concatenated",
    follower_agent="leader",
    q_loss_coeff=0.0,
    feature_loss_coeff=0.0,
    intrinsic_reward=False,
    behaviour_network=LEADER,
    leader_timesteps=800_000,
)
IGMDA, IGMDAConfig = _variant(
    "IGMDA",
    """DAgger-based IGM (Hong et al. 2022).

    The expert sees the state beside its local information; the learner imitates the expert's actions, on
    episodes that either of them plays: first the expert, with time the learner (``mixture_timesteps``).""",
    state_fusion="raw",
    q_loss="imitation",
    block_loss_coeff=0.0,
    feature_loss_coeff=0.0,
    intrinsic_reward=False,
    behaviour_network=MIXTURE,
)

HOSTS = (VDN, QMIX, Qatten, QPLEX, CWQMIX, OWQMIX, QTRAN)
PEERS = (CTDS, PTDE, IGMDA)
