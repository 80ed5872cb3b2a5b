"""``campaign.toml``: every setting checked when it is read, every message in the file's own words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from campaigns.configuration import (
    Configuration,
    ObjectiveSection,
    campaign_toml,
    check_configuration,
    parse_configuration,
    read_configuration,
    with_settings,
)
from campaigns.configuration.constraints import PredictedRange, Range
from campaigns.configuration.machines import SlurmSection
from campaigns.exceptions import ConfigurationError
from engine.acquire.functions import FUNCTIONS
from engine.materials.elements import SYMBOLS
from tests.campaigns.helpers import done, refused, to_toml

LEAST_TEXT = "[campaign]\nname = 'c'\ngoal = 'min'\n"
LEAST: dict[str, dict[str, Any]] = {"campaign": {"name": "c", "goal": "min"}}
SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Configuration.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST_TEXT + "bacth = 3", "unknown key [campaign] bacth; did you mean 'batch'?"),
        (LEAST_TEXT + "[aquisition]", "unknown key [aquisition]; did you mean 'acquisition'?"),
        (LEAST_TEXT + "[model]\nbudget = 3", "unknown key [model] budget; it belongs to [campaign]"),
        (LEAST_TEXT + "zzz = 3", "unknown key [campaign] zzz; known here: name, goal, property"),
        (
            LEAST_TEXT + "[constraints.properties.band_gap_eV]\nmni = 1",
            "unknown key [constraints.properties.band_gap_eV] mni; did you mean 'min'?",
        ),
        ("[campaign]\nname = 'c'", "[campaign] goal is missing"),
        ("[model]\nmembers = 5", "[campaign] is missing"),
        ("[campaign]\nname = 'c'\ngoal = 'low'", "[campaign] goal = 'low': Input should be 'min', 'max', 'target' o"),
        ("[campaign]\nname = ''\ngoal = 'min'", "[campaign] name = '': String should have at least 1 character"),
        (LEAST_TEXT + "batch = '20'", "[campaign] batch = '20': Input should be a valid integer"),
        (LEAST_TEXT + "batch = true", "[campaign] batch = True: Input should be a valid integer"),
        (LEAST_TEXT + "batch = 0", "[campaign] batch = 0: Input should be greater than or equal"),
        (LEAST_TEXT + "seed = -1", "[campaign] seed = -1: Input should be greater than or equal"),
        (LEAST_TEXT + "hit = nan", "[campaign] hit = nan: Input should be a finite number"),
        (LEAST_TEXT + "hit = 0", "[campaign]: hit = 0 has no logarithm"),
        (LEAST_TEXT + "[model]\nmembers = 1", "[model] members = 1: Input should be greater"),
        (LEAST_TEXT + "[acquisition]\nfunction = 'qlogei'", "unknown acquisition function 'qlogei'; did you mean 'q"),
        (LEAST_TEXT + "[acquisition]\nbeta = 'grow'", "[acquisition] beta = 'grow': give a weight of the variance,"),
        (LEAST_TEXT + "[acquisition]\nfunction = 'level_set'", "[acquisition]: function 'level_set' learns where va"),
        (LEAST_TEXT + "[acquisition]\nthreshold = -1.0", "[acquisition] threshold = -1 has no logarithm"),
        (LEAST_TEXT + "[acquisition]\nportfolio = ['ucb', 'qLogNEHVI']", "qLogNEHVI cannot be part of a portfolio"),
        (LEAST_TEXT + "[acquisition]\nfunction = 'qUCB'\ndiversity = 'hallucinate'", "is for ucb and top_share"),
        (LEAST_TEXT + "[acquisition]\nfunction = 'random'\ndiversity = 'penalise'", "random is diverse by itself"),
        (LEAST_TEXT + "[acquisition]\nfirst_batch = 'estimate'", "needs first_batch_estimate = 'FIDELITY'"),
        (LEAST_TEXT + "[acquisition]\nfunction = 'qLogNEHVI'", "'qLogNEHVI' trades objectives off; give [[objective"),
        (LEAST_TEXT + "[[objectives]]\nproperty = 'g'\ngoal = 'min'", "are traded off by qLogNEHVI or qLogNParEGO,"),
        (LEAST_TEXT + "[[objectives]]\nproperty = 'g'\ngaol = 'min'", "[objectives.0] gaol; did you mean 'goal'?"),
        (LEAST_TEXT + "[[objectives]]\nproperty = 'g'\ngoal = 'window'", "[objectives.0]: goal = 'window' needs win"),
        (
            "acquisition.function = 'qLogNEHVI'\n" + LEAST_TEXT + "[[objectives]]\nproperty = 'kappa_300K'\ngoal='max'",
            "a property is an objective twice (kappa_300K, kappa_300K); keep one",
        ),
        (LEAST_TEXT.replace("min", "target"), "[campaign]: goal = 'target' needs target = VALUE"),
        (LEAST_TEXT + "target = 1.0", "target belongs to goal = 'target', and goal is 'min'"),
        (LEAST_TEXT.replace("min", "target") + "target = 0.0", "target 0 has no logarithm"),
        (LEAST_TEXT.replace("min", "window") + "window = [2, 1]", "window = [2, 1] is empty; give the lower end"),
        (
            LEAST_TEXT.replace("min", "window") + "window = [1, 2]\n[acquisition]\nfunction = 'GIBBON'",
            "[acquisition] function = 'GIBBON' is for goals min and max, not 'window'",
        ),
        (LEAST_TEXT + "[model]\nnetworks = 'ful'", "[model]: unknown strategy 'ful'"),
        (LEAST_TEXT + "[model]\nnetworks = 'frozen'", "[model] networks = 'frozen': give 'none' to train no network"),
        (
            LEAST_TEXT + "[model]\nprior = 'agl'\nlower_fidelity = 'agl'",
            "[model] prior and lower_fidelity are the same setting; keep lower_fidelity",
        ),
        (LEAST_TEXT + "[model]\nhead = 'network'", "[model]: head 'network' needs networks that are trained"),
        (LEAST_TEXT + "[model]\nhead = 'mlp'\nnetworks = 'full'", "[model]: head 'mlp' reads cached embeddings"),
        (LEAST_TEXT + "[stopping]\nbest_found = 2", "[stopping] best_found = 2: Input should be less than or equal"),
        (
            LEAST_TEXT + "[constraints]\nonly_elements = ['Mg']\nexclude_elements = ['Mg', 'Si']",
            "[constraints]: exclude_elements forbids all of only_elements",
        ),
        (LEAST_TEXT + "[constraints]\nmax_per_prototype = 0", "[constraints] max_per_prototype = 0: Input should be"),
        (
            LEAST_TEXT + "[constraints.predicted.gap]\nmodle = 'x'\nmin = 1",
            "unknown key [constraints.predicted.gap] modle; did you mean 'model'?",
        ),
        (
            LEAST_TEXT + "[constraints.predicted.gap]\nmodel = 'x'\nmin = 1\nmax = 1",
            "[constraints.predicted.gap]: no prediction is certain to be 1",
        ),
        (LEAST_TEXT + "[constraints]\nonly_elements = ['Xx']", "no element Xx; use symbols such as Mg"),
        (
            LEAST_TEXT + "[constraints.properties]\ng = { min = 3, max = 1 }",
            "[constraints.properties.g]: min 3 is above max 1",
        ),
        (LEAST_TEXT + "[constraints.properties]\ng = {}", "give min, max or both"),
        (LEAST_TEXT + "[labeler]\nkind = 'replay'", "[labeler]: kind 'replay' needs source"),
        (
            LEAST_TEXT + "unit = ''\n[labeler]\nkind = 'replay'\nsource = 'x'",
            "[campaign] unit is empty, and labeler 'replay' writes labels",
        ),
        (LEAST_TEXT + "[store]\ntimeout = 0", "[store] timeout = 0: Input should be greater than 0"),
        (
            LEAST_TEXT + "[execution]\nbackend = 'dask'\naddress = 'tcp://h:1'\nslurm = { cores = 2 }",
            "[execution]: address names one cluster and [execution.slurm] another",
        ),
        (
            LEAST_TEXT + "[execution]\nbackend = 'dask'\n[execution.slurm]\nque = 'short'",
            "unknown key [execution.slurm] que; did you mean 'queue'?",
        ),
        ("campaign = 3", "[campaign] = 3: "),
        ("[campaign\nname = 'c'", "TOML"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text, "here.toml")
    assert "here.toml" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:hush@host/db",
        "postgresql+psycopg://me@host/db?password=hush",
        "postgresql+psycopg://me@host/db?sslpassword=hush&application_name=x",
        "postgresql+psycopg://me:${A}hush@host/db",
    ],
)
def test_a_password_in_the_file_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"url.*password") as caught:
        check_configuration({**LEAST, "store": {"url": url}}, "x")
    assert "hush" not in str(caught.value)


def test_a_password_from_the_environment_is_let_through() -> None:
    for url in ("postgresql+psycopg://me:${PASSWORD}@host/db", "postgresql://me@/db?host=/run/x&password=${P}", ""):
        assert check_configuration({**LEAST, "store": {"url": url}}, "x").store.url == url


def test_execution_is_given_to_the_engine_and_no_part_of_a_round() -> None:
    slurm = {"queue": "short", "cores": 4, "job_script_prologue": ["module load python"]}
    given = {"backend": "dask", "workers": 8, "slurm": slurm, "timeout": 60.0}
    configuration = check_configuration({**LEAST, "execution": given}, "x")
    settings = configuration.execution.settings()
    assert (settings.backend, settings.workers, settings.address, settings.timeout) == ("dask", 8, "", 60.0)
    assert settings.slurm == slurm | {"memory": "4 GB", "walltime": "01:00:00"}
    assert "execution" not in configuration.model_dump()


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration("[campaign]\nname = 1\ngoal = 'up'\nbacth = 2\n[model]\nhaed = 'gp'", "x")
    assert all(word in str(caught.value) for word in ("name", "goal", "'batch'", "'head'"))


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="kappascout init"):
        read_configuration(tmp_path / "campaign.toml")
    (tmp_path / "campaign.toml").write_bytes(b"\xff\xfe[campaign]")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_configuration(tmp_path / "campaign.toml")
    assert "make a campaign with `kappascout init" in refused("status", tmp_path / "nowhere")


def _switched_on(text: str) -> dict[str, Any]:
    """The template with every key that is off switched on."""
    return tomllib.loads(re.sub(r"(?m)^#  ?(?=[\w-]+ = |\[)", "", text))


def test_a_new_file_has_the_defaults() -> None:
    """What is written is the default, and so is what is off, but for keys that have none and show an example."""
    text = campaign_toml(LEAST)
    assert parse_configuration(text, "template") == Configuration(**LEAST)  # type: ignore[arg-type]
    shown = _switched_on(text)
    compared = []
    for name, section in SECTIONS.items():
        for key, field in section.model_fields.items():
            default = (
                None
                if field.is_required()
                else field.get_default(call_default_factory=True, validated_data=shown[name])
            )
            if default not in (None, "", (), {}) and key != "slurm":
                given = tuple(shown[name][key]) if isinstance(default, tuple) else shown[name][key]
                assert given == default, f"[{name}] {key}"
                compared.append(name)
    assert set(compared) >= {"campaign", "model", "acquisition", "stopping", "labels", "labeler", "dft"}


def test_every_key_is_named_in_a_new_file_and_valid() -> None:
    shown = _switched_on(campaign_toml(LEAST))
    assert list(shown) == list(Configuration.model_fields)
    assert set(shown["objectives"][0]) == set(ObjectiveSection.model_fields)
    assert set(shown["execution"]["slurm"]) == set(SlurmSection.model_fields)
    assert set(shown["constraints"]["predicted"]["band_gap_eV"]) == set(PredictedRange.model_fields) - {"max"}
    assert set(shown["labels"]["limits"]["kappa_300K"]) == set(Range.model_fields)
    assert shown["labeler"].pop("agl")  # of the key fidelities
    for name, section in SECTIONS.items():
        assert set(shown[name]) == set(section.model_fields) - ({"fidelities"} if name == "labeler" else set())
    del shown["acquisition"]["fidelities"], shown["costs"]["agl"]  # not with several objectives
    for section in (shown["campaign"], shown["objectives"][0]):  # those of other goals
        del section["target"]
    del shown["campaign"]["window"]
    shown["acquisition"]["function"] = "qLogNEHVI"
    check_configuration(shown, "template")


def test_every_choice_is_explained_in_a_new_file() -> None:
    text = campaign_toml(LEAST)
    for name, section in SECTIONS.items():
        for key, field in section.model_fields.items():
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            for choice in choices:
                assert str(choice) in (field.description or ""), f"[{name}] {key}: {choice}"
    for function in FUNCTIONS:
        assert f" {function}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_file_changed_keeps_its_comments() -> None:
    text = campaign_toml(LEAST | {"labeler": {"kind": "replay", "source": "reference"}})
    changed = with_settings(text, {"labeler": {"kind": "dft", "source": None}, "campaign": {"batch": 7}})
    lines = {tuple(pair) for pair in zip(text.splitlines(), changed.splitlines(), strict=False) if pair[0] != pair[1]}
    assert (
        "batch = 20                    # Materials queued in a round.",
        "batch = 7                    # Materials queued in a round.",
    ) in lines
    read = parse_configuration(changed, "here")
    assert (read.labeler.kind, read.labeler.source, read.campaign.batch) == ("dft", "", 7)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)


@given(name=TEXT, property=TEXT)
def test_any_name_makes_a_valid_file(name: str, property: str) -> None:
    """Names with quotes, backslashes or braces are text like any other."""
    text = campaign_toml({"campaign": {"name": name, "property": property, "goal": "max", "unit": "W"}})
    read = parse_configuration(text, "template").campaign
    assert (read.name, read.property) == (name, property)


RANGES = st.tuples(st.floats(-9, 9), st.floats(0, 9)).map(lambda t: {"min": t[0], "max": t[0] + t[1]})
SETTINGS = st.fixed_dictionaries(
    {
        "campaign": st.fixed_dictionaries(
            {"name": TEXT, "goal": st.sampled_from(["min", "max"])},
            optional={
                "property": TEXT,
                "unit": TEXT,
                "scale": st.sampled_from(["auto", "log10", "linear"]),
                "batch": st.integers(1, 10**6),
                "budget": st.integers(1, 10**6),
                "hit": st.floats(1e-6, 1e6),
                "seed": st.integers(0, 2**32),
            },
        ),
        "constraints": st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(TEXT, RANGES, max_size=3),
                "missing": st.sampled_from(["keep", "drop"]),
                "exclude_elements": st.lists(st.sampled_from(SYMBOLS[1:104]), max_size=4),
                "max_sites": st.integers(1, 500),
            },
        ),
    }
)


@given(SETTINGS)
def test_settings_survive_the_file_and_the_manifest(settings: dict[str, dict[str, Any]]) -> None:
    read = parse_configuration(to_toml(settings), "file")
    for section, keys in settings.items():
        for key, value in keys.items():
            kept = getattr(getattr(read, section), key)
            assert (list(kept) if isinstance(kept, tuple) else _plain(kept)) == value
    assert check_configuration(read.model_dump(mode="json"), "manifest") == read


def _plain(value: Any) -> Any:
    return {k: v.model_dump() for k, v in value.items()} if isinstance(value, dict) else value


def test_init_makes_what_it_says(tmp_path: Path) -> None:
    assert "`kappascout ingest" in done("init", tmp_path / "c", "--cold").err
    assert "campaign.toml exists already" in refused("init", tmp_path / "c")
    told = done("init", tmp_path / "g", "--cold", "--goal", "max", "--property", "bulk modulus")
    assert "unit of bulk modulus" in told.err
    made = read_configuration(tmp_path / "g" / "campaign.toml").campaign
    assert (made.name, made.goal, made.property, made.learned_scale) == ("g", "max", "bulk modulus", "linear")
    assert "no template 'none'; there are: default" in refused("init", tmp_path / "t", "--template", "none")
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("init", tmp_path / "file" / "c")


def test_init_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    """``campaign.toml`` is written last; a store without it is taken up."""
    done("init", tmp_path / "c", "--cold")
    (tmp_path / "c" / "campaign.toml").unlink()
    done("init", tmp_path / "c", "--cold")
    assert done("status", tmp_path / "c", "--format", "json").json["materials"] == 0
