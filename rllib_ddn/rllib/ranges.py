"""What each config key accepts, in one table: the keys of this package, and those of RLlib that are supported.

A key of RLlib's that is not in the table must keep RLlib's default.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.models.catalog import MODEL_DEFAULTS
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID
from ray.rllib.utils.exploration import EpsilonGreedy

from rllib_ddn.learning import FOLLOWER, LEADER
from rllib_ddn.learning.distillation import TERMS, DistillationTerm
from rllib_ddn.learning.intrinsic import IntrinsicReward
from rllib_ddn.networks import LEADERS, MIXERS, Leader, Mixer
from rllib_ddn.rllib.accepts import (
    COEFFICIENT,
    COUNT,
    COUNT_OR_0,
    DECAY,
    DICT,
    FLAG,
    FRACTION,
    LEARNING_RATE,
    NON_NEGATIVE,
    OPTIMIZER,
    POSITIVE,
    PROBABILITY,
    RATE,
    SIZE,
    Accepts,
    Custom,
    between,
    entry_of,
    integer,
    is_subclass,
    one_of,
    only,
    options,
    same,
    shown,
    subclass_of,
)
from rllib_ddn.rllib.env_runner import TeamEnvRunner
from rllib_ddn.rllib.from_pymarl import HINTS
from rllib_ddn.rllib.model import MIXTURE


class _DistillationTerms(Accepts):
    """``{name: (term, coefficient)}``, each term checked by itself."""

    def validate(self, name: str, value: Any) -> None:
        super().validate(name, value)
        for term, (choice, _) in value.items():
            entry_of(TERMS, DistillationTerm).validate(f"{name}[{term!r}]", choice)


def _are_terms(value: Any) -> bool:
    return DICT.check(value) and all(
        isinstance(entry, (tuple, list)) and len(entry) == 2 and COEFFICIENT.check(entry[1]) for entry in value.values()
    )


def _is_epsilon_greedy(value: Any) -> bool:
    if isinstance(value, type):
        return issubclass(value, EpsilonGreedy)
    return isinstance(value, str) and value.rpartition(".")[2] == "EpsilonGreedy"


def _are_functions(value: Any) -> bool:
    return value is None or callable(value) or (isinstance(value, (list, tuple)) and all(map(callable, value)))


def _is_the_policy(value: Any) -> bool:
    return isinstance(value, (dict, set, list, tuple)) and list(value) == [DEFAULT_POLICY_ID]


# What callbacks() takes as functions. Those of episodes get the arguments of RLlibCallback's methods on the Policy API.
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
# Ray hands out several units, or a part of one.
_UNITS = Accepts(
    "a number in [0, 1] or an integer above 1", lambda n: NON_NEGATIVE.check(n) and (n <= 1 or float(n).is_integer())
)
_RESOURCES = Accepts(
    "a dict of non-negative numbers", lambda value: DICT.check(value) and all(map(NON_NEGATIVE.check, value.values()))
)
_VARIABLES = Accepts(
    "a dict of strings", lambda value: DICT.check(value) and all(isinstance(text, str) for text in value.values())
)
_POLICY_API = ": these algorithms use RLlib's Policy API"

RANGES: dict[str, Accepts] = {
    # All algorithms: training().
    "mixer": entry_of(MIXERS, Mixer),
    "mixer_config": DICT,
    "agent_hidden_dim": SIZE,
    "lr": LEARNING_RATE,
    "optimizer": OPTIMIZER,
    "grad_clip": POSITIVE.or_none(),
    "gamma": FRACTION,
    "td_lambda": FRACTION,
    "targets": Custom("a function, its 'module:name', or None", lambda value: value is None or callable(value)),
    "double_q": FLAG,
    "target_update_interval_episodes": COUNT,
    "target_update_interval_updates": COUNT.or_none(),
    "tau": RATE,
    "weight_averaging": DECAY.or_none(),
    "train_batch_size": COUNT,
    "updates_per_episode": between(0.001, 1000),
    "replay_buffer_config": options(capacity=COUNT),
    "store_buffer_in_checkpoints": FLAG,
    "sample_ahead": FLAG,
    "video_interval": COUNT.or_none(),
    # DDN: training().
    "state_fusion": entry_of(LEADERS, Leader),
    "fusion_embed_dim": SIZE,
    "fusion_hyper_dim": SIZE,
    "block_loss_coeff": COEFFICIENT,
    "q_loss_coeff": COEFFICIENT,
    "feature_loss_coeff": COEFFICIENT,
    "q_loss": entry_of({name: TERMS[name] for name in ("kl", "squared", "imitation")}, DistillationTerm),
    "distillation_terms": _DistillationTerms(
        "{name: (term, coefficient)} with names or subclasses of DistillationTerm and coefficients from 0 to 1,000,000",
        _are_terms,
    ),
    "distillation_temperature": between(0.000_001, 1_000_000),
    "follower_agent": one_of("own", "leader"),
    "follower_update_interval": COUNT,
    "leader_timesteps": COUNT.or_none(),
    "follower_lr": LEARNING_RATE.or_none(),
    "follower_optimizer": OPTIMIZER,
    "intrinsic_reward": Custom(
        "True (the IDM), False, a subclass of IntrinsicReward, or its 'module:name'",
        lambda value: isinstance(value, bool) or is_subclass(value, IntrinsicReward),
    ),
    "intrinsic_reward_config": DICT,
    "mask_probability": PROBABILITY,
    "intrinsic_reward_coeff": COEFFICIENT,
    "normalize_intrinsic_reward": FLAG,
    "intrinsic_reward_stage": one_of("replay", "trajectory"),
    "intrinsic_lr": LEARNING_RATE.or_none(),
    "intrinsic_optimizer": OPTIMIZER,
    "behaviour_network": one_of(LEADER, FOLLOWER, MIXTURE),
    "mixture_timesteps": COUNT,
    # RLlib's keys, in its own methods.
    "env": Accepts(
        "the name of a registered env, which is in ASCII, or a class or a function that makes one",
        lambda value: value is None or (value.isascii() if isinstance(value, str) else callable(value)),
    ),
    "env_config": DICT,
    "disable_env_checking": FLAG,
    "num_env_runners": COUNT_OR_0,
    "num_envs_per_env_runner": integer("an integer from 1 to 100,000", 1, 100_000),
    "env_runner_cls": Accepts("TeamEnvRunner or a subclass of it", lambda value: is_subclass(value, TeamEnvRunner)),
    "sample_timeout_s": POSITIVE.or_none(),
    "validate_env_runners_after_construction": FLAG,
    "batch_mode": only("complete_episodes", ", updates need whole episodes"),
    "observation_filter": only("NoFilter", ": the replay keeps observations as the env gives them"),
    "remote_worker_envs": only(False, "; use more env runners instead"),
    "explore": FLAG,
    "exploration_config": options(
        type=Accepts('"EpsilonGreedy", exploration is epsilon-greedy', _is_epsilon_greedy),
        initial_epsilon=PROBABILITY,
        final_epsilon=PROBABILITY,
        epsilon_timesteps=COUNT_OR_0,
        warmup_timesteps=COUNT_OR_0,
    ),
    "restart_failed_env_runners": FLAG,
    "ignore_env_runner_failures": FLAG,
    "restart_failed_sub_environments": FLAG,
    "max_num_env_runner_restarts": COUNT_OR_0,
    "num_consecutive_env_runner_failures_tolerance": COUNT_OR_0,
    "env_runner_restore_timeout_s": NON_NEGATIVE,
    "delay_between_env_runner_restarts_s": NON_NEGATIVE,
    "evaluation_interval": COUNT_OR_0.or_none(),
    "evaluation_duration": COUNT,
    "evaluation_duration_unit": only("episodes", ", of each network"),
    "evaluation_sample_timeout_s": POSITIVE.or_none(),
    "evaluation_config": Accepts(
        "a dict, an AlgorithmConfig, or None",
        lambda value: value is None or isinstance(value, AlgorithmConfig) or DICT.check(value),
    ),
    "evaluation_num_env_runners": COUNT_OR_0,
    "evaluation_parallel_to_training": FLAG,
    "num_cpus_for_main_process": integer("an integer from 1 to 1,024", 1, 1024),
    "num_gpus": _UNITS,
    "num_gpus_per_env_runner": _UNITS,
    "num_cpus_per_env_runner": _UNITS,
    "custom_resources_for_main_process": _RESOURCES,
    "custom_resources_per_env_runner": _RESOURCES,
    "placement_strategy": one_of("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"),
    "extra_python_environs_for_driver": _VARIABLES,
    "extra_python_environs_for_worker": _VARIABLES,
    "min_sample_timesteps_per_iteration": COUNT_OR_0,
    "min_train_timesteps_per_iteration": COUNT_OR_0.or_none(),
    "min_time_s_per_iteration": NON_NEGATIVE.or_none(),
    "metrics_num_episodes_for_smoothing": COUNT,
    "keep_per_episode_custom_metrics": FLAG,
    "seed": integer("an integer from 0 to 2**31 - 1", 0, 2**31 - 1).or_none(),
    "log_level": one_of("DEBUG", "INFO", "WARN", "ERROR"),
    "log_sys_usage": FLAG,
    "export_native_model_files": FLAG,
    "checkpoint_trainable_policies_only": FLAG,
    "callbacks_class": subclass_of(RLlibCallback),
    **{f"callbacks_{name}": Accepts("a function, a list of functions, or None", _are_functions) for name in CALLBACKS},
    "grad_clip_by": only("global_norm", ", of each optimizer"),
    "framework_str": only("torch"),
    "policies": Accepts(f"{DEFAULT_POLICY_ID!r} alone: one team has one policy", _is_the_policy),
    "policies_to_train": Accepts(
        f"[{DEFAULT_POLICY_ID!r}], or None: one team has one policy",
        lambda value: value is None or (not isinstance(value, dict) and _is_the_policy(value)),
    ),
    "policy_mapping_fn": Accepts("a function", callable),
    # Where one is True, RLlib makes the other True, too.
    "enable_rl_module_and_learner": only(False, f" like enable_env_runner_and_connector_v2{_POLICY_API}"),
    "enable_env_runner_and_connector_v2": only(False, _POLICY_API),
}

PAGE = 'docs/configuration.md, "As in RLlib",'
RLLIB_DEFAULTS = vars(AlgorithmConfig())
_SET_BY_RLLIB = ("algo_class", "in_evaluation", "simple_optimizer", "stats_cls_lookup")


def check_keys(config: AlgorithmConfig) -> None:
    """Checks each key of a config by itself.

    Raises:
        ValueError: a value is not accepted, or a key of RLlib's that is not supported has not RLlib's default.
    """
    for name, value in vars(config).items():
        if name in RANGES:
            RANGES[name].validate(name.removesuffix("_str"), value)
        elif not (config.in_evaluation and name == "rollout_fragment_length"):  # which RLlib sets there
            check_supported(name, value)


def check_supported(name: str, value: Any) -> None:
    """Refuses another value than RLlib's default for a key of RLlib's that is not supported.

    Raises:
        ValueError: the key is not supported.
    """
    internal = name.startswith("_") or name in _SET_BY_RLLIB
    if name not in RLLIB_DEFAULTS or name in RANGES or internal or same(value, RLLIB_DEFAULTS[name]):
        return
    if name == "model" and isinstance(value, dict):  # a part of it is merged; RLlib itself sets some entries
        value = {
            entry: given
            for entry, given in value.items()
            if not (str(entry).startswith("_") or (entry in MODEL_DEFAULTS and same(given, MODEL_DEFAULTS[entry])))
        }
        if not value:
            return
    raise not_supported(name, value)


def not_supported(name: str, value: Any) -> ValueError:
    """The error for a key of RLlib's that is not supported."""
    here = f"Here: {HINTS[name]}." if name in HINTS else f"{PAGE} lists the keys of RLlib that are."
    return ValueError(f"{name} is not supported by these algorithms; got {shown(value)}. {here}")
