"""The Double Distillation Network (DDN) on Ray RLlib.

Importing this package registers everything with Ray: the trainable ``"DDN"``, its hosts alone and its
peers (``"QMIX"``, ``"CTDS"`` and the others of :mod:`rllib_ddn.variants`), the model ``"ddn"`` and the envs
of :data:`rllib_ddn.envs.ENVS`.
"""

from ray.rllib.models import ModelCatalog
from ray.tune.registry import register_env, register_trainable

from rllib_ddn.ddn import DDN, DDNConfig
from rllib_ddn.ddn_torch_model import DDNTorchModel
from rllib_ddn.ddn_torch_policy import DDNTorchPolicy
from rllib_ddn.envs import ENVS
from rllib_ddn.networks import Mixer
from rllib_ddn.variants import (
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

__version__ = "0.1.0"
__all__ = [
    "CTDS",
    "CTDSConfig",
    "CWQMIX",
    "CWQMIXConfig",
    "DDN",
    "DDNConfig",
    "DDNTorchModel",
    "DDNTorchPolicy",
    "ENVS",
    "IGMDA",
    "IGMDAConfig",
    "Mixer",
    "OWQMIX",
    "OWQMIXConfig",
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
    "VDN",
    "VDNConfig",
]

for _algorithm in (DDN, *HOSTS, *PEERS):
    register_trainable(_algorithm.__name__, _algorithm)
ModelCatalog.register_custom_model("ddn", DDNTorchModel)
for _name, _creator in ENVS.items():
    register_env(_name, _creator)
