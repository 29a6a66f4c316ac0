"""All use of MLflow: the store, writing and reading of runs, saved views, the UI.

No other room imports mlflow. `python -m experiments.tracking` sets up the store and opens the UI.
"""

import logging
import sys
import warnings

from ..system.terminal import end_at_ctrl_c
from .environment import set_environment

if sys.argv[:1] == ["-m"]:  # Python imports this package before it starts its program
    end_at_ctrl_c("python -m experiments.tracking")
set_environment()

# On import, mlflow.pyfunc checks one of its own type hints and warns about it.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow.pyfunc
    import mlflow.pytorch
    import mlflow.store.db.utils

mlflow.store.db.utils.MAX_RETRY_COUNT = 4  # MLflow's ten would be two minutes of silence

warnings.filterwarnings("ignore", "Unverified HTTPS request")  # who set MLFLOW_TRACKING_INSECURE_TLS knows it


def _is_no_pickle_warning(entry: logging.LogRecord) -> bool:
    return "Saving pytorch model by Pickle" not in entry.getMessage()


logging.getLogger("mlflow.pytorch").addFilter(_is_no_pickle_warning)
# "Creating initial MLflow database tables...", and tracebacks of errors that this suite tells in one line
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
