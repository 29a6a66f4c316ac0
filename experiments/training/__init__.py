"""The training loop and what it is made of. Nothing here knows how results are logged."""
