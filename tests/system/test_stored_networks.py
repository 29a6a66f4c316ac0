"""What is stored of a network computes what the network computes, and the network stays as it was."""

import pickle

import cloudpickle
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from experiments.system.stored_networks import check_picklable, picklable


def test_computed_weights_are_stored_as_they_are() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        spectral_norm(nn.Conv2d(3, 4, 3)),
        weight_norm(nn.Conv2d(4, 4, 1)),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        orthogonal(nn.Linear(16, 2)),
    )
    images = torch.rand(5, 3, 4, 4)
    network(images)
    names, expected = list(network.state_dict()), network.eval()(images)
    stored = pickle.loads(cloudpickle.dumps(picklable(network)))  # as MLflow stores it
    torch.testing.assert_close(stored(images), expected)
    assert [type(module) for module in stored] == [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
    assert list(network.state_dict()) == names
    torch.testing.assert_close(network(images), expected)


def test_functions_without_a_name_can_be_stored() -> None:
    network = nn.Linear(2, 2)
    network.extra = lambda: 3
    check_picklable(network)
