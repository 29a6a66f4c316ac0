"""Images per second when the built-in scenes are drawn, and when they are read from their cache.

python -m benchmarks.scenes_speed
"""

import tempfile
import time

from experiments.data.load import load


def timed_load(data_dir: str) -> tuple[int, float, float]:
    """The number of loaded images, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    dataset = load(
        "scenes",
        data_dir=data_dir,
        image_size="auto",
        background_bias=0.5,
        train_images="all",
        progress=lambda line: None,
    )
    drawn = sum(
        len(split) for name, split in dataset.splits.items() if name != "test_shifted"
    )  # a second name of another split
    return drawn, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    with tempfile.TemporaryDirectory() as data_dir:
        for what in ("drawn and written", "read from the cache"):
            images, wall, cpu = timed_load(data_dir)
            print(f"{what:<20} {images:,} images in {wall:.2f} s ({cpu:.2f} CPU-s): {images / wall:,.0f} images/s")


if __name__ == "__main__":
    main()
