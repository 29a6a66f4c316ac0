"""A training with Lightning's Trainer, for `benchmarks.training_runs`; needs the dev extra."""

import logging
import warnings
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from benchmarks.timing import Report


class Module(lightning.LightningModule):
    """A network with its loss and its optimiser."""

    def __init__(self, network: nn.Module, label_smoothing: float, optimizer: Optimizer) -> None:
        super().__init__()
        self.network, self.label_smoothing, self.optimizer = network, label_smoothing, optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels, label_smoothing=self.label_smoothing)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer


class Reporting(lightning.Callback):
    """Reports the mean loss after every epoch."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._losses: list[Tensor] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:  # type: ignore[no-untyped-def]
        self._losses.append(outputs["loss"])

    def on_train_epoch_end(self, trainer, module) -> None:  # type: ignore[no-untyped-def]
        self._report(float(torch.stack(self._losses).mean()))
        self._losses.clear()


def fit(module: Module, loader: DataLoader[Any], epochs: int, device: str, report: Report) -> None:
    """Trains in place, without logger, checkpoints or progress bar."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Reporting(report)],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning 2.6 on torch 2.14
        trainer.fit(module, loader)
