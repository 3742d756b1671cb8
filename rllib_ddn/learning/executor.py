"""The order in which leader and follower learn in an update: sequential, or concurrent in two threads.

Both give the same numbers, bit for bit.
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
# Unrolls the leader over the batch; returns its output, and a function that returns the follower's loss.
Executor = Callable[[Unroll, Distillation, TrainBatch], tuple[AgentOutput, FollowerLoss]]


def sequential(
    unroll_leader: Unroll, distillation: Distillation, batch: TrainBatch
) -> tuple[AgentOutput, FollowerLoss]:
    """The follower is unrolled when its loss is called."""
    leader = unroll_leader(batch)
    return leader, lambda: distillation.loss(distillation.unroll(batch), leader, batch)


def concurrent(
    unroll_leader: Unroll, distillation: Distillation, batch: TrainBatch
) -> tuple[AgentOutput, FollowerLoss]:
    """A second thread unrolls the follower at once, computes its loss when the leader's output is there, and then the
    gradients. ``backward()`` of the returned loss waits for these gradients and passes them on.

    torch's operators, and the GRU's loop over steps, release the GIL. Two losses without a common parameter so keep two
    cores busy; two threads *inside* each operator gain little, because a step of the GRU is small.
    """
    leader = Future[AgentOutput]()
    value, gradients = Future[tuple[Tensor, Statistics]](), Future[tuple[Tensor | None, ...]]()
    parameters, threads = tuple(distillation.trained()), torch.get_num_threads()

    def learn() -> None:
        try:
            torch.set_num_threads(threads)  # of this thread's operators: each thread has its own number
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
        return _GradientsOfThread.apply(loss, gradients, *parameters), statistics

    _THREAD.submit(learn)
    try:
        leader.set_result(unroll_leader(batch))
    except BaseException as error:
        leader.set_exception(error)  # or the thread would wait forever
        raise
    return leader.result(), result


# One thread for all updates: the memory that a thread has freed is kept for the next update.
_THREAD = ThreadPoolExecutor(1, "follower")


class _GradientsOfThread(torch.autograd.Function):
    """The identity on the loss; its gradients are computed by the other thread."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Future[tuple[Tensor | None, ...]], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, None, *(None if gradient is None else gradient * grads[0] for gradient in ctx.gradients.result())
