"""The replay of whole episodes, in NumPy (layout: :mod:`rllib_ddn.learning.episodes`)."""

from __future__ import annotations

import logging
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np

from rllib_ddn.learning.episodes import PER_EPISODE, Episodes, resize_steps

_logger = logging.getLogger(__name__)

BLOCK_BYTES = 2**24  # compressed at a time


class ReplayMemoryError(RuntimeError):
    """The memory of the replay cannot be reserved. The message is one line."""


class EpisodeReplay:
    """A ring buffer of whole episodes, sampled uniformly without replacement.

    Memory is reserved at the first :meth:`add`, and again for a longer episode than any before; the system hands it out
    as episodes arrive. A warning is logged, once, where the full replay needs more memory than is available.

    Args:
        capacity: maximum number of episodes; the oldest is overwritten first.

    Raises:
        ValueError: capacity is not a positive integer.
    """

    def __init__(self, capacity: int = 5000):
        if not (isinstance(capacity, (int, np.integer)) and capacity > 0):
            raise ValueError(
                f"replay_buffer_config['capacity'] is a number of episodes, a positive integer; got {capacity!r}."
            )
        self.capacity = int(capacity)
        self.num_added = 0
        self._data: Episodes = {}
        self._warned = False  # of too little memory

    def __len__(self) -> int:
        """Number of episodes held."""
        return min(self.num_added, self.capacity)

    @property
    def num_steps(self) -> int:
        """Number of env steps held."""
        return int(self._data["length"][: len(self)].sum()) if self._data else 0

    @property
    def nbytes(self) -> int:
        """Size of the episodes held, in bytes."""
        return sum(array[: len(self)].nbytes for array in self._data.values())

    def add(self, episodes: Episodes) -> None:
        """Stores copies of the episodes. Their padding must be zero (as the env runner leaves it).

        Raises:
            ReplayMemoryError: the system refuses the memory for ``capacity`` such episodes. The replay stays as it was.
        """
        if not self._data:
            self._data = self._reserved(episodes)
        elif episodes["rewards"].shape[1] > self._data["rewards"].shape[1]:
            old, held = self._data, len(self)
            self._data = self._reserved(episodes)
            for name, array in old.items():
                rows = self._data[name][:held]
                (rows if name in PER_EPISODE else rows[:, : array.shape[1]])[:] = array[:held]
        for row in range(len(episodes["length"])):
            slot = self.num_added % self.capacity
            for name, array in episodes.items():
                target = self._data[name]
                if name in PER_EPISODE:
                    target[slot] = array[row]
                else:
                    target[slot, : array.shape[1]] = array[row]
                    target[slot, array.shape[1] :] = 0
            self.num_added += 1

    def _reserved(self, like: Episodes) -> Episodes:
        """Arrays for ``capacity`` episodes as long as these."""
        return self._room({name: (array.shape[1:], array.dtype) for name, array in like.items()})

    def _room(self, fields: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> Episodes:
        """Zeroed arrays for ``capacity`` episodes, from each field's shape and dtype.

        Raises:
            ReplayMemoryError: see :meth:`add`.
        """
        row = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())
        wanted, (total, available) = self.capacity * row, memory()
        steps = fields["rewards"][0][0]
        line = (
            f"a replay of {self.capacity:,} episodes of {steps:,} steps takes up to {wanted / 1e9:.1f} GB, and "
            f"{available / 1e9:.1f} of the {total / 1e9:.1f} GB of this machine (or container) are available: "
            f"replay_buffer_config['capacity'] may be at most {max(0, int(available // row)):,}"
        )
        if wanted > available and not self._warned:
            self._warned = True
            _logger.warning("%s, or the process may be killed when the replay has filled up.", line)
        try:
            return {name: _zeros((self.capacity, *shape), dtype) for name, (shape, dtype) in fields.items()}
        except OSError as error:
            raise ReplayMemoryError(f"{line} ({error.strerror}).") from error

    def sample(self, batch_size: int, rng: np.random.Generator) -> Episodes:
        """``batch_size`` distinct episodes, trimmed to the longest of them.

        Args:
            batch_size: at most ``len(self)``.
            rng: source of randomness.

        Returns:
            Copies (not views), rows in random order.

        Raises:
            ValueError: fewer than ``batch_size`` episodes are held.
        """
        if batch_size > len(self):
            raise ValueError(f"cannot sample {batch_size} episodes: the replay holds {len(self)}.")
        rows = rng.choice(len(self), batch_size, replace=False)
        steps = int(self._data["length"][rows].max())
        return {name: array[rows] for name, array in resize_steps(self._data, steps).items()}

    def get_state(self) -> dict[str, Any]:
        """The state for :meth:`set_state`, compressed; a restored replay draws the same samples."""
        held = len(self)
        packed = {}
        for name, array in self._data.items():
            rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
            blocks = [_packed(array[start : min(start + rows, held)]) for start in range(0, held, rows)]
            packed[name] = {"dtype": array.dtype.str, "shape": array.shape[1:], "rows": rows, "blocks": blocks}
        return {"num_added": self.num_added, "capacity": self.capacity, "packed": packed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores :meth:`get_state`. A replay of another capacity takes the newest episodes that it has room for."""
        num_added, theirs = state["num_added"], state["capacity"]
        held = min(num_added, theirs)
        kept = np.arange(held)
        if theirs != self.capacity:
            # The newest that there is room for, the oldest of them first.
            kept = (num_added - 1 - np.arange(min(held, self.capacity))[::-1]) % theirs
        self.num_added = num_added if theirs == self.capacity else len(kept)
        slot_of = np.full(held, -1)
        slot_of[kept] = np.arange(len(kept))
        self._data = {}  # before there is another
        fields = {name: (tuple(field["shape"]), np.dtype(field["dtype"])) for name, field in state["packed"].items()}
        self._data = self._room(fields) if fields else {}
        for name, field in state["packed"].items():
            own = self._data[name]
            for k, block in enumerate(field["blocks"]):
                slots = slot_of[k * field["rows"] : (k + 1) * field["rows"]]
                array = _unpacked(block, field["dtype"]).reshape(len(slots), *field["shape"])
                own[slots[slots >= 0]] = array[slots >= 0]


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that the system hands out page by page at the first write. (np.zeros would clear, and so touch, memory that
    the allocator has kept of earlier arrays.)"""
    size = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(1, size * dtype.itemsize)), dtype, size).reshape(shape)


def _packed(array: np.ndarray) -> tuple[int, bytes]:
    """The number of bits, where all entries are 0 or 1 (else 0), and the compressed array."""
    bits = array.size if array.itemsize == 1 and not (array.view(np.uint8) > 1).any() else 0
    return bits, lz4.frame.compress(np.packbits(array.view(bool)) if bits else array)


def _unpacked(block: tuple[int, bytes], dtype: str) -> np.ndarray:
    """The inverse of :func:`_packed`, flat."""
    bits, data = block
    array = np.frombuffer(lz4.frame.decompress(data), np.uint8 if bits else dtype)
    return np.unpackbits(array, count=bits).view(dtype) if bits else array


def memory(root: Path = Path("/")) -> tuple[float, float]:
    """Total and available memory in bytes: the machine's, or less where a control group (v1 or v2) limits it.

    Args:
        root: the file system that has ``proc`` and ``sys``.

    Returns:
        Infinity where it is unknown, as on other systems than Linux.
    """
    total = available = math.inf
    try:
        lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        machine = {words[0]: 1024.0 * int(words[1]) for words in lines}
        total, available = machine["MemTotal:"], machine["MemAvailable:"]
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, KeyError):
        return total, available
    for _, controllers, path in groups:
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = (
                root / "sys/fs/cgroup/memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):  # every group above limits it, too
            try:
                limit, used = (
                    float((folder / name).read_text()) for name in names[:2]
                )  # ValueError where there is no limit
                cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            total, available = min(total, limit), min(available, limit - used + float(cached.get(names[2], 0)))
    return total, available
