"""README, CONTRIBUTING and docs/: blocks run, links resolve, generated tables are up to date, and the site builds.

Python blocks run with small budgets. Each shell command goes to the function of its program in ``CHECKS``. A training
is parsed and checked as the command does it, and then a small one with its settings runs.
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
from unittest import mock

import pytest
import ray
import yaml
from ray.tune.registry import get_trainable_cls
from ray.tune.search.variant_generator import generate_variants
from typer.testing import CliRunner

from rllib_ddn import cli
from rllib_ddn.cli import tuning
from rllib_ddn.cli.experiments import check, complete
from rllib_ddn.cli.reproduce import trials
from rllib_ddn.cli.tables import Table
from support.configs import SMALL_GAME
from support.pages import PAGES, ROOT, anchors, blocks, commands, links
from support.programs import run_program

pytestmark = pytest.mark.usefixtures("cluster")

README = ROOT / "README.md"
LANGUAGES = {"python", "bash", "yaml", "text"}  # text is not run
BIN = Path(sys.executable).parent
TINY = {
    "train_batch_size": 4,
    "updates_per_episode": 1.0,
    "num_envs_per_env_runner": 2,
    "num_env_runners": 0,
    "evaluation_interval": None,
}
# Arguments of commands on results, replaced to fit the small training here.
SMALLER = {"250000": "0", "150000": "0", "300000": "1000000", "win_rate": "episode_return_mean"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The results of the README's first command, with a short Predator-Prey of full size and two iterations."""
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
def test_every_block_has_a_known_language(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: {block.language!r}"


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


def test_skipped_trainings_are_valid(shell):
    """Trainings on StarCraft: their options and configs, without the env."""
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
    """Runs shell commands; ``trained`` replaces ~/ray_results, and its checkpoint CHECKPOINT."""

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
        """The experiments and options that the command passes to run()."""
        got = []
        self._patch.setattr(tuning, "run", lambda *given, **options: got.append(given))
        self.rllib(*command[1:])
        return got[0][:2]

    def train(self, arguments):
        """Checks all experiments as the command does, and runs two iterations of the first variant of each."""
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
                config["env_config"] = {**config.get("env_config", {}), **SMALL_GAME}
            algo = self._build(get_trainable_cls(spec["run"]).get_default_config().update_from_dict(config))
            results = [algo.train() for _ in range(2)]
            assert results[-1]["info"]["num_updates"] > 0

    def train_by_script(self, arguments):
        self.train(["train", "file", *arguments, "--resume"])

    def evaluate(self, arguments):
        """On the tests' Ray cluster."""
        assert not any("--save-replay" in argument for argument in arguments)
        with mock.patch.object(ray, "init"), mock.patch.object(ray, "shutdown"):
            played = json.loads(self.rllib(*arguments, "--episodes", "1", "--json"))
        assert played["follower"]["episode_len_mean"] == 10

    def plain(self, arguments):
        """Unchanged, on the small training's results."""
        assert self.rllib(*(SMALLER.get(argument, argument) for argument in arguments))

    def reproduce(self, arguments):
        """Validates the grid without running it."""
        name, *options = arguments[1:]
        values = dict(zip(options[::2], options[1::2], strict=True))
        assert values.keys() <= {"--seeds", "--steps", "--row", "--out"}
        table = Table.of(name)
        for option, row in zip(options[::2], options[1::2], strict=True):
            assert option != "--row" or row in table.rows
        steps = int(values["--steps"]) if "--steps" in values else None
        for trial in trials(table, None, None, int(values.get("--seeds", 1)), steps, {}):
            get_trainable_cls(trial.run).get_default_config().update_from_dict(trial.config).validate()

    def python(self, arguments):
        """The script's parser accepts the arguments."""
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
        """Checks the syntax of the scripts and that their arguments exist."""
        subprocess.run(["bash", "-n", *(ROOT / "scripts" / name for name in ("setup", "train", "test"))], check=True)
        for argument in arguments:
            assert not argument.endswith(".py") or (ROOT / argument).is_file()

    def pip(self, arguments):
        """Checks that extras and packages are those of pyproject.toml; installs nothing."""
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
        """The program is installed."""
        assert (BIN / name).exists(), f"{name} is not installed"


class _ParsedError(Exception):
    """The arguments were accepted."""


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
    """A shell in a temporary directory with links to the repository's files."""
    for name in ("tuned_examples", "scripts", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return Shell(trained, checkpoint, build, monkeypatch)


# -- Pages --------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "examples").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_extending_shows_the_examples(path):
    assert path.read_text() in (ROOT / "docs" / "extending.md").read_text()


def test_generated_tables_are_up_to_date():
    made = runpy.run_path(str(ROOT / "scripts" / "document.py"))
    for name in made["PAGES"]:
        page = (ROOT / "docs" / name).read_text()
        assert made["documented"](page) == page, "run scripts/document.py"


def _pages(nav):
    for entry in nav:
        for value in entry.values():
            yield from _pages(value) if isinstance(value, list) else (value,)


def test_the_site_builds_and_works_from_disk(tmp_path):
    config = ROOT / "docs/mkdocs/mkdocs.yml"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", tmp_path]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    docs = ROOT / "docs"
    pages = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    assert sorted(_pages(yaml.safe_load(config.read_text())["nav"])) == pages
    for site_page in tmp_path.rglob("*.html"):
        remote = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^>]*>", site_page.read_text()
        )
        assert not remote, f"{site_page.name}: {remote}"
    reference = (tmp_path / "reference.html").read_text()
    assert "rllib_ddn.networks.mixers.mixer.Mixer.bootstrap" in reference
    assert not re.search(r":(class|func|mod|meth):|code-block::", reference)
    for link in re.findall(r'src="((?:\.\./)*repository/[^"]+)"', (tmp_path / "algorithms/peers.html").read_text()):
        assert (tmp_path / "algorithms" / link).is_file()
    # The search from file://: an index in a script, and the shim in the place of a web worker.
    index = (tmp_path / "search/search_index.js").read_text()
    found = {entry["location"].partition("#")[0] for entry in json.loads(index.removeprefix("var __index = "))["docs"]}
    assert found == {page.replace(".md", ".html") for page in pages}
    for page in ("index.html", "algorithms/vdn.html"):
        (shim,) = re.findall(r'<script src="([^"]*iframe-worker[^"]*)">', (tmp_path / page).read_text())
        assert (tmp_path / page).parent.joinpath(shim).is_file()
