"""Every printed number carries the unit of its property, and errors that of the scale on which it is learned."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from pydantic import ValidationError

from campaigns.campaign import Campaign
from campaigns.configuration.goals import CampaignSection
from campaigns.goals import Scale
from campaigns.property_names import Property
from campaigns.report import figures, write_report
from campaigns.report.evidence import Evidence
from campaigns.report.tables import queue_tables
from tests.campaigns.helpers import FIELD, configure, done, queue, write_lines

LABELS = 12
KAPPA = "W/(m K)"


@dataclass(frozen=True)
class Case:
    """A property, and what must stand beside its values and its errors."""

    property: str
    unit: str
    fidelity: str
    is_logarithmic: bool

    @property
    def error_unit(self) -> str:
        """Unit of errors and spreads."""
        return "log10" if self.is_logarithmic else self.unit


CASES = {
    "kappa": Case("kappa_300K", KAPPA, "dft", is_logarithmic=True),
    "kappa by AGL": Case("kappa_300K", KAPPA, "agl", is_logarithmic=True),
    "bulk modulus": Case("bulk_modulus", "GPa", "dft", is_logarithmic=False),
    "band gap": Case("band_gap", "eV", "dft", is_logarithmic=False),
}


def _records(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The crystals with a number of another name; twice the conductivity stands in for it."""
    return [r | {"properties": {name: r["properties"][FIELD] * (1 if name == FIELD else 2)}} for r in records]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """One property after the other."""
    return CASES[request.param]


@pytest.fixture(scope="module")
def directory(case: Case, records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign with a model, a queue, and labels that came back for it."""
    directory = tmp_path_factory.mktemp("units") / "c"
    pool = _records(records, case.property)
    source = write_lines(directory.parent / "pool.jsonl", pool)
    done("init", directory, "--property", case.property)
    of_campaign = {"fidelity": case.fidelity, "batch": 4, "budget": 12}
    if not case.is_logarithmic:
        of_campaign["unit"] = case.unit
    configure(directory, {"campaign": of_campaign, "model": {"members": 2}})
    done("ingest", directory, source)
    with Campaign.open(directory) as campaign:
        for record in pool[:LABELS]:
            campaign.record(record["id"], record["properties"][case.property])
        campaign.run(1)
        values = {r["id"]: r["properties"][case.property] for r in pool}
        for entry in campaign.queue_entries()[:2]:
            campaign.record(entry.material_id, values[entry.material_id])
    return directory


def _visible(page: str) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _titles(figure: go.Figure | None) -> list[str]:
    assert figure is not None
    return [figure.layout[axis].title.text or "" for axis in ("xaxis", "yaxis")]


def test_reasons_of_the_queue(case: Case, directory: Path) -> None:
    for row in queue(directory):
        assert re.search(rf"predicted \S+ \([^)]*\) {re.escape(case.unit)}, ", row["reason"])
        assert (row["log10_mean"] is not None) == case.is_logarithmic
        assert (row["log10_std"] is not None) == case.is_logarithmic
        assert row["lower"] < row["mean"] < row["upper"]


def test_report(case: Case, directory: Path) -> None:
    with Campaign.open(directory) as campaign:
        text = _visible(write_report(campaign, directory.parent / "report.html").read_text())
        evidence = Evidence(campaign)
        assert f"MAE is the mean absolute error in {case.error_unit}" in text
        assert f"continuous ranked probability score in {case.error_unit}" in text
        assert f"predicted, {case.unit} (90 %)" in text
        assert (KAPPA in text) == (case.unit == KAPPA)
        assert ("log10" in text) == case.is_logarithmic
        assert _titles(figures.best_so_far(evidence).figure)[1] == f"{case.property} in {case.unit}"
        assert _titles(figures.errors(evidence).figure)[1] == f"mean absolute error in {case.error_unit}"
        assert _titles(figures.spread_by_round(evidence).figure)[1] == f"root mean square in {case.error_unit}"
        assert _titles(figures.error_by_spread(evidence).figure)[0] == f"predicted spread in {case.error_unit}"
        assert _titles(figures.parity_before(evidence).figure) == [f"label in {case.unit}", f"predicted in {case.unit}"]
        arrived = [row["label"] for table in queue_tables(evidence) for row in table["rows"]]
        assert all(KAPPA not in label for label in arrived), "the unit stands in the head of the table"


def test_labels(case: Case, directory: Path) -> None:
    rows = done("label", "list", directory, "--format", "json").json
    assert {(row["property"], row["unit"], row["fidelity"]) for row in rows} == {
        (case.property, case.unit, case.fidelity)
    }


def test_train_and_predict(case: Case, records: list[dict[str, Any]], tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", _records(records, case.property))
    command = ("train", source, "--property", case.property, "--strategy", "none", "--members", 2)
    printed = done(*command, "--out", tmp_path / "m")
    errors = "log10" if case.is_logarithmic else "the property's unit"
    title = f"cross-validated {case.property}, errors in {errors}"
    assert title in " ".join((printed.out + printed.err).split())
    done("predict", tmp_path / "m", source, "--out", tmp_path / "p.csv")
    head, *lines = (tmp_path / "p.csv").read_text().splitlines()
    for line in lines:
        row = dict(zip(head.split(","), line.split(","), strict=True))
        assert (row["log10_mean"] == "") == (row["log10_std"] == "") == (not case.is_logarithmic)
        if case.is_logarithmic:
            assert float(row["mean"]) == pytest.approx(10 ** float(row["log10_mean"]))


def test_backtest(case: Case, records: list[dict[str, Any]], tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", _records(records, case.property))
    done(
        "backtest", source, "--property", case.property, "--goal", "min", "--initial", 12, "--batch", 4, "--rounds", 1,
        "--seeds", 0, "--strategy", "random", "--workers", 1, "--report", tmp_path / "r.html",
    )  # fmt: skip
    page = (tmp_path / "r.html").read_text()
    shown = "decades" if case.is_logarithmic else "the property's unit"
    assert f"regret, {shown}" in page.replace("\\u0027", "'")
    assert ("in decades" in _visible(page)) == case.is_logarithmic


def test_settings_take_unit_and_scale_from_the_property() -> None:
    """One place knows them; a property that it does not know has no unit until one is given."""
    kappa = CampaignSection(name="c", goal="min", property="kappa_600K")
    gap = CampaignSection(name="c", goal="min", property="band_gap")
    given = CampaignSection(name="c", goal="min", property="band_gap", unit="eV")
    assert (kappa.unit, kappa.learned_scale) == (KAPPA, "log10")
    assert (gap.unit, gap.learned_scale) == ("", "linear")
    assert (given.unit, given.learned_scale) == ("eV", "linear")
    assert Property("bulk_modulus").unit == ""
    assert Scale("linear").unit_of_errors("GPa") == "GPa"
    assert Scale("log10").unit_of_errors("GPa") == "log10"
    with pytest.raises(ValidationError):
        CampaignSection(name="c", goal="min", property="kappa_300K", unit=1)
