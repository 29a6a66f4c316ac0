"""What `cam_core` offers, what it leaves alone, and that its README is true."""

import re
import subprocess
import sys
import types
from pathlib import Path

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


def test_importing_it_brings_in_nothing_of_the_suite_and_no_heavy_library() -> None:
    code = "import sys, cam_core; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"cam_core", "torch", "numpy", "cv2", "PIL"} <= loaded
    assert not loaded & {"mlflow", "optuna", "albumentations", "torchvision", "matplotlib", "pandas", "experiments"}


def test_the_readme_s_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "cam_core" / "README.md").read_text(), flags=re.DOTALL)
    setting = (
        "import numpy as np, torch\nfrom torch import nn\n"
        "model = nn.Sequential()\n"
        "model.layer3 = nn.Conv2d(3, 4, 3, 2)\nmodel.layer4 = nn.Conv2d(4, 4, 3, 2)\n"
        "model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "photos = np.zeros((2, 32, 32, 3), np.uint8)\nimages = torch.randn(2, 3, 32, 32)\n"
        "labels = torch.tensor([0, 3])\n"
    )
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{setting}{example}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
