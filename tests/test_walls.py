"""The learner is free of Ray; who may import whom is held by the contracts in pyproject.toml."""

from support.programs import run_program


def test_the_learner_runs_where_ray_cannot_be_imported():
    assert run_program("learn_without_ray") == "learned\n"
