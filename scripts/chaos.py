"""Trains on a cluster of two nodes while everything fails that can, and counts what was lost.

python scripts/chaos.py [--seed 1] [--minutes 30 | --short] [--folder FOLDER]

A small DDN plays Predator-Prey with an env runner on each node. In an order that the seed draws, env runners, a node
and the trainer are killed by SIGKILL, and envs raise, hang and give NaN; ``--short`` does each once. A killed trainer
goes on from its last checkpoint, one that a NaN has ended from the checkpoint that it names.

Three books are kept in the folder: ``played`` by the envs (an episode's ticket when it begins; ticket, length and
checksum when it ends), ``trained`` by the trainer (counters, and the tickets of new episodes in replay), and between
its lines what was done to it. Each state in replay ends in the ticket of its episode. In the end the books are
compared, a table tells what was lost, and the exit code is 1 if anything does not add up.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_ddn import DDNConfig, TeamEnvError
from rllib_ddn.envs.predator_prey import parallel_env

RUNNERS, GAMES, BATCH, CAPACITY = 2, 2, 8, 2000
SAVE_EVERY = 10  # iterations
HANG_S = 8.0  # after which an env runner counts as hung
PATIENCE_S = 900.0  # for whatever is awaited, on a machine that is busy with other things
TICKET_BYTES = 6
RESTORED = ("iterations", "episodes", "steps", "updates", "optimizer", "held", "held_steps")
RULES = {"grid_size": 4, "num_predators": 3, "num_prey": 2, "penalty": 0.5, "episode_limit": 12, "sight": 1}


class Unruly(parallel_env):
    """Predator-Prey that does what a file ``raise``, ``hang`` or ``nan`` in the folder tells it, and takes the file
    away.
    """

    def __init__(self, folder: str, **rules: Any):
        self._ticket = np.zeros(TICKET_BYTES, np.uint8)
        super().__init__(**rules)
        self._folder = Path(folder)
        for seen in self.observation_spaces.values():
            seen.spaces["observation"] = gymnasium.spaces.Box(0, 1, self._view_shape, np.float32)

    def reset(self, seed: int | None = None, options: dict | None = None):
        self._ticket = np.frombuffer(os.urandom(TICKET_BYTES), np.uint8)
        started = super().reset(seed, options)
        self._states, self._rewards = [self.state()], list[float]()
        return started

    def step(self, actions: dict[str, int]):
        if not self._rewards:
            note(self._folder / "played", begun=self._ticket.tobytes().hex(), job=job(), pid=os.getpid())
        if self._told("raise"):
            raise RuntimeError("told to raise")
        if self._told("hang"):
            time.sleep(3600)
        observations, rewards, *ends = super().step(actions)
        self._states.append(self.state())
        self._rewards.append(next(iter(rewards.values())))
        if not self.agents:
            note(self._folder / "played", ended=summary(np.stack(self._states), np.array(self._rewards, np.float32)))
        if self._told("nan"):
            next(iter(observations.values()))["observation"][:] = np.nan
        return observations, rewards, *ends

    def state(self) -> np.ndarray:
        return np.concatenate([super().state(), np.unpackbits(self._ticket).view(np.int8)])

    def _observations(self):
        seen = super()._observations()
        return {agent: {**each, "observation": each["observation"].astype(np.float32)} for agent, each in seen.items()}

    def _told(self, what: str) -> bool:
        try:
            (self._folder / what).unlink()  # by one env only
        except FileNotFoundError:
            return False
        return True


def note(book: Path, **line: Any) -> None:
    """Appends a line in one write, which no other process's line and no SIGKILL cuts in two."""
    with book.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def read(book: Path, start: int = 0) -> list[dict[str, Any]]:
    """The whole lines of a book, from a byte on."""
    with book.open("rb") as file:
        file.seek(start)
        return [json.loads(line) for line in file if line.startswith(b"{") and line.endswith(b"}\n")]


def summary(states: np.ndarray, rewards: np.ndarray) -> list[Any]:
    """Ticket, length and checksum of an episode: states ``[T + 1, S]`` int8, rewards ``[T]`` float32."""
    ticket = np.packbits(states[0, -8 * TICKET_BYTES :].view(np.uint8)).tobytes().hex()
    return [ticket, len(rewards), zlib.crc32(states.tobytes() + rewards.tobytes())]


def job() -> str:
    """Ray's name for a life of the trainer, in the trainer and in its env runners."""
    return ray.get_runtime_context().get_job_id()


# The trainer ----------------------------------------------------------------------------------------------------------


def train(folder: Path, address: str, restore: str | None) -> int:
    """Trains until there is a file ``stop``; returns 3 if an env has given NaN."""
    ray.init(address=address, log_to_driver=False)
    book, checkpoint = folder / "trained", str(folder / "checkpoint")
    algo = Algorithm.from_checkpoint(restore) if restore else make_config(folder).build_algo()
    note(book, life=job(), **figures(algo))
    while not (folder / "stop").exists():
        before = algo.local_replay_buffer.num_added
        try:
            algo.train()
        except TeamEnvError as error:
            note(book, refused=str(error))
            return 3
        new = [ticket for ticket, *_ in rows(algo, np.arange(before, algo.local_replay_buffer.num_added) % CAPACITY)]
        note(book, new=new, **figures(algo))
        if algo.iteration % SAVE_EVERY == 0:
            note(book, saving=algo.iteration)
            algo.save_checkpoint(checkpoint)
            note(book, saved=algo.iteration)
    note(book, replay=rows(algo, np.arange(len(algo.local_replay_buffer))), **figures(algo))
    algo.stop()
    return 0


def make_config(folder: Path) -> DDNConfig:
    """Rounds of two episodes for each of two env runners, an update for each episode."""
    config = (
        DDNConfig()
        .environment("pettingzoo", env_config={"env": Unruly, "folder": str(folder), "team_reward": "mean", **RULES})
        .env_runners(num_env_runners=RUNNERS, num_envs_per_env_runner=GAMES, sample_timeout_s=HANG_S)
        .training(train_batch_size=BATCH, replay_buffer_config={"capacity": CAPACITY}, agent_hidden_dim=16)
        .evaluation(evaluation_interval=None)
        .debugging(seed=1, log_level="ERROR", log_sys_usage=False)
    )
    return config.reporting(min_sample_timesteps_per_iteration=1)


def figures(algo: Algorithm) -> dict[str, Any]:
    """What the algorithm says of itself."""
    policy, replay = algo.get_policy(), algo.local_replay_buffer
    adam = policy.optimizers["follower"].state_dict()["state"]
    return {
        "iterations": algo.iteration,
        "episodes": algo._counters["num_episodes_sampled"],
        "steps": algo._counters["num_env_steps_sampled"],
        "updates": policy.num_grad_updates,
        "optimizer": int(adam[0]["step"]) if adam else 0,
        "held": len(replay),
        "held_steps": replay.num_steps,
        "lost": algo._counters["num_episodes_lost"],
        "healthy": algo.env_runner_group.num_healthy_remote_workers(),
    }


def rows(algo: Algorithm, slots: np.ndarray) -> list[list[Any]]:
    """The summaries of episodes in replay."""
    held = algo.local_replay_buffer._data
    lengths = held["length"].tolist()
    return [summary(held["state"][k, : lengths[k] + 1], held["rewards"][k, : lengths[k]]) for k in slots]


# What is done to it ---------------------------------------------------------------------------------------------------


class Chaos:
    """The cluster, the trainer, and what befalls them. Whatever it kills it has started."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.played, self.book = folder, folder / "played", folder / "trained"
        self.rng = np.random.default_rng(seed)
        self.cluster = Cluster()
        self.add_node(include_dashboard=False)  # the head, which stays
        self.node = self.add_node()
        self.faults: dict[str, Callable[[], None]] = {
            "an env runner is killed": lambda: self.kill_env_runners(1),
            "all env runners are killed": lambda: self.kill_env_runners(RUNNERS),
            "a node is killed": self.kill_node,
            "an env raises": lambda: self.tell_an_env("raise"),
            "an env hangs": lambda: self.tell_an_env("hang"),
            "an env gives NaN": self.give_nan,
            "the trainer is killed": self.kill_trainer,
            "the trainer is killed as it saves": self.kill_trainer_as_it_saves,
        }

    def run(self, seconds: float) -> None:
        """Every fault once, in a random order, and again until the time is over; then all come back and it ends."""
        until, number = time.monotonic() + seconds, 0
        while number == 0 or time.monotonic() < until:
            for name in self.rng.permutation(list(self.faults)):
                self.train_on(2)
                time.sleep(self.rng.uniform(0, min(3.0, seconds / 100)))
                number += 1
                print(f"{time.strftime('%H:%M:%S')} {number:4d} {name}", file=sys.stderr, flush=True)
                note(self.book, fault=str(name))
                self.faults[str(name)]()
                if number >= len(self.faults) and time.monotonic() > until:
                    break
        self.await_all()
        self.train_on(3)
        (self.folder / "stop").touch()
        self.await_end(0)

    def kill_env_runners(self, count: int) -> None:
        """Kills them and waits for as many new ones; an idle one loses no episode."""
        if count == RUNNERS:
            self.await_all()
        start = self.played.stat().st_size
        self.train_on(2)
        old = self.players(start)
        killed = self.rng.permutation(sorted(old))[:count]
        for pid in killed:
            os.kill(int(pid), signal.SIGKILL)
        self.wait("new env runners play", lambda: len(self.players(start) - old) >= len(killed))

    def kill_node(self) -> None:
        self.await_all()
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.train_on(5)
        self.node = self.add_node()

    def players(self, start: int) -> set[int]:
        """The processes that have begun an episode since this byte of the envs' book."""
        return {line["pid"] for line in read(self.played, start) if "begun" in line}

    def add_node(self, **arguments: Any) -> Any:
        """Another node; on a busy machine Ray may find in 30 s that it takes too long."""
        for _ in range(5):
            try:
                return self.cluster.add_node(num_cpus=1, **arguments)
            except Exception as error:
                print(f"chaos: once more, as {error}", file=sys.stderr)
        sys.exit("chaos: no node can be started")

    def tell_an_env(self, what: str) -> None:
        before = self.now()["lost"]
        (self.folder / what).touch()
        self.wait("the loss is counted", lambda: self.now()["lost"] > before)

    def give_nan(self) -> None:
        (self.folder / "nan").touch()
        self.await_end(3)
        self.start_trainer(read(self.book, self.start)[-1]["refused"].rpartition(" is saved in ")[2].rstrip("."))

    def kill_trainer(self, longest_wait_s: float = 1.0) -> None:
        time.sleep(self.rng.uniform(0, longest_wait_s))
        self.trainer.kill()
        self.await_end(-signal.SIGKILL)
        self.start_trainer(str(self.folder / "checkpoint"))

    def kill_trainer_as_it_saves(self) -> None:
        start = self.book.stat().st_size
        self.wait("it saves", lambda: any("saving" in line for line in read(self.book, start)), pause=0.002)
        self.kill_trainer(0.03)

    def start_trainer(self, restore: str = "") -> None:
        """Starts it, from a checkpoint if it has ever saved one, and waits until it has played."""
        self.start = self.book.stat().st_size
        arguments = ["--folder", self.folder, "--address", self.cluster.address]
        if restore and Path(restore, "rllib_checkpoint.json").exists():
            arguments += ["--restore", restore]
        with (self.folder / "trainer.log").open("ab") as log:
            self.trainer = subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=log, stderr=log)
        self.train_on(1)

    def now(self) -> dict[str, Any]:
        """The trainer's last figures, of this life."""
        start = max(self.start, self.book.stat().st_size - 8192)  # where no line may begin
        lines = read(self.book, start)
        return next((line for line in reversed(lines) if "iterations" in line), {"iterations": -1})

    def train_on(self, iterations: int) -> None:
        self.wait("it trains", lambda: "lost" in self.now())
        last = self.now()["iterations"] + iterations
        self.wait("it trains", lambda: self.now()["iterations"] >= last)

    def await_all(self) -> None:
        self.wait("all env runners are back", lambda: self.now()["healthy"] == RUNNERS)

    def wait(self, event: str, happened: Callable[[], bool], pause: float = 0.05) -> None:
        """Waits until something has happened, while the trainer runs."""
        since = time.monotonic()
        while not happened():
            if self.trainer.poll() is not None or time.monotonic() - since > PATIENCE_S:
                sys.exit(
                    f"chaos: {event}? The trainer's exit code: {self.trainer.poll()}; see {self.folder}/trainer.log"
                )
            time.sleep(pause)

    def await_end(self, code: int) -> None:
        if self.trainer.wait(PATIENCE_S) != code:
            sys.exit(
                f"chaos: the trainer's exit code is {self.trainer.returncode}, not {code}; see "
                f"{self.folder}/trainer.log"
            )

    def close(self) -> None:
        if hasattr(self, "trainer"):
            self.trainer.kill()
        self.cluster.shutdown()


# What was lost --------------------------------------------------------------------------------------------------------


def judge(folder: Path) -> tuple[str, bool]:
    """Compares the books; returns a table, and whether all adds up."""
    begun: dict[str, set[str]] = defaultdict(set)  # tickets by life
    ended: dict[str, list[Any]] = {}
    for line in read(folder / "played"):
        if "begun" in line:
            begun[line["job"]].add(line["begun"])
        else:
            ended[line["ended"][0]] = line["ended"]
    times, in_flight, undone = Counter[str](), Counter[str](), Counter[str]()  # by fault
    kept: list[dict[str, Any]] = []  # the iterations that no later life has undone
    fault, saved, lives, whole, unexplained = "", 0, 0, 0, 0
    first: dict[str, Any] = {}  # of a life
    last: dict[str, Any] = {}
    received: set[str] = set()  # in a life
    book = read(folder / "trained")
    for line in [*book, {"life": None}]:
        if "fault" in line:
            fault = line["fault"]
            times[fault] += 1
        elif "saved" in line or "refused" in line:
            saved = line.get("saved", last["iterations"])
        elif "new" in line:
            in_flight[fault] += line["lost"] - last["lost"]
            received.update(line["new"])
            kept.append(line)
            last = line
        elif "life" in line:
            if lives:  # another has ended: with episodes in flight, but for the last
                missing = len(begun[first["life"]] - received) - (last["lost"] - first["lost"])
                in_flight[fault] += max(0, missing)
                unexplained += max(0, missing - (RUNNERS * GAMES if line["life"] else 0))
            if line["life"]:
                lives += 1
                back = [each for each in kept if each["iterations"] > line["iterations"]]
                kept = kept[: len(kept) - len(back)]
                undone[fault] += sum(len(each["new"]) for each in back)
                before = kept[-1] if kept else dict.fromkeys(line, 0)
                whole += line["iterations"] >= saved and all(line[name] == before[name] for name in RESTORED)
                first = last = line
                received = set()
    end = book[-1]
    tickets = [ticket for line in kept for ticket in line["new"]]
    steps = {ticket: ended[ticket][1] for ticket in tickets if ticket in ended}
    replay = {row[0]: row for row in end.get("replay", [])}
    right = {ticket for ticket in tickets[-CAPACITY:] if ticket in steps and replay.get(ticket) == ended[ticket]}
    totals = np.cumsum([len(line["new"]) for line in kept])
    updates = sum(len(line["new"]) for line, total in zip(kept, totals, strict=True) if total >= BATCH)
    sums = [
        ("iterations", end["iterations"], len(kept)),
        ("episodes", end["episodes"], len(steps)),
        ("env steps", end["steps"], sum(steps.values())),
        ("updates", end["updates"], updates),
        ("steps of the follower's optimizer", end["optimizer"], updates),
        ("episodes in replay, with the checksums of the envs", end["held"], len(right)),
        ("env steps in replay", end["held_steps"], sum(steps[ticket] for ticket in right)),
        ("lives of the trainer that began whole", lives, whole),
        ("episodes lost that nothing explains", 0, unexplained),
    ]
    table = [
        f"{'':52}{'':>10}{'episodes lost':>16}{'episodes lost':>20}",
        f"{'':52}{'times':>10}{'in flight':>16}{'past a checkpoint':>20}",
    ]
    counts = (times, in_flight, undone)
    for name, row in [
        *((name, [count[name] for count in counts]) for name in times),
        ("all", [count.total() for count in counts]),
    ]:
        table.append("{:52}{:10,}{:16,}{:20,}".format(name, *row))
    table += ["", f"{'':52}{'algorithm':>10}{'counted beside':>16}"]
    table += [
        f"{name:52}{said:10,}{found:16,}{'' if said == found else '    DOES NOT ADD UP'}" for name, said, found in sums
    ]
    return "\n".join(table), "replay" in end and all(said == found for _, said, found in sums)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--short", action="store_true", help="each fault once")
    parser.add_argument("--folder", type=Path, help="an empty one, where the books are kept")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--restore", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.address:
        return train(arguments.folder, arguments.address, arguments.restore)
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    for book in ("played", "trained"):
        (folder / book).touch()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    since = time.monotonic()
    chaos = Chaos(folder, arguments.seed)
    try:
        chaos.start_trainer()
        chaos.run(0.0 if arguments.short else 60 * arguments.minutes)
    finally:
        chaos.close()
    table, adds_up = judge(folder)
    print(f"{(time.monotonic() - since) / 60:.1f} minutes, seed {arguments.seed}, books in {folder}\n\n{table}\n")
    print("All adds up." if adds_up else "NOT ALL ADDS UP.")
    return 0 if adds_up else 1


if __name__ == "__main__":
    sys.exit(main())
