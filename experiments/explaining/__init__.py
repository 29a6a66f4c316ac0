"""Where a network looks: which layers and images are explained, and what is measured of the maps."""
