"""Env runners that die, hang or raise: calls to those that are healthy, failures, and restored env runners.

RLlib's own calls wait for every env runner, also for dead ones, and leave the reasons of failures in logs. Here
sampling does not block on failed env runners. The calls under way are kept here, because RLlib's manager treats them
differently from one version of Ray to another.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_ddn.envs.conventions import described
from rllib_ddn.rllib.ray_internals import actor_manager, count_restart
from rllib_ddn.team import TeamEnvError

_POLL_S = 0.5  # between two pings of env runners that are awaited

_logger = logging.getLogger(__name__)


class EnvRunnersError(RuntimeError):
    """Env runners failed, more often than the config tolerates or with none left. The message is one line."""


@dataclass(frozen=True)
class Failure:
    """Why an env runner returned no episodes, in a line."""

    why: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An exception of the env, and where it was raised."""
        return cls(f"raised {described(error)}")

    @classmethod
    def of_answer(cls, answer: RayError | Failure) -> Failure:
        """What an env runner returned in place of episodes, or Ray in its place."""
        if isinstance(answer, Failure):
            return answer
        if isinstance(answer, RayActorError):
            return cls(_one_line(answer))
        return cls(f"gave {type(answer).__name__}: {str(answer).strip().splitlines()[-1]}")


class Runners:
    """The env runners of a group: calls to the healthy ones, none of which waits for a failed one.

    Args:
        group: RLlib's group; its local env runner samples where there is no remote one.
        config: the group's config.

    Attributes:
        failures_in_a_row: failures since the last episode of any env runner; the caller that gets episodes sets it to
            0.
        hung: how many were replaced because they took too long.
    """

    def __init__(self, group: EnvRunnerGroup, config: AlgorithmConfig):
        self.group, self.config = group, config
        self.failures_in_a_row = self.hung = 0
        self._manager = actor_manager(group)
        self._pending: dict[int, ray.ObjectRef] = {}
        self._pings: dict[int, ray.ObjectRef] = {}  # of unhealthy ones
        self._restarted: set[int] = set()  # since the last submit()
        self._dead: set[int] = set()  # those that Ray does not restart
        self._last = ""  # the last failure, as a line

    @property
    def pending(self) -> int:
        """The number of calls that were submitted and not gathered."""
        return len(self._pending)

    def healthy(self) -> list[int]:
        """The indices of the healthy remote env runners."""
        return self._manager.healthy_actor_ids()

    def call_local(self, call: Callable[[Any], Any]) -> Any:
        """The result of a call to the local env runner.

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

    def submit(self, calls: Callable[[Any], Any] | list[Callable[[Any], Any]]) -> None:
        """Sends a call to every healthy remote env runner, or a list of calls to the first of them, one each."""
        healthy = self.healthy()
        each = calls if isinstance(calls, list) else [calls] * len(healthy)
        self._pending = {
            runner: self._send(runner, _guarded(call)) for runner, call in zip(healthy, each, strict=False)
        }
        self._restarted = set()

    def discard(self) -> None:
        """Forgets the calls under way and their results."""
        self._pending = {}

    def gather(self, timeout_s: float | None) -> tuple[list[Any], list[Failure]]:
        """The results of the submitted calls, and the failures of the env runners that have none.

        Failed env runners are unhealthy from then on; Ray restarts them if ``restart_failed_env_runners`` and
        ``max_num_env_runner_restarts`` allow.

        Args:
            timeout_s: seconds after which an env runner without a result is replaced; None: never.

        Raises:
            TeamEnvError: an env gave NaN or an empty action mask.
            EnvRunnersError: failures are not tolerated, or more than
                ``num_consecutive_env_runner_failures_tolerance`` came in a row.
        """
        pending, self._pending = self._pending, {}
        ended = _ended(pending, timeout_s)
        results: list[Any] = []
        failures: dict[int, Failure] = {}
        for runner in pending:
            if runner not in ended and self._manager.is_actor_healthy(runner):
                failures[runner] = Failure(f"has not answered for {timeout_s:g} s")
                self.hung += 1
                self._manager.set_actor_state(runner, healthy=False)
                ray.kill(self._manager.actors()[runner], no_restart=False)
            elif runner not in ended:  # found dead by another call
                failures[runner] = Failure("has died")
            elif isinstance(ended[runner], RayError | Failure):
                failures[runner] = Failure.of_answer(ended[runner])
                if runner in self._restarted:  # its predecessor failed
                    continue
                self._manager.set_actor_state(runner, healthy=False)
                if not isinstance(ended[runner], RayActorError):  # it is alive, and ends as RLlib ends one that failed
                    self._send(runner, _end)
            else:
                results.append(ended[runner])
        self._judge(failures, bool(results))
        for result in results:
            if isinstance(result, TeamEnvError):
                raise result
        return results, list(failures.values())

    def count_failure(self, why: str) -> None:
        """Counts a failure, where no env runner returned an episode.

        Raises:
            EnvRunnersError: see :meth:`gather`.
        """
        self._last = why
        self.failures_in_a_row += 1
        tolerated = self.config.num_consecutive_env_runner_failures_tolerance
        if self.failures_in_a_row > tolerated:
            raise EnvRunnersError(
                f"env runners have failed {self.failures_in_a_row} times without an episode in between, and "
                f"num_consecutive_env_runner_failures_tolerance is {tolerated}. The last failure: {why}"
            )

    def restore_unhealthy(self, wait: bool, state: Callable[[], dict[str, Any]]) -> list[int]:
        """Pings unhealthy env runners, and brings those that answer up to date. It does not wait for the others.

        Args:
            wait: whether to wait until one is back where none is healthy.
            state: returns the state of the learner's env runner, which restored ones get.

        Returns:
            The indices of those that are back.

        Raises:
            EnvRunnersError: none is healthy and none comes back: Ray does not restart them, or not within
                ``env_runner_restore_timeout_s``.
        """
        back = self._ping_unhealthy(0.0)
        if wait and self._manager.actor_ids() and not self.healthy():
            back += self._wait_for_one()
        if back:  # RLlib's own restore pings the unhealthy ones, too, and waits for them
            current = state()
            for policy in current["policy_states"].values():
                policy.pop("connector_configs", None)
            held = ray.put(current)
            self.group.foreach_env_runner(
                lambda runner: runner.set_state(ray.get(held)),
                remote_worker_ids=back,
                local_env_runner=False,
                timeout_seconds=self.config.env_runner_restore_timeout_s,
            )
        return back

    def _wait_for_one(self) -> list[int]:
        limit, since = self.config.env_runner_restore_timeout_s, time.monotonic()
        _logger.warning("no env runner is left; waiting until Ray has restarted one. The last failure: %s", self._last)
        back: list[int] = []
        while not self.healthy():
            if len(self._dead) == self._manager.num_actors():
                raise EnvRunnersError(f"no env runner is left, and Ray restarts none. The last failure: {self._last}")
            if time.monotonic() - since > limit:
                raise EnvRunnersError(
                    f"no env runner has come back for {limit:g} s (env_runner_restore_timeout_s). "
                    f"The last failure: {self._last}"
                )
            back += self._ping_unhealthy(_POLL_S)
        return back

    def _ping_unhealthy(self, timeout_s: float) -> list[int]:
        """Pings the unhealthy env runners; returns those that have answered."""
        healthy = set(self.healthy())
        lost = [runner for runner in self._manager.actor_ids() if runner not in healthy and runner not in self._dead]
        # One that still starts, or waits for resources, answers later: its ping stays under way.
        pings = {runner: self._pings.get(runner) or self._send(runner, lambda runner: runner.ping()) for runner in lost}
        ended = _ended(pings, timeout_s)
        back = [runner for runner, answer in ended.items() if not isinstance(answer, RayError)]
        for runner in back:
            self._manager.set_actor_state(runner, healthy=True)
            count_restart(self._manager)
            _logger.warning("env runner %d is back", runner)
        self._restarted.update(back)
        for runner, answer in ended.items():
            if isinstance(answer, ActorDiedError):
                self._dead.add(runner)
                _logger.error("env runner %d %s; Ray does not restart it.", runner, _one_line(answer))
        self._pings = {runner: ping for runner, ping in pings.items() if runner not in ended}
        if ended and timeout_s and not back:
            time.sleep(timeout_s)  # Ray answers at once that the actor is not there yet
        return back

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
                self.count_failure(line)


def _ended(calls: dict[int, ray.ObjectRef], timeout_s: float | None) -> dict[int, Any]:
    """The results of the calls that end within some seconds, or the RayErrors they ended in; all of them for None."""
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
    """The call, which returns its exception: raised, it would end the env runner and leave the reason in a log."""

    def guarded(runner: Any) -> Any:
        try:
            return call(runner)
        except TeamEnvError as error:
            return error
        except Exception as error:
            return Failure.of(error)

    return guarded


def _end(runner: Any) -> None:
    """Ends an env runner's process; Ray restarts it."""
    if runner.config.restart_failed_env_runners:
        time.sleep(runner.config.delay_between_env_runner_restarts_s)
    sys.exit(1)


def _one_line(error: RayActorError) -> str:
    if isinstance(error, ActorUnavailableError):
        return "has died"  # Ray's text is about its connection
    text = " ".join(str(error).split())
    return f"has died ({text if len(text) <= 200 else f'{text[:197]}...'})"
