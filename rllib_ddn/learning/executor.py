"""How leader and follower share a machine in an update: one after the other, or side by side.

An executor runs the leader and gets the follower's loss under way; both give the same numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from rllib_ddn.learning.batch import TrainBatch
from rllib_ddn.learning.distillation import Distillation
from rllib_ddn.losses import Statistics
from rllib_ddn.networks.agent import AgentOutput

Unroll = Callable[[TrainBatch], AgentOutput]
FollowerLoss = Callable[[], tuple[Tensor, Statistics]]
# Unrolls the leader over the batch; returns its output, and a function that gives the follower's loss.
Executor = Callable[[Unroll, Distillation, TrainBatch], tuple[AgentOutput, FollowerLoss]]


def in_turn(unroll_leader: Unroll, distillation: Distillation, batch: TrainBatch) -> tuple[AgentOutput, FollowerLoss]:
    """The follower's turn comes when its loss is asked for."""
    leader = unroll_leader(batch)
    return leader, lambda: distillation.loss(distillation.unroll(batch), leader, batch)


def side_by_side(
    unroll_leader: Unroll, distillation: Distillation, batch: TrainBatch
) -> tuple[AgentOutput, FollowerLoss]:
    """A thread of its own unrolls the follower from now on, takes its loss when the leader is there, and then the
    gradients.

    torch's operators release Python's lock while they run, and the steps of the GRUs run without it as a whole, so two
    losses that share no parameters keep two cores busy; a second thread *inside* every operator gains little, because
    the steps of a recurrent network are small. The returned loss's ``backward()`` waits for the thread's gradients and
    passes them on.
    """
    leader = Future[AgentOutput]()
    value, gradients = Future[tuple[Tensor, Statistics]](), Future[tuple[Tensor | None, ...]]()
    parameters, threads = tuple(distillation.trained()), torch.get_num_threads()

    def learn() -> None:
        try:
            torch.set_num_threads(threads)  # of this thread's operators: each thread has a number of its own
            follower = distillation.unroll(batch)
            loss, statistics = distillation.loss(follower, leader.result(), batch)
            value.set_result((loss.detach(), statistics))
            gradients.set_result(torch.autograd.grad(loss, parameters, allow_unused=True))
        except BaseException as error:  # raised where the result is waited for
            for future in (value, gradients):
                if not future.done():
                    future.set_exception(error)

    def result() -> tuple[Tensor, Statistics]:
        loss, statistics = value.result()
        return _HandOver.apply(loss, gradients, *parameters), statistics

    _THREAD.submit(learn)
    try:
        leader.set_result(unroll_leader(batch))
    except BaseException as error:
        leader.set_exception(error)  # or the thread would wait for ever
        raise
    return leader.result(), result


# One thread for all updates: the memory that a thread has freed is kept for the next update.
_THREAD = ThreadPoolExecutor(1, "follower")


class _HandOver(torch.autograd.Function):
    """The identity on the loss, whose gradients another thread computes."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Future[tuple[Tensor | None, ...]], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, None, *(None if gradient is None else gradient * grads[0] for gradient in ctx.gradients.result())
