"""Class activation maps: several layers and methods from one forward and one backward pass."""
