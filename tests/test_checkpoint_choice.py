"""Which checkpoint `rllib evaluate` and `rllib export` take."""

import json
import math
import pickle
from types import SimpleNamespace

import pytest

from rllib_ddn.cli import checkpoints, tuning
from rllib_ddn.cli.checkpoints import find


def make(folder, best=None, iteration=None):
    """A checkpoint; with a best one in it, or of RLlib's own algorithms at an iteration."""
    folder.mkdir(parents=True)
    (folder / "rllib_checkpoint.json").write_text("{}")
    (folder / "algorithm_state.pkl").write_bytes(pickle.dumps({"training_iteration": iteration}))
    if best is not None:
        make(folder / "best")
        (folder / "best" / "score.json").write_text(json.dumps({"score": best}))
    return folder


@pytest.fixture
def experiment(tmp_path):
    """Two trials, whose latest checkpoints know of the scores 4 and 7."""
    for trial, scores in (("one", (3.0, 4.0)), ("two", (7.0, 7.0))):
        for number, score in enumerate(scores):
            make(tmp_path / "experiment" / trial / f"checkpoint_00000{number}", best=score)
    return tmp_path / "experiment"


def test_of_a_checkpoint_a_trial_and_an_experiment(experiment, capsys):
    one, two = experiment / "one", experiment / "two"
    checkpoint = one / "checkpoint_000000"
    assert find(checkpoint, None) == find(checkpoint, "latest") == checkpoint
    assert find(checkpoint, "best") == find(checkpoint / "best", "best") == checkpoint / "best"
    assert capsys.readouterr().err == ""
    assert find(one, None) == find(one, "best") == one / "checkpoint_000001" / "best"
    assert find(one, "latest") == one / "checkpoint_000001"
    assert find(experiment, None) == two / "checkpoint_000001" / "best"
    assert f"{two / 'checkpoint_000001' / 'best'} (best: score 7)" in capsys.readouterr().err
    assert find(experiment, "latest") == two / "checkpoint_000001"
    assert f"{two / 'checkpoint_000001'} (latest)" in capsys.readouterr().err


def test_of_rllibs_own_algorithms(tmp_path):
    for number, iteration in enumerate((2, 3, 5)):
        make(tmp_path / "ppo" / f"checkpoint_00000{number}", iteration=iteration)
    lines = [{"training_iteration": k, "score": score} for k, score in enumerate((1.0, 2.0, 6.0, 9.0, 5.0), 1)]
    (tmp_path / "ppo" / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert find(tmp_path, None) == tmp_path / "ppo" / "checkpoint_000001"  # the 9 of iteration 4 has no checkpoint
    assert find(tmp_path, "latest") == tmp_path / "ppo" / "checkpoint_000002"


def test_win_rates_and_returns_are_not_compared(experiment):
    results = {"one": {"episode_return_mean": 14.0}, "two": {"episode_return_mean": 14.0, "win_rate": 0.95}}
    for trial, figures in results.items():
        (experiment / trial / "result.json").write_text(json.dumps({"evaluation": {"follower": figures}}) + "\n")
    with pytest.raises(ValueError, match="name a trial's folder"):
        find(experiment, None)
    assert find(experiment / "one", None) == experiment / "one" / "checkpoint_000001" / "best"
    (experiment / "one" / "result.json").write_text((experiment / "two" / "result.json").read_text())
    assert find(experiment, None).parent.parent == experiment / "two"


@pytest.mark.parametrize("wins", [True, False])
def test_a_search_whose_scores_differ_in_kind_has_no_best_trial(wins, monkeypatch):
    known = {"evaluation/follower/win_rate": {"max": 0.95, "last": 0.9}}
    trials = [
        SimpleNamespace(config={"lr": lr}, metric_analysis=known if wins or lr == 0.1 else {}) for lr in (0.1, 0.2)
    ]
    monkeypatch.setattr(tuning, "_best", lambda trial: ("", {"score": trial.config["lr"]}))
    line = tuning.best_trial("search", trials)
    assert ("with lr=0.2" in line, "no best trial" in line) == (wins, not wins)


def test_checkpoints_that_cannot_have_a_score_are_not_read(tmp_path, monkeypatch):
    latest = [make(tmp_path / "ddn" / f"checkpoint_00000{number}") for number in range(2)][-1]
    (tmp_path / "ddn" / "result.json").write_text(json.dumps({"training_iteration": 1, "score": math.nan}) + "\n")
    monkeypatch.setattr(checkpoints.cloudpickle, "loads", lambda data: pytest.fail("a checkpoint was read"))
    assert math.isnan(checkpoints.best_of(tmp_path / "ddn")[0])
    assert checkpoints.best_of(tmp_path / "ddn")[1] == latest


def test_without_evaluations(tmp_path, capsys):
    trials = [make(tmp_path / name / "checkpoint_000000").parent for name in ("one", "two")]
    assert find(trials[0], None) == trials[0] / "checkpoint_000000"
    assert "(latest: it has no evaluation)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="2 trials, and none has an evaluation: name a trial's folder"):
        find(tmp_path, None)
    with pytest.raises(ValueError, match="checkpoint_000000 has no best checkpoint"):
        find(trials[0] / "checkpoint_000000", "best")
    with pytest.raises(ValueError, match="does not exist"):
        find(tmp_path / "three", None)
