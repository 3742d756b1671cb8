"""Value decomposition for cooperative multi-agent RL on Ray RLlib, the Double Distillation Network (DDN) first.

Importing this package registers everything with Ray: the trainables (``"DDN"``, the hosts alone such as
``"QMIX"``, the peers such as ``"CTDS"``), their models, and the envs of :data:`rllib_ddn.envs.ENVS`. Where Ray
cannot be imported, :mod:`rllib_ddn.team`, :mod:`rllib_ddn.networks` and :mod:`rllib_ddn.learning` still can.
"""

from rllib_ddn.learning.distillation import DistillationTerm
from rllib_ddn.learning.intrinsic import IntrinsicReward
from rllib_ddn.networks import Follower, Leader, Mixer
from rllib_ddn.team import TeamEnvError, TeamSpec

__version__ = "0.2.0"
__all__ = ["DistillationTerm", "Follower", "IntrinsicReward", "Leader", "Mixer", "TeamEnvError", "TeamSpec"]

try:
    import ray  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "ray":
        raise
else:
    from rllib_ddn.envs import ENVS
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

    __all__ += ["DDN", "DDNConfig", "DDNTorchModel", "DDNTorchPolicy", "ENVS", "HOSTS", "PEERS"]
    __all__ += ["ValueDecomposition", "ValueDecompositionConfig"]
    __all__ += ["CTDS", "CWQMIX", "IGMDA", "OWQMIX", "PTDE", "QMIX", "QPLEX", "QTRAN", "Qatten", "VDN"]
    __all__ += ["CTDSConfig", "CWQMIXConfig", "IGMDAConfig", "OWQMIXConfig", "PTDEConfig", "QMIXConfig"]
    __all__ += ["QPLEXConfig", "QTRANConfig", "QattenConfig", "VDNConfig"]
    register()
