"""All acquisition functions by name: importing this module registers them, in the order in which they are listed.

``python -m engine.acquire.functions`` prints the table of the README.
"""

from __future__ import annotations

from engine.acquire import batch_functions, row_functions
from engine.acquire.registry import FUNCTIONS, Needs, acquisition_function
from engine.acquire.row_functions import check_portfolio

__all__ = [
    "FUNCTIONS",
    "Needs",
    "acquisition_function",
    "batch_functions",
    "check_portfolio",
    "functions_table",
    "row_functions",
]


def functions_table() -> str:
    """Table of all functions in Markdown, as in the README: name, reason, data, source."""
    lines = ["| function | why it chooses a row | looks at | source |", "|---|---|---|---|"]
    lines += [f"| `{f.name}` | {f.description} | {f.needs.label} | {f.source} |" for f in FUNCTIONS.values()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(functions_table())
