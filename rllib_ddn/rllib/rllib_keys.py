"""RLlib's own keys: what those accept that mean here what they mean in RLlib; all others are refused, with the reason.

Keys that have another default or meaning here are declared in the config classes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.models.catalog import MODEL_DEFAULTS
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID
from ray.rllib.utils.exploration import EpsilonGreedy
from ray.tune.registry import RLLIB_MODEL, _global_registry

from rllib_ddn.rllib.env_runner import TeamEnvRunner
from rllib_ddn.rllib.keys import (
    AT_LEAST_0,
    COUNT,
    COUNT_OR_0,
    DICT,
    FLAG,
    PROBABILITY,
    Accepts,
    one_of,
    options,
    same,
    shown,
    whole,
)
from rllib_ddn.rllib.model import ValueDecompositionModel


def _is(value: Any, why: str = "") -> Accepts:
    return Accepts(f"{value!r}{why}", lambda given: same(given, value))


def _is_class_of(base: type) -> Accepts:
    return Accepts(f"a subclass of {base.__name__}", lambda value: isinstance(value, type) and issubclass(value, base))


def _is_model(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, str):
        return value.isascii() and _global_registry.contains(RLLIB_MODEL, value)
    return isinstance(value, type) and issubclass(value, ValueDecompositionModel)


def _are_functions(value: Any) -> bool:
    return value is None or callable(value) or (isinstance(value, (list, tuple)) and all(map(callable, value)))


def _is_the_policy(value: Any) -> bool:
    return isinstance(value, (dict, set, list, tuple)) and list(value) == [DEFAULT_POLICY_ID]


def _are_resources(value: Any) -> bool:
    return DICT.check(value) and all(AT_LEAST_0.check(amount) for amount in value.values())


def _are_variables(value: Any) -> bool:
    return DICT.check(value) and all(isinstance(entry, str) for entry in value.values())


def _is_epsilon_greedy(value: Any) -> bool:
    if isinstance(value, type):
        return issubclass(value, EpsilonGreedy)
    return isinstance(value, str) and value.rpartition(".")[2] == "EpsilonGreedy"


EPSILON_GREEDY = options(
    type=Accepts('"EpsilonGreedy", exploration is epsilon-greedy', _is_epsilon_greedy),
    initial_epsilon=PROBABILITY,
    final_epsilon=PROBABILITY,
    epsilon_timesteps=COUNT_OR_0,
    warmup_timesteps=COUNT_OR_0,
)

MODEL = {
    "custom_model": Accepts(
        "the name of a registered model, a subclass of ValueDecompositionModel, or None", _is_model
    ),
    "custom_model_config": DICT,
}

_RESOURCES = Accepts("a dict of numbers of at least 0", _are_resources)
_VARIABLES = Accepts("a dict of strings", _are_variables)
# What Ray can hand out: one, several, or a part of one.
_UNITS = Accepts(
    "a number in [0, 1] or a whole number above 1", lambda n: AT_LEAST_0.check(n) and (n <= 1 or float(n).is_integer())
)

_POLICY_API = "these algorithms run on RLlib's Policy API"
# What callbacks() takes as functions. Those of episodes get what the methods of RLlibCallback get on RLlib's Policy API.
CALLBACKS = (
    "on_algorithm_init",
    "on_train_result",
    "on_evaluate_start",
    "on_evaluate_end",
    "on_checkpoint_loaded",
    "on_env_runners_recreated",
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
    "on_sample_end",
)

# Keys that mean here what they mean in RLlib.
ACCEPTED: dict[str, Accepts] = {
    "env": Accepts(
        "the name of a registered env, which is in ASCII, or a class or a function that makes one",
        lambda value: value is None or (value.isascii() if isinstance(value, str) else callable(value)),
    ),
    "env_config": DICT,
    "disable_env_checking": FLAG,
    "explore": FLAG,
    "seed": whole("a whole number from 0 to 2**31 - 1", 0, 2**31 - 1).or_none(),
    "callbacks_class": _is_class_of(RLlibCallback),
    **dict.fromkeys(
        map("callbacks_{}".format, CALLBACKS), Accepts("a function, a list of functions, or None", _are_functions)
    ),
    "model": DICT,
    # Resources.
    "num_gpus": _UNITS,
    "num_gpus_per_env_runner": _UNITS,
    "num_cpus_per_env_runner": _UNITS,
    "custom_resources_for_main_process": _RESOURCES,
    "custom_resources_per_env_runner": _RESOURCES,
    "placement_strategy": one_of("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"),
    "extra_python_environs_for_driver": _VARIABLES,
    "extra_python_environs_for_worker": _VARIABLES,
    # Env runners and faults.
    "validate_env_runners_after_construction": FLAG,
    "restart_failed_env_runners": FLAG,
    "ignore_env_runner_failures": FLAG,
    "restart_failed_sub_environments": FLAG,
    "max_num_env_runner_restarts": COUNT_OR_0,
    "num_consecutive_env_runner_failures_tolerance": COUNT_OR_0,
    "env_runner_restore_timeout_s": AT_LEAST_0,
    # Evaluation.
    "evaluation_config": Accepts(
        "a dict, an AlgorithmConfig, or None",
        lambda value: value is None or isinstance(value, AlgorithmConfig) or DICT.check(value),
    ),
    "evaluation_num_env_runners": COUNT_OR_0,
    "evaluation_parallel_to_training": FLAG,
    # Reporting, checkpoints, debugging.
    "keep_per_episode_custom_metrics": FLAG,
    "metrics_num_episodes_for_smoothing": COUNT,
    "min_time_s_per_iteration": AT_LEAST_0.or_none(),
    "min_train_timesteps_per_iteration": COUNT_OR_0.or_none(),
    "export_native_model_files": FLAG,
    "checkpoint_trainable_policies_only": FLAG,
    "log_level": one_of("DEBUG", "INFO", "WARN", "ERROR"),
    "log_sys_usage": FLAG,
    # One policy for one team.
    "policies": Accepts(
        f"{DEFAULT_POLICY_ID!r} alone: one team has one policy",
        _is_the_policy,
    ),
    "policies_to_train": Accepts(
        f"[{DEFAULT_POLICY_ID!r}], or None: one team has one policy",
        lambda value: value is None or (isinstance(value, (set, list, tuple)) and list(value) == [DEFAULT_POLICY_ID]),
    ),
    "policy_mapping_fn": Accepts("a function", callable),
    # What these algorithms cannot do without.
    "framework_str": _is("torch"),
    # Where one is True, RLlib makes the other True, too.
    "enable_rl_module_and_learner": _is(False, f" like enable_env_runner_and_connector_v2: {_POLICY_API}"),
    "enable_env_runner_and_connector_v2": _is(False, f": {_POLICY_API}"),
    "batch_mode": _is("complete_episodes", ", updates need whole episodes"),
    "observation_filter": _is("NoFilter", ": the replay keeps observations as the env gives them"),
    "grad_clip_by": _is("global_norm", ", of each optimizer"),
    "evaluation_duration_unit": _is("episodes", ", of each network"),
    "remote_worker_envs": _is(False, "; use more env runners instead"),
    "env_runner_cls": Accepts(
        "TeamEnvRunner or a subclass of it", lambda value: isinstance(value, type) and issubclass(value, TeamEnvRunner)
    ),
}

# Why a key has no meaning here, by its name or by how its name begins.
_LEARNERS = "the learner is one process, with num_cpus_for_main_process cores and num_gpus GPUs"
_ROUNDS = "env runners play whole episodes, one in each of num_envs_per_env_runner sub-environments per round"
_CALLS = "an env runner has one round under way"
_PINGS = "nobody waits for an env runner that is asked whether it is back"
_UPDATES = "an update takes train_batch_size episodes, and updates_per_episode are made for each that is played"
_VECTORS = "observations are taken as the env gives them"
_DISCRETE = "actions are discrete"
_ONE_POLICY = "one team has one policy"
_OFFLINE = "training plays its own episodes, and writes and reads no others"
_EVALUATION = "an evaluation is evaluation_duration whole greedy episodes of each network"
_REASONS = {
    **dict.fromkeys(
        ("num_learners", "num_gpus_per_learner", "num_cpus_per_learner", "custom_resources_per_learner"), _LEARNERS
    ),
    **dict.fromkeys(
        ("num_aggregator_actors_per_learner", "max_requests_in_flight_per_learner", "local_gpu_idx"), _LEARNERS
    ),
    **dict.fromkeys(
        ("rollout_fragment_length", "sample_collector", "remote_env_batch_wait_ms", "gym_env_vectorize_mode"), _ROUNDS
    ),
    "max_requests_in_flight_per_env_runner": _CALLS,
    "env_runner_health_probe_timeout_s": _PINGS,
    "metrics_episode_collection_timeout_s": "metrics come with the episodes",
    "create_env_on_local_worker": "the learner's process always has the env",
    "evaluation_unhealthy_workers_timeout_s": "where no env runner is left that evaluates, the learner's process plays",
    **dict.fromkeys(("episode_lookback_horizon", "episodes_to_numpy", "compress_observations"), _ROUNDS),
    **dict.fromkeys(("num_epochs", "minibatch_size", "shuffle_batch_per_epoch"), _UPDATES),
    **dict.fromkeys(("observation_space", "action_space"), "the spaces are the env's"),
    **dict.fromkeys(("normalize_actions", "clip_actions"), _DISCRETE),
    **dict.fromkeys(
        ("preprocessor_pref", "observation_fn", "update_worker_filter_stats", "use_worker_filter_stats"), _VECTORS
    ),
    **dict.fromkeys(("sync_filters_on_rollout_workers_timeout_s", "synchronize_filters"), _VECTORS),
    **dict.fromkeys(("eager_", "tf_", "local_tf_", "enable_tf1_"), "the framework is torch"),
    **dict.fromkeys(("policy_", "count_steps_by"), _ONE_POLICY),
    **dict.fromkeys(
        ("input", "output", "prelearner_", "dataset_", "materialize_", "map_batches_", "iter_batches_"), _OFFLINE
    ),
    **dict.fromkeys(
        ("shuffle_buffer_size", "postprocess_inputs", "actions_in_input_", "off_policy_", "ope_"), _OFFLINE
    ),
    **dict.fromkeys(("prioritized_", "replay_"), "the replay samples whole episodes uniformly"),
    **dict.fromkeys(("custom_evaluation_function", "evaluation_", "always_attach_evaluation_results"), _EVALUATION),
    "clip_rewards": "rewards are learned from as the env gives them; scale them there",
    "render_env": "`rllib evaluate` draws games, with --save-gif for one",
    "fake_sampler": "episodes are played",
    "action_mask_key": 'the mask is the observation\'s "action_mask"',
    "callbacks_on_": "RLlib calls it on its new API stack alone",
}
_OTHERS = "these algorithms do not use it"

# What users of PyMARL, or of RLlib's QMIX and DQN, type for keys that exist here.
_CAPACITY = 'the replay\'s size is replay_buffer_config={"capacity": episodes}'
_TARGETS = "the targets' interval is target_update_interval_episodes, or target_update_interval_updates"
_EPSILON = 'exploration_config={"initial_epsilon": 1.0, "final_epsilon": 0.05, "epsilon_timesteps": 50_000} says how epsilon falls'
_RMSPROP = 'optimizer={"type": "rmsprop", "alpha": 0.99, "eps": 1e-5} has the optimizer\'s arguments'
_MIXER = 'mixer_config={"embed_dim": 32, "hypernet_dim": 64} has QMIX\'s sizes'
_ENV = 'environment("smac", env_config={"map_name": ...}) names the env'
_STARTS = "learning starts with train_batch_size episodes"
_ALGORITHM = 'the algorithm is the trainable or the config class that you choose, "QMIX" for one'
_EVERY = "all is logged every iteration, which plays min_sample_timesteps_per_iteration env steps at least"
_RESTORE = "rllib train --restore CHECKPOINT goes on from a checkpoint, --resume from an experiment's newest"
_GREEDY = "evaluation_interval counts iterations, and evaluation_duration episodes; they are greedy"
FORMER = ("evaluation_num_episodes",)  # Ray 1's, which RLlib still has among its keys and fails at
HINTS = {
    **dict.fromkeys(("target_update_interval", "target_network_update_freq", "target_update_freq"), _TARGETS),
    **dict.fromkeys(
        ("epsilon_start", "epsilon_finish", "epsilon_anneal_time", "epsilon", "epsilon_timesteps"), _EPSILON
    ),
    **dict.fromkeys(("initial_epsilon", "final_epsilon", "action_selector"), _EPSILON),
    **dict.fromkeys(("buffer_size", "replay_buffer_size", "capacity", "buffer_cpu_only"), _CAPACITY),
    **dict.fromkeys(("optim_alpha", "optim_eps"), _RMSPROP),
    **dict.fromkeys(("mixing_embed_dim", "hypernet_embed", "hypernet_layers"), _MIXER),
    **dict.fromkeys(("env_args", "map_name"), _ENV),
    **dict.fromkeys(("test_interval", "test_nepisode", "test_greedy", "evaluation_num_episodes"), _GREEDY),
    **dict.fromkeys(("rnn_hidden_dim", "hidden_dim"), "the agent networks' size is agent_hidden_dim"),
    **dict.fromkeys(
        ("agent", "mac"), "the agent network is a GRU of size agent_hidden_dim; DDN's state_fusion chooses a leader"
    ),
    **dict.fromkeys(("obs_agent_id", "obs_last_action"), "agent networks always see both"),
    **dict.fromkeys(("batch_size", "replay_batch_size"), "episodes per update are train_batch_size"),
    **dict.fromkeys(
        ("batch_size_run", "runner"), "games played at once are num_envs_per_env_runner, in each of num_env_runners"
    ),
    **dict.fromkeys(("t_max", "timesteps_total"), 'the end of a training is Tune\'s stop={"timesteps_total": ...}'),
    **dict.fromkeys(("learner", "name", "agent_output_type"), _ALGORITHM),
    **dict.fromkeys(("learning_starts", "num_steps_sampled_before_learning_starts"), _STARTS),
    **dict.fromkeys(("save_model", "save_model_interval"), "checkpoints are Tune's: checkpoint_config"),
    **dict.fromkeys(("checkpoint_path", "load_step"), _RESTORE),
    **dict.fromkeys(
        ("evaluate", "save_replay"), "rllib evaluate CHECKPOINT plays, with --save-replay for StarCraft II's replays"
    ),
    **dict.fromkeys(("log_interval", "runner_log_interval", "learner_log_interval"), _EVERY),
    **dict.fromkeys(
        ("use_tensorboard", "local_results_path"), "TensorBoard's files are written below Tune's storage_path"
    ),
    **dict.fromkeys(
        ("common_reward", "reward_scalarisation"), 'env_config={"team_reward": "sum"} is for "pettingzoo", or "mean"'
    ),
    "standardise_rewards": "rewards are learned from as the env gives them; scale them there",
    "target_update_interval_or_tau": f"{_TARGETS}; tau moves them a part of the way",
    "repeat_id": 'one training a seed is seed={"grid_search": [1, 2, 3]}',
    "train_batch_size_per_learner": _UPDATES,
    "n_step": "td_lambda looks further ahead than one step",
    "grad_norm_clip": "the largest gradient norm is grad_clip",
    "optim": "the optimizer is optimizer",
    "training_intensity": "updates_per_episode are made for each that is played",
    "use_cuda": "num_gpus=1 learns on a GPU",
    "agent_lr": "the learning rate of agent network and mixer is lr",
}

_RLLIBS = vars(AlgorithmConfig())
_INTERNAL = ("algo_class", "in_evaluation", "simple_optimizer", "stats_cls_lookup")


def check_rllibs_keys(config: AlgorithmConfig, declared: Collection[str]) -> None:
    """Checks the values of RLlib's keys, but for those that a config class declares.

    Raises:
        ValueError: a value is not accepted, or a key that has no meaning here has another value than RLlib's default.
    """
    for name, value in vars(config).items():
        if name in ACCEPTED:
            ACCEPTED[name].validate(name.removesuffix("_str"), value)
        elif (
            name in _RLLIBS
            and name not in declared
            and not _is_internal(name, config)
            and not same(value, _RLLIBS[name])
        ):
            raise ValueError(f"{name} has no meaning here: {reason(name)}; got {shown(value)}.")
    if (per_learner := config._train_batch_size_per_learner) is not None:
        raise ValueError(f"train_batch_size_per_learner has no meaning here: {_UPDATES}; got {shown(per_learner)}.")
    for name, value in config.model.items():
        if name in MODEL:
            MODEL[name].validate(f"model[{name!r}]", value)
        elif not name.startswith("_") and not (name in MODEL_DEFAULTS and same(value, MODEL_DEFAULTS[name])):
            raise ValueError(
                f"model[{name!r}] has no meaning here: the networks' sizes are agent_hidden_dim and the like, see the docstring of "
                f"training(); got {shown(value)}."
            )


def reason(name: str) -> str:
    """Why a key of RLlib's has no meaning here."""
    if "offline" in name:
        return _OFFLINE
    return HINTS.get(name) or next((why for start, why in _REASONS.items() if name.startswith(start)), _OTHERS)


def _is_internal(name: str, config: AlgorithmConfig) -> bool:
    """Whether RLlib sets this key itself."""
    return name.startswith("_") or name in _INTERNAL or (config.in_evaluation and name == "rollout_fragment_length")
