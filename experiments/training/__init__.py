"""The training loop and its parts. Nothing here depends on how results are logged."""
