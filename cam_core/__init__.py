"""Class activation maps: several layers and methods from one forward and one backward pass.

`cams`, `cams_of_methods` and `iter_cams` compute maps; `overlay`, `layer_strips` and `side_by_side` draw them;
`cam_core.quality`, `agreement`, `faithfulness` and `randomisation` measure how good they are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cam_core.agreement import centre_shift, cosine, flip_consistency, rank_correlation, top_iou
from cam_core.capture import Evidence, capture
from cam_core.engine import Cams, cams, cams_of_methods, iter_cams
from cam_core.faithfulness import (
    Curve,
    average_drop,
    average_gain,
    blur_fill,
    colour_fill,
    deletion,
    deletion_margin,
    increase_in_confidence,
    inpaint,
    insertion,
    masked_confidence,
    mean_fill,
    noisy_inpaint,
)
from cam_core.fusion import fused
from cam_core.layers import auto_layers, layer_grids
from cam_core.maps import normalise, relative_to_mean, resize
from cam_core.methods import METHODS
from cam_core.names import ALL_METHODS, spec_of
from cam_core.overlay import (
    COLOUR_MAPS,
    DIFFERENCE_MAX,
    SCALE_MAX,
    colour_bar,
    difference_bar,
    difference_overlay,
    enlarge,
    heat,
    heat_bar,
    overlay,
    photo,
)
from cam_core.perturbation import effective_channels, occlusion
from cam_core.quality import (
    border_share,
    centre_blob,
    centre_distance,
    coverage,
    dead_rate,
    energy_inside,
    entropy,
    focus_index,
    lift,
    object_iou,
    object_precision,
    object_recall,
    pixel_auc,
    pointing_game,
    random_maps,
    rank_accuracy,
    spread,
    uniform_map,
    with_references,
)
from cam_core.randomisation import Cascade, cascade
from cam_core.targets import Contrast, class_numbers, predicted

if TYPE_CHECKING:
    from cam_core.page import Tile, grid
    from cam_core.sheets import layer_strips, method_strips, side_by_side

# Pages need opencv, Pillow and fonts, whose import takes longer than that of all the rest.
_OF_PAGES = {
    "Tile": "cam_core.page",
    "grid": "cam_core.page",
    "layer_strips": "cam_core.sheets",
    "method_strips": "cam_core.sheets",
    "side_by_side": "cam_core.sheets",
}
_ELSEWHERE = {
    "targetlayers": "layers",
    "classifieroutputtarget": "a class number as target, or a list of them",
    "classactivationmapping": "cams",
    "showcamonimage": "overlay",
    "overlaymask": "overlay",
    "extractor": "cams",
    "layergradcam": "cams",
    "layerattribution": "resize",
    "occlusion": "occlusion",
    "refinecam": "fused(cams(...)), the product of several layers",
    "fusecams": "fused(cams(...)), by 'product' or 'mean'",
}


def __getattr__(name: str) -> Any:
    """Imports what draws pages when it is first used; says how names of other libraries are spelled here."""
    if name in _OF_PAGES:
        globals()[name] = getattr(import_module(_OF_PAGES[name]), name)
        return globals()[name]
    raise AttributeError(f"module 'cam_core' has no attribute {name!r}{_hint(name)}")


def _hint(name: str) -> str:
    """What to write instead of a name of another library."""
    plain = name.lower().replace("_", "")
    if plain in _ELSEWHERE:
        return f"; use {_ELSEWHERE[plain]}"
    try:
        method = spec_of(name).name
    except ValueError as error:
        return f"; {error}" if "is not offered" in str(error) else ""
    return f"; write cams(model, images, layers, target, method={method!r})"


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_PAGES})


__all__ = [
    "ALL_METHODS",
    "COLOUR_MAPS",
    "DIFFERENCE_MAX",
    "METHODS",
    "SCALE_MAX",
    "Cams",
    "Cascade",
    "Contrast",
    "Curve",
    "Evidence",
    "Tile",
    "auto_layers",
    "average_drop",
    "average_gain",
    "blur_fill",
    "border_share",
    "cams",
    "cams_of_methods",
    "capture",
    "cascade",
    "centre_blob",
    "centre_distance",
    "centre_shift",
    "class_numbers",
    "colour_bar",
    "colour_fill",
    "cosine",
    "coverage",
    "dead_rate",
    "deletion",
    "deletion_margin",
    "difference_bar",
    "difference_overlay",
    "effective_channels",
    "energy_inside",
    "enlarge",
    "entropy",
    "flip_consistency",
    "focus_index",
    "fused",
    "grid",
    "heat",
    "heat_bar",
    "increase_in_confidence",
    "inpaint",
    "insertion",
    "iter_cams",
    "layer_grids",
    "layer_strips",
    "lift",
    "masked_confidence",
    "mean_fill",
    "method_strips",
    "noisy_inpaint",
    "normalise",
    "object_iou",
    "object_precision",
    "object_recall",
    "occlusion",
    "overlay",
    "photo",
    "pixel_auc",
    "pointing_game",
    "predicted",
    "random_maps",
    "rank_accuracy",
    "rank_correlation",
    "relative_to_mean",
    "resize",
    "side_by_side",
    "spec_of",
    "spread",
    "top_iou",
    "uniform_map",
    "with_references",
]
