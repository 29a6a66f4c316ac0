"""Stands before the real one on the path of programs that tests start: where the suite is used, there is none.

MLflow imports it wherever it finds it, which takes seconds.
"""

raise ImportError("not installed where the suite is used")
