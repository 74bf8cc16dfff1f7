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

from sentinode.config.fit import AugmentConfig, DescentConfig, FitConfig, FitHead, FitStages, NoAverage
from sentinode.device import Precision, in_precision
from sentinode.errors import DivergedError
from sentinode.fitting.average import WeightAverage
from sentinode.fitting.chain import Chain
from sentinode.fitting.optimizer import KerasAdam, rate_factor
from sentinode.inputs.augment import as_input, augmented, draw
from sentinode.inputs.batches import BatchStream
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.build import freeze
from sentinode.processes import ALONE, Processes, average_statistics

OnBatch = Callable[[int, int, int], None]
"""Called after each training batch with (epoch from 1, batches done, batches in the epoch)."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the network predicted for the patches of one set during one epoch, in the order they came.

    On the training set these are the augmented patches under the weights of the moment, as in
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
    """Training patches per second, validation not counted."""


@dataclass(eq=False)
class FitState:
    """All that the next step depends on: weights, optimizer, the position; it is changed in place."""

    network: nn.Module
    optimizer: KerasAdam
    chain: Chain | None
    """The network with its gradients written out, where it can be; autograd finds them otherwise."""
    average: WeightAverage | None
    forward: Callable[[Tensor], Tensor]
    """The network itself, or compiled, or joined with those of other processes."""
    epochs_done: int = 0

    @classmethod
    def start(cls, network: nn.Module, config: FitConfig, processes: Processes = ALONE) -> FitState:
        freeze(network, config)
        named = trainable(network)
        if isinstance(config, FitHead):  # fitted whole: it takes no step
            return cls(network, KerasAdam(named.values()), None, None, network)
        optimizer = KerasAdam(
            named.values(),
            learning_rate=config.learning_rate,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
            rates=_rates(network, list(named), config.layer_decay if isinstance(config, FitStages) else 1.0),
        )
        # Several processes share the gradients that autograd finds.
        chain = Chain.of(network) if config.precision == "float32" and processes.count == 1 else None
        joined = processes.together(network)
        forward = torch.compile(joined) if config.compile else joined
        state = cls(network, optimizer, chain, None, forward)
        state.begin_average(config)
        return state

    def begin_average(self, config: DescentConfig) -> None:
        """Let the average of the weights, where there is one, begin at the network as it is."""
        self.average = None if isinstance(config.average, NoAverage) else WeightAverage(self.network, config)

    @property
    def result(self) -> nn.Module:
        """What is validated and kept: the network, or the average of its weights."""
        return self.network if self.average is None else self.average.network


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _rates(network: nn.Module, names: list[str], layer_decay: float) -> list[float]:
    """The factor of each parameter's learning rate: `layer_decay` to the power of the stages above it."""
    if layer_decay == 1.0 or not isinstance(network, Backbone):
        return [1.0] * len(names)
    stages = network.stages()
    below = {name: len(stages) - 1 - number for number, stage in enumerate(stages) for name in stage}
    return [layer_decay ** below[name] for name in names]


def steps_in_epoch(stream: BatchStream, asked: int | None, fraction: float | None = None) -> int:
    """Batches an epoch takes from a stream: those asked for, those that fit in a share of its patches, or a pass."""
    if fraction is not None:
        return max(1, int(fraction * len(stream) / stream.batch_size))
    return min(asked or stream.batches_per_pass, stream.batches_per_pass)


def fit_epochs(
    state: FitState,
    training: BatchStream,
    validation: BatchStream,
    config: DescentConfig,
    *,
    device: torch.device,
    on_batch: OnBatch | None = None,
    processes: Processes = ALONE,
) -> Iterator[EpochRecord]:
    """Train from the state's position to `config.epochs`, yielding after every epoch.

    Raises DivergedError as soon as a loss is not finite; the epochs yielded before are sound.
    """
    steps = steps_in_epoch(training, config.steps_per_epoch, config.epoch_fraction)
    validation_steps = steps_in_epoch(validation, config.validation_steps, config.epoch_fraction)
    for epoch in range(state.epochs_done, config.epochs):
        started = time.perf_counter()
        trained = _train(state, training, epoch, steps, config, device, on_batch, processes)
        if state.average is not None:
            state.average.after_epoch(state.network, epoch + 1)
            average_statistics(state.average.network, processes)
        average_statistics(state.network, processes)
        training_s = time.perf_counter() - started
        numbers = range(epoch * validation_steps, (epoch + 1) * validation_steps)
        validated = _validate(state.result, validation, numbers, device, config, processes)
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
    targets: Float[Tensor, " b"],
    augment: AugmentConfig,
    generator: torch.Generator,
    *,
    label_smoothing: float = 0.0,
    precision: Precision = "float32",
    rate_factor: float = 1.0,
    processes: Processes = ALONE,
) -> tuple[Tensor, Tensor]:
    """One step of Adam on binary cross-entropy; returns logits and losses before it, of this process's patches."""
    drawn, in_batch = draw(augment, len(images), generator), len(images)
    images, targets = processes.share(images), processes.share(targets)
    inputs = augmented(images, drawn.of(processes.share))
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
    if state.chain is not None:
        logits, losses = state.chain.step(inputs, targets)
    else:
        state.optimizer.zero_grad()
        with in_precision(precision, inputs.device):
            logits = state.forward(inputs).squeeze(1).float()
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        torch.autograd.backward(processes.weigh(losses.mean(), in_batch))
    state.optimizer.step(rate_factor)
    if state.average is not None:
        state.average.after_step(state.network)
    return logits.detach(), losses.detach()


def _train(
    state: FitState,
    stream: BatchStream,
    epoch: int,
    steps: int,
    config: DescentConfig,
    device: torch.device,
    on_batch: OnBatch | None,
    processes: Processes,
) -> Outputs:
    """One epoch, counted from 0, of so many steps."""
    state.network.train()
    seen = _Collector()
    for done, number in enumerate(range(epoch * steps, (epoch + 1) * steps), start=1):
        batch = stream.batch(number)
        logits, losses = train_step(
            state,
            batch.images.to(device),
            batch.targets.to(device),
            config.augment,
            stream.augmentation_generator(number),
            label_smoothing=config.label_smoothing,
            precision=config.precision,
            rate_factor=rate_factor(config, number, steps),
            processes=processes,
        )
        held = processes.holds(len(batch.labels))
        if not seen.add(processes.share(batch.labels)[:held], logits[:held], losses[:held]):
            raise DivergedError(
                f"the loss is no longer a finite number in epoch {epoch + 1}, step {done}",
                remedy="Lower fit.learning_rate; the weights of the last good epoch are kept.",
            )
        if on_batch:
            on_batch(epoch + 1, done, steps)
    return seen.outputs(processes)


@torch.no_grad()
def _validate(
    network: nn.Module,
    stream: BatchStream,
    numbers: range,
    device: torch.device,
    config: DescentConfig,
    processes: Processes,
) -> Outputs:
    network.eval()
    seen = _Collector()
    for number in numbers:
        batch = stream.batch(number)
        mine = processes.share(batch.labels)
        labels = mine.to(device)
        with in_precision(config.precision, device):
            logits = network(as_input(processes.share(batch.images).to(device))).squeeze(1).float()
        held = processes.holds(len(batch.labels))
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if not seen.add(mine[:held], logits[:held], losses[:held]):
            raise DivergedError(
                "the validation loss is not a finite number",
                remedy="Lower fit.learning_rate; the weights of the last good epoch are kept.",
            )
    return seen.outputs(processes)


class _Collector:
    """Gathers a set's labels, logits and losses batch by batch."""

    def __init__(self) -> None:
        self.labels: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []
        self.total_loss = 0.0

    def add(self, labels: Tensor, logits: Tensor, losses: Tensor) -> bool:
        """Take a batch in; returns whether its loss is finite."""
        self.labels.append(labels.numpy().astype(np.int8))
        # Copied, for a view would keep the step's whole memory until the epoch ends.
        self.logits.append(logits.cpu().numpy().copy())
        total = float(losses.cpu().numpy().sum(dtype=np.float64))
        self.total_loss += total
        return bool(np.isfinite(total))

    def outputs(self, processes: Processes) -> Outputs:
        """Of all processes."""
        labels = processes.gathered(np.concatenate(self.labels))
        logits = processes.gathered(np.concatenate(self.logits))
        total_loss = float(processes.gathered(np.array([self.total_loss])).sum())
        return Outputs(total_loss / len(labels), labels, logits)
