"""The options of every entry point: types, help texts, recipes and the command line."""
