"""Who may know whom: the walls between the package's rooms, and between test modules."""

import ast
import sys
from pathlib import Path

import pytest

import rllib_ddn
from support.programs import TESTS, run_program

PACKAGE = Path(rllib_ddn.__file__).parent
FACE = ("rllib_ddn.rllib", "rllib_ddn.cli")  # what users and Ray call


def imported(path, package):
    """The dotted names that a file imports, at any depth; of ``from a import b`` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def rooms():
    """Of each file of the package, its dotted name and what it imports."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["rllib_ddn", *path.relative_to(PACKAGE).with_suffix("").parts]
        package = ".".join(parts[:-1])
        yield ".".join(parts).removesuffix(".__init__"), imported(path, package)


ROOMS = dict(rooms())


def doors(walls_of, forbidden):
    """Forbidden imports of the modules that ``walls_of`` chooses."""
    return {
        name: bad
        for name, names in ROOMS.items()
        if walls_of(name) and (bad := sorted(n for n in names if forbidden(n)))
    }


def test_imports_are_found(tmp_path):
    (tmp_path / "a.py").write_text("import ray.tune as t\ndef f():\n    from ..rllib import x\n    from . import y\n")
    found = imported(tmp_path / "a.py", "rllib_ddn.envs")
    assert found == {"ray.tune", "rllib_ddn.rllib", "rllib_ddn.rllib.x", "rllib_ddn.envs", "rllib_ddn.envs.y"}
    assert "rllib_ddn.learning.batch" in ROOMS["rllib_ddn.learning.update"]
    assert "rllib_ddn.rllib" in ROOMS["rllib_ddn"]


def test_the_learner_is_free_of_ray():
    learner = lambda name: within(  # noqa: E731
        name,
        "rllib_ddn.team",
        "rllib_ddn.losses",
        "rllib_ddn.random_streams",
        "rllib_ddn.networks",
        "rllib_ddn.learning",
    )
    assert doors(learner, lambda name: within(name, "ray", "rllib_ddn.envs")) == {}


def test_networks_know_nothing_of_how_they_are_trained():
    assert (
        doors(
            lambda name: within(name, "rllib_ddn.networks", "rllib_ddn.losses"),
            lambda name: within(name, "rllib_ddn.learning"),
        )
        == {}
    )


def test_the_learner_runs_where_ray_cannot_be_imported():
    assert run_program("learn_without_ray") == "learned\n"


def test_what_is_deployed_needs_numpy_alone():
    """Beside it onnxruntime or torch, whichever plays the file, when a policy is loaded."""
    allowed = lambda name: within(name, *sys.stdlib_module_names, "numpy", "rllib_ddn.checks")  # noqa: E731
    deployed = lambda name: within(name, "rllib_ddn.deploy", "rllib_ddn.checks")  # noqa: E731
    assert doors(deployed, lambda name: not allowed(name)) == {"rllib_ddn.deploy": ["onnxruntime", "torch"]}


def test_envs_never_import_the_learner():
    own = lambda name: within(name, "rllib_ddn.team", "rllib_ddn.names", "rllib_ddn.envs")  # noqa: E731
    forbidden = lambda name: within(name, "torch") or (within(name, "rllib_ddn") and not own(name))  # noqa: E731
    assert doors(lambda name: within(name, "rllib_ddn.envs"), forbidden) == {}


def test_nothing_below_the_face_knows_it():
    below = lambda name: name != "rllib_ddn" and not within(name, *FACE)  # noqa: E731
    assert doors(below, lambda name: within(name, *FACE)) == {}
    # Nor through the package itself, which has the face's names.
    parts = {name.split(".")[1] for name in ROOMS if "." in name}
    assert (
        doors(below, lambda name: within(name, "rllib_ddn") and name.split(".")[1:2] not in [[], *([p] for p in parts)])
        == {}
    )


@pytest.mark.parametrize("path", sorted(TESTS.glob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_module_imports_another(path):
    others = {other.stem for other in TESTS.glob("*.py")}
    assert not imported(path, "") & others
