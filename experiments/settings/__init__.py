"""Options of every entry point: their types, texts, recipes, and the command line."""
