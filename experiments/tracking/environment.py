"""The environment variables of MLflow, set before it is imported; those without a value count as absent."""

import os
import re

_OURS = re.compile(
    r"_?(MLFLOW|CAMPARISON|DATABRICKS)_|(REQUESTS|CURL)_CA_BUNDLE$|SSL_CERT_|(https?|all|no)_proxy$", re.I
)


def set_environment() -> None:
    """Sets the variables of MLflow that this suite needs, unless the user has set them."""
    forget_blank()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our own links open the view
    os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # MLflow then raises an error instead
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # where there is no git, MLflow prints a page about it
    # The defaults, seven and 120 s, mean minutes of silence per call; the outbox tries again by itself.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def forget_blank() -> None:
    """Removes variables that have no value. MLflow takes an empty name or address for a name or an address."""
    for name, value in list(os.environ.items()):
        if _OURS.match(name) and not value.strip():
            del os.environ[name]


def unreadable() -> str:
    """A line about the first variable whose value MLflow cannot read; "" if there is none."""
    from mlflow import environment_variables

    for name, variable in vars(environment_variables).items():
        if name in os.environ and isinstance(variable, environment_variables._EnvironmentVariable):
            try:
                variable.get()  # type: ignore[no-untyped-call]
            except ValueError as error:
                return f"{name}={os.environ[name]}: {error}; correct or unset the variable"
    return ""
