"""The tables of a comparison, for people and for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import pandas as pd

from ..tracking.records import Table
from .answers import answers
from .findings import Findings
from .primary import primary


def _tables(findings: Findings) -> dict[str, pd.DataFrame]:
    return {
        "runs": findings.runs,
        "summary": flat(findings.summary),
        "differences": findings.differences,
        "where": findings.where,
        "look_differences": findings.look_differences,
        "classes": findings.classes,
        "groups": findings.groups,
        "networks": findings.networks,
        "agreement": findings.agreement,
    }


def iter_tables(findings: Findings) -> Iterator[Table]:
    """Every table as CSV; the two most important ones also as JSON, which MLflow's UI shows."""
    tables = _tables(findings)
    for name, table in tables.items():
        if len(table):
            yield Table(f"{name}.csv", table.assign(per_seed=_per_seed(table)) if "per_seed" in table else table)
    for name in ("summary", "differences"):
        yield Table(f"tables/{name}.json", tables[name].drop(columns="per_seed", errors="ignore"))


def _per_seed(table: pd.DataFrame) -> list[str]:
    return [" ".join(f"{value:+.4f}" for value in values) for values in table["per_seed"]]


def summary_for_machines(findings: Findings, name: str, link: str) -> dict[str, object]:
    """The comparison for JSON: runs, numbers of the tables with null for NaN, and sentences."""
    tables = {
        name: json.loads(table.to_json(orient="records", double_precision=15))
        for name, table in _tables(findings).items()
        if name != "where"
    }
    return {
        "name": name,
        "link": link,
        "dataset": {"name": findings.dataset.name, "digest": findings.dataset.digest},
        "variants": list(findings.variants),
        **tables,
        "primary": [
            {"variant": one.pair.variant, "against": one.pair.against, "quantity": one.quantity.name}
            | asdict(one.difference)
            | {"p_holm": one.p_holm}
            for one in primary(findings)
        ],
        "calibration": {
            name: [{"ece": found.ece, "brier": found.brier} for found in several]
            for name, several in findings.calibrations.items()
        },
        "answers": list(map(asdict, answers(findings))),
    }


def table_rows(findings: Findings) -> list[dict[str, str]]:
    """A row per variant: heading -> text."""
    rows = []
    for name, row in findings.summary.iterrows():
        seeds = int(row["test/accuracy", "count"])
        values = {measure.heading: measure.written(row[measure.metric], seeds) for measure in findings.measures}
        rows.append({"variant": str(name), "seeds": str(seeds)} | values)
    return rows


def flat(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with one row of column names."""
    table = summary.copy()
    table.columns = [" ".join(names) for names in summary.columns]
    return table.reset_index()
