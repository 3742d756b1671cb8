"""The config that every algorithm of this package shares."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import Any, ClassVar, Self, TypeVar

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils.annotations import override
from ray.rllib.utils.error import EnvError
from ray.rllib.utils.from_config import NotProvided

from rllib_ddn.envs import ENVS
from rllib_ddn.envs.grouping import as_team_env, team_of
from rllib_ddn.envs.named import creator_of
from rllib_ddn.learning import AGENT
from rllib_ddn.names import imported
from rllib_ddn.networks import MIXERS, Mixer, TeamSizes
from rllib_ddn.rllib.env_runner import TeamEnvRunner
from rllib_ddn.rllib.faults import Failure
from rllib_ddn.rllib.keys import (
    ABOVE_0,
    AT_LEAST_0,
    COUNT,
    COUNT_OR_0,
    DECAY,
    DICT,
    FLAG,
    FRACTION,
    LEARNING_RATE,
    OPTIMIZER,
    RATE,
    SIZE,
    Accepts,
    Custom,
    between,
    cause,
    declared,
    documented,
    entry_of,
    key,
    nearest_hint,
    options,
    shown,
    whole,
)
from rllib_ddn.rllib.model import class_of
from rllib_ddn.rllib.rllib_keys import ACCEPTED, EPSILON_GREEDY, FORMER, HINTS, MODEL, check_rllibs_keys
from rllib_ddn.rllib.videos import RENDERED, check_rendering, random_state_kept
from rllib_ddn.team import TeamEnvError, TeamSpec

RENAMED = {"lpn_lr": "follower_lr", "idm_lr": "intrinsic_lr"}
# Keys that RLlib takes in config dicts although no attribute has their name.
_DICT_KEYS = ("multiagent", "_enable_new_api_stack", "_is_frozen")
_KEYS_OF_RLLIB = frozenset(vars(AlgorithmConfig()))
_KEYS_OF_RLLIBS_TRAINING = set(inspect.signature(AlgorithmConfig.training).parameters) - {"self"}

A = TypeVar("A", bound="Any")


class ValueDecompositionConfig(AlgorithmConfig):
    """Configures a :class:`~rllib_ddn.rllib.value_decomposition.ValueDecomposition`. The defaults are what works best
    across this package's envs. Where they leave the DDN paper's values (section B.3; PyMARL's where it is silent), the
    key tells those; ``tuned_examples/paper/`` has them spelled out.

    All keys that this package adds, or that have another default or meaning here, are declared in the body
    of the class; ``help()`` of :meth:`training` lists those that it takes. A subclass changes defaults with
    ``defaults = {key: value}``.
    """

    defaults: ClassVar[dict[str, Any]] = {}
    algorithm: ClassVar[Callable[[], type]]  # see configured_by()

    # Keys of this package's own.
    mixer: Any = key(
        "qmix",
        entry_of(MIXERS, Mixer),
        "how the agents' Q values make Q_tot (section 3.2): a name of :mod:`rllib_ddn.networks.mixers`, or a subclass of "
        ":class:`rllib_ddn.Mixer`.",
    )
    mixer_config: dict[str, Any] = key({}, DICT, "options of the mixer, explained by its class.")
    agent_hidden_dim: int = key(64, SIZE, "H, size of the agent networks' features and GRU.")
    td_lambda: float = key(
        0.6,
        FRACTION,
        "lambda in [0, 1] of the targets: 0, the paper's, looks one step ahead (Equation 5), above 0 they are lambda returns "
        "(Peng's Q(lambda)), with 1 over the whole rest of the episode. Lambda returns learn sooner, but they hold what "
        "exploring teammates spoil: where miscoordination is punished, as on Predator-Prey with a penalty, 0 is better.",
    )
    targets: Any = key(
        None,
        Custom("a function, its 'module:name', or None", lambda value: value is None or callable(value)),
        "a custom function that makes TD targets, in the place of lambda returns and ``td_lambda`` "
        "(see :mod:`rllib_ddn.learning.targets`).",
    )
    optimizer: Any = key(
        "adam",
        OPTIMIZER,
        'optimizer of agent network and mixer: "adam", "rmsprop" (the paper\'s; alpha 0.99, eps 1e-5), or a dict of ``type`` '
        'and torch\'s arguments of it, such as ``{"type": "adam", "eps": 1e-5}``.',
    )
    double_q: bool = key(
        True, FLAG, "whether the online network chooses the targets' actions; else the target network does."
    )
    target_update_interval_episodes: int = key(
        50,
        COUNT,
        "sampled episodes between updates of the targets, of which a round has one at most; the paper's: 200.",
    )
    target_update_interval_updates: int | None = key(
        None,
        COUNT.or_none(),
        "learning updates between updates of the targets; replaces ``target_update_interval_episodes``.",
    )
    tau: float = key(
        1.0,
        RATE,
        "share of the way that a target moves to its online network when it is updated: 1 is a hard copy.",
    )
    weight_averaging: float | None = key(
        0.99,
        DECAY.or_none(),
        "decay in [0, 1) of the exponential average of the acting networks' weights, moved after each update "
        "(see :class:`rllib_ddn.networks.averaging.AveragedNetworks`): evaluation, ``compute_single_action()`` and export use the "
        "averages; the networks that act in training, learn and make targets do not. None: no averages. In "
        "``evaluation_config``, None evaluates the online weights: ``score`` and ``best`` then rate these, and not the averages, "
        "which are deployed all the same; None for the whole config deploys what is evaluated.",
    )
    updates_per_episode: float = key(1.0, between(0.001, 1000), "updates per sampled episode; 0.25 is one in four.")
    sample_ahead: bool = key(
        False,
        FLAG,
        "remote env runners play the next round while the learner learns from the last one, with weights that are one "
        "round older; epsilon and other schedules are those of the round that is played. Runs are then not exactly reproducible.",
    )
    store_buffer_in_checkpoints: bool = key(
        True,
        FLAG,
        "whether checkpoints hold the replay, compressed. With it, a restored run goes on learning at once, and exactly "
        "(``num_env_runners=0`` and a ``seed``); without it, learning waits until ``train_batch_size`` new episodes are there.",
    )
    replay_buffer_config: dict[str, Any] = key(
        {"capacity": 5000}, options(capacity=COUNT), '``{"capacity": episodes}``.'
    )

    # RLlib's keys that training() takes.
    lr: Any = key(
        1e-3,
        LEARNING_RATE,
        "learning rate of agent network and mixer (the paper's: 5e-4); or a schedule "
        "``[[env steps, rate], ...]`` from 0 on, linear in between.",
    )
    gamma: float = key(0.99, FRACTION, "discount.")
    grad_clip: float | None = key(10.0, ABOVE_0.or_none(), "largest gradient norm of each optimizer; None: off.")
    train_batch_size: int = key(32, COUNT, "*episodes* per update.")

    # RLlib's other keys.
    num_env_runners: int = key(0, COUNT_OR_0, "remote env runners; 0: the learner's process plays.")
    num_envs_per_env_runner: int = key(
        1,
        whole("a whole number from 1 to 100,000", 1, 100_000),
        "an env runner plays one episode in each of these sub-environments per round.",
    )
    sample_timeout_s: float | None = key(
        600.0,
        ABOVE_0.or_none(),
        "seconds for a round of remote env runners, after which one that has not ended is taken for hung: it is killed, Ray "
        "starts it again, and ``info/num_env_runners_hung`` counts it. None: never. (RLlib's default is 60; here a round "
        "is whole episodes, and the first one starts the games.)",
    )
    delay_between_env_runner_restarts_s: float = key(
        0.0, AT_LEAST_0, "seconds before an env runner whose env has raised ends, and Ray starts it again."
    )
    num_cpus_for_main_process: int = key(1, whole("a whole number from 1 to 1,024", 1, 1024), "cores of the learner.")
    min_sample_timesteps_per_iteration: int = key(10_000, COUNT_OR_0, "env steps per iteration.")
    exploration_config: dict[str, Any] = key(
        {"type": "EpsilonGreedy", "initial_epsilon": 1.0, "final_epsilon": 0.05, "epsilon_timesteps": 50_000},
        EPSILON_GREEDY,
        "EpsilonGreedy: each agent by itself takes a random available action with probability epsilon, which falls "
        "linearly over ``epsilon_timesteps`` env steps.",
    )
    evaluation_interval: int | None = key(1, COUNT_OR_0.or_none(), "iterations between evaluations; 0 or None: none.")
    evaluation_duration: int = key(32, COUNT, "greedy episodes of each network in an evaluation.")
    video_interval: int | None = key(
        None,
        COUNT.or_none(),
        "iterations between videos: a greedy episode of the deployed network as ``videos/iteration_<n>.gif`` in the trial's "
        "folder, rendered by another env of the learner's process. They change nothing that is learned. None: no videos.",
    )
    evaluation_sample_timeout_s: float | None = key(
        600.0,
        ABOVE_0.or_none(),
        "as ``sample_timeout_s``, for each of the episodes that an env runner plays one after the other.",
    )

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        documented(cls)

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or type(self).algorithm())
        for name, value in declared(type(self)).items():
            setattr(self, name, copy.deepcopy(value.default))

        self._prior_exploration_config = None  # RLlib takes the class's own key for one that a user has given
        # What these algorithms cannot do without.
        self.enable_rl_module_and_learner = False
        self.enable_env_runner_and_connector_v2 = False
        self.framework_str = "torch"
        self.env_runner_cls = TeamEnvRunner
        self.batch_mode = "complete_episodes"
        self._disable_preprocessor_api = True  # observations stay in the env's dtype

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that can act."""
        return (AGENT,)

    @classmethod
    def taken_by_training(cls) -> set[str]:
        """The declared keys that :meth:`training` takes; RLlib's others have methods of their own."""
        return {name for name in declared(cls) if name in _KEYS_OF_RLLIBS_TRAINING or name not in _KEYS_OF_RLLIB}

    @override(AlgorithmConfig)
    def training(self, **settings: Any) -> Self:
        keys = self.taken_by_training()
        for name in settings:
            if name not in keys and name not in _KEYS_OF_RLLIBS_TRAINING:
                raise ValueError(self._unknown_key(name, [*keys, *_KEYS_OF_RLLIBS_TRAINING]))
        _refuse_non_dicts(settings)
        AlgorithmConfig.training(self, **{name: value for name, value in settings.items() if name not in keys})
        for name, value in settings.items():
            if name in keys:
                merges = name == "replay_buffer_config" and isinstance(value, dict)
                setattr(self, name, {**self.replay_buffer_config, **value} if merges else value)
        return self

    @override(AlgorithmConfig)
    def environment(self, *args: Any, **settings: Any) -> Self:
        _refuse_non_dicts(settings)
        return super().environment(*args, **settings)

    @override(AlgorithmConfig)
    def env_runners(self, **settings: Any) -> Self:
        _refuse_non_dicts(settings)
        return super().env_runners(**settings)

    @override(AlgorithmConfig)
    def evaluation(self, **settings: Any) -> Self:
        _refuse_non_dicts(settings)
        if isinstance(whole := settings.get("evaluation_config"), AlgorithmConfig):  # which always has an explore
            settings["evaluation_config"] = {
                name: value for name, value in whole.to_dict().items() if name != "explore"
            }
        return super().evaluation(**settings)

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """As in RLlib, but a key that the config does not have is refused.

        Raises:
            ValueError: unknown key; the message suggests the nearest name.
        """
        # Tune and RLlib put notes of their own into dicts.
        config_dict = {k: v for k, v in config_dict.items() if not str(k).startswith("__") and k != "class"}
        for name in config_dict:
            translated = self._translate_special_keys(name, warn_deprecated=False)
            if (translated not in vars(self) and name not in _DICT_KEYS) or name in FORMER:
                raise ValueError(self._unknown_key(name, [*declared(type(self)), *ACCEPTED]))
        _refuse_non_dicts(config_dict)
        for name in {"callbacks", "callbacks_class"} & config_dict.keys():
            if isinstance(config_dict[name], str):
                try:
                    config_dict[name] = imported(config_dict[name])
                except ImportError as error:
                    raise ValueError(f"{name} is {config_dict[name]!r}, which cannot be imported: {error}") from error
            ACCEPTED["callbacks_class"].validate(name, config_dict[name])
        # What RLlib takes for a class, or for the path of one.
        for name in ("replay_buffer_config", "exploration_config"):
            if isinstance(config_dict.get(name), dict) and "type" in config_dict[name]:
                declared(type(self))[name].accepts.validate(name, config_dict[name])
        model = config_dict.get("model")
        if isinstance(model, dict) and not isinstance(model.get("custom_model"), str):
            MODEL["custom_model"].validate("model['custom_model']", model.get("custom_model"))
        return super().update_from_dict(config_dict)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks all values.

        Raises:
            ValueError: a value is not accepted; the message names its key, what was given, and what
                is accepted.
        """
        self._check_keys()
        if (seed := vars(self)["seed"]) is not None:
            self.seed = int(seed)  # Python's random takes no number of NumPy's
        super().validate()
        check_options("mixer_config", class_of(self.mixer, MIXERS), self.mixer_config)
        if self.replay_buffer_config.get("capacity", math.inf) < self.train_batch_size:
            raise ValueError(
                f"replay_buffer_config['capacity'] = {self.replay_buffer_config['capacity']} is less than train_batch_size = "
                f"{self.train_batch_size}: nothing could ever be learned."
            )
        if self.train_batch_size % max(1, math.ceil(self.num_gpus)):
            raise ValueError(
                f"train_batch_size = {self.train_batch_size} is not divisible by num_gpus = {self.num_gpus}: each of the learner's "
                "GPUs takes the same number of episodes of a batch."
            )
        if isinstance(self.evaluation_config, dict):
            try:
                self.get_evaluation_config_object()._check_keys()
            except Exception as error:  # whatever RLlib makes of it
                raise ValueError(f"evaluation_config: {' '.join(str(error).split())}") from error

    @override(AlgorithmConfig)
    def _validate_callbacks_settings(self) -> None:
        """RLlib takes functions, as in ``callbacks(on_train_result=...)``, on its new API stack alone; these algorithms too."""

    @override(AlgorithmConfig)
    def get_evaluation_config_object(self) -> AlgorithmConfig | None:
        """Evaluations are greedy, but for an ``evaluation_config`` that is a dict with an ``explore`` of its own."""
        found = super().get_evaluation_config_object()
        if found is not None and not (isinstance(self.evaluation_config, dict) and "explore" in self.evaluation_config):
            found.explore = False
        return found

    @override(AlgorithmConfig)
    def get_state(self) -> dict[str, Any]:
        self._check_keys()  # RLlib compares the values with others, which fails for some
        return super().get_state()

    def _check_keys(self) -> None:
        """Checks each key by itself."""
        keys = declared(type(self))
        for name, value in keys.items():
            value.accepts.validate(name, getattr(self, name))
        check_rllibs_keys(self, keys)

    def _value_error(self, errmsg: str) -> None:
        """RLlib's own checks end here: their messages become one line."""
        raise ValueError(" ".join(errmsg.split()))

    def check_gpus(self) -> None:
        """Checks the learner's GPUs, in the learner's process or on its machine.

        Raises:
            ValueError: there are fewer than ``num_gpus``.
        """
        gpus = torch.cuda.device_count()
        if self.num_gpus > gpus and not self._fake_gpus:
            raise ValueError(
                f"num_gpus is {self.num_gpus}, but the learner finds {gpus or 'no'} GPUs: leave num_gpus 0, and it learns on "
                f"num_cpus_for_main_process = {self.num_cpus_for_main_process} CPU cores."
            )

    def check_env(self, spec: TeamSpec | None = None) -> TeamSpec:
        """Builds the env and the parts with options once, in this process, and checks them.

        Args:
            spec: what an earlier call returned for this env, which is not built again.

        Returns:
            The env's team.

        Raises:
            ValueError: a part cannot be built.
            TeamEnvError: the env breaks the convention (see :mod:`rllib_ddn.envs.grouping`).
        """
        if spec is None:
            spec = self._team_of_env()
            if self.video_interval is not None:
                self._check_rendering()
        with torch.random.fork_rng():
            self.check_parts(TeamSizes.of(spec, self.agent_hidden_dim))
        return spec

    def make_env(self, **more: Any) -> Any:
        """The env in this process, its ``env_config`` with ``more``.

        Raises:
            TeamEnvError: it cannot be made, or breaks the convention.
        """
        if self.env is None:
            raise TeamEnvError(f'no env is set: {type(self).__name__}().environment("predator_prey"), say.')
        context = EnvContext({**self.env_config, **more}, worker_index=0)
        try:
            return as_team_env(creator_of(self.env, self)(context), context)
        except EnvError as error:
            there = f"{', '.join(ENVS)}, those that you register with ray.tune.register_env(), and module:name"
            near = nearest_hint(self.env, ENVS)
            raise TeamEnvError(f"env is {self.env!r}, which is not registered: there are {there}.{near}") from error
        except ValueError:
            raise
        except Exception as error:
            raise TeamEnvError(f"env {shown(self.env)} cannot be made: it {Failure.of(error).why}.") from error

    def _team_of_env(self) -> TeamSpec:
        env = self.make_env()
        _, observation_space, action_space = team_of(env)
        if hasattr(env, "close"):
            env.close()
        return TeamSpec.from_spaces(observation_space, action_space)

    def _check_rendering(self) -> None:
        try:
            with random_state_kept(), closing(self.make_env(**RENDERED)) as env:
                check_rendering(env)
        except Exception as error:
            raise ValueError(f"video_interval needs an env that can be rendered: {shown(error, 200)}") from error

    def check_parts(self, sizes: TeamSizes) -> None:
        """Builds the parts that have options, to check their values."""
        check_part("mixer", class_of(self.mixer, MIXERS), sizes, self.mixer_config)

    def _unknown_key(self, name: str, known: list[str]) -> str:
        """The message about a key that this config does not have."""
        mine = type(self).__name__
        if RENAMED.get(name) in declared(type(self)):
            return f"config key {name!r} is now {RENAMED[name]!r}."
        if name in declared(type(self)):
            return f"config key {name!r} is not training()'s: env_runners(), evaluation(), resources() or reporting() takes it."
        if name in HINTS:
            return f"unknown config key {name!r}: {HINTS[name]}."
        owners = [other.__name__ for other in _subclasses(ValueDecompositionConfig) if name in declared(other)]
        if owners:
            return f"unknown config key {name!r}: it is a key of {owners[0]}, and {mine} has no use for it."
        return f"unknown config key {name!r}.{nearest_hint(name, known) or f' See the docstring of {mine}.training().'}"


def configured_by(config_class: type[ValueDecompositionConfig]) -> Callable[[type[A]], type[A]]:
    """Class decorator that ties an algorithm to its config class: ``get_default_config()`` of the one makes the other, and
    ``build_algo()`` of the other makes the one."""

    def tie(algorithm: type[A]) -> type[A]:
        algorithm.config_class = config_class
        # A function, since Ray follows classes through class attributes without end when it sends one to an actor.
        config_class.algorithm = staticmethod(lambda: algorithm)
        return algorithm

    return tie


def _refuse_non_dicts(settings: Mapping[str, Any]) -> None:
    """RLlib merges some settings into what is there; what is no dict cannot be."""
    for name in ("env_config", "exploration_config", "model", "multiagent"):
        if not isinstance(settings.get(name, {}), (dict, type(NotProvided))):
            raise ValueError(f"{name} is a dict; got {shown(settings[name])}.")
    overrides = settings.get("evaluation_config")
    if overrides is not None and not isinstance(overrides, (dict, AlgorithmConfig, type(NotProvided))):
        raise ValueError(f"evaluation_config is a dict, an AlgorithmConfig, or None; got {shown(overrides)}.")


def _subclasses(base: type) -> list[type]:
    found: list[type] = []
    direct: type
    for direct in base.__subclasses__():
        found += [direct, *_subclasses(direct)]
    return found


def check_options(key: str, owner: Any, options: dict[str, Any], shared: Collection[str] = ()) -> None:
    """Checks the options of a class in a table: their names, and of those that are annotated as ``int`` (a size), ``float``,
    ``bool`` or ``str`` the values, too. What else there is to check is up to the class.

    Args:
        key: the config key that holds them.
        owner: the class, built as ``owner(sizes, **options)``.
        options: what the user gave.
        shared: names of arguments that the class gets from other keys.

    Raises:
        ValueError: an option is unknown, or its value is not accepted.
    """
    accepted: dict[str, inspect.Parameter] = {}
    for base in (base for base in owner.__mro__ if "__init__" in vars(base)):
        parameters = list(inspect.signature(base).parameters.values())[1:]  # but the sizes
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        accepted |= {p.name: p for p in named if p.name not in shared and p.name not in accepted}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break  # it passes nothing on
    for name, value in options.items():
        if name not in accepted:
            raise ValueError(f"{key}[{name!r}] is unknown: {owner.__name__} has {', '.join(accepted) or 'no options'}.")
        kind = accepted[name].annotation
        kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
        if kind in _OPTIONS:
            _OPTIONS[kind].validate(f"{key}[{name!r}]", value)


def check_part(key: str, owner: Any, sizes: TeamSizes, options: Mapping[str, Any]) -> None:
    """Builds a part, to check its options and, if it is the user's own, whether it can be built.

    Args:
        key: the config key that names it.
        owner: its class.
        sizes: the team's.
        options: the user's.

    Raises:
        ValueError: it cannot.
    """
    try:
        part = owner(sizes, **options)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{key}: {owner.__name__}(sizes, **{dict(options)!r}) fails: {cause(error)}") from error
    if "_parameters" not in vars(part):
        raise ValueError(f"{key}: {owner.__name__} lacks super().__init__(sizes) in its __init__().")


# What an option accepts, by the annotation of the constructor's argument.
_OPTIONS = {
    "int": SIZE,
    "float": between(-1_000_000, 1_000_000),
    "bool": FLAG,
    "str": Accepts("a string", lambda v: isinstance(v, str)),
}

documented(ValueDecompositionConfig)  # subclasses are when they are made
