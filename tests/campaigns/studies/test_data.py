"""Data found by name, random splits, and starts that have seen the answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.exceptions import CampaignError
from campaigns.studies.data import SOURCES, check_unseen, random_splits, read_sources
from tests.engine.learning.bodies import small_backbone


@given(st.integers(10, 300), st.integers(1, 4))
def test_splits_part_the_rows(n_rows, n_splits):
    splits = list(random_splits(n_rows, n_splits))
    assert len(splits) == n_splits
    for training, test in splits:
        assert sorted([*training, *test]) == list(range(n_rows))
        assert len(test) == round(0.2 * n_rows)


def test_missing_data_is_named_at_once(tmp_path):
    (tmp_path / "ltc_l96.jsonl").write_text(json.dumps({"id": "a"}) + "\n")
    with pytest.raises(CampaignError, match=r"lacks aflow_agl.*kappa_agl_300K_W_mK.*ltc_hh143") as error:
        read_sources(tmp_path, ("agl", "L96", "HH143"), lambda _: None)
    assert "ltc_l96" not in str(error.value)
    with pytest.raises(CampaignError, match="no folder"):
        read_sources(tmp_path / "none", ("agl",), lambda _: None)


def test_records_without_the_field(shared, studies_data):
    (studies_data / "ltc_l96.jsonl").write_text((studies_data / "ltc_hh143.jsonl").read_text().replace("kappa", "k"))
    with pytest.raises(CampaignError, match="no crystal with kappa_300K_W_mK"):
        read_sources(studies_data, ("L96",), lambda _: None)


def test_a_start_that_has_seen_the_answers_by_another_name(studies_data):
    """A campaign calls ``kappa_300K`` what the files call ``kappa_300K_W_mK``; AGL is another quantity."""
    materials = read_sources(studies_data, ("L96",), lambda _: None)["L96"]

    def backbone(name):
        return replace(small_backbone("MEGNet"), card={"seen": {name: [materials[3].content_hash[:12]]}})

    check_unseen(backbone("kappa_agl_300K_W_mK"), materials, SOURCES["L96"])
    with pytest.raises(CampaignError, match=r"has seen kappa_300K_W_mK of 1 crystals .*told its answers"):
        check_unseen(backbone("kappa_300K"), materials, SOURCES["L96"])
