"""The first records of each shared file, as a user's folder of data."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from campaigns.studies.data import SOURCES

RECORDS = {"agl": 70, "L96": 30, "HH143": 30, "phonon_peak": 90}
SMALL = {"hidden_layer_sizes_input": [8, 8], "hidden_layer_sizes_conv": [8, 8], "nlayers_set2set": 1}
"""A body that trains in no time."""


@pytest.fixture
def studies_data(shared: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for role, source in SOURCES.items():
        with gzip.open(shared(f"data/{source.file}.jsonl.gz"), "rt") as lines:
            (folder / f"{source.file}.jsonl").write_text("".join(islice(lines, RECORDS.get(role, 60))))
    return folder
