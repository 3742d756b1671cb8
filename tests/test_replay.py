"""The episode replay against a list of episodes."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rllib_ddn.learning import replay as replay_module
from rllib_ddn.learning.episodes import empty_episodes, resize_steps
from rllib_ddn.learning.replay import EpisodeReplay, ReplayMemoryError, memory

SPEC = SimpleNamespace(num_agents=2, num_actions=3, obs_dim=4, state_dim=5, obs_dtype=np.int8, state_dtype=np.int8)


def episode(number, length):
    """An episode filled with its number."""
    out = empty_episodes(1, length, SPEC)
    out["obs"][:] = out["state"][:] = out["rewards"][:] = number
    out["actions"][:] = number % 3
    out["action_mask"][:] = True
    out["length"][:] = length
    out["terminated"][:] = number % 2
    return out


def test_ring_keeps_the_newest():
    replay = EpisodeReplay(capacity=5)
    for number in range(12):
        replay.add(episode(number, 3))
    assert len(replay) == 5
    assert replay.num_steps == 15
    held = replay.sample(5, np.random.default_rng(0))
    assert sorted(held["rewards"][:, 0]) == [7, 8, 9, 10, 11]


def test_sampling_is_uniform_and_without_replacement():
    replay = EpisodeReplay(capacity=10)
    for number in range(10):
        replay.add(episode(number, 2))
    rng, counts = np.random.default_rng(0), np.zeros(10)
    for _ in range(2000):
        numbers = replay.sample(4, rng)["rewards"][:, 0].astype(int)
        assert len(set(numbers)) == 4
        counts[numbers] += 1
    # Each is sampled 800 times in expectation, with a standard deviation of 22.
    assert np.abs(counts - 800).max() < 100


def test_a_sample_is_trimmed_to_its_longest_episode_and_padded_with_zeros():
    replay = EpisodeReplay(capacity=3)
    for number, length in ((1, 9), (2, 9), (3, 9), (4, 2), (5, 6), (6, 1)):  # the last three overwrite
        replay.add(episode(number, length))
    batch = replay.sample(3, np.random.default_rng(0))
    assert batch["obs"].shape[:2] == (3, 7)
    assert batch["rewards"].shape == (3, 6)
    for row in range(3):
        length, number = batch["length"][row], batch["rewards"][row, 0]
        assert (batch["obs"][row, : length + 1] == number).all()
        for name in ("obs", "state", "action_mask"):
            assert not batch[name][row, length + 1 :].any()
        assert not batch["rewards"][row, length:].any()
        assert batch["terminated"][row] == number % 2


def test_samples_are_copies():
    replay = EpisodeReplay(capacity=2)
    replay.add(episode(1, 2))
    replay.sample(1, np.random.default_rng(0))["rewards"][:] = 99
    assert replay.sample(1, np.random.default_rng(0))["rewards"].max() == 1


def test_state_restores_the_very_same_samples():
    replay = EpisodeReplay(capacity=4)
    for number in range(6):
        replay.add(episode(number, number + 1))
    other = EpisodeReplay(capacity=4)
    other.set_state(replay.get_state())
    for both in (replay, other):
        both.add(episode(17, 3))
    ours, theirs = (r.sample(3, np.random.default_rng(5)) for r in (replay, other))
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("added", [3, 5, 7])
@pytest.mark.parametrize("capacity", [3, 9])
def test_a_replay_of_another_capacity_takes_the_newest_that_it_has_room_for(added, capacity):
    replay, other = EpisodeReplay(capacity=5), EpisodeReplay(capacity=capacity)
    for number in range(added):
        replay.add(episode(number, 2))
    other.set_state(replay.get_state())
    numbers = lambda r: sorted(r.sample(len(r), np.random.default_rng(0))["rewards"][:, 0].tolist())  # noqa: E731
    first = max(0, added - min(5, capacity))
    assert numbers(other) == list(range(first, added))
    for number in range(added, added + capacity - len(other) + 1):  # until the oldest goes
        other.add(episode(number, 2))
    assert numbers(other) == list(range(first + 1, number + 1))


def test_a_state_is_compressed_in_blocks(monkeypatch):
    monkeypatch.setattr(replay_module, "BLOCK_BYTES", 1000)
    replay, other = EpisodeReplay(capacity=40), EpisodeReplay(capacity=40)
    for number in range(50):
        replay.add(episode(number % 7, 5))
    state = replay.get_state()
    assert len(state["packed"]["obs"]["blocks"]) >= 2
    assert sum(len(data) for field in state["packed"].values() for _, data in field["blocks"]) < replay.nbytes
    other.set_state(state)
    ours, theirs = (r.sample(40, np.random.default_rng(5)) for r in (replay, other))
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert ours[name].dtype == theirs[name].dtype


def test_a_full_predator_prey_episode_takes_at_most_150_kb():
    spec = SimpleNamespace(
        num_agents=8, num_actions=6, obs_dim=50, state_dim=200, obs_dtype=np.int8, state_dtype=np.int8
    )
    replay = EpisodeReplay(capacity=7)
    replay.add(empty_episodes(3, 200, spec))
    assert replay.nbytes / 3 <= 150_000


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_a_longer_episode_does_not_touch_the_memory_of_episodes_to_come():
    """A ring of 2 GB with six episodes in it."""
    spec = SimpleNamespace(**{**vars(SPEC), "obs_dim": 1_000_000})
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # noqa: E731
    replay, before = EpisodeReplay(capacity=200), resident()
    for steps in (2, 3, 4):
        replay.add(empty_episodes(2, steps, spec))
    assert replay.num_added == 6
    assert replay.nbytes <= 6 * 5 * 2_000_100
    assert resident() - before < 800_000_000  # with what the allocator keeps for itself


def test_resizing_keeps_what_fits():
    episodes = episode(3, 4)
    longer = resize_steps(episodes, 6)
    assert longer["obs"].shape[1] == 7
    np.testing.assert_array_equal(resize_steps(longer, 4)["obs"], episodes["obs"])


@pytest.mark.parametrize("capacity", [0, -3, 2.5, "many"])
def test_bad_capacity(capacity):
    with pytest.raises(ValueError, match=r"capacity.*number of episodes"):
        EpisodeReplay(capacity)


def test_asking_for_too_many():
    replay = EpisodeReplay(4)
    replay.add(episode(0, 1))
    with pytest.raises(ValueError, match="cannot sample 2 episodes: the replay holds 1"):
        replay.sample(2, np.random.default_rng(0))


def test_a_replay_that_does_not_fit_is_warned_of_once_with_the_capacity_that_does(monkeypatch, caplog):
    row = episode(0, 4)
    size = sum(array.nbytes for array in row.values())
    monkeypatch.setattr(replay_module, "memory", lambda: (100.0 * size, 60.0 * size))
    EpisodeReplay(60).add(row)
    assert not caplog.text
    EpisodeReplay(61).add(row)
    assert "replay_buffer_config['capacity'] may be at most 60, or" in caplog.text
    caplog.clear()
    replay = EpisodeReplay(60)
    replay.add(row)
    for steps in (9, 12):  # longer ones than before
        replay.add(episode(steps, steps))
    (warning,) = caplog.messages
    assert "a replay of 60 episodes of 9 steps" in warning
    # Memory is touched only as episodes arrive: more than the machine has may be reserved, by a checkpoint, too.
    caplog.clear()
    restored = EpisodeReplay(1010)
    restored.set_state(replay.get_state())
    assert (len(restored), len(caplog.messages)) == (3, 1)


def test_a_replay_that_cannot_be_reserved_is_one_line(monkeypatch):
    def refuse(shape, dtype):
        raise OSError(12, "Cannot allocate memory")

    replay = EpisodeReplay(5)
    replay.add(episode(0, 4))
    monkeypatch.setattr(replay_module, "_zeros", refuse)
    with pytest.raises(ReplayMemoryError, match=r"\(Cannot allocate memory\)"):
        EpisodeReplay(5).add(episode(0, 4))
    with pytest.raises(ReplayMemoryError):
        replay.add(episode(1, 9))  # a longer one than before
    assert len(replay) == 1


V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
NOWHERE = 8192e3, 4096e3  # what the machine has


@pytest.mark.parametrize(
    ("groups", "folder", "names", "limit", "stat", "expected"),
    [
        ("", "", V2, "3000000", "", NOWHERE),
        ("0::/\n", "", V2, "max", "", NOWHERE),
        ("0::/\n", "", V2, "3000000", "anon 1\ninactive_file 500000", (3e6, 2.5e6)),
        ("0::/a/b\n", "a", V2, "3000000", "", (3e6, 2e6)),
        # In a container, whose path is not visible inside.
        ("5:cpu:/x\n4:memory:/x\n0::/\n", "memory", V1, "3000000", "total_inactive_file 1", (3e6, 2000001.0)),
        ("4:memory:/x\n", "memory/x", V1, "9223372036854771712", "", NOWHERE),
    ],
)
def test_the_memory_of_the_machine_and_of_its_control_groups(tmp_path, groups, folder, names, limit, stat, expected):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(
        "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 4000 kB\nHugePages_Total: 0\n"
    )
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    group = tmp_path / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    for name, text in zip((*names, "memory.stat"), (limit, "1000000", stat), strict=True):
        (group / name).write_text(text)
    assert memory(tmp_path) == expected
    assert memory(tmp_path / "elsewhere") == (float("inf"), float("inf"))
