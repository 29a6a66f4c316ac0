"""One run from its settings to everything that it records."""
