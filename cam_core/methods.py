"""The Grad-CAM family as pure functions of one layer's activations and gradients.

Each takes activations A and gradients g = dy/dA, both `(n, c, h, w)`, and returns the map `(n, h, w)` at the layer's
own resolution, before the ReLU of the sum over channels: that, the resize and the scaling are `cam_core.maps.finish`'s.
Only plain arithmetic is used, so that autocast does not lower the precision.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor


def gradcam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The sum over channels of mean(g) A, the mean over positions (Selvaraju et al., ICCV 2017)."""
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def gradcam_plus_plus(
    activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n h w"]:
    """The sum over channels of w A, w the sum of alpha relu(g), alpha = g^2 / (2 g^2 + S g^3), S the sum of A.

    Equation 19 of Chattopadhay et al., WACV 2018, which cancels to relu(g) / (2 + S relu(g)): no powers, no epsilon. A
    position counts 0 where a negative S makes that denominator not positive. By its formula, and unlike all the other
    methods here, this map depends on the scale of the logits: beware when comparing models of different confidence.
    """
    positive = gradients.relu()
    denominator = 2 + activations.sum((2, 3), keepdim=True) * positive
    weights = torch.where(denominator > 0, positive / denominator, 0.0).sum((2, 3), keepdim=True)
    return (weights * activations).sum(1)


def hirescam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The sum over channels of g A, nothing averaged (Draelos and Carin, 2020, arXiv:2011.08891)."""
    return (gradients * activations).sum(1)


def xgradcam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The sum over channels of w A, w = sum(g A) / sum(A) over positions, 0 where sum(A) is 0 (Fu et al., BMVC 2020).

    Meant for layers after the activation: where A has both signs, sum(A) may be close to 0 and the weight huge.
    """
    total = activations.sum((2, 3), keepdim=True)
    share = (gradients * activations).sum((2, 3), keepdim=True) / total
    return (torch.where(total != 0, share, 0.0) * activations).sum(1)


def layercam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The sum over channels of relu(g) A (Jiang et al., IEEE TIP 2021)."""
    return (gradients.relu() * activations).sum(1)


def elementwise(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The sum over channels of relu(g A): HiResCAM of the positive terms only (GradCAMElementWise of grad-cam)."""
    return (gradients * activations).relu().sum(1)


Method = Callable[[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]], Float[Tensor, "n h w"]]

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gradcam": gradcam,
        "gradcam++": gradcam_plus_plus,
        "hirescam": hirescam,
        "xgradcam": xgradcam,
        "layercam": layercam,
        "elementwise": elementwise,
    }
)
"""The methods by the names that `cams` takes."""
