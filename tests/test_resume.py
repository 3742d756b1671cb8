"""Trainings that are interrupted, killed, or run out of disk, and continue."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

from rllib_ddn.cli.callbacks import CheckpointInTime, DiskWatch, Interruption, ProgressCSV, Stop, progress
from rllib_ddn.cli.checkpoints import check_checkpoint
from rllib_ddn.cli.experiments import RESERVE, checkpoint_by_default, complete
from rllib_ddn.cli.resume import SETTINGS, Folder, begin, name_of, resume, settings_of
from rllib_ddn.cli.train import TrainOptions
from rllib_ddn.cli.tuning import conclusion
from rllib_ddn.rllib.score import add_score
from support.command import rllib
from support.configs import SMALL_GAME, plain_config

pytestmark = pytest.mark.usefixtures("cluster")


def run_until(arguments, ready=None, sent=None, cwd=None, code=0):
    """Runs the command in a process, as its console script does; once it is ready sends a signal to its whole group, as
    a terminal, `timeout` and systemd do. Returns what it printed."""
    # Without -P the interpreter itself would put the current directory on the path.
    command = [sys.executable, "-P", "-c", "from rllib_ddn.cli import main; main()", *map(str, arguments)]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=cwd
    )
    deadline = time.monotonic() + 400
    while ready is not None and not ready():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline, "not ready"
        time.sleep(0.2)
    if sent:
        os.killpg(run.pid, sent)
    printed = run.communicate(timeout=400)[0]
    assert run.wait() == code, printed
    return printed


def rows(folder):
    """Of each trial's folder below, the iterations and env steps in result.json and in progress.csv."""
    found = {}
    for path in sorted(folder.rglob("result.json")):
        results = [json.loads(line) for line in path.read_text().splitlines()]
        with path.with_name("progress.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        for columns in (results, table):
            steps = [(int(row["training_iteration"]), int(row["timesteps_total"])) for row in columns]
            found.setdefault(path.parent, []).append(steps)
    return found


@pytest.mark.timeout(1800)
def test_from_a_killed_training_to_an_exported_policy(tmp_path):
    """In processes: an env of the working directory is trained in Ray's workers; killed, interrupted and terminated,
    the training has no gap. Its checkpoint is evaluated and exported."""
    (tmp_path / "my_env.py").write_text((Path(__file__).parent / "examples" / "multi_agent_env.py").read_text())
    config = {**plain_config(evaluation_interval=None), "env": "my_env:team", "env_config": {"max_steps": 12}}
    config |= {"num_env_runners": 1, "mixer": {"grid_search": ["qmix", "vdn"]}}
    spec = {
        "run": "DDN",
        "stop": {"training_iteration": 10**6},
        "config": config,
        "checkpoint_freq": 1,
        "keep_checkpoints_num": 2,
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"two": spec}))
    storage = tmp_path / "results"
    command = ["train", "file", "two.yaml", "--storage-path", "results", "--ray-num-cpus", 4, "--resume"]

    def lengths():
        return [path.read_text().count("\n") for path in sorted(storage.rglob("result.json"))]

    def longer_than(before):
        now = lengths()
        return len(now) == 2 and all(length > old for length, old in zip(now, before, strict=True))

    killed = run_until(command, lambda: longer_than([10, 10]), signal.SIGKILL, tmp_path, -signal.SIGKILL)
    assert f"no earlier training to resume in {storage / 'two'}: starting from scratch" in killed
    for sent in (signal.SIGINT, signal.SIGTERM):
        before = lengths()
        output = run_until(command, lambda before=before: longer_than(before), sent, tmp_path, 128 + sent)
        assert output.splitlines()[-1].startswith("rllib: interrupted")
        for noise in ("Traceback", "***", "PC: @", "was saved"):
            assert noise not in output

    last = max(lengths()) + 3
    finished = run_until([*command, "--stop", json.dumps({"training_iteration": last})], cwd=tmp_path)
    assert finished.count(": terminated, results in") == 2
    for results, table in rows(storage).values():
        assert results == table
        assert [iteration for iteration, _ in results] == list(range(1, last + 1))
        steps = [0, *(count for _, count in results)]
        assert {after - before for before, after in itertools.pairwise(steps)} == {24}
    assert "/tmp/ray/session" not in finished
    evaluate, export = (
        next(line.split()[1:] for line in finished.splitlines() if f" {command} " in line)
        for command in ("evaluate", "export")
    )
    played = json.loads(run_until([*evaluate, "--episodes", 2, "--json"], cwd=tmp_path).partition("{")[2].join("{ "))
    assert played["leader"]["episode_len_mean"] == 12
    told = run_until([*evaluate, "--episodes", 2], cwd=storage, code=2)
    assert "cannot be imported: No module named 'my_env'. Custom modules are looked for in the working" in told
    run_until(export, cwd=tmp_path)
    assert (tmp_path / "policy" / "follower.onnx").stat().st_size > 0


def experiment_of(tmp_path, name, status="PAUSED", reached=10, stop=10, **config):
    """An experiment as the command and Tune leave it, with one trial that has results and a checkpoint of its last one.

    Returns its specification.
    """
    from ray.train import Checkpoint
    from ray.train._internal.session import _TrainingResult
    from ray.train._internal.storage import StorageContext

    spec = spec_of(tmp_path, **config)
    (tmp_path / name).mkdir()
    begin(name, spec, settings_of(spec))
    storage = StorageContext(str(tmp_path), experiment_dir_name=name, trial_dir_name="trial")
    stopping = {"training_iteration": stop}
    trial = Trial("DDN", config=spec["config"], stub=True, storage=storage, stopping_criterion=stopping)
    trial.placement_group_factory, trial.relative_logdir = PlacementGroupFactory([{"CPU": 1}]), "trial"
    folder = tmp_path / name / "trial"
    (folder / "checkpoint_000000").mkdir(parents=True)
    (folder / "checkpoint_000000" / "rllib_checkpoint.json").write_text("{}")
    result = {"training_iteration": reached, "timesteps_total": 24 * reached, "done": status == "TERMINATED"}
    (folder / "result.json").write_text(json.dumps(result) + "\n")
    (folder / "progress.csv").write_text(f"training_iteration\n{reached}\n")
    trial.update_last_result(result)
    saved = Checkpoint.from_directory(str(folder / "checkpoint_000000"))
    trial.run_metadata.checkpoint_manager.register_checkpoint(_TrainingResult(saved, result))
    trial.status = status
    state = tmp_path / name / "experiment_state-2026-01-01_00-00-00.json"
    state.write_text(json.dumps({"trial_data": [trial.get_json_state()], "runner_data": {}, "stats": {}}))
    return spec


def spec_of(tmp_path, **config):
    stop = {"training_iteration": 10}
    config = plain_config(**config)
    return {"run": "DDN", "storage_path": str(tmp_path), "config": config, "stop": stop, "scheduler": "fifo"}


def name(tmp_path, base="DDN_x", resumed=True, **config):
    spec = spec_of(tmp_path, **config)
    return name_of(base, spec, settings_of(spec), resumed)


def test_a_training_without_a_name_has_its_own_folder(tmp_path):
    assert [name(tmp_path, resumed=False) for _ in range(2)] == ["DDN_x_1", "DDN_x_2"]
    (tmp_path / "DDN_x_10").mkdir()
    (tmp_path / "DDN_x_1b").mkdir()
    assert name(tmp_path, resumed=False) == "DDN_x_11"


def test_without_a_name_the_newest_unfinished_training_with_these_settings_is_resumed(tmp_path):
    experiment_of(tmp_path, "DDN_x_1", "TERMINATED")
    for number in (2, 3):
        experiment_of(tmp_path, f"DDN_x_{number}", "PAUSED", reached=5)
    experiment_of(tmp_path, "DDN_x_4", "PAUSED", reached=5, mixer="vdn")
    experiment_of(tmp_path, "DDN_x_5", "TERMINATED", reached=5, stop=5)  # which the later stop would continue
    assert name(tmp_path) == "DDN_x_3"
    assert name(tmp_path, mixer="vdn") == "DDN_x_4"
    assert name(tmp_path, mixer="qplex") == "DDN_x_6"  # from scratch
    for number in (2, 3):
        shutil.rmtree(tmp_path / f"DDN_x_{number}")
    assert name(tmp_path) == "DDN_x_5"  # finished, or continued to a later stop
    assert name(tmp_path, "QMIX_x") == "QMIX_x_1"


def test_settings_are_compared_as_the_user_gives_them(tmp_path):
    """Written-out defaults make no difference, nor does the log's level; what a search may choose is its range."""
    spec = experiment_of(tmp_path, "mine", lr=tune.loguniform(1e-4, 1e-3))
    for same in ({"gamma": 0.99}, {"log_level": "DEBUG"}, {"exploration_config": {"epsilon_timesteps": 50_000}}):
        given = {**spec, "config": {**spec["config"], **same}}
        assert resume("mine", given, settings_of(given))
    for other in ({"gamma": 0.9}, {"lr": tune.loguniform(1e-4, 1e-2)}, {"env_config": {**SMALL_GAME, "sight": 2}}):
        given = {**spec, "config": {**spec["config"], **other}}
        with pytest.raises(ValueError, match=f"was begun with {next(iter(other))}"):
            resume("mine", given, settings_of(given))
    (tmp_path / "mine" / SETTINGS).unlink()
    with pytest.raises(ValueError, match="was not begun by this version"):
        resume("mine", spec, settings_of(spec))


def test_a_name_that_is_in_use_is_refused(tmp_path):
    experiment_of(tmp_path, "mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    train = ["train", "--algo", "DDN", "--env", "predator_prey", "--stop", '{"training_iteration": 1}']
    told = rllib(*train, "--storage-path", tmp_path, "-n", "mine", code=2)
    assert f"{tmp_path / 'mine'} has the results of an earlier training" in told
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("status", "reached", "now", "scheduler", "continued"),
    [
        ("TERMINATED", 10, {"training_iteration": 11}, "fifo", "RESUME"),
        ("TERMINATED", 10, {"training_iteration": 10}, "fifo", "SKIP"),
        ("TERMINATED", 10, {"timesteps_total": 240}, "fifo", "SKIP"),
        ("TERMINATED", 10, {"timesteps_total": 241}, "fifo", "RESUME"),
        ("TERMINATED", 5, {"training_iteration": 11}, "async_hyperband", "SKIP"),  # which may have ended the trial
        ("PAUSED", 5, {"training_iteration": 11}, "fifo", "SKIP"),  # unfinished ones are resumed anyway
    ],
)
def test_a_later_stop_continues_a_finished_training(tmp_path, status, reached, now, scheduler, continued):
    spec = experiment_of(tmp_path, "mine", status, reached)
    assert resume("mine", {**spec, "stop": now, "scheduler": scheduler}, settings_of(spec)).finished.name == continued


def test_a_resumed_trial_has_the_present_stop_and_what_no_result_has_is_reported_once(capsys):
    stop = {"evaluation/folower/win_rate": 0.9, "evaluation/leader/win_rate": 0.9, "mine": 1}
    callback, trials = Stop(stop), [SimpleNamespace(stopping_criterion={"training_iteration": 1}) for _ in "ab"]
    callback.on_step_begin(0, trials)
    assert [trial.stopping_criterion for trial in trials] == [stop] * 2
    for trial in trials:
        evaluation = {"follower": {"win_rate": 0.1}, "leader": {"win_rate": 0.1}}
        callback.on_trial_result(0, trials, trial, {"training_iteration": 1, "evaluation": evaluation})
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 2
    assert lines[0].endswith("Did you mean evaluation/follower/win_rate?")
    assert "no mine" in lines[1]


AGAIN = "the command again"
CONTINUES = f"interrupted; {AGAIN} continues from there."
NOTHING = "interrupted; nothing new was saved."


@pytest.mark.parametrize(
    ("trials", "waiting", "line"),
    [
        ([], 1, NOTHING),
        ([(Trial.PENDING, False, None)], 0, NOTHING),
        ([(Trial.PAUSED, False, "checkpoint")], 0, CONTINUES),
        ([(Trial.TERMINATED, True, "checkpoint"), (Trial.PENDING, False, None)], 0, CONTINUES),
        ([(Trial.TERMINATED, True, "checkpoint")], 1, CONTINUES),  # of two experiments
        ([(Trial.TERMINATED, True, "checkpoint")], 0, None),  # the iteration that it waited for was the last
    ],
)
def test_an_interruption_says_what_is_left(trials, waiting, line):
    interruption = Interruption()
    interruption.why, interruption.code = "interrupted", 130
    ran = [
        SimpleNamespace(status=status, last_result={"done": done}, checkpoint=saved) for status, done, saved in trials
    ]
    assert conclusion(ran, waiting, interruption, AGAIN) == (line and (line, 130))


@pytest.mark.parametrize(("checkpoint", "advice"), [("checkpoint", "continues from"), (None, "without a checkpoint")])
def test_failed_trials_are_continued_from_checkpoints_that_there_are(checkpoint, advice):
    failed = SimpleNamespace(status=Trial.ERROR, last_result={}, checkpoint=checkpoint)
    line, code = conclusion([failed], 0, Interruption(), AGAIN)
    assert advice in line
    assert code == 1


def test_results_without_a_checkpoint_are_kept_beside(tmp_path, capsys):
    (tmp_path / "name" / "trial").mkdir(parents=True)
    (tmp_path / "name" / "trial" / "result.json").write_text("{}\n")
    (tmp_path / "name.old-1").mkdir()
    assert resume("name", spec_of(tmp_path), {}) is None
    assert (tmp_path / "name.old-2" / "trial" / "result.json").read_text() == "{}\n"
    assert not (tmp_path / "name").exists()
    assert str(tmp_path / "name.old-2") in capsys.readouterr().out


def test_a_cut_off_state_is_one_line(tmp_path):
    experiment_of(tmp_path, "mine")
    (state,) = (tmp_path / "mine").glob("experiment_state-*.json")
    state.write_text('{"trial_data": [[')
    train = ["train", "--algo", "DDN", "--env", "predator_prey", "-n", "mine", "--storage-path", tmp_path, "--resume"]
    (line,) = rllib(*train, code=2).splitlines()
    assert line.startswith(f"rllib: {state} cannot be read")


def test_where_there_is_no_checkpoint_the_newest_is_named(tmp_path):
    for number, age in ((1, 30), (2, 10), (3, 20)):
        folder = tmp_path / f"checkpoint_{number}"
        folder.mkdir()
        (folder / "rllib_checkpoint.json").write_text("{}")
        os.utime(folder, (1_000 - age, 1_000 - age))
    newest = tmp_path / "checkpoint_2"
    for folder, why in (
        (tmp_path, rf"is not a checkpoint: .* The newest below it is {newest}\."),
        (tmp_path / "checkpoint_0", rf"checkpoint_0 does not exist. The newest beside it is {newest}\."),
        (newest / "rllib_checkpoint.json", r"is a file, not a folder\.$"),
    ):
        with pytest.raises(ValueError, match=why):
            check_checkpoint(folder)


def test_results_past_the_checkpoint_are_cut_off(tmp_path):
    """As a killed run leaves them: results of iterations 3 and 4 after the checkpoint of 2, the last one not whole."""
    trial = tmp_path / "name" / "trial"
    trial.mkdir(parents=True)
    lines = [json.dumps({"training_iteration": k}) + "\n" for k in (1, 2, 3, 4)]
    (trial / "result.json").write_text("".join(lines)[:-5])
    (trial / "progress.csv").write_text('a,training_iteration,b\r\n"x,y",1,\r\n,2,5\r\n,3,5\r\n,4')
    with SummaryWriter(str(trial)) as writer:
        for k in (1, 2, 3, 4):
            writer.add_scalar("return", k, global_step=10 * k)
    (events,) = trial.glob("events.*")
    events.write_bytes(events.read_bytes()[:-5])
    Folder(str(tmp_path), "name").trim("trial", {"training_iteration": 2, "timesteps_total": 20})
    with SummaryWriter(str(trial), filename_suffix=".resumed") as writer:
        writer.add_scalar("return", 3, global_step=30)
    curve = EventAccumulator(str(trial)).Reload().Scalars("return")
    assert [(point.step, point.value) for point in curve] == [(10, 1), (20, 2), (30, 3)]
    assert (trial / "result.json").read_text() == "".join(lines[:2])
    with (trial / "progress.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "training_iteration", "b"], ["x,y", "1", ""], ["", "2", "5"]]


def test_time_left_by_hand():
    """Of a trial that was restored at 18,000 steps, and has needed 20 seconds for the two iterations since."""
    result = {
        "num_env_steps_sampled_this_iter": 1000,
        "time_this_iter_s": 8.0,
        "timesteps_total": 20_000,
        "training_iteration": 12,
    }
    result |= {"time_since_restore": 20.0, "iterations_since_restore": 2, "time_total_s": 20.0}
    assert (
        progress(result, {"timesteps_total": 1_000_000}) == "125 env steps/s, about 2:43:20 left"
    )  # 980,000 at 100 a second
    both = {"timesteps_total": 1_000_000, "training_iteration": 18, "evaluation/leader/episode_return_mean": 5}
    assert progress(result, both) == "125 env steps/s, about 0:01:00 left"  # the iterations end first
    assert progress(result, {"time_total_s": 50}) == "125 env steps/s, about 0:00:30 left"


@pytest.fixture
def checkpoint(build, tmp_path):
    algo = build()
    algo.save(str(tmp_path / "checkpoint"))
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("size", [0, 100])
@pytest.mark.parametrize(
    "name", ["rllib_checkpoint.json", "algorithm_state.pkl", "policies/default_policy/policy_state.pkl"]
)
def test_a_damaged_checkpoint_is_one_line_with_the_files_path(checkpoint, name, size):
    check_checkpoint(checkpoint)
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:size])
    train = ["train", "--algo", "DDN", "--env", "predator_prey", "--storage-path", checkpoint / "x"]
    for arguments in (["evaluate", checkpoint], [*train, "--restore", checkpoint]):
        (line,) = rllib(*arguments, code=2).splitlines()
        assert line.startswith(f"rllib: the checkpoint's file {path} cannot be read ({'' if size else 'it is empty'}")


def test_checkpoints_are_made_by_the_clock_where_nothing_else_is_said():
    every_five = {"checkpoint_frequency": 5, "checkpoint_at_end": False}
    experiments = {
        "unsaid": {"run": "DDN"},
        "every_five": {"run": "DDN", "checkpoint_config": every_five},
        "none": {"run": "DDN", "checkpoint_freq": 0, "keep_checkpoints_num": 7},
        "others": {"run": "PPO"},
    }
    complete(experiments, TrainOptions())
    assert [name for name, spec in experiments.items() if checkpoint_by_default(spec)] == ["unsaid", "others"]
    configs = {name: spec["checkpoint_config"] for name, spec in experiments.items()}
    assert configs["unsaid"] == {"checkpoint_at_end": True, "num_to_keep": 2}
    assert configs["every_five"] == every_five
    assert configs["none"] == {"checkpoint_frequency": 0, "checkpoint_at_end": True, "num_to_keep": 7}
    ranked = {"checkpoint_at_end": True, "num_to_keep": 1, "checkpoint_score_attribute": "score"}
    assert configs["others"] == ranked
    assert experiments["others"]["config"] == {"callbacks_on_train_result": [add_score]}


@pytest.mark.parametrize(("at_best", "saved"), [(False, [3, 6, 9]), (True, [1, 2, 5, 8])])
def test_a_checkpoint_is_made_at_the_first_result_two_minutes_after_the_last(at_best, saved, monkeypatch):
    clock, trial, found = 1000.0, SimpleNamespace(trial_id="a"), []
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    callback = CheckpointInTime(at_best)
    callback.on_trial_start(0, [trial], trial)
    for iteration in range(1, 10):
        clock += 50.0
        result = {"training_iteration": iteration, "best": {"training_iteration": min(iteration, 2)}}
        callback.on_trial_result(0, [trial], trial, result)
        if result.get("should_checkpoint"):
            found.append(iteration)
            callback.on_trial_save(0, [trial], trial)
    assert found == saved


def test_a_disk_that_fills_up_interrupts_while_all_can_be_saved(tmp_path, monkeypatch, capfd):
    (tmp_path / "checkpoint_000000").mkdir()
    (tmp_path / "checkpoint_000000" / "state").write_bytes(bytes(1_000_000))
    storage = SimpleNamespace(storage_filesystem=LocalFileSystem(), storage_fs_path=str(tmp_path))
    saved = SimpleNamespace(path=str(tmp_path / "checkpoint_000000"))
    trials = [SimpleNamespace(trial_id=k, status=Trial.RUNNING, storage=storage, checkpoint=saved) for k in "ab"]
    interruption, clock = Interruption(), 0.0
    watch = DiskWatch(interruption)
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    watch.on_trial_save(0, trials, trials[0])
    needed = RESERVE + 3 * sum(p.stat().st_size for p in (tmp_path / "checkpoint_000000").rglob("*"))
    for free, stopped in ((needed, False), (needed - 1, True)):  # a checkpoint for each trial, one more, and results
        clock += 10.0
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        watch.on_step_begin(0, trials)
        assert (interruption.why is not None) == stopped
    assert interruption.code == 1
    assert f"only 23 MB are left on the disk of {tmp_path}" in capfd.readouterr().err


def test_progress_csv_has_a_column_for_every_key_of_every_result(tmp_path):
    """Also for those that come later, and for those that come first when the trial has been resumed in a new
    session.
    """
    results = [
        {"training_iteration": 1, "note": 'a, "b"\nc', "config": {"lr": 1}},
        {"training_iteration": 2, "evaluation": {"win_rate": 0.5}},
        {"training_iteration": 3},
        {"training_iteration": 4, "evaluation": {"win_rate": 1.0}, "custom_metrics": {"k": 2}},
    ]
    storage = SimpleNamespace(storage_filesystem=LocalFileSystem(), trial_fs_path=str(tmp_path / "stored"))
    for session, part in (("stored", results[:3]), ("resumed", results[3:])):
        (tmp_path / session).mkdir()
        trial = SimpleNamespace(local_path=str(tmp_path / session), storage=storage)
        for result in part:
            ProgressCSV().log_trial_result(0, trial, result)
    with (tmp_path / "resumed" / "progress.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["training_iteration", "note", "evaluation/win_rate", "custom_metrics/k"]
    assert lines == [["1", 'a, "b"\nc', "", ""], ["2", "", "0.5", ""], ["3", "", "", ""], ["4", "", "1.0", "2"]]
    assert [path.name for path in (tmp_path / "resumed").iterdir()] == ["progress.csv"]
