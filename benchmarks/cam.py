"""The time for maps: compares this project with grad-cam, torchcam, captum and the lower limit. Prints markdown.

python -m benchmarks.cam            about five minutes on two cores
python -m benchmarks.cam --quick    one minute, with one round

All runs of a table take turns for n rounds, in an order that is reversed every other round; a ratio is the median of
the ratios within the rounds. CPU time is that of all threads of the process. torchcam and captum leave the maps small
and not scaled, so our resize and scaling are part of their run. Needs the dev extra.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from platform import python_version
from statistics import median

import cv2
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks import cam_runs
from benchmarks.cam_runs import Run
from benchmarks.timing import Aim, Timing, aim_row, cpu_name, ratio, synchronise

COUNTS = (64, 256, 1024, 4096)
LIBRARIES = ("torch", "numpy", "grad-cam", "torchcam", "captum")


AIMS = {
    "one pass": (
        Aim("ours, 6 gradient methods", "bare limit: forward, gradient at the stem", at_most=1.35),
        Aim("ours, GradCAM", "torchcam, GradCAM", at_most=1.05),
        Aim("torchcam, 4 methods", "ours, torchcam's 4 methods", at_least=3),
        Aim("torchcam, 4 methods", "ours, 6 gradient methods", at_least=3),
    ),
    "one object per method and layer": (Aim("grad-cam, 6 gradient methods", "ours, 6 gradient methods", at_least=25),),
    "EigenCAM": (
        Aim("grad-cam, from activations of layer1", "ours, from activations of layer1", at_least=50),
        Aim("grad-cam, from activations", "ours, from activations", at_least=50),
    ),
}


def main() -> None:
    """Prints the machine, a table per comparison, and the target ratios."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    cv2.setNumThreads(options.threads)
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    case = cam_runs.case("resnet18", options.batch, device)
    counts = COUNTS[:2] if options.quick else COUNTS
    print(machine(device))
    for line in report(case, 1 if options.quick else options.repeats, counts):
        print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("--batch", type=int, default=64, help="images to explain at once (default %(default)s)")
    found.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default %(default)s)")
    found.add_argument(
        "--repeats", type=int, default=7, help="rounds; half of them for slow packages (default %(default)s)"
    )
    found.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    found.add_argument("--quick", action="store_true", help="one round, fewer images")
    return found


def report(case: cam_runs.Case, repeats: int, counts: tuple[int, ...]) -> Iterator[str]:
    """The lines of all tables, as soon as they are measured."""
    few = max(1, repeats // 2)
    setting = f"{type(case.model).__name__}, {len(case.images)} images, {len(case.layers)} layers"
    aims: list[str] = []
    for title, runs, rounds, warm_up in (
        ("one pass", cam_runs.one_pass(case), repeats, 1),
        ("one object per method and layer", cam_runs.one_object_each(case), few, 0),
        ("EigenCAM", cam_runs.eigen(case), few, 1),
    ):
        timings = interleaved(runs, rounds, warm_up)
        yield from ("", f"### {setting}: {title} (n = {rounds})", "")
        yield from table(timings)
        aims += [aim_row(aim, timings) for aim in AIMS[title]]
    per_image = {
        name: Timing([s / count for s in timing.wall], [s / count for s in timing.cpu])
        for count, (name, timing) in zip(counts, interleaved(cam_runs.growing(case, counts), few).items(), strict=True)
    }
    yield from ("", f"### GradCAM, {len(case.layers)} layers, for one image of more and more (n = {few})", "")
    yield from table(per_image)
    least, *_, most = per_image
    aims.append(aim_row(Aim(most, least, at_most=1.1), per_image))
    yield from ("", "### To reach", "", "| ratio | aim | wall | CPU |", "|---|---|---|---|", *aims)


def interleaved(runs: Mapping[str, Run], rounds: int, warm_up: int = 0) -> dict[str, Timing]:
    """The timings of all runs, which take turns; the first `warm_up` rounds are not counted."""
    found = {name: Timing([], []) for name in runs}
    for index in range(-warm_up, rounds):
        gc.collect()  # garbage of earlier rounds must not count in this one
        for name in list(runs) if index % 2 == 0 else list(runs)[::-1]:
            print(f"round {index + 1} of {rounds}: {name}", file=sys.stderr)
            wall, cpu = timed(runs[name])
            if index >= 0:
                found[name].wall.append(wall)
                found[name].cpu.append(cpu)
    return found


def timed(run: Run) -> tuple[float, float]:
    """Wall and CPU seconds until the result is ready, also on a GPU."""
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    synchronise()
    return time.perf_counter() - wall, time.process_time() - cpu


def table(timings: Mapping[str, Timing]) -> Iterator[str]:
    """Medians with their range in milliseconds, and the ratios to the first row."""
    yield "| run | wall ms | from ... to | CPU ms | from ... to | ratio, wall | CPU |"
    yield "|---|---|---|---|---|---|---|"
    base = next(iter(timings.values()))
    for name, timing in timings.items():
        wall, cpu = ratio(timing, base)
        yield f"| {name} | {_milliseconds(timing.wall)} | {_milliseconds(timing.cpu)} | {wall:.2f} | {cpu:.2f} |"


def _milliseconds(seconds: list[float]) -> str:
    values = [
        f"{1000 * value:,.{1 if max(seconds) < 0.1 else 0}f}" for value in (median(seconds), min(seconds), max(seconds))
    ]
    return f"{values[0]} | {values[1]} ... {values[2]}"


def machine(device: torch.device) -> str:
    """The processor, the device, the threads and the versions in one line."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{cpu_name()}{gpu}, {torch.get_num_threads()} threads; Python {python_version()}, {versions}"


if __name__ == "__main__":
    main()
