"""Colours, names and sizes that all pictures share."""

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Pixels = UInt8[np.ndarray, "height width 3"]
Images = UInt8[np.ndarray, "n h w 3"]
METHOD_NAMES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "elementwise": "element-wise",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "scorecam": "Score-CAM",
    "ablationcam": "Ablation-CAM",
}


# Okabe & Ito 2008: colour-blind readers can tell them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442", "#882255", "#999999")


def method_name(method: str) -> str:
    """The name of the method for readers, with its smoothings: `gradcam:aug_smooth` is "Grad-CAM, aug_smooth"."""
    base, *smoothings = method.split(":")
    return ", ".join([METHOD_NAMES[base], *smoothings])


def drawn(figure: Figure) -> Pixels:
    """The figure's pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
