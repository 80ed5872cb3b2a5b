"""The report: self-contained, safe, honest about what is missing, and drawn by a real browser."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.campaign import Campaign
from campaigns.configuration import parse_configuration
from campaigns.exceptions import CampaignError
from campaigns.report import evidence as evidence_module
from campaigns.report import figures, write_report
from campaigns.report.evidence import Evidence, _principal_components
from campaigns.report.numbers import NONE, hours, interval, percent, significant
from campaigns.report.tables import queue_tables, stopping_table, uncertainty_table
from db.records import FailureRecord, RejectionRecord
from db.states import FailureReason, QueueState, RoundState

DATA = Path(__file__).parents[3] / "shared" / "data"
HOSTILE = "</script><script>document.title='taken'</script><b>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "br", "link", "img", "input", "hr"}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """Run a campaign for low kappa on 48 binaries into its second round; pages of earlier stages are in ``pages``."""
    folder = tmp_path_factory.mktemp("low")
    records = _records("ltc_l96.jsonl.gz", 48)
    answers = {r["id"]: r["properties"]["kappa_300K_W_mK"] for r in records}
    made = _create(folder / "c", records, goal="min")
    pages = folder / "pages"
    with made:
        write_report(made, pages / "empty.html")
        _label(made, {id_: answers[id_] for id_ in list(answers)[:14]}, method="initial")
        made.run(1)
        write_report(made, pages / "waiting.html")
        queued = [e.material_id for e in made.queue_entries()]
        _label(made, {id_: answers[id_] for id_ in queued[:3]})
        write_report(made, pages / "partial.html")
        made.move(queued[3:4], QueueState.WITHDRAWN)
        _label(made, {id_: answers[id_] for id_ in queued[4:]})
        made.store.add_failures([FailureRecord(queued[3], "kappa_300K", "dft", FailureReason.IMAGINARY_MODES)])
        made.store.add_rejections([RejectionRecord("x.cif", "x", "too_close", "atoms overlap", "relax it")])
        made.run(1)
        yield made


@pytest.fixture(scope="module")
def page(campaign: Campaign) -> Path:
    return write_report(campaign, campaign.directory / "report.html")


def test_page_holds_everything_and_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    parsed = _parse(text)
    assert not parsed.unclosed
    assert parsed.references
    assert all(reference.startswith("#") for reference in parsed.references)
    assert {reference[1:] for reference in parsed.references} <= parsed.ids
    assert not {"link", "iframe", "img", "object"} & parsed.tags
    assert "url(" not in parsed.style
    assert "@import" not in parsed.style
    assert "default-src 'none'" in parsed.policy
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert 'name="viewport"' in text


def test_page_says_where_the_campaign_stands(page: Path, campaign: Campaign) -> None:
    text = _visible(page)
    best = min(label.value for label in campaign.store.labels("kappa_300K", "dft"))
    assert f"The lowest value so far is {significant(best)} W/(m K)" in text
    assert "It has run 2 rounds; 6 queue entries wait for a result, 6 of them for approval" in text
    assert "12 of 40" not in text
    assert "11 of 40" not in text
    assert "5 of 40" in text, "a withdrawn entry costs nothing, nor do those that are only proposed"
    assert "imaginary modes (crystal): 1" in text
    assert "too close: 1" in text


def test_every_queue_entry_stands_with_its_reason(page: Path, campaign: Campaign) -> None:
    text = _visible(page)
    entries = campaign.queue_entries()
    assert len(entries) == 12
    for entry in entries:
        assert entry.material_id in text
        assert entry.reason in text
        assert interval(entry.predicted_mean, entry.predicted_lower, entry.predicted_upper) in text


def test_models_stand_with_their_lineage(page: Path, campaign: Campaign) -> None:
    text = _visible(page)
    for model in (m for m in campaign.store.models() if m.stage["kind"] == "round"):
        assert model.model_id in text
        assert model.data_hash[:10] in text
        assert all(member.sha256[:10] in text and str(member.seed) in text for member in model.members)


@pytest.mark.parametrize(
    ("stage", "said", "unsaid"),
    [
        (
            "empty",
            ["No round has been run yet.", "No labels yet", "Nothing has been queued yet"],
            ["The queue of round"],
        ),
        (
            "waiting",
            ["The queue of round 1", "No label has arrived for a prediction yet.", "proposed"],
            ["earlier rounds"],
        ),
        (
            "partial",
            ["3 labels", "What was predicted when a material was queued", "No round has been evaluated"],
            ["earlier rounds"],
        ),
    ],
)
def test_page_of_an_earlier_stage(campaign: Campaign, stage: str, said: list[str], unsaid: list[str]) -> None:
    path = campaign.directory.parent / "pages" / f"{stage}.html"
    text = _visible(path)
    assert not _parse(path.read_text()).unclosed
    assert all(words in text for words in said)
    assert not any(words in text for words in unsaid)


def test_figures_agree_with_the_stored_judgement(campaign: Campaign) -> None:
    evidence = Evidence(campaign)
    met = evidence.prospective()
    judged = next(r for r in evidence.rounds if r.state is RoundState.JUDGED)
    assert met is not None
    assert judged.metrics_after is not None
    assert len(met) == judged.metrics_after["rows"] == 5
    assert np.abs(met.values - met.mean).mean() == pytest.approx(judged.metrics_after["mae"])
    curve = figures.calibration_curve(evidence).figure
    assert curve is not None
    nominal_90 = curve.data[2].y[2]
    assert nominal_90 == pytest.approx(100 * judged.metrics_after["coverage_90"])


def test_parity_before_is_held_out(campaign: Campaign) -> None:
    evidence = Evidence(campaign)
    before, metrics = evidence.before(), evidence.rounds[-1].metrics_before
    assert before is not None
    assert metrics is not None
    assert np.abs(before.values - before.mean).mean() == pytest.approx(metrics["model"]["mae"])
    assert np.mean(np.abs(before.z) <= 1.6449) == pytest.approx(metrics["model"]["coverage_90"])
    assert "not trained on" in figures.parity_before(evidence).reading


def test_uncertainty_is_that_of_the_stored_judgements(campaign: Campaign, page: Path) -> None:
    evidence = Evidence(campaign)
    first, second = evidence.trained
    before, after = first.metrics_before, first.metrics_after
    assert before is not None
    assert after is not None
    assert [row["rows"] for row in uncertainty_table(evidence)] == ["14 held out", "5 arrived", "19 held out"]
    arrived = uncertainty_table(evidence)[1]
    assert arrived["crps"] == significant(after["crps"])
    assert arrived["in_80"] == percent(after["coverage_80"])
    assert arrived["between"] == percent(after["spread"]["between_share"])
    assert arrived["crps"] in _visible(page)
    shares = figures.coverage_by_round(evidence).figure
    assert shares is not None
    assert shares.data[1].y.tolist() == pytest.approx([100 * after["coverage_90"]])
    spreads = figures.spread_by_round(evidence).figure
    assert spreads is not None
    drawn = {line.name: list(line.y) for line in spreads.data}
    assert drawn["predicted, queue"] == [after["sharpness"], None]
    assert drawn["error, held out"][1] == second.metrics_before["model"]["rmse"]
    curve = figures.error_by_spread(evidence).figure
    assert curve is not None
    assert curve.data[1].y[0] == pytest.approx(after["rmse"]), "five labels are one group"


def test_stopping_stands_with_its_reasons(campaign: Campaign, page: Path) -> None:
    text = _visible(page)
    assert "Stop or go on?" in text
    assert "5 of 40 labels of the budget" in text
    assert "undiscovered hits are expected" in text
    evidence = Evidence(campaign)
    says = {row["criterion"]: row["says"] for row in stopping_table(evidence)}
    assert says["budget in labels"] == "go on"
    assert says["budget in core-hours"] == NONE
    best_found = next(check for check in evidence.advice.checks if check.name == "best_found")
    assert says["best found"] == ("stop" if best_found.met else "go on")


def test_a_spent_budget_is_said_first(campaign: Campaign, tmp_path: Path) -> None:
    section = campaign.configuration.campaign.model_copy(update={"budget": 5})
    settings = campaign.configuration.model_copy(update={"campaign": section})
    spent = Campaign(replace(campaign.workspace, configuration=settings))
    text = _visible(write_report(spent, tmp_path / "report.html"))
    assert "It is time to stop: 5 of 5 labels of the budget" in text


def test_rounds_of_before_read_on(campaign: Campaign, tmp_path: Path) -> None:
    """Rounds judged by an earlier version lack curves, costs and advice."""
    shutil.copytree(campaign.directory, tmp_path / "copy")
    with Campaign.open(tmp_path / "copy") as old:
        after = old.store.round(1).metrics_after
        assert after is not None
        newer = {"curves", "stopping", "expected_cost", "normalised_error"}
        assert newer <= set(after)
        old.store.set_judgement(1, {name: value for name, value in after.items() if name not in newer})
        text = _visible(write_report(old, tmp_path / "report.html"))
    assert "Uncertainty in figures" in text


def test_costs_and_distances_where_they_are_kept(campaign: Campaign, tmp_path: Path) -> None:
    shutil.copytree(campaign.directory, tmp_path / "copy")
    with Campaign.open(tmp_path / "copy") as copy:
        after = copy.store.round(1).metrics_after
        assert after is not None
        assert figures.costs(Evidence(copy)).figure is None
        copy.store.set_judgement(1, {**after, "cost": 1234.5, "expected_cost": 900.0, "distance_percentile": 71.4})
        evidence = Evidence(copy)
        bars = figures.costs(evidence)
        assert bars.figure is not None
        assert [list(trace.y) for trace in bars.figure.data] == [[1234.5], [900.0]]
        assert "1,234 in all" in bars.reading
        assert uncertainty_table(evidence)[1]["distance"] == "71"
        entry, formula = evidence.queue[0]
        evidence.queue[0] = (replace(entry, expected_cost=321.0, details={"distance_percentile": 98.6}), formula)
        table = queue_tables(evidence)[-1]
        assert table["has_cost"]
        assert table["has_distance"]
        assert (table["rows"][0]["cost"], table["rows"][0]["distance"]) == ("321", "99")
        assert "1,234" in _visible(write_report(copy, tmp_path / "report.html"))


def test_map_keeps_labels_and_queue_when_it_samples(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_module, "MAP_SAMPLE", 5)
    evidence = Evidence(campaign)
    first, second = evidence.embedding_map(), evidence.embedding_map()
    assert first is not None
    assert second is not None
    shown = {key.material_id for key in first.keys}
    assert shown >= evidence.on_the_map() | set(evidence.labels)
    assert first.sampled == 5
    assert first.pool_size == 48
    assert np.array_equal(first.position, second.position)
    assert set(first.predicted) == shown
    assert "5 of 48 materials, drawn at random" in figures.embedding(evidence).reading


def test_principal_components_of_a_line() -> None:
    line = np.outer(np.linspace(-1, 1, 20), [1.0, -2.0, 0.5, 0.0]) + 3.0
    position, explained = _principal_components(line)
    assert explained == pytest.approx([1.0, 0.0], abs=1e-12)
    assert np.allclose(position[:, 1], 0, atol=1e-6)
    assert np.ptp(position[:, 0]) == pytest.approx(np.sqrt(3) * 2 / np.linspace(-1, 1, 20).std())


def test_prevalence_counts_crystals(campaign: Campaign) -> None:
    pool, queue = Evidence(campaign).prevalence()
    index = campaign.store.material_index()
    holding = sum("O" in key.chemical_system.split("-") for key in index)
    assert pool["O"] == pytest.approx(holding / len(index))
    assert sum(queue.values()) == pytest.approx(2.0), "binaries hold two elements each"


def test_cold_start_and_hostile_names(tmp_path: Path) -> None:
    """A first batch without a model, and an id that tries to leave its place in the page."""
    records = _records("ltc_l96.jsonl.gz", 12)
    records[0]["id"] = HOSTILE
    with _create(tmp_path / "c", records, goal="min", batch=12) as campaign:
        campaign.run(1)
        path = write_report(campaign, tmp_path / "report.html")
    text = path.read_text()
    assert HOSTILE not in text
    assert not _parse(text).unclosed
    visible = _visible(path)
    assert HOSTILE in visible, "escaped, it is shown as it is"
    assert "space filling" in visible
    assert "No model has been trained yet." in visible


def test_linear_scale_and_high_goal(tmp_path: Path) -> None:
    records = _records("ltc_hh143.jsonl.gz", 40)
    answers = {r["id"]: r["properties"]["kappa_300K_W_mK"] for r in records}
    with _create(tmp_path / "c", records, goal="max", scale="linear") as campaign:
        _label(campaign, dict(list(answers.items())[:12]), method="initial")
        campaign.run(1)
        _label(campaign, {e.material_id: answers[e.material_id] for e in campaign.queue_entries()})
        text = _visible(write_report(campaign, tmp_path / "report.html"))
        parity = figures.parity_after(Evidence(campaign)).figure
    assert "The highest value so far is" in text
    assert "log10" not in text
    assert parity is not None
    assert parity.layout.xaxis.type is None


def test_every_goal_and_setting_is_put_in_words(tmp_path: Path) -> None:
    """A window, two backbones and a schedule: what no number stands for."""
    with Campaign.create(tmp_path / "c", warm=False) as campaign:
        toml = tmp_path / "c" / "campaign.toml"
        text = toml.read_text().replace('goal = "min"', 'goal = "window"\nwindow = [0.5, 2.0]')
        text = text.replace("beta = 0.25 ", 'beta = "schedule" ')
        text = text.replace('backbone = "megnet-multiproperty"', 'backbone = ["megnet-multiproperty", "other"]')
        settings = parse_configuration(text, "here")
        shown = _visible(
            write_report(Campaign(replace(campaign.workspace, configuration=settings)), tmp_path / "report.html")
        )
    assert "kappa_300K from 0.5 to 2 W/(m K), labels of fidelity dft" in shown
    assert "beta schedule" in shown
    assert "megnet-multiproperty and other" in shown


def test_password_of_the_store_stays_out(campaign: Campaign, tmp_path: Path) -> None:
    store = campaign.configuration.store.model_copy(update={"url": "postgresql+psycopg://me:hush-hush@host/db"})
    settings = campaign.configuration.model_copy(update={"store": store})
    secret = Campaign(replace(campaign.workspace, configuration=settings))
    assert "hush-hush" not in write_report(secret, tmp_path / "report.html").read_text()


def test_report_is_written_whole_or_not_at_all(campaign: Campaign, tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="folder"):
        write_report(campaign, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CampaignError, match="cannot write"):
        write_report(campaign, tmp_path / "file" / "report.html")
    assert write_report(campaign, tmp_path / "new" / "report.html").is_file()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]


def test_missing_predictions_are_named(campaign: Campaign, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(campaign.directory, copy)
    for path in (copy / "artifacts" / "rounds").rglob("predictions.parquet"):
        path.unlink()
    with Campaign.open(copy) as bare, pytest.raises(CampaignError, match="round 2;"):
        write_report(bare, tmp_path / "report.html")


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_significant_keeps_three_digits(value: float) -> None:
    text = significant(value)
    assert float(text) == pytest.approx(value, rel=5.1e-3)
    assert len(re.sub(r"e.*|\.|^0\.0*", "", text).strip("0")) <= 3


def test_numbers_in_words() -> None:
    assert significant(0.53244, "W/(m K)") == "0.532 W/(m K)"
    assert significant(1790.0) == "1790"
    assert significant(12345678.0) == "1.23e+07"
    assert significant(None, "W/(m K)") == NONE
    assert interval(0.8, 0.4, 1.5) == "0.8 (0.4 to 1.5)"
    assert percent(0.916) == "92 %"
    assert [hours(value) for value in (None, 0.1234, 21_453.2)] == [NONE, "0.123", "21,453"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary; install Debian's package chromium")
def test_browser_draws_every_figure(page: Path, tmp_path: Path) -> None:
    """On a telephone's width all figures are drawn, without an error, a request or a horizontal scroll bar."""
    listen = "<script>const problems = []; addEventListener('error', (e) => problems.push(e.message)); "
    listen += "addEventListener('securitypolicyviolation', (e) => problems.push(e.blockedURI));</script>"
    tell = "<script>addEventListener('load', () => setTimeout(() => parent.postMessage(JSON.stringify({ problems, "
    tell += "width: document.documentElement.scrollWidth, "
    tell += "drawn: document.querySelectorAll('.plot .main-svg:first-child').length }), '*'), 2000));</script>"
    watched = page.read_text().replace("<head>", f"<head>{listen}", 1)
    (tmp_path / "watched.html").write_text(f"{tell}</body>".join(watched.rsplit("</body>", 1)))
    (tmp_path / "phone.html").write_text(
        "<body><script>addEventListener('message', (e) => { document.body.dataset.told = e.data; });</script>"
        "<iframe src='watched.html' width='390' height='800' style='border:0'></iframe></body>"
    )
    dom = _chromium(tmp_path, "--dump-dom", (tmp_path / "phone.html").as_uri())
    match = re.search(r'data-told="([^"]*)"', dom)
    assert match, dom[-2000:]
    told = json.loads(match[1].replace("&quot;", '"'))
    assert told == {"problems": [], "width": 390, "drawn": 12}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary; install Debian's package chromium")
def test_screenshot(page: Path, tmp_path: Path) -> None:
    """A page of this size that is mostly blank makes a small picture."""
    picture = tmp_path / "report.png"
    _chromium(tmp_path, "--window-size=1280,4000", f"--screenshot={picture}", page.as_uri())
    assert picture.stat().st_size > 200_000


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.unclosed: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.ids: set[str] = set()
        self.style = self.policy = ""
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.references += [values[name] or "" for name in ("src", "href", "action") if name in values]
        self.ids |= {values["id"] or ""} if "id" in values else set()
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.unclosed[-1] if self.unclosed else ""
        if inside == "style":
            self.style += data
        elif inside != "script":
            self.words.append(data)


def _parse(text: str) -> _Page:
    parser = _Page()
    parser.feed(text)
    parser.close()
    return parser


def _visible(path: Path) -> str:
    """Text of a page as a reader sees it, with plain spaces."""
    return re.sub(r"\s+", " ", "".join(_parse(path.read_text()).words))


def _records(name: str, number: int) -> list[dict]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; it is development data beside the repository")
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(number), strict=False)]


def _create(directory: Path, records: list[dict], goal: str, batch: int = 6, scale: str = "auto") -> Campaign:
    text = f"""
[campaign]
name = "low and high"
goal = "{goal}"
scale = "{scale}"
batch = {batch}
budget = 40

[model]
members = 2
"""
    campaign = Campaign.create_from(directory, text)
    pool = directory / "pool.jsonl"
    pool.write_text("".join(json.dumps(record) + "\n" for record in records))
    campaign.ingest([str(pool)], workers=1)
    return campaign


def _label(campaign: Campaign, values: dict[str, float], **fields: str) -> None:
    for id_, value in values.items():
        campaign.record(id_, value, **fields)


def _chromium(folder: Path, *arguments: str) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=8000"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout
