"""The suite: trains variants, explains them, logs them to MLflow and compares them."""
