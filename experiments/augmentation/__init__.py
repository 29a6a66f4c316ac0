"""What changes the training images: declared with albumentations, computed for whole batches at a time."""

import os

import cv2

# Without it every import of albumentations asks the package index for a newer version, for up to two seconds.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# On images this small OpenCV's threads only get in the way of the network's.
cv2.setNumThreads(0)
