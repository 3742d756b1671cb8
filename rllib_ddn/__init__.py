"""The Double Distillation Network (DDN) on Ray RLlib.

Importing this package registers everything with Ray: the trainable ``"DDN"``, the model
``"ddn"`` and the envs of :data:`rllib_ddn.envs.ENVS`.
"""

from ray.rllib.models import ModelCatalog
from ray.tune.registry import register_env, register_trainable

from rllib_ddn.ddn import DDN, DDNConfig
from rllib_ddn.ddn_torch_model import DDNTorchModel
from rllib_ddn.ddn_torch_policy import DDNTorchPolicy
from rllib_ddn.envs import ENVS

__version__ = "0.1.0"
__all__ = ["DDN", "ENVS", "DDNConfig", "DDNTorchModel", "DDNTorchPolicy"]

register_trainable("DDN", DDN)
ModelCatalog.register_custom_model("ddn", DDNTorchModel)
for _name, _creator in ENVS.items():
    register_env(_name, _creator)
