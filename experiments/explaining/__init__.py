"""Where a network looks: which layers and images are explained, and the measures of the maps."""
