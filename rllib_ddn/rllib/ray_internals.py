"""What RLlib calls when, and every private name of Ray and Tune that this package uses.

One iteration of a training, from an env's step to TensorBoard. RLlib's or Tune's code is on the left, what it calls
in this package on the right; ``>>`` crosses to another process.

.. code-block:: text

    Tune's trial, or config.build_algo()
    |
    Algorithm.__init__ ................ ValueDecompositionConfig.validate()
    +- setup() ........................ ValueDecomposition.setup(): checks the env, makes the replay
    |  +- EnvRunnerGroup .............. TeamEnvRunner: the local one, which learns, and num_env_runners remote ones
    |     +- Policy ................... ValueDecompositionPolicy: make_model(), optimizer()
    |
    Trainable.train() ................. one iteration, one result
    +- Algorithm.step() ............... ValueDecomposition.step(): completes the result; saves before it raises an error
    |  |
    |  +- until min_sample_timesteps_per_iteration are sampled:
    |  |  +- restore_env_runners() .... Runners.restore_unhealthy()
    |  |  +- training_step() .......... ValueDecomposition.training_step(): Algorithm 1
    |  |                                   Runners.submit()  >>  TeamEnvRunner.sample(): env steps, policy.act()
    |  |                                   Runners.gather()  <<      policy.postprocess_trajectory(), the episodes
    |  |                                   EpisodeReplay.add(), then for each update EpisodeReplay.sample()
    |  |     train_one_step() <---------   learn()
    |  |     +- Policy.learn_on_batch()
    |  |        +- loss() ............. policy.loss(): compute_update() of learning/update.py, kept as model.update
    |  |        +- custom_loss() ...... model.custom_loss(): the losses of model.update, one for each optimizer
    |  |        +- backward()
    |  |        +- stats_fn() ......... policy.stats_fn(): the statistics of model.update
    |  |        +- apply_gradients() .. policy.apply_gradients(): clips, steps, averages weights
    |  |     sync_weights() <----------    the acting networks' weights  >>  env runners
    |  |
    |  +- evaluate() .................. ValueDecomposition.evaluate(): evaluate_network()  >>  TeamEnvRunner.play()
    |  +- compiles the result ......... Score.update(): score and best
    |
    +- on_train_result() .............. callbacks; add_score() for RLlib's own algorithms
    Tune's loggers .................... result.json, progress.csv, TensorBoard
    Trainable.save() .................. ValueDecomposition.save_checkpoint(), __getstate__(), policy.get_state()

With several GPUs ``multi_gpu_train_one_step()`` calls ``load_batch_into_buffer()`` and ``learn_on_loaded_batch()`` in
place of ``learn_on_batch()``: ``loss()`` and ``custom_loss()`` run on each device, with a model of its own.

Each private name below was seen in Ray 2.49.2 and 2.60.0, in the module that its section names. A test holds that no
other file of the package uses one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import ray
from pyarrow.fs import copy_files
from ray.experimental import internal_kv
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.execution.train_ops import multi_gpu_train_one_step, train_one_step
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID, SampleBatch
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics.learner_info import LEARNER_STATS_KEY
from ray.tune.registry import _global_registry
from torch import Tensor

# -- ray.rllib.algorithms.algorithm ------------------------------------------------------------


class AlgorithmInternals(Algorithm):
    """RLlib's ``Algorithm``, whose private parts have public names here."""

    @property
    def counters(self) -> dict[str, int]:
        """``_counters``: by name, in each result and in checkpoints. RLlib has no public ones on the old API stack."""
        return self._counters

    @property
    def timers(self) -> dict[str, Any]:
        """``_timers``: by name, in each result. RLlib has no public ones on the old API stack."""
        return self._timers

    @property
    def episode_history(self) -> list[Any]:
        """``_episode_history``: the metrics of the newest episodes, over which RLlib smooths ``env_runners``. They are
        not in its checkpoints, and a restored run could not continue exactly."""
        return self._episode_history

    @episode_history.setter
    def episode_history(self, episodes: list[Any]) -> None:
        self._episode_history = episodes

    @staticmethod
    def creator_of_env(env: Any, config: Any) -> Callable[[dict[str, Any]], Any]:
        """The function that makes an env of an ``env_config``."""
        return rllibs_env_creator(env, config)

    @classmethod
    @override(Algorithm)
    def _get_env_id_and_creator(cls, env_specifier: Any, config: Any) -> tuple[Any, Callable[[dict[str, Any]], Any]]:
        """RLlib's own hides the errors of an env that is named as ``module.name``."""
        return env_specifier, cls.creator_of_env(env_specifier, config)

    def make_replay(self, config: AlgorithmConfig) -> Any:
        """The replay, ``local_replay_buffer``."""
        raise NotImplementedError

    @override(Algorithm)
    def _create_local_replay_buffer_if_necessary(self, config: Any) -> Any:
        """RLlib's own would take only a class of its replay buffers, by ``replay_buffer_config["type"]``."""
        return self.make_replay(config)

    @override(Algorithm)
    def _remote_worker_ids_for_metrics(self) -> Iterator[int]:  # type: ignore[override]
        """None: metrics come with the episodes, and an env runner that samples ahead would answer after its round only.
        It is an iterator, because RLlib takes an empty list for all."""
        return iter(())

    @override(Algorithm)
    def compute_single_action(self, *args: Any, **kwargs: Any) -> Any:
        """As RLlib's, without the warning of its decorator, which names a replacement that the old API stack lacks."""
        return inspect.unwrap(Algorithm.compute_single_action)(self, *args, **kwargs)

    def kept(self, name: str) -> str:
        """Where a file or folder of ``logdir`` is kept: under Tune, ``logdir`` is temporary, and it is copied to the
        trial's folder, which ``Trainable._storage`` knows (None outside of Tune)."""
        source, storage = f"{self.logdir}/{name}", self._storage
        if storage is None:
            return source
        target = f"{storage.trial_fs_path}/{name}"
        storage.storage_filesystem.create_dir(target)
        copy_files(source, target, destination_filesystem=storage.storage_filesystem)
        return target


def algorithm_class(algorithm: Algorithm) -> type[Algorithm]:
    """The class, and not the subclass that ``ray.remote`` makes of it (``__ray_actor_class__``): a pickle names every
    method of that one, none of which could ever be renamed."""
    return getattr(type(algorithm), "__ray_actor_class__", type(algorithm))


# -- ray.rllib.algorithms.algorithm, ray.tune.registry -------------------------------------------


def rllibs_env_creator(env: Any, config: Any) -> Callable[[dict[str, Any]], Any]:
    """The function that RLlib makes an env with, which a config names (``Algorithm._get_env_id_and_creator``)."""
    return Algorithm._get_env_id_and_creator(env, config)[1]


def is_registered(kind: str, name: str) -> bool:
    """Whether a name is registered with Tune; its own test is public for trainables alone.

    Args:
        kind: ``ENV_CREATOR``, ``RLLIB_MODEL`` or ``TRAINABLE_CLASS`` of ``ray.tune.registry``.
        name: the name.
    """
    return _global_registry.contains(kind, name)


# -- ray.rllib.algorithms.algorithm_config -------------------------------------------------------


class ConfigInternals(AlgorithmConfig):
    """RLlib's ``AlgorithmConfig``, whose private parts have public names here."""

    # Keys that RLlib takes in config dicts although no attribute has their name.
    DICT_KEYS: ClassVar[tuple[str, ...]] = ("multiagent", "_enable_new_api_stack", "_is_frozen")

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self._prior_exploration_config = None  # RLlib takes the class's own key for one that a user has given
        self._disable_preprocessor_api = True  # observations stay in the env's dtype

    @property
    def fake_gpus(self) -> bool:
        """``_fake_gpus``: whether a batch is split as over GPUs where there are none."""
        return self._fake_gpus

    def attribute_of(self, name: str) -> str | None:
        """The attribute that a key of a config dict sets; None for an unknown key."""
        attribute = self._translate_special_keys(name, warn_deprecated=False)
        return attribute if attribute in vars(self) or name in self.DICT_KEYS else None

    @override(AlgorithmConfig)
    def _validate_callbacks_settings(self) -> None:
        """RLlib takes functions, as in ``callbacks(on_train_result=...)``, on its new API stack alone; these algorithms
        take them, too."""

    @override(AlgorithmConfig)
    def _value_error(self, errmsg: str) -> None:
        """Where RLlib's own checks end: their messages become one line."""
        raise ValueError(" ".join(errmsg.split()))


# -- ray.rllib.execution.train_ops --------------------------------------------------------------


def learn(algorithm: Algorithm, episodes: Mapping[str, Any]) -> dict[str, Tensor]:
    """RLlib's training step on a batch of episodes (see :mod:`rllib_ddn.learning.episodes`); its statistics."""
    batch = SampleBatch(episodes)
    batch.zero_padded = True  # a row is an episode, and RLlib would take it for a step of a sequence that it pads
    one_device = math.ceil(algorithm.config.num_gpus) <= 1 and not algorithm.config.fake_gpus
    results = (train_one_step if one_device else multi_gpu_train_one_step)(algorithm, batch)
    statistics = results[DEFAULT_POLICY_ID][LEARNER_STATS_KEY]
    statistics.pop("allreduce_latency", None)  # of distributed learners, which are not used
    return statistics


# -- ray.rllib.env.env_runner_group, ray.rllib.utils.actor_manager -------------------------------


def actor_manager(group: EnvRunnerGroup) -> FaultTolerantActorManager:
    """``_worker_manager``, which knows a group's actors and which of them are healthy. The group's public calls wait
    for all env runners."""
    return group._worker_manager


def count_restart(manager: FaultTolerantActorManager) -> None:
    """Counts an env runner that is back: ``num_remote_worker_restarts`` of the results, which RLlib's own restore
    counts."""
    manager._num_actor_restarts += 1


# -- ray, ray.experimental.internal_kv -----------------------------------------------------------


def started_this_cluster() -> bool:
    """Whether the cluster is what this process's ``ray.init()`` started; False where Ray does not tell."""
    node = getattr(getattr(getattr(ray, "_private", None), "worker", None), "_global_node", None)
    return bool(getattr(node, "head", False))


_NAMESPACE = "rllib_ddn"


def put_note(key: str, text: str) -> None:
    """Writes a note into Ray's key-value store, the one place that all processes of a cluster share without an
    actor."""
    if internal_kv._internal_kv_initialized():
        internal_kv._internal_kv_put(key, text, namespace=_NAMESPACE)


def get_note(key: str) -> str | None:
    """The note, or None."""
    found = internal_kv._internal_kv_get(key, namespace=_NAMESPACE) if internal_kv._internal_kv_initialized() else None
    return found.decode() if found else None


def delete_note(key: str) -> None:
    if internal_kv._internal_kv_initialized():
        internal_kv._internal_kv_del(key, namespace=_NAMESPACE)
