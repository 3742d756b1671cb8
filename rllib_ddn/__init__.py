"""The Double Distillation Network (DDN) on Ray RLlib.

Importing this package registers everything with Ray: the trainable ``"DDN"``, its hosts alone
(``"VDN"``, ``"QMIX"`` and the others of :mod:`rllib_ddn.hosts`), the model ``"ddn"`` and the envs of
:data:`rllib_ddn.envs.ENVS`.
"""

from ray.rllib.models import ModelCatalog
from ray.tune.registry import register_env, register_trainable

from rllib_ddn.ddn import DDN, DDNConfig
from rllib_ddn.ddn_torch_model import DDNTorchModel
from rllib_ddn.ddn_torch_policy import DDNTorchPolicy
from rllib_ddn.envs import ENVS
from rllib_ddn.hosts import (
    CWQMIX,
    HOSTS,
    OWQMIX,
    QMIX,
    QPLEX,
    QTRAN,
    VDN,
    CWQMIXConfig,
    OWQMIXConfig,
    Qatten,
    QattenConfig,
    QMIXConfig,
    QPLEXConfig,
    QTRANConfig,
    VDNConfig,
)
from rllib_ddn.networks import Mixer

__version__ = "0.1.0"
__all__ = [
    "CWQMIX",
    "DDN",
    "ENVS",
    "OWQMIX",
    "QMIX",
    "QPLEX",
    "QTRAN",
    "VDN",
    "CWQMIXConfig",
    "DDNConfig",
    "DDNTorchModel",
    "DDNTorchPolicy",
    "Mixer",
    "OWQMIXConfig",
    "QMIXConfig",
    "QPLEXConfig",
    "QTRANConfig",
    "Qatten",
    "QattenConfig",
    "VDNConfig",
]

for _algorithm in (DDN, *HOSTS):
    register_trainable(_algorithm.__name__, _algorithm)
ModelCatalog.register_custom_model("ddn", DDNTorchModel)
for _name, _creator in ENVS.items():
    register_env(_name, _creator)
