"""In which order the follower's loss and the host's are computed: one after the other, or side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from rllib_ddn.learning.losses import Statistics

Compute = Callable[[], tuple[Tensor, Statistics]]
# Is given a computation and the parameters that its loss is a function of; returns a function that gives its result.
Executor = Callable[[Compute, Sequence[Tensor]], Compute]


def in_turn(compute: Compute, parameters: Sequence[Tensor]) -> Compute:
    """Computes the loss when it is asked for."""
    return compute


def side_by_side(compute: Compute, parameters: Sequence[Tensor]) -> Compute:
    """Computes the loss and its gradients in another thread, from now on.

    torch's operators release Python's lock while they run, so two losses that share no parameters keep
    two cores busy; a second thread *inside* every operator gains little, because the steps of a recurrent
    network are small. The results are those of :func:`in_turn`, bit for bit.

    Args:
        compute: returns a scalar and statistics.
        parameters: the tensors that the loss is a function of; the gradient is taken of all of them.

    Returns:
        A function that waits for the loss, and raises what ``compute`` raised. The loss's ``backward()``
        waits for the thread's gradients and passes them on.
    """
    parameters = tuple(parameters)
    value: Future[tuple[Tensor, Statistics]] = Future()
    gradients: Future[tuple[Tensor | None, ...]] = Future()

    def run() -> None:
        try:
            loss, statistics = compute()
            value.set_result((loss.detach(), statistics))
            gradients.set_result(torch.autograd.grad(loss, parameters, allow_unused=True))
        except BaseException as error:  # raised where the result is waited for
            for future in (value, gradients):
                if not future.done():
                    future.set_exception(error)

    def result() -> tuple[Tensor, Statistics]:
        loss, statistics = value.result()
        return _HandOver.apply(loss, gradients, *parameters), statistics

    _THREAD.submit(run)
    return result


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
