"""Training in several processes, one for each GPU: what they tell each other, over accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sentinode.errors import MissingExtraError

if TYPE_CHECKING:  # a session is at hand where PyTorch is not yet needed
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Processes:
    """The process at `rank` of `count`, from 0; `accelerator` is accelerate's, None for a process on its own.

    Every process draws the same batches and takes every `count`-th patch of each. PyTorch's DistributedDataParallel,
    which accelerate wraps a network in, averages gradients while they are computed; each process's loss weighs as many
    patches as it has, so that a step is that of one process. Batch norm sees its own process's patches, as is usual;
    its moving statistics are averaged after every epoch.
    """

    rank: int = 0
    count: int = 1
    accelerator: Any = None

    @classmethod
    def launched(cls, *, on_cpu: bool) -> Processes:
        """Join the processes that `accelerate launch` or `torchrun` began; MissingExtraError without accelerate."""
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs  # an extra
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "several processes were launched, and accelerate is not installed",
                remedy="Run: pip install 'sentinode[gpus]'",
            ) from error
        # Each process's moving statistics stay its own in an epoch; and maps that a head leaves out have no gradient.
        joined = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[joined])
        return cls(accelerator.process_index, accelerator.num_processes, accelerator)

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and tells of progress."""
        return self.rank == 0

    def device(self, asked: torch.device) -> torch.device:
        """The GPU that is this process's own, or the CPU where that was asked for."""
        if asked.type == "cpu" or self.accelerator is None:
            return asked
        own: torch.device = self.accelerator.device
        return own

    def holds(self, patches: int) -> int:
        """How many patches of a batch of so many are this process's."""
        return len(range(self.rank, patches, self.count))

    def share(self, values: Tensor) -> Tensor:
        """This process's part of a batch, along the first axis; where it holds none, one that does not count.

        All processes take every step together, so each needs something to compute with.
        """
        if self.count == 1:
            return values
        return values[self.rank :: self.count] if self.holds(len(values)) else values[:1]

    def together(self, network: torch.nn.Module) -> Callable[[Tensor], Tensor]:
        """The network as it is trained: its gradients are those of all processes."""
        if self.count == 1:
            return network
        wrapped: torch.nn.Module = self.accelerator.prepare_model(network, device_placement=False)
        return wrapped

    def weigh(self, loss: Tensor, patches: int) -> Tensor:
        """The mean loss of this process's part of a batch of so many, for the processes' mean to be the batch's."""
        return loss if self.count == 1 else loss * (self.holds(patches) * self.count / patches)

    def average(self, values: Tensor) -> None:
        """Replace values by their mean over the processes."""
        if self.count > 1:
            values.copy_(self.accelerator.reduce(values.clone(), reduction="mean"))

    def gathered(self, mine: np.ndarray) -> np.ndarray:
        """The values of all processes, one after the other; every process receives them."""
        if self.count == 1:
            return mine
        from accelerate.utils import gather_object

        return np.concatenate(gather_object([mine]))

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()


ALONE = Processes()


def average_statistics(network: torch.nn.Module, processes: Processes) -> None:
    """Average the moving statistics of batch norm, and any other floating buffers, over the processes."""
    if processes.count == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            processes.average(buffer)
