"""Private names of Ray: one file of the package uses them, and the installed Ray has them."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.evaluation.rollout_worker import RolloutWorker
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

import rllib_ddn

PACKAGE = Path(rllib_ddn.__file__).parent
INTERNALS = PACKAGE / "rllib" / "ray_internals.py"
OTHERS = sorted(set(PACKAGE.rglob("*.py")) - {INTERNALS})
CLASSES = (Algorithm, AlgorithmConfig, EnvRunnerGroup, FaultTolerantActorManager, RolloutWorker, TorchPolicyV2)
SOURCES = ("tune/registry.py", "experimental/internal_kv.py", "_private/worker.py")


def private_names(source):
    return set(re.findall(r"\b_[a-z]\w*", source))


def rays(cls):
    """The private names in the source of the classes of Ray that a class is derived from."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("ray.")]
    return set().union(*(private_names(inspect.getsource(base)) for base in bases))


def nodes(path, kind):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind)]


def test_no_other_file_imports_a_private_name():
    found = set()
    for path in OTHERS:
        for node in nodes(path, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if names[0] == "ray" and any(name.startswith("_") for name in names):
                found.add((path.name, node.module))
        found |= {(path.name, a.name) for n in nodes(path, ast.Import) for a in n.names if a.name.startswith("ray._")}
    assert not found


def test_no_other_file_has_an_attribute_that_the_package_does_not_define():
    own = set().union(*(private_names(path.read_text()) for path in OTHERS if not path.match("cli/*")))
    defined = {name for name in own if any(re.search(rf"(def |self\.){name}\b", p.read_text()) for p in OTHERS)}
    found = {
        (path.name, node.attr)
        for path in OTHERS
        for node in nodes(path, ast.Attribute)
        if re.match("_[a-z]", node.attr) and node.attr not in defined and ast.unparse(node.value) not in ("self", "cls")
    }
    assert not found


def test_no_class_overrides_or_uses_a_private_name_of_its_bases():
    found = {}
    for module in pkgutil.walk_packages([str(PACKAGE)], "rllib_ddn."):
        if module.name in ("rllib_ddn.rllib.ray_internals", "rllib_ddn.cli.__main__"):
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(cls) and cls.__module__ == module.name:
                used = private_names(inspect.getsource(cls)) & rays(cls)
                found |= {cls.__name__: used} if used else {}
    assert not found


def test_ray_has_the_private_names_that_are_used():
    theirs = set().union(
        *map(rays, CLASSES), *(private_names((Path(ray.__file__).parent / s).read_text()) for s in SOURCES)
    )
    own = {node.name for node in nodes(INTERNALS, ast.FunctionDef)} | {
        target.id for node in nodes(INTERNALS, ast.Assign) for target in node.targets if isinstance(target, ast.Name)
    }
    code = ast.parse(INTERNALS.read_text())
    used = {n.attr for n in ast.walk(code) if isinstance(n, ast.Attribute)} | (own - {"_NAMESPACE"})
    used = {name for name in used if re.match("_[a-z]", name)}
    assert {"_counters", "_worker_manager", "_internal_kv_put", "_get_env_id_and_creator"} <= used
    assert used <= theirs
