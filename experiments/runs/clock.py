"""Seconds of each phase of a run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall and CPU seconds of each phase."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measuring(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to `phase`."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[phase] = self.wall.get(phase, 0.0) + time.perf_counter() - wall
        self.cpu[phase] = self.cpu.get(phase, 0.0) + time.process_time() - cpu

    def add(self, before: Mapping[str, Mapping[str, float]]) -> None:
        """Adds the training seconds of the run that this one resumes."""
        for own, earlier in ((self.wall, before["wall"]), (self.cpu, before["cpu"])):
            own["train"] = own.get("train", 0.0) + earlier.get("train", 0.0)

    def metrics(self) -> dict[str, float]:
        """The seconds by metric: `time/<phase>_s` and `time/<phase>_cpu_s`."""
        return {f"time/{phase}_s": seconds for phase, seconds in self.wall.items()} | {
            f"time/{phase}_cpu_s": seconds for phase, seconds in self.cpu.items()
        }
