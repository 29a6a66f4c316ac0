"""What users give by mistake, and what they must be told. A program of its own: in tests, types are checked first."""

import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from cam_core import agreement, cams, capture, faithfulness, iter_cams, layer_strips, overlay, quality
from cam_core.layers import auto_layers

MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
IMAGES, LABELS = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
MAPS = torch.rand(2, 8, 8)
MASKS = MAPS > 0.5
FOUND = cams(MODEL, IMAGES, ["1"], LABELS)

MISTAKES = [
    (iter_cams, (MODEL, IMAGES, [nn.ReLU()], LABELS), ValueError, "layer ReLU is not a module of this model"),
    (iter_cams, (MODEL, IMAGES, [1], LABELS), TypeError, "layers must be dotted names, such as 'layer4', or modules"),
    (iter_cams, (MODEL, IMAGES, MODEL[1], LABELS), TypeError, r"layers must be a list .* got one ReLU; write \[layer"),
    (iter_cams, (MODEL, [IMAGES[0]], ["1"], LABELS), TypeError, "got list; torch.stack makes one"),
    (iter_cams, (MODEL, IMAGES, ["2x"], LABELS), ValueError, "layer '2x' is not in the model"),
    (capture, (MODEL, IMAGES.double(), ["1"], LABELS), ValueError, r"torch.float64 and the model is .*images.to\("),
    (auto_layers, (MODEL, IMAGES[0]), ValueError, r"images must be a float tensor .*image\[None\]"),
    (capture, (MODEL, IMAGES, ["1"], "cat"), TypeError, "target must be a class, a list or tensor .* got str"),
    (iter_cams, (len, IMAGES, ["1"], LABELS), TypeError, "model must be a torch.nn.Module, got builtin"),
    (
        layer_strips,
        (np.zeros((2, 8, 8, 3), np.float32), FOUND),
        ValueError,
        r"images must be RGB .*\(n, h, w, 3\)",
    ),
    (quality.pixel_auc, (MAPS, MASKS.byte()), ValueError, "masks must be bool, .* got torch.uint8; masks > 0"),
    (quality.energy_inside, (MAPS, MASKS.long() * 3), ValueError, "masks must be bool, .* got torch.int64"),
    (
        quality.rank_accuracy,
        (MAPS, MASKS[:1]),
        ValueError,
        r"masks must be \(2, 8, 8\) like the maps",
    ),
    (quality.focus_index, (MAPS, MASKS[:, None], (4, 4)), ValueError, r"masks must be \(2, 8, 8\)"),
    (quality.coverage, (MAPS[None],), ValueError, r"maps must be \(n, h, w\), got \(1, 2, 8, 8\); take one layer"),
    (quality.entropy, (MAPS[0],), ValueError, r"maps must be \(n, h, w\), got \(8, 8\)"),
    (agreement.flip_consistency, (MAPS[0], MAPS[0]), ValueError, r"maps must be \(n, h, w\), got \(8, 8\)"),
    (faithfulness.deletion_margin, (MODEL, IMAGES, MAPS[0], LABELS, (4, 4)), ValueError, r"maps must be \(2, 8, 8\)"),
    (agreement.cosine, (MAPS, MAPS[:1]), ValueError, r"shapes \(2, 8, 8\) and \(1, 8, 8\) cannot be compared"),
    (agreement.rank_correlation, (MAPS, MAPS[:1]), ValueError, "cannot be compared"),
    (faithfulness.deletion, (MODEL, IMAGES, MAPS, [0, 1]), TypeError, "classes must be a tensor .* got list"),
    (
        faithfulness.deletion,
        (MODEL, IMAGES, -MAPS, LABELS),
        ValueError,
        "maps contain NaN, infinity or negative",
    ),
    (faithfulness.deletion, (MODEL, IMAGES * torch.nan, MAPS, LABELS), ValueError, "images contain NaN"),
    (overlay, (np.full((4, 4, 3), 2.0), np.ones((4, 4), np.float32)), ValueError, r"floats in \[0, 1\], got 2 to 2"),
    (overlay, (np.zeros((6, 6, 7), np.uint8), np.ones((6, 6), np.float32)), ValueError, r"got \(6, 6, 7\)"),
    (overlay, ([[0]], np.ones((1, 1), np.float32)), TypeError, "image must be a numpy array or a tensor, got list"),
]

for number, (function, args, error, message) in enumerate(MISTAKES):
    try:
        function(*args)
    except (TypeError, ValueError) as caught:
        text = str(caught)
        if type(caught) is not error or not re.search(message, text) or "\n" in text:
            print(f"{number}: {message!r} expected, got {type(caught).__name__}: {text}")
    else:
        print(f"{number}: {message!r} expected, got nothing")
