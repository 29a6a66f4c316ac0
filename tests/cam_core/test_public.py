"""What `cam_core` offers, what it leaves alone, and that importing it costs little."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import cam_core

ROOT = Path(__file__).parents[2]


def test_the_public_names() -> None:
    public = {
        name
        for name, value in vars(cam_core).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(cam_core.__all__)
    assert len(cam_core.__all__) == len(set(cam_core.__all__))
    undocumented = [
        name for name in public if callable(getattr(cam_core, name)) and not getattr(cam_core, name).__doc__
    ]
    assert not undocumented


@pytest.mark.slow
def test_importing_it_brings_in_nothing_of_the_suite_and_no_heavy_library() -> None:
    code = "import sys, cam_core; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"cam_core", "torch", "numpy", "cv2", "PIL"} <= loaded
    assert not loaded & {"mlflow", "optuna", "albumentations", "torchvision", "matplotlib", "pandas", "experiments"}
