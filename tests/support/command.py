"""The ``rllib`` command in this process, with the tests' Ray in the place of one of its own."""

from unittest import mock

import ray
from typer.testing import CliRunner

from rllib_ddn.cli import app


def rllib(*arguments, code=0):
    """Runs the command; returns what it printed, to stderr where it is to fail."""
    with mock.patch.object(ray, "init"), mock.patch.object(ray, "shutdown"):
        done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr
