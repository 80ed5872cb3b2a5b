"""Labels as the ensemble learns them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns.configuration import parse_configuration
from campaigns.exceptions import CampaignError
from campaigns.goals import Goal, Scale, default_scale, flaw
from campaigns.pool.labels import Moment, best_value, training_labels
from campaigns.round.manifest import RoundManifest
from db.records import CampaignRecord, LabelRecord, MaterialRecord
from db.store import Store
from engine.acquire.objectives import Objective

SETTINGS = parse_configuration('[campaign]\nname = "c"\ngoal = "min"', "settings")
PREFERRED = parse_configuration('[campaign]\nname = "c"\ngoal = "min"\n[labels]\nprefer = ["m1"]', "settings")
WRITES = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from(["m1", "m2"]),
        st.sampled_from(["dft", "agl"]), st.booleans(),
    ),
    max_size=8,
)  # fmt: skip


@given(WRITES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_labels_up_to_a_moment_are_those_of_that_moment(tmp_path_factory: Any, writes: list[tuple[Any, ...]]) -> None:
    """Whatever was corrected, withdrawn or added later: a killed round learns from what it began with."""
    path: Path = tmp_path_factory.mktemp("store") / "s.sqlite"
    with Store.open(path, create=True) as store:
        store.create_campaign(CampaignRecord("c", "min", "kappa_300K"))
        structure = {"lattice": [[5, 0, 0], [0, 5, 0], [0, 0, 5]], "numbers": [11], "frac_coords": [[0, 0, 0]]}
        store.add_materials(MaterialRecord(id_, id_, "NaCl", "Cl-Na", 225, 2, "b", structure) for id_ in "abc")
        moments = []
        for id_, value, method, fidelity, withdraw in writes:
            store.add_labels([LabelRecord(id_, "kappa_300K", value, "W/(m K)", fidelity, method=method)])
            moments.append((Moment.now(store), _now(store)))
            if withdraw and (labels := store.labels()):
                store.withdraw_labels([labels[0].id or 0], "somebody", "why not")
                moments.append((Moment.now(store), _now(store)))
        for moment, expected in moments:
            manifest = RoundManifest(labels_up_to=moment.labels, withdrawals_up_to=moment.withdrawals)
            kept = RoundManifest.model_validate(json.loads(json.dumps(manifest.to_json()))).moment
            assert tuple(_values(training_labels(store, s, kept)) for s in (SETTINGS, PREFERRED)) == expected


def test_rounds_begun_before_labels_could_be_withdrawn() -> None:
    assert RoundManifest(labels_up_to=7).moment == Moment(7, 0)


def _now(store: Store) -> tuple[dict[str, float], ...]:
    return tuple(_values(training_labels(store, settings)) for settings in (SETTINGS, PREFERRED))


def _values(labels: dict[str, LabelRecord]) -> dict[str, float]:
    return {id_: label.value for id_, label in labels.items()}


@given(st.lists(st.floats(1e-6, 1e6), min_size=1))
def test_scales_invert(values: list[float]) -> None:
    for name in ("log10", "linear"):
        np.testing.assert_allclose(Scale(name).true(Scale(name).learned(values)), values, rtol=1e-12)


def test_values_without_logarithm() -> None:
    with pytest.raises(CampaignError, match=r"-1 .*scale = 'linear'"):
        Scale("log10").learned([2.0, -1.0])
    assert Scale("linear").learned([2.0, -1.0]).tolist() == [2.0, -1.0]


@pytest.mark.parametrize(
    ("value", "scale", "words"),
    [
        (1.0, "log10", ""), (1, "log10", ""), (-1.0, "linear", ""), (0, "linear", ""), (0, "log10", "not above zero"),
        (-1.0, "log10", "not above zero"), (math.nan, "linear", "not finite"), (math.inf, "log10", "not finite"),
        (True, "linear", "not a number"), ("1", "linear", "not a number"), (None, "linear", "not a number"),
    ],
)  # fmt: skip
def test_flaws(value: object, scale: str, words: str) -> None:
    assert words in flaw(value, scale)
    assert bool(words) == bool(flaw(value, scale))


def test_best_and_default() -> None:
    labels = {x: LabelRecord(x, "p", v, "u", "dft") for x, v in (("a", 2.0), ("b", 1.0))}
    low, high = (Goal(Objective.of(name), Scale("log10")) for name in ("min", "max"))
    assert (best_value(labels, low), best_value(labels, high), best_value({}, low)) == (1.0, 2.0, None)
    assert (default_scale("kappa_agl_300K"), default_scale("band_gap")) == ("log10", "linear")
