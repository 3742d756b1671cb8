"""A loss that another thread computes, with its gradients, while this one computes something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

# One thread for all updates: the memory that a thread has freed is kept for the next update.
_THREAD = ThreadPoolExecutor(1, "overlapped-loss")


class OverlappedLoss:
    """Computes ``loss, statistics = compute()`` and the loss's gradients in another thread.

    torch's operators leave Python's lock to other threads while they run, so two losses that share
    no parameters keep two cores busy; a second thread *inside* every operator gains little, because
    the steps of a recurrent network are small. The results are those of one thread, bit for bit.

    Args:
        compute: returns a scalar and a dict of statistics.
        parameters: the tensors that the loss is a function of; the gradient is taken of all of them.
    """

    def __init__(self, compute: Callable[[], tuple[Tensor, dict[str, Tensor]]], parameters: Sequence[Tensor]):
        self._parameters = tuple(parameters)
        self._loss: Future[tuple[Tensor, dict[str, Tensor]]] = Future()
        self._gradients: Future[tuple[Tensor, ...]] = Future()
        _THREAD.submit(self._run, compute)

    def _run(self, compute: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> None:
        try:
            loss, stats = compute()
            self._loss.set_result((loss.detach(), stats))
            self._gradients.set_result(torch.autograd.grad(loss, self._parameters))
        except BaseException as error:  # raised where the result is waited for
            for future in (self._loss, self._gradients):
                if not future.done():
                    future.set_exception(error)

    def result(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Waits for the value. Its ``backward()`` waits for the thread's gradients and passes them on.

        Raises:
            Exception: what ``compute`` raised.
        """
        loss, stats = self._loss.result()
        return _HandedOver.apply(loss, self._gradients, *self._parameters), stats


class _HandedOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Future[tuple[Tensor, ...]], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, None, *(gradient * grads[0] for gradient in ctx.gradients.result())
