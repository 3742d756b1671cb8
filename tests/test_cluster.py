"""Training on a Ray cluster of two nodes, one of which is killed while its env runners play."""

import json

import pytest

from support.programs import run_program

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_node_that_dies_costs_only_the_episodes_in_flight(ahead, tmp_path):
    """Three runners with two games each on two nodes. The second node dies while its two runners play:
    their four games are lost and counted, training goes on with the runner that is left, and when
    another node joins, the two runners come back."""
    printed = run_program("train_on_a_cluster", tmp_path, *["--ahead"] * ahead)
    whole, killed, halved, again, same_weights = json.loads(printed.splitlines()[-1])
    assert whole == {"healthy": 3, "episodes": 6, "lost": 0, "held": 6, "updates": 6}
    assert killed["healthy"] == 1
    assert (halved["healthy"], halved["lost"]) == (1, 4)
    assert halved["episodes"] == killed["episodes"] + 3 * 2
    assert halved["updates"] == halved["episodes"]  # one each
    assert (again["healthy"], again["lost"]) == (3, 4)
    assert again["episodes"] >= halved["episodes"] + 3 * 6
    assert same_weights
