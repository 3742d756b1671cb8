"""All that knows Ray: algorithms and configs, policies, models, the env runner, evaluation."""

from ray.rllib.models import ModelCatalog
from ray.tune.registry import register_env, register_trainable

from rllib_ddn.envs import ENVS
from rllib_ddn.rllib.ddn import DDN
from rllib_ddn.rllib.model import DDNTorchModel, ValueDecompositionModel
from rllib_ddn.rllib.value_decomposition import ValueDecomposition
from rllib_ddn.rllib.variants import HOSTS, PEERS


def register() -> None:
    """Registers algorithms, models and envs with Ray."""
    algorithms: list[type[ValueDecomposition]] = [ValueDecomposition, DDN, *HOSTS, *PEERS]
    for algorithm in algorithms:
        register_trainable(algorithm.__name__, algorithm)
    ModelCatalog.register_custom_model("value_decomposition", ValueDecompositionModel)
    ModelCatalog.register_custom_model("ddn", DDNTorchModel)
    for name, creator in ENVS.items():
        register_env(name, creator)
