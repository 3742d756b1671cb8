"""The Double Distillation Network (DDN) on Ray RLlib.

Importing this package registers everything with Ray: the trainable ``"DDN"``, its hosts ``"VDN"`` and
``"QMIX"``, the model ``"ddn"`` and the envs of :data:`rllib_ddn.envs.ENVS`.
"""

from ray.rllib.models import ModelCatalog
from ray.tune.registry import register_env, register_trainable

from rllib_ddn.ddn import DDN, DDNConfig
from rllib_ddn.ddn_torch_model import DDNTorchModel
from rllib_ddn.ddn_torch_policy import DDNTorchPolicy
from rllib_ddn.envs import ENVS
from rllib_ddn.hosts import QMIX, VDN, QMIXConfig, VDNConfig

__version__ = "0.1.0"
__all__ = ["DDN", "ENVS", "QMIX", "VDN", "DDNConfig", "DDNTorchModel", "DDNTorchPolicy", "QMIXConfig", "VDNConfig"]

for _algorithm in (DDN, VDN, QMIX):
    register_trainable(_algorithm.__name__, _algorithm)
ModelCatalog.register_custom_model("ddn", DDNTorchModel)
for _name, _creator in ENVS.items():
    register_env(_name, _creator)
