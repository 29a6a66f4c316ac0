"""`cam_method`, `cam_methods` and `cam_layers`: what they mean, and what is refused before anything is trained."""

import pytest
import torch

from cam_core import METHODS
from experiments.explaining.layers_and_methods import resolve_explaining
from experiments.settings.base import SettingsError
from experiments.settings.parts import NETWORKS, load_part
from experiments.settings.train import TrainSettings

REFERENCE = "GradCAM,ScoreCAM,GradCAMPlusPlus,AblationCAM,XGradCAM,EigenCAM,aug_smooth,eigen_smooth"


def test_by_default_the_network_s_own_layers_and_all_methods_of_one_pass() -> None:
    found = resolve_explaining(TrainSettings.of())
    assert found.layers == load_part(NETWORKS, "fastnet").cam_layers
    assert (found.method, found.methods) == ("gradcam", tuple(METHODS))


def test_the_names_of_other_libraries_are_understood() -> None:
    found = resolve_explaining(TrainSettings.of(cam_methods=REFERENCE, cam_method="HiResCAM"))
    assert found.methods == (
        *("gradcam", "scorecam", "gradcam++", "ablationcam", "xgradcam", "eigencam"),
        *("gradcam:aug_smooth", "gradcam:eigen_smooth"),
    )
    assert found.all_methods == ("hirescam", *found.methods)


def test_layers_come_from_shallow_to_deep_however_they_were_named() -> None:
    settings = TrainSettings.of(cam_layers=" layer3, layer1.0 ,layer3", model="resnet18")
    assert resolve_explaining(settings).layers == ("layer1.0", "layer3")


def test_every_problem_is_named_at_once() -> None:
    settings = TrainSettings.of(cam_method="gradkam", cam_methods="gradcam,,xcam", cam_layers="layr3")
    with pytest.raises(SettingsError) as error:
        resolve_explaining(settings)
    method, empty, unknown, layer = error.value.problems
    assert method.startswith("cam_method=gradkam: method 'gradkam' is unknown (did you mean 'gradcam'?)")
    assert empty.startswith("cam_methods=: method '' is unknown")
    assert unknown.startswith("cam_methods=xcam: method 'xcam' is unknown")
    assert layer.startswith("cam_layers=layr3: layer 'layr3' is not in the model (did you mean 'layer3'?)")


def test_a_layer_that_puts_out_no_map_is_refused_and_no_random_number_is_spent() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(SettingsError, match=r"cam_layers=linear: layer 'linear' gives a tensor \(1, 2\), not a map"):
        resolve_explaining(TrainSettings.of(cam_layers="linear"))
    assert torch.equal(torch.random.get_rng_state(), before)
