"""README, CONTRIBUTING and docs/: every block is run, links lead somewhere, tables are in step, and the site builds.

Python blocks run as they are, but for their budgets. Shell commands go to a function for each program in ``CHECKS``; a
training is parsed and checked as the command does it, and then a small one with its settings runs.
"""

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.tune.registry import get_trainable_cls
from ray.tune.search.variant_generator import generate_variants
from typer.testing import CliRunner

from rllib_ddn import cli
from rllib_ddn.cli import playing, reproducing, training
from rllib_ddn.cli.experiments import check, complete
from support.configs import SMALL_GAME
from support.pages import PAGES, ROOT, anchors, blocks, commands, links
from support.programs import run_program

pytestmark = pytest.mark.usefixtures("cluster")

README = ROOT / "README.md"
LANGUAGES = {"python", "bash", "yaml", "text"}  # text is what is shown and not run
BIN = Path(sys.executable).parent
TINY = {
    "train_batch_size": 4,
    "updates_per_episode": 1.0,
    "num_envs_per_env_runner": 2,
    "num_env_runners": 0,
    "evaluation_interval": None,
}
# Arguments of commands on results: what the pages' trainings have, and what the small training here has.
SMALLER = {"250000": "0", "150000": "0", "300000": "1000000", "win_rate": "episode_return_mean"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The README's first command, stopped early on a game that is as large as the full one but short: its folder of results."""
    (first, _) = commands(blocks(README, "bash")[0])
    storage = tmp_path_factory.mktemp("ray_results")
    game = {"grid_size": 10, "num_predators": 8, "num_prey": 8, "episode_limit": 10}
    config = {
        "env_config": game,
        "evaluation_duration": 2,
        "min_sample_timesteps_per_iteration": 1,
        "num_cpus_for_main_process": 1,
    }
    options = ["--stop", '{"training_iteration": 2}', "--config", json.dumps(config), "--storage-path", str(storage)]
    done = subprocess.run([*first, *options], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "predator-prey-small-ddn" in [path.name for path in storage.iterdir()]
    for name in ("predator-prey-easy-ddn", "smax-2s3z-ddn"):  # of trainings that the pages show, too
        (storage / name).symlink_to("predator-prey-small-ddn")
    return storage


@pytest.fixture(scope="module")
def checkpoint(trained):
    return max((trained / "predator-prey-small-ddn").glob("*/checkpoint_*"))


# -- Blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_can_be_run_or_says_why_not(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: {block.language!r}"
        if block.why_not:
            assert "not run by the tests" in page.read_text(), f"{block} is not run, which the page does not say"


def test_python_blocks_run(checkpoint, tmp_path):
    pages = [page for page in PAGES if blocks(page, "python")]
    assert README in pages
    exported = CliRunner().invoke(cli.app, ["export", str(checkpoint), "--out", str(tmp_path / "exported")])
    assert exported.exit_code == 0, exported.output
    out = run_program("run_pages", checkpoint, tmp_path, *pages, timeout=500, cwd=tmp_path)
    assert re.findall(r"^ran (.+)$", out, re.MULTILINE) == [
        str(block) for page in pages for block in blocks(page, "python")
    ]


@pytest.mark.parametrize(
    "block", [b for page in PAGES for b in blocks(page, "yaml") if not b.why_not], ids=lambda block: str(block)
)
def test_yaml_blocks_train(block, shell, tmp_path):
    (tmp_path / "file.yaml").write_text(block.text)
    shell(["rllib", "train", "file", str(tmp_path / "file.yaml")])


@pytest.mark.parametrize(
    "block", [b for page in PAGES for b in blocks(page, "bash") if not b.why_not], ids=lambda block: str(block)
)
def test_commands_run(block, shell):
    for command in commands(block):
        shell(command)


def test_what_is_not_run_can_be_parsed(shell):
    """StarCraft's trainings, up to the check of the env."""
    skipped = [
        command for page in PAGES for block in blocks(page, "bash") if block.why_not for command in commands(block)
    ]
    assert any("smac" in " ".join(command) for command in skipped)
    for command in skipped:
        if command[:2] == ["rllib", "train"]:
            experiments, options = shell.parsed(command)
            complete(experiments, options)
            for spec in experiments.values():
                get_trainable_cls(spec["run"]).get_default_config().update_from_dict(_first(spec)).validate()


# -- Commands -----------------------------------------------------------------------------------


def _first(spec):
    return next(iter(generate_variants(spec["config"])))[1]


class Shell:
    """Runs what a user would type; ``trained`` stands in for ~/ray_results, and its checkpoint for CHECKPOINT."""

    def __init__(self, trained, checkpoint, build, monkeypatch):
        self._places = {"~/ray_results": str(trained), "CHECKPOINT": str(checkpoint)}
        self._build, self._patch = build, monkeypatch

    def __call__(self, command):
        program, *arguments = command
        name = program.removeprefix(".venv/bin/")
        known = [key for key in CHECKS if f"{' '.join([name, *arguments])} ".startswith(f"{key} ")]
        assert known, f"no check for {command}"
        CHECKS[max(known, key=len)](self, arguments)

    def rllib(self, *arguments):
        for place, stand_in in self._places.items():
            arguments = [argument.replace(place, stand_in) for argument in arguments]
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, f"rllib {' '.join(arguments)}: {done.output}"
        return done.stdout

    def parsed(self, command):
        """The experiments and options of a training, as the command's run() gets them."""
        got = []
        self._patch.setattr(training, "run", lambda *given: got.append(given))
        self.rllib(*command[1:])
        return got[0][:2]

    def train(self, arguments):
        """Checks all experiments as the command does, and runs two rounds of the first variant of each."""
        experiments, options = self.parsed(["rllib", *arguments])
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            complete(experiments, options)
            for name, spec in experiments.items():
                check(name, spec)
        for spec in experiments.values():
            assert spec["stop"].keys() <= {"timesteps_total", "training_iteration"}
            config = {**_first(spec), **TINY, "min_sample_timesteps_per_iteration": 1}
            if config["env"] == "predator_prey":
                config["env_config"] = {**config["env_config"], **SMALL_GAME}
            algo = self._build(get_trainable_cls(spec["run"]).get_default_config().update_from_dict(config))
            results = [algo.train() for _ in range(2)]
            assert results[-1]["info"]["num_updates"] > 0

    def train_by_script(self, arguments):
        self.train(["train", "file", *arguments, "--resume"])

    def evaluate(self, arguments):
        """With the tests' Ray in the place of one of its own."""
        assert not any("--save-replay" in argument for argument in arguments)
        own_ray = SimpleNamespace(init=lambda **options: None, shutdown=lambda: None)
        self._patch.setattr(playing, "ray", own_ray)
        assert json.loads(self.rllib(*arguments, "--episodes", "1", "--json"))["follower"]["episode_len_mean"] == 10

    def plain(self, arguments):
        """As it is, on the small training's results."""
        assert self.rllib(*(SMALLER.get(argument, argument) for argument in arguments))

    def reproduce(self, arguments):
        """The grid that it would run."""
        ran = []
        self._patch.setattr(reproducing, "reproduce", lambda name, **given: ran.append((name, given)) or 0)
        self.rllib(*arguments)
        ((table, given),) = ran
        grid = {name: given[name] for name in ("env", "env_config", "seeds", "steps")}
        for trial in reproducing.trials(table, **grid, overrides=given["config"]):
            get_trainable_cls(trial.run).get_default_config().update_from_dict(trial.config).validate()

    def python(self, arguments):
        """A script's arguments are what its parser takes."""
        script, *given = arguments
        self._patch.setattr(sys, "argv", [script, *given])
        self._patch.syspath_prepend(str(ROOT / "scripts"))
        self._patch.setattr(argparse.ArgumentParser, "parse_args", _parse_and_stop)
        if "argparse" in (ROOT / script).read_text():
            with pytest.raises(_ParsedError):
                runpy.run_path(str(ROOT / script), run_name="__main__")
        else:
            assert not given, f"{script} takes no arguments"

    def script(self, arguments):
        """This very suite runs it; so its syntax, and that what it is given exists."""
        subprocess.run(["bash", "-n", *(ROOT / "scripts" / name for name in ("setup", "train", "test"))], check=True)
        for argument in arguments:
            assert not argument.endswith(".py") or (ROOT / argument).is_file()

    def pip(self, arguments):
        """Names no extra that there is not, and no package that this one does not name; nothing is fetched by a test."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        required = {re.match(r"[\w-]+", line)[0] for line in sum(extras.values(), project["dependencies"])}
        for target in arguments[1:]:
            if target in required or target == "--no-deps":
                continue
            here = re.fullmatch(r"\.(?:\[([\w,]+)\])?", target)
            assert here, f"pip install {target}"
            assert set(filter(None, (here[1] or "").split(","))) <= extras.keys()

    def others(self, name):
        """Programs of others are in the environment that the tests run in."""
        assert (BIN / name).exists(), f"{name} is not installed"


class _ParsedError(Exception):
    """A script's arguments are good."""


def _parse_and_stop(parser, args=None, namespace=None, parse=argparse.ArgumentParser.parse_known_args):
    _, unknown = parse(parser, args, namespace)
    assert not unknown, f"{parser.prog} has no {unknown}"
    raise _ParsedError


CHECKS = {
    "rllib train": Shell.train,
    "rllib evaluate": Shell.evaluate,
    "rllib export": Shell.plain,
    "rllib plot": Shell.plain,
    "rllib check-env": Shell.plain,
    "rllib example list": Shell.plain,
    "rllib example get": Shell.plain,
    "rllib example run": lambda shell, arguments: shell.train(arguments),
    "rllib list": Shell.plain,
    "rllib reproduce": Shell.reproduce,
    "scripts/train": Shell.train_by_script,
    "scripts/setup": Shell.script,
    "scripts/test": Shell.script,
    "python": Shell.python,
    "pip install": Shell.pip,
    "tensorboard": lambda shell, arguments: shell.others("tensorboard"),
    "mkdocs": lambda shell, arguments: shell.others("mkdocs"),
    "ruff": lambda shell, arguments: shell.others("ruff"),
    "mypy": lambda shell, arguments: shell.others("mypy"),
}


@pytest.fixture
def shell(trained, checkpoint, build, monkeypatch, tmp_path):
    """In a folder of its own, with the repository's files beside."""
    for name in ("tuned_examples", "scripts", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return Shell(trained, checkpoint, build, monkeypatch)


# -- Pages --------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "examples").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_extending_shows_the_examples_as_they_are(path):
    assert path.read_text() in (ROOT / "docs" / "extending.md").read_text()


def test_the_tables_of_keys_are_in_step():
    made = runpy.run_path(str(ROOT / "scripts" / "document.py"))
    for name in made["PAGES"]:
        page = (ROOT / "docs" / name).read_text()
        assert made["documented"](page) == page, "run scripts/document.py"


def test_the_site_builds_and_fetches_nothing(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        ROOT / "docs/mkdocs/mkdocs.yml",
        "-d",
        tmp_path,
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    nav = yaml.safe_load((ROOT / "docs/mkdocs/mkdocs.yml").read_text())["nav"]
    assert sorted(name for entry in nav for name in entry.values()) == sorted(
        page.name for page in (ROOT / "docs").glob("*.md")
    )
    for site_page in tmp_path.glob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^>]*>", site_page.read_text()
        )
        assert not fetched, f"{site_page.name}: {fetched}"
    reference = (tmp_path / "reference.html").read_text()
    assert "rllib_ddn.networks.mixers.mixer.Mixer.bootstrap" in reference
    assert not re.search(r":(class|func|mod|meth):|code-block::", reference)
    assert (tmp_path / "repository/tuned_examples/results/sight.png").is_file()
