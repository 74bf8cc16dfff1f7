"""The training loop, as a generator of EpochRecords: the caller scores, stops early and writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.config import AugmentConfig, FitConfig
from sentinode.data.augment import augmented, draw
from sentinode.data.batches import BatchStream
from sentinode.data.preprocess import as_input
from sentinode.errors import DivergedError
from sentinode.fitting.optimizer import KerasAdam
from sentinode.models.chain import Chain

OnBatch = Callable[[int, int, int], None]
"""Called after each training batch with (epoch from 1, batches done, batches in the epoch)."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the network said of the patches of one side during one epoch, in the order they came.

    On the training side these are the augmented patches under the weights of the moment, as in
    Keras; `loss` is the mean binary cross-entropy over the patches.
    """

    loss: float
    labels: Int[np.ndarray, " n"]
    logits: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class EpochRecord:
    """One finished epoch, counted from 1."""

    epoch: int
    training: Outputs
    validation: Outputs
    duration_s: float
    patches_per_s: float
    """Training patches a second, validation not counted."""


@dataclass(eq=False)
class FitState:
    """All that the next step depends on: weights, optimizer, the position; it is changed in place."""

    network: nn.Module
    optimizer: KerasAdam
    chain: Chain | None
    """The network with its gradients written out, where it can be; autograd finds them otherwise."""
    epochs_done: int = 0

    @classmethod
    def start(cls, network: nn.Module, config: FitConfig) -> FitState:
        optimizer = KerasAdam(network.parameters(), learning_rate=config.learning_rate, epsilon=config.adam_epsilon)
        return cls(network, optimizer, Chain.of(network))


def steps_in_epoch(stream: BatchStream, asked: int | None) -> int:
    """Batches an epoch takes from a stream: those asked for, a whole pass at most."""
    return min(asked or stream.batches_per_pass, stream.batches_per_pass)


def fit_epochs(
    state: FitState,
    training: BatchStream,
    validation: BatchStream,
    config: FitConfig,
    augment: AugmentConfig,
    *,
    device: torch.device,
    on_batch: OnBatch | None = None,
) -> Iterator[EpochRecord]:
    """Train from the state's position to `config.epochs`, yielding after every epoch.

    Raises DivergedError as soon as a loss is not finite; the epochs yielded before are sound.
    """
    steps = steps_in_epoch(training, config.steps_per_epoch)
    validation_steps = steps_in_epoch(validation, config.validation_steps)
    for epoch in range(state.epochs_done, config.epochs):
        started = time.perf_counter()
        trained = _train(
            state, training, range(epoch * steps, (epoch + 1) * steps), augment, epoch + 1, device, on_batch
        )
        training_s = time.perf_counter() - started
        numbers = range(epoch * validation_steps, (epoch + 1) * validation_steps)
        validated = _validate(state.network, validation, numbers, device)
        state.epochs_done = epoch + 1
        yield EpochRecord(
            epoch=epoch + 1,
            training=trained,
            validation=validated,
            duration_s=time.perf_counter() - started,
            patches_per_s=len(trained.labels) / training_s,
        )


def train_step(
    state: FitState,
    images: UInt8[Tensor, "b 3 s s"],
    labels: Float[Tensor, " b"],
    augment: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """One step of Adam on binary cross-entropy; returns the batch's logits (b,) and loss (b,) before it."""
    inputs = augmented(images, draw(augment, len(images), generator))
    if state.chain is not None:
        logits, losses = state.chain.step(inputs, labels)
    else:
        state.optimizer.zero_grad()
        logits = state.network(inputs).squeeze(1)
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        torch.autograd.backward(losses.mean())
    state.optimizer.step()
    return logits.detach(), losses.detach()


def _train(
    state: FitState,
    stream: BatchStream,
    numbers: range,
    augment: AugmentConfig,
    epoch: int,
    device: torch.device,
    on_batch: OnBatch | None,
) -> Outputs:
    state.network.train()
    seen = _Collector()
    for done, number in enumerate(numbers, start=1):
        batch = stream.batch(number)
        logits, losses = train_step(
            state,
            batch.images.to(device),
            batch.labels.to(device),
            augment,
            stream.augmentation_generator(number),
        )
        if not seen.add(batch.labels, logits, losses):
            raise DivergedError(
                f"the loss is no longer a finite number in epoch {epoch}, step {done}",
                remedy="Lower fit.learning_rate; the weights of the last good epoch are kept.",
            )
        if on_batch:
            on_batch(epoch, done, len(numbers))
    return seen.outputs()


@torch.no_grad()
def _validate(network: nn.Module, stream: BatchStream, numbers: range, device: torch.device) -> Outputs:
    network.eval()
    seen = _Collector()
    for number in numbers:
        batch = stream.batch(number)
        labels = batch.labels.to(device)
        logits = network(as_input(batch.images.to(device))).squeeze(1)
        if not seen.add(batch.labels, logits, F.binary_cross_entropy_with_logits(logits, labels, reduction="none")):
            raise DivergedError(
                "the validation loss is not a finite number",
                remedy="Lower fit.learning_rate; the weights of the last good epoch are kept.",
            )
    return seen.outputs()


class _Collector:
    """Gathers a side's labels, logits and losses batch by batch."""

    def __init__(self) -> None:
        self.labels: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []
        self.total_loss = 0.0

    def add(self, labels: Tensor, logits: Tensor, losses: Tensor) -> bool:
        """Take a batch in; returns whether its loss is finite."""
        self.labels.append(labels.numpy().astype(np.int8))
        self.logits.append(logits.cpu().numpy())
        total = float(losses.cpu().numpy().sum(dtype=np.float64))
        self.total_loss += total
        return bool(np.isfinite(total))

    def outputs(self) -> Outputs:
        labels = np.concatenate(self.labels)
        return Outputs(self.total_loss / len(labels), labels, np.concatenate(self.logits))
