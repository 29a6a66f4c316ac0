"""Networks. To add one of ours, add a file here and a line in `settings/parts.py`; `foreign` finds those of others.

A network is made with `(classes, mean, std, dropout=0.0)`; `layers.Normalise` takes `mean` and `std`. It takes images
`(n, 3, h, w)` in [0, 1] with sides of 8 pixels or more, and gives logits `(n, classes)`. `cam_layers`, a tuple, names
its stages from shallow to deep. The classifier is the last layer with parameters. It may also have:

- `lay_out(device, side)`: called when the network is on its device, to choose the memory format of its layers.
- `start_training(images)`: called once before the first step, with training images `(n, 3, h, w)` in [0, 1].
- `start_epoch(done)`: called before every epoch, with the finished share of the training, in [0, 1).
- `rates_beside_muon`: with Muon, the peak learning rates of the classifier and of biases and scales, for a Muon rate of
  1 and a batch of one image; they are multiplied by Muon's rate and by the square root of the batch size.

Models that were logged by version 0.1 are pickled with the names below.
"""

from .fastnet import FastNet, FastNetWide
from .layers import Normalise
from .resnet18 import BasicBlock, ResNet18

__all__ = ["BasicBlock", "FastNet", "FastNetWide", "Normalise", "ResNet18"]
