"""Env runners that die, hang or raise: who plays, who has failed and why, and who comes back.

RLlib's own calls wait for every env runner that they ask, ask those that are gone whether they are back and wait for an
answer, and keep the reasons of failures in logs. Here nobody waits for one that is gone while others can play.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_ddn.team import TeamEnvError

_PING, _END = "ping", "end"  # kinds of calls
_POLL_S = 0.5  # between two looks at env runners that are awaited

_logger = logging.getLogger(__name__)


class EnvRunnersError(RuntimeError):
    """Env runners failed, and nothing is left that may be done about it. The message is one line."""


def outlive_sigterm() -> None:
    """Where SIGTERM is blocked, as ``rllib train`` has it in what it starts, passes over it by a handler in place of the mask:
    games that this process starts would inherit the mask, and could not be ended by SIGTERM."""
    if threading.current_thread() is threading.main_thread() and signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []):
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@dataclass(frozen=True)
class Failure:
    """Why an env runner gave no episodes, in a line."""

    why: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What an env raised, and where."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
        return cls(" ".join(f"raised {type(error).__name__}: {error}{where}".split()))


class Runners:
    """The env runners of a group, asked so that no failure of theirs stops the others.

    Args:
        group: RLlib's group; its local env runner plays where there is no other.
        config: the group's config.
        purpose: what they are asked for; those of one group may be asked for several things at once.

    Attributes:
        failures_in_a_row: how many have failed since the last episode of any; whoever gets episodes sets it to 0.
        hung: how many have been replaced because they took too long.
    """

    def __init__(self, group: EnvRunnerGroup, config: AlgorithmConfig, purpose: str):
        self.group, self.config, self._purpose = group, config, purpose
        self.failures_in_a_row = self.hung = 0
        self._manager = group._worker_manager
        self._asked: list[int] = []
        self._anew: set[int] = set()  # those that were started again since they were asked
        self._gone: dict[int, str] = {}  # those that Ray will not start again
        self._last = ""  # the last failure, as a line

    @property
    def asked(self) -> int:
        """How many have been asked and not been heard."""
        return len(self._asked)

    def healthy(self) -> list[int]:
        """The indices of the remote env runners that can be asked."""
        return self._manager.healthy_actor_ids()

    def call_local(self, call: Callable[[Any], Any]) -> Any:
        """The result of the local env runner.

        Raises:
            TeamEnvError: an env gave NaN or an empty action mask.
            EnvRunnersError: it failed in another way.
        """
        try:
            return call(self.group.local_env_runner)
        except TeamEnvError:
            raise
        except Exception as error:
            raise EnvRunnersError(f"the env runner {Failure.of(error).why}.") from error

    def ask(self, calls: Callable[[Any], Any] | list[Callable[[Any], Any]]) -> None:
        """Sends a call to every healthy remote env runner, or one of a list of calls to each of the first of them.

        A TeamEnvError comes back as a value, any other exception as a :class:`Failure`.
        """
        healthy = self.healthy()
        several = calls if isinstance(calls, list) else [calls] * len(healthy)
        self._asked, self._anew = healthy[: len(several)], set()
        if self._asked:
            guarded = [_guarded(call) for call in several[: len(self._asked)]]
            self._manager.foreach_actor_async(guarded, tag=self._purpose, remote_actor_ids=self._asked)

    def answers(self, timeout_s: float | None) -> tuple[list[Any], list[Failure]]:
        """The results of those that were asked, and the failures of those that have none.

        Those that failed are out of service from then on; Ray starts them again if
        ``restart_failed_env_runners`` and ``max_num_env_runner_restarts`` allow.

        Args:
            timeout_s: seconds after which an env runner that has not answered is given up; None: never.

        Raises:
            EnvRunnersError: failures are not to be tolerated, or more than
                ``num_consecutive_env_runner_failures_tolerance`` came in a row.
        """
        asked, self._asked = self._asked, []
        results: list[Any] = []
        failures: dict[int, Failure] = {}
        for answer in self._manager.fetch_ready_async_reqs(tags=self._purpose, timeout_seconds=timeout_s):
            value = answer.get()
            asked.remove(answer.actor_id)
            if not answer.ok:
                failures[answer.actor_id] = Failure(_one_line(value))
            elif isinstance(value, Failure):
                failures[answer.actor_id] = value
                self._end(answer.actor_id)
            else:
                results.append(value)
        for runner in asked:
            if self._manager.is_actor_healthy(runner) and runner not in self._anew:
                failures[runner] = Failure(f"has not answered for {timeout_s:g} s")
                self.hung += 1
                self._manager.set_actor_state(runner, healthy=False)
                ray.kill(self._manager.actors()[runner], no_restart=False)
            else:  # found dead by another call
                failures[runner] = Failure("has died")
        self._judge(failures, bool(results))
        return results, list(failures.values())

    def count(self, failure: Failure) -> None:
        """Counts a failure of the kind that leaves no env runner dead.

        Raises:
            EnvRunnersError: see :meth:`answers`.
        """
        self._last = failure.why
        self.failures_in_a_row += 1
        tolerated = self.config.num_consecutive_env_runner_failures_tolerance
        if self.failures_in_a_row > tolerated:
            raise EnvRunnersError(
                f"env runners have failed {self.failures_in_a_row} times without an episode in between, and "
                f"num_consecutive_env_runner_failures_tolerance is {tolerated}. The last: {self._last}"
            )

    def bring_back(self, wait: bool) -> bool:
        """Asks those that are out of service whether they are back, without waiting for an answer.

        Args:
            wait: where none is left, whether to wait until one is back.

        Returns:
            Whether any has come back.

        Raises:
            EnvRunnersError: none is left, and none will come back: Ray does not start them again, or has not within
                ``env_runner_restore_timeout_s``.
        """
        back = self._look(0.0)
        if not wait or self.healthy() or not self._manager.actor_ids():
            return back
        limit, since = self.config.env_runner_restore_timeout_s, time.monotonic()
        _logger.warning("no env runner is left; waiting until Ray has restarted one. The last failure: %s", self._last)
        while not self.healthy():
            if len(self._gone) == self._manager.num_actors():
                raise EnvRunnersError(f"no env runner is left, and Ray restarts none. The last failure: {self._last}")
            if time.monotonic() - since > limit:
                raise EnvRunnersError(
                    f"no env runner has come back for {limit:g} s (env_runner_restore_timeout_s). The last failure: {self._last}"
                )
            self._look(_POLL_S)
        return True

    def _look(self, seconds: float) -> bool:
        """Pings those that are out of service; returns whether any has answered."""
        healthy = set(self.healthy())
        lost = [runner for runner in self._manager.actor_ids() if runner not in healthy and runner not in self._gone]
        if not lost:
            return False
        # One that still starts, or waits for room on a node, answers later: its ping stays under way.
        self._manager.foreach_actor_async(lambda runner: runner.ping(), tag=_PING, healthy_only=False, remote_actor_ids=lost)
        answers = list(self._manager.fetch_ready_async_reqs(tags=_PING, timeout_seconds=seconds, mark_healthy=True))
        for answer in answers:
            if answer.ok:
                self._anew.add(answer.actor_id)
            elif isinstance(answer.get(), ActorDiedError):
                self._gone[answer.actor_id] = _one_line(answer.get())
                _logger.error("env runner %d %s; Ray does not start it again.", answer.actor_id, self._gone[answer.actor_id])
        if answers and seconds and not any(answer.ok for answer in answers):
            time.sleep(seconds)  # Ray answers at once that there is nobody yet
        return any(answer.ok for answer in answers)

    def _end(self, runner: int) -> None:
        """Lets an env runner end as RLlib lets one in which a call has failed, after ``delay_between_env_runner_restarts_s``."""
        self._manager.set_actor_state(runner, healthy=False)
        self._manager.foreach_actor_async(_fail, tag=_END, healthy_only=False, remote_actor_ids=[runner])

    def _judge(self, failures: dict[int, Failure], any_result: bool) -> None:
        config = self.config
        for runner, failure in failures.items():
            line = f"env runner {runner} {failure.why}"
            _logger.warning("%s", line)
            if not (config.restart_failed_env_runners or config.ignore_env_runner_failures):
                raise EnvRunnersError(f"{line}; restart_failed_env_runners and ignore_env_runner_failures are off.")
            if any_result:
                self._last = line
            else:
                self.count(Failure(line))


def _guarded(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Where an exception would end the env runner, and leave its reason in a log, it comes back as a value."""

    def guarded(runner: Any) -> Any:
        try:
            return call(runner)
        except TeamEnvError as error:
            return error
        except Exception as error:
            return Failure.of(error)

    return guarded


def _fail(runner: Any) -> None:
    raise EnvRunnersError("this env runner's env has raised; it ends.")


def _one_line(error: Exception) -> str:
    if isinstance(error, ActorUnavailableError):
        return "has died"  # Ray's text tells of its connection
    text = " ".join(str(error).split())
    return f"has died ({text if len(text) <= 200 else f'{text[:197]}...'})"
