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
        for name in dir(cam_core)
        if not name.startswith("_")
        and not isinstance(getattr(cam_core, name), types.ModuleType)
        and name not in ("Any", "TYPE_CHECKING", "import_module")
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
    assert {"cam_core", "torch", "numpy"} <= loaded
    assert not loaded & {"mlflow", "optuna", "albumentations", "torchvision", "matplotlib", "pandas", "experiments"}
    assert not loaded & {"cv2", "PIL"}  # only pictures need them


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GradCAMPlusPlus", r"method='gradcam\+\+'"),
        ("SmoothGradCAMpp", r"gradcam\+\+:aug_smooth"),
        ("ScoreCAM", "method='scorecam'"),
        ("ClassifierOutputTarget", "a class number as target"),
        ("show_cam_on_image", "use overlay"),
        ("FinerCAM", r"Contrast"),
    ],
)
def test_names_of_other_libraries_lead_to_ours(name: str, hint: str) -> None:
    with pytest.raises(AttributeError, match=hint):
        getattr(cam_core, name)
