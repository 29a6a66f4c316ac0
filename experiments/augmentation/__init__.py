"""The augmentation of the training images: declared with albumentations, computed for whole batches at a time."""

import os

import cv2

# Otherwise every import of albumentations asks the package index for a newer version, for up to two seconds.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# On images this small, OpenCV's threads only slow down the threads of the network.
cv2.setNumThreads(0)
