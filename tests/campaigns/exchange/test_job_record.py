"""What a job recorded beside its results; damaged files add nothing."""

from __future__ import annotations

from pathlib import Path

from campaigns.exchange.job_record import job_record, relaxation_note


def test_files_of_a_job(tmp_path: Path) -> None:
    assert job_record(tmp_path) == {}
    (tmp_path / "POTCAR.titel").write_text("Na_pv abc PAW_PBE Na_pv 19Sep2006\nCl def \n\n")
    (tmp_path / "SPIN").write_text('{"spin": "none", "largest_moment": 0.001}\n')
    (tmp_path / "RELAXATION").write_text('{"restarts": 5, "last_steps": 3}\n')
    found = job_record(tmp_path)
    assert found["potcar"] == [
        {"name": "Na_pv", "sha256": "abc", "titel": "PAW_PBE Na_pv 19Sep2006"},
        {"name": "Cl", "sha256": "def", "titel": ""},
    ]
    assert found["spin"] == {"spin": "none", "largest_moment": 0.001}
    assert "3 ionic steps" in relaxation_note(found)
    for text in ("", "{", "[1]"):
        (tmp_path / "SPIN").write_text(text)
        assert "spin" not in job_record(tmp_path)


def test_a_relaxation_of_one_step_needs_no_note() -> None:
    for relaxation in ({}, {"restarts": 2, "last_steps": 1}, {"last_steps": "many"}):
        assert relaxation_note({"relaxation": relaxation}) == ""
