"""The config that every algorithm of this package shares."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never, Self, TypeVar

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils.annotations import override
from ray.rllib.utils.error import EnvError
from ray.rllib.utils.from_config import NotProvided

from rllib_ddn.envs import ENVS
from rllib_ddn.envs.grouping import as_team_env
from rllib_ddn.learning import AGENT
from rllib_ddn.learning.targets import Targets
from rllib_ddn.names import imported
from rllib_ddn.networks import MIXERS, Mixer, TeamSizes
from rllib_ddn.rllib.accepts import nearest_hint, shown
from rllib_ddn.rllib.components import check_component, check_options, class_of
from rllib_ddn.rllib.env_creator import creator_of
from rllib_ddn.rllib.env_runner import TeamEnvRunner
from rllib_ddn.rllib.faults import Failure
from rllib_ddn.rllib.from_pymarl import HINTS
from rllib_ddn.rllib.ranges import RANGES, check_keys, check_supported, not_supported
from rllib_ddn.rllib.ray_internals import ConfigInternals
from rllib_ddn.rllib.rendering import RENDERED, check_rendering, random_state_kept
from rllib_ddn.team import TeamEnvError, TeamSpec

LearningRate = float | Sequence[Sequence[float]]  # a schedule is [[env steps, rate], ...]
Optimizer = Literal["adam", "rmsprop"] | dict[str, Any]
A = TypeVar("A", bound="Any")

_KEYS_OF_RLLIBS_TRAINING = frozenset(inspect.signature(AlgorithmConfig.training).parameters) - {"self"}
_OTHER_KEYS_OF_RLLIB = frozenset(vars(AlgorithmConfig())) - _KEYS_OF_RLLIBS_TRAINING


def _refusing_non_dicts(method: Any) -> Any:
    """A method of RLlib's config that merges dicts into others, with one-line errors for what is no dict."""

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **settings: Any) -> Any:
        _refuse_non_dicts(settings)
        return method(self, *args, **settings)

    return checked


class ValueDecompositionConfig(ConfigInternals):
    """Configures a :class:`~rllib_ddn.rllib.value_decomposition.ValueDecomposition`.

    The keys of this package are arguments of :meth:`training`, which documents them. A subclass changes a default by a
    class attribute of the key's name. The defaults are what works best across the envs of this package. Where they
    leave the DDN paper's values (section B.3; PyMARL's where it is silent), the key tells those;
    ``tuned_examples/paper/`` has them spelled out.

    These keys of RLlib, which its own methods set, have another default or meaning here:

    Attributes:
        num_env_runners: Remote env runners (processes); with 0 the learner's process samples. Default: 0.
        num_envs_per_env_runner: Sub-environments of an env runner, each of which plays one episode in a sampling round.
            Default: 1.
        sample_timeout_s: Seconds that a sampling round of a remote env runner may take. One that takes longer counts as
            hung: it is killed and restarted, and ``info/num_env_runners_hung`` counts it. None: no limit. (RLlib's
            default is 60; here a round is whole episodes, and the first one starts the envs.) Default: 600.0.
        delay_between_env_runner_restarts_s: Seconds before an env runner whose env has raised ends and is restarted.
            Default: 0.0.
        num_cpus_for_main_process: CPU cores of the learner. Default: 1.
        min_sample_timesteps_per_iteration: Env steps per iteration, at least. Default: 10000.
        exploration_config: Epsilon-greedy exploration: each agent independently takes a random available action with
            probability epsilon, which falls linearly from ``initial_epsilon`` to ``final_epsilon`` over
            ``epsilon_timesteps`` env steps, after ``warmup_timesteps``. Default: {'type': 'EpsilonGreedy',
            'initial_epsilon': 1.0, 'final_epsilon': 0.05, 'epsilon_timesteps': 50000}.
        evaluation_interval: Iterations between evaluations; 0 or None: no evaluations. Default: 1.
        evaluation_duration: Greedy episodes of each network in an evaluation. Default: 32.
        evaluation_sample_timeout_s: As ``sample_timeout_s``, for each of the episodes that an env runner plays one
            after the other. Default: 600.0.
    """

    # Arguments of training().
    mixer: str | type[Mixer] = "qmix"
    mixer_config: dict[str, Any] = {}
    agent_hidden_dim: int = 64
    lr: LearningRate = 1e-3
    optimizer: Optimizer = "adam"
    grad_clip: float | None = 10.0
    gamma: float = 0.99
    td_lambda: float = 0.6
    targets: str | Targets | None = None
    double_q: bool = True
    target_update_interval_episodes: int = 50
    target_update_interval_updates: int | None = None
    tau: float = 1.0
    weight_averaging: float | None = 0.99
    train_batch_size: int = 32
    updates_per_episode: float = 1.0
    replay_buffer_config: dict[str, Any] = {"capacity": 5000}
    store_buffer_in_checkpoints: bool = True
    sample_ahead: bool = False
    video_interval: int | None = None
    # Arguments of RLlib's other methods.
    num_env_runners: int = 0
    num_envs_per_env_runner: int = 1
    sample_timeout_s: float | None = 600.0
    delay_between_env_runner_restarts_s: float = 0.0
    num_cpus_for_main_process: int = 1
    min_sample_timesteps_per_iteration: int = 10_000
    exploration_config: dict[str, Any] = {
        "type": "EpsilonGreedy",
        "initial_epsilon": 1.0,
        "final_epsilon": 0.05,
        "epsilon_timesteps": 50_000,
    }
    evaluation_interval: int | None = 1
    evaluation_duration: int = 32
    evaluation_sample_timeout_s: float | None = 600.0

    algorithm: ClassVar[Callable[[], type]]  # see configured_by()

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or type(self).algorithm())
        for name in self.keys_with_defaults():
            setattr(self, name, copy.deepcopy(getattr(type(self), name)))
        # What these algorithms cannot do without.
        self.enable_rl_module_and_learner = False
        self.enable_env_runner_and_connector_v2 = False
        self.framework_str = "torch"
        self.env_runner_cls = TeamEnvRunner
        self.batch_mode = "complete_episodes"

    @classmethod
    def keys_with_defaults(cls) -> list[str]:
        """The keys that the class and its bases declare with a default, those of the bases first."""
        bases = [base for base in reversed(cls.__mro__) if issubclass(base, ValueDecompositionConfig)]
        kinds = {name: kind for base in bases for name, kind in inspect.get_annotations(base).items()}
        return [name for name, kind in kinds.items() if hasattr(cls, name) and "ClassVar" not in str(kind)]

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks that can act."""
        return (AGENT,)

    def training(
        self,
        *,
        mixer: str | type[Mixer] = NotProvided,
        mixer_config: dict[str, Any] = NotProvided,
        agent_hidden_dim: int = NotProvided,
        lr: LearningRate = NotProvided,
        optimizer: Optimizer = NotProvided,
        grad_clip: float | None = NotProvided,
        gamma: float = NotProvided,
        td_lambda: float = NotProvided,
        targets: str | Targets | None = NotProvided,
        double_q: bool = NotProvided,
        target_update_interval_episodes: int = NotProvided,
        target_update_interval_updates: int | None = NotProvided,
        tau: float = NotProvided,
        weight_averaging: float | None = NotProvided,
        train_batch_size: int = NotProvided,
        updates_per_episode: float = NotProvided,
        replay_buffer_config: dict[str, Any] = NotProvided,
        store_buffer_in_checkpoints: bool = NotProvided,
        sample_ahead: bool = NotProvided,
        video_interval: int | None = NotProvided,
        **others: Never,
    ) -> Self:
        """Sets the training related configuration.

        Args:
            mixer: How the agents' Q values make Q_tot (section 3.2): a name of :mod:`rllib_ddn.networks.mixers`, a
                subclass of :class:`rllib_ddn.Mixer`, or its ``module:name``. Default: 'qmix'.
            mixer_config: Options of the mixer, the arguments of its class. Default: {}.
            agent_hidden_dim: H, size of the agent networks' features and GRU, 1 to 8,192. Default: 64.
            lr: Learning rate of agent network and mixer, in (0, 1] (the paper's: 5e-4); or a schedule
                ``[[env steps, rate], ...]`` from 0 on, linear in between. Default: 0.001.
            optimizer: Optimizer of agent network and mixer: "adam", "rmsprop" (the paper's; alpha 0.99, eps 1e-5), or a
                dict of ``type`` and arguments of torch's class, such as ``{"type": "adam", "eps": 1e-5}``.
                Default: 'adam'.
            grad_clip: Largest gradient norm of each optimizer, positive; None: no clipping. Default: 10.0.
            gamma: Discount in [0, 1]. Default: 0.99.
            td_lambda: Lambda in [0, 1] of the targets. With 0, the paper's, they look one step ahead (Equation 5),
                above 0 they are lambda returns (Peng's Q(lambda)), with 1 over the rest of the episode. Lambda returns
                learn sooner, but contain the effects of exploring teammates: where miscoordination is punished, as on
                Predator-Prey with a penalty, 0 is better. Default: 0.6.
            targets: A custom function that makes TD targets, or its ``module:name``; it replaces lambda returns and
                ``td_lambda`` (see :mod:`rllib_ddn.learning.targets`). Default: None.
            double_q: Whether the online network chooses the targets' actions; otherwise the target network does.
                Default: True.
            target_update_interval_episodes: Sampled episodes between updates of the targets, of which a sampling round
                has one at most (the paper's: 200). Default: 50.
            target_update_interval_updates: Learning updates between updates of the targets; replaces
                ``target_update_interval_episodes``. Default: None.
            tau: How far a target moves to its online network when it is updated, in (0, 1]: 1 is a hard copy.
                Default: 1.0.
            weight_averaging: Decay in [0, 1) of the exponential average of the acting networks' weights, moved after
                each update (see :class:`rllib_ddn.networks.averaging.AveragedNetworks`). Evaluation,
                ``compute_single_action()`` and export use the averages; acting in training, learning and targets do
                not. None: no averages. In ``evaluation_config``, None evaluates the online weights: ``score`` and
                ``best`` then rate these, and not the averages, which are deployed all the same; None for the whole
                config deploys what is evaluated. Default: 0.99.
            train_batch_size: *Episodes* per update. Default: 32.
            updates_per_episode: Updates per sampled episode, 0.001 to 1,000; 0.25 is one in four. Default: 1.0.
            replay_buffer_config: ``{"capacity": episodes}``, at least ``train_batch_size``. Default: {'capacity':
                5000}.
            store_buffer_in_checkpoints: Whether checkpoints hold the replay, compressed. With it, a restored run
                continues to learn at once, and exactly (``num_env_runners=0`` and a ``seed``); without it, learning
                waits for ``train_batch_size`` new episodes. Default: True.
            sample_ahead: Whether remote env runners sample the next round while the learner learns from the last one,
                with weights that are one round older; epsilon and other schedules are those of the round that is
                sampled. Runs are then not exactly reproducible. Default: False.
            video_interval: Iterations between videos: a greedy episode of the deployed network as
                ``videos/iteration_<n>.gif`` in the trial's folder, rendered by another env of the learner's process.
                They change nothing that is learned. None: no videos. Default: None.
            others: Not accepted; type checkers flag unknown names.

        Returns:
            This config.

        Raises:
            ValueError: an argument is unknown (the message suggests the nearest name) or not supported.
        """
        return self._set_training(locals())

    def _set_training(self, arguments: Mapping[str, Any]) -> Self:
        """Sets what :meth:`training` was given, its ``locals()``."""
        named = {name: value for name, value in arguments.items() if name not in ("self", "others")}
        given = {name: value for name, value in {**named, **arguments["others"]}.items() if value is not NotProvided}
        keys = set(self.keys_with_defaults()) - _OTHER_KEYS_OF_RLLIB
        for name in given.keys() - keys:
            if name not in _KEYS_OF_RLLIBS_TRAINING:
                raise ValueError(self._unknown_key(name, keys))
            if name not in vars(self):  # the constructor of RLlib's config sets its other keys
                raise not_supported(name, given[name])
            check_supported(name, given[name])
        _refuse_non_dicts(given)
        super().training(**{name: value for name, value in given.items() if name not in keys})
        for name in keys & given.keys():
            merges = name == "replay_buffer_config" and isinstance(given[name], dict)
            setattr(self, name, {**self.replay_buffer_config, **given[name]} if merges else given[name])
        return self

    if not TYPE_CHECKING:  # type checkers and IDEs see RLlib's signatures
        environment = _refusing_non_dicts(AlgorithmConfig.environment)
        env_runners = _refusing_non_dicts(AlgorithmConfig.env_runners)

        @_refusing_non_dicts
        @functools.wraps(AlgorithmConfig.evaluation)
        def evaluation(self, **settings):
            if isinstance(whole := settings.get("evaluation_config"), AlgorithmConfig):  # which always has an explore
                overrides = {name: value for name, value in whole.to_dict().items() if name != "explore"}
                settings["evaluation_config"] = overrides
            return super().evaluation(**settings)

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """As in RLlib, but a key that the config does not have is refused.

        Raises:
            ValueError: a key is unknown (the message suggests the nearest name) or not supported.
        """
        # Tune and RLlib put notes of their own into dicts.
        config_dict = {k: v for k, v in config_dict.items() if not str(k).startswith("__") and k != "class"}
        for name, value in config_dict.items():
            attribute = self.attribute_of(name)
            if attribute is None:
                raise ValueError(self._unknown_key(name, [*self.keys_with_defaults(), *RANGES]))
            check_supported(attribute, value)
        _refuse_non_dicts(config_dict)
        for name in {"callbacks", "callbacks_class"} & config_dict.keys():
            if isinstance(config_dict[name], str):
                try:
                    config_dict[name] = imported(config_dict[name])
                except ImportError as error:
                    raise ValueError(f"{name} is {config_dict[name]!r}, which cannot be imported: {error}") from error
            RANGES["callbacks_class"].validate(name, config_dict[name])
        # What RLlib takes for a class, or for the path of one.
        for name in ("replay_buffer_config", "exploration_config"):
            if isinstance(config_dict.get(name), dict) and "type" in config_dict[name]:
                RANGES[name].validate(name, config_dict[name])
        return super().update_from_dict(config_dict)

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks all values.

        Raises:
            ValueError: a value is not accepted; the message names its key, what was given, and what is accepted.
        """
        check_keys(self)
        if (seed := vars(self)["seed"]) is not None:
            self.seed = int(seed)  # Python's random takes no number of NumPy's
        super().validate()
        check_options("mixer_config", class_of(self.mixer, MIXERS), self.mixer_config)
        capacity = self.replay_buffer_config.get("capacity", math.inf)
        if capacity < self.train_batch_size:
            raise ValueError(
                f"replay_buffer_config['capacity'] = {capacity} is less than train_batch_size = "
                f"{self.train_batch_size}: nothing could ever be learned."
            )
        if self.train_batch_size % max(1, math.ceil(self.num_gpus)):
            raise ValueError(
                f"train_batch_size = {self.train_batch_size} is not divisible by num_gpus = {self.num_gpus}: each of "
                "the learner's GPUs takes the same number of episodes of a batch."
            )
        if isinstance(self.evaluation_config, dict):
            try:
                check_keys(self.get_evaluation_config_object())
            except Exception as error:  # whatever RLlib makes of it
                raise ValueError(f"evaluation_config: {' '.join(str(error).split())}") from error

    @override(AlgorithmConfig)
    def get_evaluation_config_object(self) -> AlgorithmConfig | None:
        """Evaluations are greedy, unless ``evaluation_config`` is a dict with an ``explore`` of its own."""
        found = super().get_evaluation_config_object()
        if found is not None and not (isinstance(self.evaluation_config, dict) and "explore" in self.evaluation_config):
            found.explore = False
        return found

    @override(AlgorithmConfig)
    def get_state(self) -> dict[str, Any]:
        check_keys(self)  # RLlib compares the values with others, which fails for some
        return super().get_state()

    def check_gpus(self) -> None:
        """Checks the learner's GPUs, in the learner's process or on its machine.

        Raises:
            ValueError: there are fewer than ``num_gpus``.
        """
        gpus = torch.cuda.device_count()
        if self.num_gpus > gpus and not self.fake_gpus:
            raise ValueError(
                f"num_gpus is {self.num_gpus}, but the learner finds {gpus or 'no'} GPUs: leave num_gpus 0, and it "
                f"learns on num_cpus_for_main_process = {self.num_cpus_for_main_process} CPU cores."
            )

    def check_env(self, spec: TeamSpec | None = None) -> TeamSpec:
        """Builds the env and the components with options once, in this process, and checks them.

        Args:
            spec: what an earlier call returned for this env, which is not built again.

        Returns:
            The env's team.

        Raises:
            ValueError: a component cannot be built.
            TeamEnvError: the env breaks the convention (see :mod:`rllib_ddn.envs.grouping`).
        """
        if spec is None:
            with closing(self.make_env()) as env:
                spec = env.team_spec
        if self.video_interval is not None:
            self._check_rendering()
        with torch.random.fork_rng():
            self.check_components(TeamSizes.of(spec, self.agent_hidden_dim))
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
            known = f"{', '.join(ENVS)}, those that you register with ray.tune.register_env(), and module:name"
            near = nearest_hint(self.env, ENVS)
            raise TeamEnvError(f"env is {self.env!r}, which is not registered: there are {known}.{near}") from error
        except ValueError:
            raise
        except Exception as error:
            raise TeamEnvError(f"env {shown(self.env)} cannot be made: it {Failure.of(error).why}.") from error

    def _check_rendering(self) -> None:
        try:
            with random_state_kept(), closing(self.make_env(**RENDERED)) as env:
                check_rendering(env)
        except Exception as error:
            raise ValueError(f"video_interval needs an env that can be rendered: {shown(error, 200)}") from error

    def check_components(self, sizes: TeamSizes) -> None:
        """Builds the components that have options, to check their values."""
        check_component("mixer", class_of(self.mixer, MIXERS), sizes, self.mixer_config)

    def _unknown_key(self, name: str, known: Collection[str]) -> str:
        """The message about a key that this config, or its training(), does not have."""
        mine = type(self)
        if name in vars(self):
            return f"config key {name!r} is not training()'s: env_runners(), evaluation() or another method takes it."
        if name in HINTS:
            return f"unknown config key {name!r}. Here: {HINTS[name]}."
        if name in RANGES:
            return f"unknown config key {name!r}: it is a key of DDNConfig, and {mine.__name__} has no use for it."
        hint = nearest_hint(name, known) or f" See the docstring of {mine.__name__}.training()."
        return f"unknown config key {name!r}.{hint}"


def configured_by(config_class: type[ValueDecompositionConfig]) -> Callable[[type[A]], type[A]]:
    """Class decorator that ties an algorithm to its config class: ``get_default_config()`` of the one makes the other,
    and ``build_algo()`` of the other makes the one."""

    def tie(algorithm: type[A]) -> type[A]:
        algorithm.config_class = config_class
        # A function, since Ray follows classes through class attributes without end when it sends one to an actor.
        config_class.algorithm = staticmethod(lambda: algorithm)
        return algorithm

    return tie


def _refuse_non_dicts(settings: Mapping[str, Any]) -> None:
    """RLlib merges some settings into what is there; what is no dict cannot be."""
    for name in ("env_config", "exploration_config", "multiagent"):
        if not isinstance(settings.get(name, {}), (dict, type(NotProvided))):
            raise ValueError(f"{name} is a dict; got {shown(settings[name])}.")
    overrides = settings.get("evaluation_config")
    if overrides is not None and not isinstance(overrides, (dict, AlgorithmConfig, type(NotProvided))):
        raise ValueError(f"evaluation_config is a dict, an AlgorithmConfig, or None; got {shown(overrides)}.")
