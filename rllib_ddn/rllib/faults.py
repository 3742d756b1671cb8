"""Env runners that die, hang or raise: who plays, who has failed and why, and who comes back.

RLlib's own calls wait for every env runner that they ask, ask those that are gone whether they are back and wait for an
answer, and keep the reasons of failures in logs. Here nobody waits for one that is gone while others can play. The calls
that are under way are held here: what becomes of them in RLlib's manager differs from one version of Ray to another.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_ddn.team import TeamEnvError

_POLL_S = 0.5  # between two looks at env runners that are awaited

_logger = logging.getLogger(__name__)


class EnvRunnersError(RuntimeError):
    """Env runners failed, and nothing is left that may be done about it. The message is one line."""


def outlive_sigterm() -> None:
    """Where SIGTERM is blocked, as ``rllib train`` has it in what it starts, passes over it by a handler in place of the mask:
    games that this process starts would inherit the mask, and could not be ended by SIGTERM."""
    if threading.current_thread() is threading.main_thread() and signal.SIGTERM in signal.pthread_sigmask(
        signal.SIG_BLOCK, []
    ):
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

    @classmethod
    def told(cls, answer: RayError | Failure) -> Failure:
        """What an env runner has answered, or Ray in its place."""
        if isinstance(answer, Failure):
            return answer
        if isinstance(answer, RayActorError):
            return cls(_one_line(answer))
        return cls(f"gave {type(answer).__name__}: {str(answer).strip().splitlines()[-1]}")  # which cannot be had


class Runners:
    """The env runners of a group, asked so that no failure of theirs stops the others.

    Args:
        group: RLlib's group; its local env runner plays where there is no other.
        config: the group's config.

    Attributes:
        failures_in_a_row: how many have failed since the last episode of any; whoever gets episodes sets it to 0.
        hung: how many have been replaced because they took too long.
    """

    def __init__(self, group: EnvRunnerGroup, config: AlgorithmConfig):
        self.group, self.config = group, config
        self.failures_in_a_row = self.hung = 0
        self._manager = group._worker_manager
        self._asked: dict[int, ray.ObjectRef] = {}
        self._pinged: dict[int, ray.ObjectRef] = {}  # those that are out of service
        self._anew: set[int] = set()  # those that came back since they were asked
        self._gone: set[int] = set()  # those that Ray will not start again
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
        self._asked = {
            runner: self._send(runner, _guarded(call)) for runner, call in zip(healthy, several, strict=False)
        }
        self._anew = set()

    def drop_calls(self) -> None:
        """Abandons the calls under way; their results are discarded."""
        self._asked = {}

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
        asked, self._asked = self._asked, {}
        ended = _ended(asked, timeout_s)
        results: list[Any] = []
        failures: dict[int, Failure] = {}
        for runner in asked:
            if runner not in ended and self._manager.is_actor_healthy(runner):
                failures[runner] = Failure(f"has not answered for {timeout_s:g} s")
                self.hung += 1
                self._manager.set_actor_state(runner, healthy=False)
                ray.kill(self._manager.actors()[runner], no_restart=False)
            elif runner not in ended:  # found dead by another call
                failures[runner] = Failure("has died")
            elif isinstance(ended[runner], RayError | Failure):
                failures[runner] = Failure.told(ended[runner])
                if runner in self._anew:  # what has failed is the one before
                    continue
                if isinstance(ended[runner], RayActorError):
                    self._manager.set_actor_state(runner, healthy=False)
                else:  # it lives
                    self._end(runner)
            else:
                results.append(ended[runner])
        self._judge(failures, bool(results))
        return results, list(failures.values())

    def count(self, failure: Failure) -> None:
        """Counts a failure beside which no env runner gave an episode.

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

    def bring_back(self, wait: bool) -> list[int]:
        """Asks those that are out of service whether they are back, without waiting for an answer.

        Args:
            wait: where none is left, whether to wait until one is back.

        Returns:
            Those that have come back, which know nothing of the training yet.

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
            back += self._look(_POLL_S)
        return back

    def _look(self, seconds: float) -> list[int]:
        """Pings those that are out of service; returns which have answered."""
        healthy = set(self.healthy())
        lost = [runner for runner in self._manager.actor_ids() if runner not in healthy and runner not in self._gone]
        # One that still starts, or waits for room on a node, answers later: its ping stays under way.
        pings = {
            runner: self._pinged.get(runner) or self._send(runner, lambda runner: runner.ping()) for runner in lost
        }
        ended = _ended(pings, seconds)
        back = [runner for runner, answer in ended.items() if not isinstance(answer, RayError)]
        for runner in back:
            self._manager.set_actor_state(runner, healthy=True)
            self._manager._num_actor_restarts += 1  # among the results as num_remote_worker_restarts
            _logger.warning("env runner %d is back", runner)
        self._anew.update(back)
        for runner, answer in ended.items():
            if isinstance(answer, ActorDiedError):
                self._gone.add(runner)
                _logger.error("env runner %d %s; Ray does not start it again.", runner, _one_line(answer))
        self._pinged = {runner: ping for runner, ping in pings.items() if runner not in ended}
        if ended and seconds and not back:
            time.sleep(seconds)  # Ray answers at once that there is nobody yet
        return back

    def _end(self, runner: int) -> None:
        """Lets an env runner end as RLlib lets one in which a call has failed, after ``delay_between_env_runner_restarts_s``."""
        self._manager.set_actor_state(runner, healthy=False)
        self._send(runner, _end_itself)

    def _send(self, runner: int, call: Callable[[Any], Any]) -> ray.ObjectRef:
        return self._manager.actors()[runner].apply.remote(call)

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


def _ended(calls: dict[int, ray.ObjectRef], timeout_s: float | None) -> dict[int, Any]:
    """What those calls returned, or which RayError they ended in, that end within some seconds; all of them for None."""
    ready = set(ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)[0]) if calls else set()
    ended: dict[int, Any] = {}
    for runner, call in calls.items():
        if call in ready:
            try:
                ended[runner] = ray.get(call)
            except RayError as error:
                ended[runner] = error
    return ended


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


def _end_itself(runner: Any) -> None:
    if runner.config.restart_failed_env_runners:
        time.sleep(runner.config.delay_between_env_runner_restarts_s)
    sys.exit(1)


def _one_line(error: RayActorError) -> str:
    if isinstance(error, ActorUnavailableError):
        return "has died"  # Ray's text tells of its connection
    text = " ".join(str(error).split())
    return f"has died ({text if len(text) <= 200 else f'{text[:197]}...'})"
