"""What `rllib train` is to run: experiments from a file or from options, completed and checked."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import yaml
from pyarrow.fs import FileSystem
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.train.constants import DEFAULT_STORAGE_PATH
from ray.tune import TuneError
from ray.tune.experiment import Experiment
from ray.tune.registry import ENV_CREATOR, get_trainable_cls
from ray.tune.search.variant_generator import generate_variants

import rllib_ddn
from rllib_ddn.cli.common import fail, one_line_errors, parse_object
from rllib_ddn.cli.train import TrainOptions
from rllib_ddn.names import did_you_mean, imported, is_custom, nearest
from rllib_ddn.rllib.accepts import same
from rllib_ddn.rllib.env_creator import is_custom_env
from rllib_ddn.rllib.ray_internals import is_registered
from rllib_ddn.rllib.score import add_score
from rllib_ddn.team import TeamSpec

OURS: dict[str, type[Algorithm]] = {"DDN": rllib_ddn.DDN}
OURS |= {algo.__name__: algo for algo in (*rllib_ddn.HOSTS, *rllib_ddn.PEERS)}
# The checkpoint options of Ray 2.41's command and files, in Tune's present form.
OLD_CHECKPOINT_KEYS = {
    "checkpoint_freq": "checkpoint_frequency",
    "checkpoint_at_end": "checkpoint_at_end",
    "keep_checkpoints_num": "num_to_keep",
    "checkpoint_score_attr": "checkpoint_score_attribute",
}
# What an experiment of a file may have: Tune's settings, and those of Ray 2.41's files.
KEYS = {*inspect.signature(Experiment).parameters, "env", "scheduler", "scheduler_config", *OLD_CHECKPOINT_KEYS} - {
    "name"
}
SAMPLERS = ("choice", "uniform", "quniform", "loguniform", "qloguniform", "randn", "randint", "qrandint", "lograndint")
# What trainings mostly stop at. There may be more in a result: callbacks add to it.
RESULTS = {"timesteps_total", "num_env_steps_sampled", "num_env_steps_sampled_lifetime", "num_env_steps_trained"}
RESULTS |= {"training_iteration", "time_total_s"}
RESERVE = 20_000_000  # bytes of a disk, for results and Tune's state


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Experiments from a yaml or Python file, by name."""
    if not path.is_file():
        fail(f"there is no file {path}.")
    if path.suffix == ".py":
        return {path.stem: _load_python(path)}
    if path.suffix not in (".yaml", ".yml"):
        fail(f"{path} is neither .yaml nor .py.")
    try:
        experiments = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"{path} is not yaml: {' '.join(str(error).split())}")
    if not (isinstance(experiments, dict) and experiments and all(isinstance(s, dict) for s in experiments.values())):
        fail(f"{path} must map experiment names to their settings (run, env, stop, config).")
    return experiments


def _load_python(path: Path) -> dict[str, Any]:
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec
    assert module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    with one_line_errors():
        module_spec.loader.exec_module(module)
    if not hasattr(module, "config"):
        fail(f"{path} has no variable `config`: make it an AlgorithmConfig.")
    config = module.config
    # Without the defaults, some of which Tune's files do not keep as they are.
    defaults = config.algo_class.get_default_config().to_dict()
    given = {k: v for k, v in config.to_dict().items() if k not in defaults or not same(v, defaults[k])}
    return {"run": config.algo_class.__name__, "config": given, "stop": getattr(module, "stop", {})}


def complete(experiments: dict[str, dict[str, Any]], options: TrainOptions) -> None:
    """Puts the options into the experiments, in place; the options win."""
    config = parse_object("--config", options.config, '{"lr": 0.0005}')
    env_config = parse_object("--env-config", options.env_config, '{"penalty": 2.0}')
    stop = parse_object("--stop", options.stop, '{"timesteps_total": 100000}')
    scheduler_config = parse_object("--scheduler-config", options.scheduler_config, '{"grace_period": 10}')
    for name, spec in experiments.items():
        for key in spec.keys() - KEYS:
            fail(f"the experiment {name!r} has an unknown key {key!r}; {did_you_mean(key, KEYS, count=3)}")
        its_config = spec.get("config") or {}
        if "env" in spec:
            its_config["env"] = spec.pop("env")
        env = options.env or config.get("env")
        if env and env != its_config.get("env"):
            its_config["env"] = env
            its_config.pop("env_config", None)  # the other env's
        its_config = merged(its_config, config)
        if env_config:
            its_config = merged(its_config, {"env_config": env_config})
        if options.v or options.vv:
            its_config["log_level"] = "DEBUG" if options.vv else "INFO"
        spec["config"] = samplers(its_config)
        spec["stop"] = _checked_stop(stop or spec.get("stop") or {})
        for option in ("num_samples", "restore", "storage_path"):
            if getattr(options, option) is not None:
                spec[option] = getattr(options, option)
        if spec.get("num_samples") == 0:
            fail("--num-samples is at least 1, or -1 for no end; got 0")
        spec.setdefault("storage_path", DEFAULT_STORAGE_PATH)
        if "://" not in spec["storage_path"]:
            spec["storage_path"] = str(Path(spec["storage_path"]).expanduser().absolute())
        if spec.get("restore"):
            if "://" in spec["restore"]:
                fail(f"to restore takes a folder on this machine; got {spec['restore']}")
            spec["restore"] = str(Path(spec["restore"]).expanduser().absolute())
        spec["checkpoint_config"] = _checkpoint_config(spec, options)
        if options.scheduler:
            spec |= {"scheduler": options.scheduler, "scheduler_config": scheduler_config}
        elif scheduler_config and not spec.get("scheduler"):
            fail("--scheduler-config needs a scheduler: name it with --scheduler, such as async_hyperband.")
        else:
            spec["scheduler"] = spec.get("scheduler") or "fifo"
            spec["scheduler_config"] = {**spec.get("scheduler_config", {}), **scheduler_config}


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``old`` with ``new``'s values, key by key at any depth; what Tune is to search is replaced as a whole."""
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(old.get(key), dict)
        result[key] = merged(old[key], value) if both and not (_is_search(value) or _is_search(old[key])) else value
    return result


def _is_search(value: dict[str, Any]) -> bool:
    """Whether a dict is ``{grid_search: [values]}`` or ``{tune.NAME: [arguments]}``."""
    return len(value) == 1 and str(next(iter(value))).startswith(("grid_search", "tune."))


def samplers(value: Any) -> Any:
    """Replaces ``{tune.NAME: [arguments]}`` by Tune's sampler of that name, at any depth."""
    if isinstance(value, list):
        return [samplers(item) for item in value]
    if not isinstance(value, dict):
        return value
    key, arguments = next(iter(value.items()), ("", []))
    if len(value) == 1 and str(key).startswith("tune."):
        name = key.removeprefix("tune.")
        if name not in SAMPLERS:
            fail(f"{key} is no sampler of Ray Tune; tune.choice, tune.uniform and tune.loguniform are.")
        return tune.choice(arguments) if name == "choice" else getattr(tune, name)(*arguments)
    return {k: samplers(item) for k, item in value.items()}


def _checked_stop(stop: dict[str, Any]) -> dict[str, Any]:
    for limit, value in stop.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            fail(f"to stop at {limit} takes a number, as in --stop '{{\"{limit}\": 100000}}'; got {json.dumps(value)}")
        if limit in RESULTS and not value > 0:
            fail(f"to stop at {limit} takes a number above 0; got {json.dumps(value)}")
        if limit not in RESULTS and (near := nearest(limit, RESULTS, cutoff=0.8)):
            fail(f"to stop at {limit!r}, which no result has: did you mean {near[0]!r}?")
    return stop


def _checkpoint_config(spec: dict[str, Any], options: TrainOptions) -> dict[str, Any]:
    config = dict(spec.pop("checkpoint_config", {}))
    for old, new in OLD_CHECKPOINT_KEYS.items():
        if old in spec:
            config[new] = spec.pop(old)
        if getattr(options, old) is not None:
            config[new] = getattr(options, old)
    score = config.get("checkpoint_score_attribute") or ""
    if score.startswith("min-"):
        config["checkpoint_score_attribute"], config["checkpoint_score_order"] = score.removeprefix("min-"), "min"
    return config


def checkpoint_by_default(spec: dict[str, Any]) -> bool:
    """Has an algorithm checkpoint where neither file nor options say otherwise: at the end, and by the clock, of which
    the last two are kept. The checkpoints of this package's algorithms hold the best state besides; of RLlib's own
    algorithms, the best checkpoint and the latest are kept.

    Returns:
        Whether to checkpoint by the clock.
    """
    algo, config = get_trainable_cls(spec["run"]), spec["checkpoint_config"]
    if not issubclass(algo, Algorithm):
        return False
    config.setdefault("checkpoint_at_end", True)
    if "checkpoint_frequency" in config:
        return False
    if not is_ours(algo) and "num_to_keep" not in config and _add_score(algo, spec["config"]):
        config |= {"num_to_keep": 1, "checkpoint_score_attribute": "score", **config}
    config.setdefault("num_to_keep", 2)
    return True


def _add_score(algo: type[Algorithm], config: dict[str, Any]) -> bool:
    """Has one of RLlib's own algorithms score its results; returns whether it can, which takes the new API stack."""
    key = "enable_env_runner_and_connector_v2"
    if not config.get(key, getattr(algo.get_default_config(), key)):
        return False
    given = config.get("callbacks_on_train_result") or []
    config["callbacks_on_train_result"] = [*(given if isinstance(given, list) else [given]), add_score]
    return True


def check(name: str, spec: dict[str, Any], learns_here: bool = True) -> None:
    """Builds the config of every variant here, where an error is a line and not a worker's traceback.

    Args:
        name, spec: the experiment.
        learns_here: whether learners have this machine's GPUs; in a cluster they may have another's.

    Raises:
        ValueError: something in the experiment is not accepted.
    """
    if not isinstance(spec.get("run"), str):
        raise ValueError(f"the experiment {name!r} names no algorithm: add `run: DDN`.")
    try:
        algo = get_trainable_cls(spec["run"])
    except (TuneError, ValueError):
        hint = did_you_mean(spec["run"], [*OURS, *ALGORITHMS], OURS, count=3)
        raise ValueError(f"there is no algorithm {spec['run']!r}; {hint}") from None
    if not issubclass(algo, Algorithm):
        return
    if not spec["config"].get("env"):
        raise ValueError(f"the experiment {name!r} names no env: add `env: predator_prey`, or --env.")
    teams: list[tuple[Any, dict[str, Any], TeamSpec]] = []  # of the envs that have been built
    for _, variant in generate_variants(spec["config"]):
        check_env_name(variant["env"])
        if is_custom(variant["env"]) and not is_ours(algo):
            dotted = variant["env"].replace(":", ".")
            raise ValueError(
                f"{spec['run']} is RLlib's own algorithm, for which the env {variant['env']!r} is {dotted!r}."
            )
        config = algo.get_default_config().update_from_dict(variant)
        config.validate()
        if is_ours(algo):
            if learns_here:
                config.check_gpus()
            known = next((team for e, c, team in teams if (e, c) == (config.env, config.env_config)), None)
            team = config.check_env(known)
            if known is None:
                teams.append((config.env, config.env_config, team))


def is_ours(algo: type) -> bool:
    """Whether an algorithm is one of this package."""
    return issubclass(algo, rllib_ddn.ValueDecomposition)


def check_env_name(env: Any) -> None:
    """Looks a name up as RLlib does: registered, else ``module:name``, else Gymnasium's.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(env, str) or is_registered(ENV_CREATOR, env) or env.startswith("ale_py:ALE/"):
        return
    if is_custom_env(env):
        try:
            imported(env)
        except ImportError as error:
            raise ValueError(f"the env {env!r} cannot be imported: {error}") from None
        return
    try:
        gymnasium.spec(env)
    except (gymnasium.error.Error, ImportError):
        hint = did_you_mean(env, [*rllib_ddn.ENVS, *gymnasium.registry], rllib_ddn.ENVS, count=3)
        raise ValueError(f"there is no env {env!r}; {hint}") from None


def check_storage(name: str, spec: dict[str, Any]) -> None:
    """Makes the folder of an experiment; on this machine, also writes a file there.

    Raises:
        ValueError: one cannot, or the disk is full.
    """
    where = spec["storage_path"]
    try:
        storage, path = FileSystem.from_uri(where)
        storage.create_dir(f"{path}/{name}")
        if "://" in where:
            return
        with tempfile.TemporaryFile(dir=Path(where, name)) as file:
            file.write(b" ")
    except (OSError, ValueError) as error:
        raise ValueError(f"results cannot be written to {where} ({error}): name another --storage-path.") from None
    if (free := shutil.disk_usage(where).free) < RESERVE:
        raise ValueError(
            f"only {free / 1e6:.0f} MB are left on the disk of {where}: free some, or name another --storage-path."
        )
