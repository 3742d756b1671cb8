"""Trainings that are interrupted, killed, or run out of disk, and go on."""

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
import typer
import yaml
from pyarrow.fs import LocalFileSystem
from ray import cloudpickle
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter
from typer.testing import CliRunner

from rllib_ddn.cli import app
from rllib_ddn.cli.experiments import check, checkpoint_by_default, complete
from rllib_ddn.cli.interruption import DiskWatch, Interruption
from rllib_ddn.cli.options import TrainOptions
from rllib_ddn.cli.results import CheckpointInTime, ContinuedCSVLogger, StopKeys, progress
from rllib_ddn.cli.resume import Folder, Saved, check_checkpoint, name_of, prepare
from rllib_ddn.cli.training import run
from rllib_ddn.rllib.score import add_score
from support.configs import plain_config

pytestmark = pytest.mark.usefixtures("cluster")


def run_until(arguments, ready=None, sent=None):
    """Runs the command; once it is ready sends a signal to its whole group, as a terminal, `timeout` and systemd do."""
    command = [sys.executable, "-m", "rllib_ddn.cli", *map(str, arguments)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    deadline = time.monotonic() + 240
    while ready is not None and not ready():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline, "not ready"
        time.sleep(0.2)
    if sent:
        os.killpg(run.pid, sent)
    return run.communicate(timeout=240)[0], run.wait()


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


@pytest.mark.timeout(900)
def test_interrupted_twice_then_finished_without_a_gap(tmp_path):
    """Two experiments at once. An iteration is two episodes of 12 steps."""
    spec = {"run": "DDN", "env": "predator_prey", "stop": {"training_iteration": 10**6}}
    config = {name: value for name, value in plain_config(evaluation_interval=None).items() if name != "env"}
    experiments = {name: {**spec, "config": {**config, "mixer": name}} for name in ("qmix", "vdn")}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(experiments))
    storage = tmp_path / "results"
    command = ["train", "file", tmp_path / "two.yaml", "--storage-path", storage, "--ray-num-cpus", 2, "--resume"]

    def lengths():
        return [path.read_text().count("\n") for path in sorted(storage.rglob("result.json"))]

    def longer_than(before):
        now = lengths()
        return len(now) == 2 and all(length > old for length, old in zip(now, before, strict=True))

    interrupted, code = run_until(command, lambda: longer_than([0, 0]), signal.SIGINT)
    assert code == 130
    assert f"no earlier training to resume in {storage / 'qmix'}: starting from scratch" in interrupted
    saved = lengths()

    terminated, code = run_until(command, lambda: longer_than(saved), signal.SIGTERM)
    assert code == 143
    for output in (interrupted, terminated):
        assert output.splitlines()[-1].startswith("rllib: interrupted")
        for noise in ("Traceback", "***", "PC: @", "was saved"):
            assert noise not in output

    last = max(lengths()) + 3
    finished, code = run_until([*command, "--stop", json.dumps({"training_iteration": last})])
    assert code == 0, finished
    assert finished.count(": terminated, results in") == 2
    assert {folder.parent.name for folder in rows(storage)} == {"qmix", "vdn"}
    for results, table in rows(storage).values():
        assert results == table
        assert [iteration for iteration, _ in results] == list(range(1, last + 1))
        steps = [0, *(count for _, count in results)]
        assert all(0 < after - before <= 24 for before, after in itertools.pairwise(steps))  # an episode may end early
    for line in finished.splitlines():
        if " evaluate " in line:
            check_checkpoint(Path(line.split()[-1]))


def state_of(tmp_path, name, status="PAUSED", stop=None, reached=10, run="DDN", whole=None, **config):
    """What Tune leaves of an experiment with one trial that has results and a checkpoint of its last one."""
    from ray.train import Checkpoint
    from ray.train._internal.session import _TrainingResult
    from ray.train._internal.storage import StorageContext

    storage = StorageContext(str(tmp_path), experiment_dir_name=name, trial_dir_name="trial")
    trial = Trial(
        run, config=whole or plain_config(**config), stub=True, storage=storage, stopping_criterion=stop or {}
    )
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
    (tmp_path / name / "basic-variant-state-2026-01-01_00-00-00.json").write_bytes(cloudpickle.dumps({}))
    return trial.trial_id


def spec_of(tmp_path, **config):
    return {
        "run": "DDN",
        "storage_path": str(tmp_path),
        "config": plain_config(**config),
        "stop": {"training_iteration": 10},
    }


def test_a_training_without_a_name_has_a_folder_of_its_own(tmp_path):
    assert [name_of("DDN_x", spec_of(tmp_path), False, False) for _ in range(2)] == ["DDN_x_1", "DDN_x_2"]
    (tmp_path / "DDN_x_10").mkdir()
    (tmp_path / "DDN_x_1b").mkdir()
    assert name_of("DDN_x", spec_of(tmp_path), False, False) == "DDN_x_11"


def test_without_a_name_the_newest_unfinished_training_with_these_settings_is_resumed(tmp_path):
    stop = {"training_iteration": 10}
    state_of(tmp_path, "DDN_x_1", "TERMINATED", stop)
    for number in (2, 3):
        state_of(tmp_path, f"DDN_x_{number}", "PAUSED", stop, reached=5)
    state_of(tmp_path, "DDN_x_4", "PAUSED", stop, reached=5, mixer="vdn")
    state_of(
        tmp_path, "DDN_x_5", "TERMINATED", {"training_iteration": 5}, reached=5
    )  # which the later stop would continue
    name = lambda **config: name_of("DDN_x", spec_of(tmp_path, **config), True, False)  # noqa: E731
    assert name() == "DDN_x_3"
    assert name(mixer="vdn") == "DDN_x_4"
    assert name(mixer="qplex") == "DDN_x_6"  # from scratch
    for number in (2, 3):
        shutil.rmtree(tmp_path / f"DDN_x_{number}")
    assert name() == "DDN_x_5"  # finished, or continued to a later stop
    assert name_of("QMIX_x", spec_of(tmp_path), True, False) == "QMIX_x_1"


def test_a_score_that_the_command_adds_is_no_other_setting(tmp_path):
    def count(**info):
        pass

    config = {"env": "CartPole-v1"}
    for number, (begun, given, same) in enumerate(
        [
            ({}, [add_score], True),
            ([add_score], None, True),
            (count, [count, add_score], True),
            ([add_score], [count, add_score], False),
        ]
    ):
        begun, given = ({"callbacks_on_train_result": functions} if functions else {} for functions in (begun, given))
        state_of(tmp_path, f"ppo_{number}", run="PPO", whole={**config, **begun})
        spec = {**spec_of(tmp_path), "run": "PPO", "config": {**config, **given}}
        if same:
            assert prepare({f"ppo_{number}": spec})
        else:
            with pytest.raises(typer.Exit):
                prepare({f"ppo_{number}": spec})


def test_a_name_that_is_in_use_is_refused(tmp_path):
    state_of(tmp_path, "mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = ["train", "--algo", "DDN", "--env", "predator_prey", "--stop", '{"training_iteration": 1}']
    done = CliRunner().invoke(app, [*arguments, "--storage-path", str(tmp_path), "-n", "mine"])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path / 'mine'} has the results of an earlier training" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("begun", "reached", "now", "status"),
    [
        ({"training_iteration": 10}, 10, {"training_iteration": 11}, "PENDING"),
        ({"training_iteration": 10}, 10, {"training_iteration": 10}, "TERMINATED"),
        ({"training_iteration": 10}, 10, {"timesteps_total": 240}, "TERMINATED"),
        ({"training_iteration": 10}, 10, {"timesteps_total": 241}, "PENDING"),
        ({"training_iteration": 10}, 5, {"training_iteration": 11}, "TERMINATED"),  # a scheduler has stopped it
    ],
)
def test_a_later_stop_continues_a_finished_training(tmp_path, begun, reached, now, status):
    state_of(tmp_path, "mine", "TERMINATED", begun, reached)
    assert prepare({"mine": {**spec_of(tmp_path), "stop": now}})
    (saved,) = Saved.of(Folder(str(tmp_path), "mine")).trials
    assert saved.status == status


CONTINUES = "rllib: interrupted; the same command with --resume continues from there."
NOTHING = "rllib: interrupted; nothing new was saved."


@pytest.mark.parametrize(
    ("trials", "line"),
    [
        ([], NOTHING),
        ([(Trial.PENDING, False, None)], NOTHING),
        ([(Trial.PAUSED, False, "checkpoint")], CONTINUES),
        ([(Trial.TERMINATED, True, "checkpoint"), (Trial.PENDING, False, None)], CONTINUES),
        ([(Trial.TERMINATED, True, "checkpoint")], None),  # the iteration that it waited for was the last
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_an_interruption_says_what_is_left(monkeypatch, capsys, trials, line, late):
    stopped = []

    def end(experiments, options, interruption, ran, stop_ray, numbered):
        stop_ray.callback(stopped.append, "Ray")
        interruption.why, interruption.code = "interrupted", 130
        ran += [
            SimpleNamespace(status=status, last_result={"done": done}, checkpoint=saved)
            for status, done, saved in trials
        ]
        if late:  # a signal that comes when the trials have been saved
            raise KeyboardInterrupt

    monkeypatch.setattr("rllib_ddn.cli.training._run", end)
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")
    if line:
        with pytest.raises(typer.Exit) as ended:
            run({}, TrainOptions())
        assert ended.value.exit_code == 130
    else:
        run({}, TrainOptions())
    assert capsys.readouterr().err.strip() == (line or "")
    assert stopped == ["Ray"]


@pytest.mark.parametrize(
    ("checkpoint", "advice"), [("checkpoint", "--resume continues from"), (None, "without a checkpoint")]
)
def test_failed_trials_are_continued_from_checkpoints_that_there_are(monkeypatch, capsys, checkpoint, advice):
    failed = SimpleNamespace(status=Trial.ERROR, last_result={}, checkpoint=checkpoint)
    monkeypatch.setattr("rllib_ddn.cli.training._run", lambda *given: given[3].append(failed))
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")
    with pytest.raises(typer.Exit):
        run({}, TrainOptions())
    assert advice in capsys.readouterr().err


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


def test_results_without_tunes_state_are_kept_beside(tmp_path, capsys):
    trial = tmp_path / "name" / "trial"
    trial.mkdir(parents=True)
    (trial / "result.json").write_text("{}\n")
    (tmp_path / "name.old-1").mkdir()
    assert prepare({"name": {"storage_path": str(tmp_path)}}) is None
    assert (tmp_path / "name.old-2" / "trial" / "result.json").read_text() == "{}\n"
    assert not (tmp_path / "name").exists()
    assert (
        f"no checkpoint: starting over; the old results are now in {tmp_path / 'name.old-2'}" in capsys.readouterr().out
    )


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


def test_a_stop_at_a_key_that_no_result_has_is_reported_once(capsys):
    callback = StopKeys()
    stop = {"evaluation/folower/win_rate": 0.9, "evaluation/leader/win_rate": 0.9, "mine": 1}
    trials = [SimpleNamespace(trial_id=k, stopping_criterion=stop) for k in "ab"]
    for trial in trials:
        for evaluation in ({"follower": {"win_rate": 0.1}, "leader": {"win_rate": 0.1}}, {}):
            callback.on_trial_result(0, trials, trial, {"training_iteration": 1, "evaluation": evaluation})
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 2
    assert "no evaluation/folower/win_rate" in lines[0]
    assert lines[0].endswith("Did you mean evaluation/follower/win_rate?")
    assert "no mine" in lines[1]


def test_a_stop_within_an_iteration_is_reported_before_it(capsys):
    for steps, told in ((3000, True), (10_000, False)):
        config = plain_config(min_sample_timesteps_per_iteration=10_000)
        check("mine", {"run": "DDN", "config": config, "stop": {"timesteps_total": steps}})
        assert ("after an iteration, of at least 10,000 env steps" in capsys.readouterr().out) == told


def test_a_cut_off_state_is_one_line(tmp_path):
    (tmp_path / "default").mkdir()
    state = tmp_path / "default" / "experiment_state-2026-01-01_00-00-00.json"
    state.write_text('{"trial_data": [[')
    arguments = [
        "train",
        "--algo",
        "DDN",
        "--env",
        "predator_prey",
        "-n",
        "default",
        "--storage-path",
        str(tmp_path),
        "--resume",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"rllib: {state} or ")
    assert "cannot be read (JSONDecodeError)" in line


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
    for arguments in (
        ["evaluate", str(checkpoint)],
        [
            "train",
            "--algo",
            "DDN",
            "--env",
            "predator_prey",
            "--storage-path",
            str(checkpoint / "x"),
            "--restore",
            str(checkpoint),
        ],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"rllib: the checkpoint's file {path} cannot be read ({'' if size else 'it is empty'}")


def test_checkpoints_are_made_by_the_clock_where_nothing_else_is_said(monkeypatch):
    experiments = {
        "unsaid": {"run": "DDN", "config": {}},
        "every_five": {
            "run": "DDN",
            "config": {},
            "checkpoint_config": {"checkpoint_frequency": 5, "checkpoint_at_end": False},
        },
        "none": {"run": "DDN", "config": {}, "checkpoint_freq": 0, "keep_checkpoints_num": 7},
        "others": {"run": "PPO", "config": {}},
    }
    complete(experiments, TrainOptions())
    by_the_clock = checkpoint_by_default(experiments)
    assert by_the_clock == {"unsaid", "others"}
    assert experiments["others"]["checkpoint_config"] == {
        "checkpoint_at_end": True,
        "num_to_keep": 1,
        "checkpoint_score_attribute": "score",
    }
    assert experiments["others"]["config"] == {"callbacks_on_train_result": [add_score]}
    assert experiments["unsaid"]["checkpoint_config"] == {"checkpoint_at_end": True, "num_to_keep": 2}
    assert experiments["every_five"]["checkpoint_config"] == {"checkpoint_frequency": 5, "checkpoint_at_end": False}
    assert experiments["none"]["checkpoint_config"] == {
        "checkpoint_frequency": 0,
        "checkpoint_at_end": True,
        "num_to_keep": 7,
    }

    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    callback = CheckpointInTime(by_the_clock, at_best={"others"})
    trials = [SimpleNamespace(trial_id=name, storage=SimpleNamespace(experiment_dir_name=name)) for name in experiments]
    saved = []
    for trial in trials:
        callback.on_trial_start(0, trials, trial)
    for iteration in range(1, 10):
        clock += 50.0
        for trial in trials:
            result = {"training_iteration": iteration, "best": {"training_iteration": min(iteration, 2)}}
            callback.on_trial_result(0, trials, trial, result)
            if result.get("should_checkpoint"):
                saved.append((trial.trial_id, iteration))
                callback.on_trial_save(0, trials, trial)
    # The first results 120 s after the last checkpoints; the best of iterations 1 and 2 is in DDN's checkpoints anyway.
    assert [iteration for name, iteration in saved if name == "unsaid"] == [3, 6, 9]
    assert [iteration for name, iteration in saved if name == "others"] == [1, 2, 5, 8]
    assert {name for name, _ in saved} == {"unsaid", "others"}


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
    needed = DiskWatch.RESERVE + 3 * sum(p.stat().st_size for p in (tmp_path / "checkpoint_000000").rglob("*"))
    for free, stopped in ((needed, False), (needed - 1, True)):  # a checkpoint for each trial, one more, and results
        clock += 10.0
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        watch.on_step_begin(0, trials)
        assert (interruption.why is not None) == stopped
    assert interruption.code == 1
    assert f"only 23 MB are left on the disk of {tmp_path}" in capfd.readouterr().err


class LoggedTrial:
    """What loggers need of Tune's trial."""

    checkpoint = None

    def __init__(self, folder):
        self.local_path = str(folder)

    def init_local_path(self):
        Path(self.local_path).mkdir(exist_ok=True)


def test_progress_csv_has_a_column_for_every_key_of_every_result(tmp_path):
    """Also for those that come later, and for those that come first when the trial has been resumed."""
    results = [{"training_iteration": 1, "note": 'a, "b"\nc', "config": {"lr": 1}}]
    results += [{"training_iteration": 2, "evaluation": {"win_rate": 0.5}}]
    results += [
        {"training_iteration": 3},
        {"training_iteration": 4, "evaluation": {"win_rate": 1.0}, "custom_metrics": {"k": 2}},
    ]
    for part in (results[:3], results[3:]):
        logger, trial = ContinuedCSVLogger(), LoggedTrial(tmp_path / "trial")
        for result in part:
            logger.log_trial_result(0, trial, result)
        logger.log_trial_end(trial)
    with (tmp_path / "trial" / "progress.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["training_iteration", "note", "evaluation/win_rate", "custom_metrics/k"]
    assert lines == [["1", 'a, "b"\nc', "", ""], ["2", "", "0.5", ""], ["3", "", "", ""], ["4", "", "1.0", "2"]]
    assert [path.name for path in (tmp_path / "trial").iterdir()] == ["progress.csv"]
