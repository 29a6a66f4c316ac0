"""Images as tensors."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_tensor(images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """The images as float32 in [0, 1], channels first."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(255)
