"""Value decomposition for cooperative multi-agent RL on Ray RLlib, the Double Distillation Network (DDN) first.

Importing this package registers everything with Ray: the trainables (``"DDN"``, the hosts alone such as
``"QMIX"``, the peers such as ``"CTDS"``), their models, and the envs of :data:`rllib_ddn.envs.ENVS`. Where Ray
or torch cannot be imported, nothing is registered and nothing else is imported: :mod:`rllib_ddn.deploy` needs NumPy
and onnxruntime there, :mod:`rllib_ddn.networks` and :mod:`rllib_ddn.learning` need torch.
"""

from typing import Any

__version__ = "0.2.0"
__all__ = [
    "CTDS",
    "CTDSConfig",
    "CWQMIX",
    "CWQMIXConfig",
    "DDN",
    "DDNConfig",
    "DDNTorchModel",
    "DDNTorchPolicy",
    "DistillationTerm",
    "ENVS",
    "Follower",
    "HOSTS",
    "IGMDA",
    "IGMDAConfig",
    "IntrinsicReward",
    "Leader",
    "Mixer",
    "OWQMIX",
    "OWQMIXConfig",
    "PEERS",
    "PTDE",
    "PTDEConfig",
    "QMIX",
    "QMIXConfig",
    "QPLEX",
    "QPLEXConfig",
    "QTRAN",
    "QTRANConfig",
    "Qatten",
    "QattenConfig",
    "TeamEnvError",
    "TeamSpec",
    "VDN",
    "VDNConfig",
    "ValueDecomposition",
    "ValueDecompositionConfig",
]

try:
    import gymnasium  # noqa: F401
    import ray  # noqa: F401
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("ray", "gymnasium", "torch"):
        raise

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError(f"rllib_ddn.{name} needs Ray and torch: pip install 'ray[rllib,tune]' torch.", name="ray")
        raise AttributeError(f"module 'rllib_ddn' has no attribute {name!r}")

else:
    from rllib_ddn.envs import ENVS
    from rllib_ddn.learning.distillation import DistillationTerm
    from rllib_ddn.learning.intrinsic import IntrinsicReward
    from rllib_ddn.networks import Follower, Leader, Mixer
    from rllib_ddn.rllib import register
    from rllib_ddn.rllib.config import ValueDecompositionConfig
    from rllib_ddn.rllib.ddn import DDN, DDNConfig
    from rllib_ddn.rllib.ddn_policy import DDNTorchPolicy
    from rllib_ddn.rllib.model import DDNTorchModel
    from rllib_ddn.rllib.value_decomposition import ValueDecomposition
    from rllib_ddn.rllib.variants import (
        CTDS,
        CWQMIX,
        HOSTS,
        IGMDA,
        OWQMIX,
        PEERS,
        PTDE,
        QMIX,
        QPLEX,
        QTRAN,
        VDN,
        CTDSConfig,
        CWQMIXConfig,
        IGMDAConfig,
        OWQMIXConfig,
        PTDEConfig,
        Qatten,
        QattenConfig,
        QMIXConfig,
        QPLEXConfig,
        QTRANConfig,
        VDNConfig,
    )
    from rllib_ddn.team import TeamEnvError, TeamSpec

    register()
