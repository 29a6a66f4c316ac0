"""The networks of a comparison on the same images, pair by pair and class by class.

`right` tells for each variant which test images its networks classify correctly, bool `(seeds, images)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from ..evidence.network_tests import by_class, mcnemar
from .members import Pair

Right = Mapping[str, Bool[np.ndarray, "seeds images"]]


def class_table(
    pairs: Sequence[Pair], right: Right, labels: Int64[np.ndarray, "images"], classes: Sequence[str]
) -> pd.DataFrame:
    """A row per pair and class: the columns of `evidence.network_tests.by_class`, `name` and `against`."""
    return pd.concat(
        by_class(right[pair.variant], right[pair.against], labels, classes).assign(
            name=pair.variant, against=pair.against
        )
        for pair in pairs
    )


def network_table(pairs: Sequence[Pair], right: Right) -> pd.DataFrame:
    """McNemar's test for each pair of networks. It is no statement about the method."""
    return pd.DataFrame(
        {"variant": pair.variant, "against": pair.against, "seed": seed, "against_seed": against_seed}
        | asdict(mcnemar(after, before))
        for pair in pairs
        for (seed, against_seed), after, before in zip(
            pair.seeds, right[pair.variant], right[pair.against], strict=True
        )
    )
