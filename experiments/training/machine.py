"""The device, number format and threads that a training uses on this machine."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ..settings.base import SettingsError
from ..settings.train import TrainSettings
from . import distributed


@dataclass(frozen=True)
class Machine:
    """The values that `auto` stands for on this machine."""

    device: str
    precision: str
    channels_last: bool
    threads: int

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """Autocast to the number format that was chosen; without effect if it is float32."""
        return autocast(self.device, self.precision)


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    """Autocast to `bf16` or `fp16`; for `fp32` a context without effect."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device, kinds[precision]) if precision in kinds else nullcontext()


def resolve_machine(settings: TrainSettings) -> Machine:
    """The device, number format and threads to use; several processes on one machine use one GPU each.

    bf16 is chosen if the hardware computes with it: CPUs with AVX512-BF16 or AMX, GPUs with native support.

    Raises:
        SettingsError: the requested device does not exist on this machine.
    """
    # There is only one mps device, and no way to sum over processes there.
    mps = torch.backends.mps.is_available() and distributed.size() == 1
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps}
    device = settings.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        found = ", ".join(name for name, there in available.items() if there)
        raise SettingsError([f"device={device}: not found on this machine; it has: {found}"])
    if device == "cuda":
        _take_gpu()
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    channels_last = device != "mps" if settings.channels_last == "auto" else settings.channels_last == "true"
    threads = distributed.threads() if settings.threads == "auto" else settings.threads
    return Machine(device, precision, channels_last, threads)


def _take_gpu() -> None:
    """Makes `cuda` mean the GPU of this process."""
    if distributed.local_size() > torch.cuda.device_count():
        raise SettingsError(
            [
                f"device=cuda: {distributed.local_size()} processes for {torch.cuda.device_count()} GPUs on this "
                "machine; give torchrun --nproc-per-node at most as many as GPUs, or device=cpu"
            ]
        )
    if distributed.size() > 1:
        torch.cuda.set_device(distributed.local_rank())


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
