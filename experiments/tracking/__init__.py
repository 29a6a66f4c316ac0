"""All use of MLflow: the store, writing and reading of runs, saved views, the UI.

No other room imports mlflow. `python -m experiments.tracking` sets up the store and opens the UI.
"""

import logging
import warnings

from .environment import set_environment

set_environment()

# On import, mlflow.pyfunc checks one of its own type hints and warns about it.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow.pyfunc
    import mlflow.pytorch  # noqa: F401


def _is_no_pickle_warning(entry: logging.LogRecord) -> bool:
    return "Saving pytorch model by Pickle" not in entry.getMessage()


logging.getLogger("mlflow.pytorch").addFilter(_is_no_pickle_warning)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial MLflow database tables..."
