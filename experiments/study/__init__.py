"""Optuna studies: what is searched, who trains it, what the winner is worth."""
