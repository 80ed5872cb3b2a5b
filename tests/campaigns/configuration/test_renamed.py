"""Keys of 0.1.0: read with a warning, silently in manifests, and rewritten with every comment kept."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from campaigns.configuration import check_configuration, parse_configuration
from campaigns.configuration.renamed import RENAMINGS, current_names, upgraded
from campaigns.exceptions import ConfigurationError, RenamedSettingWarning
from tests.campaigns.helpers import done, refused

OLD = """\
# mine
[campaign]
name = "c"
goal = "min"

[model]
strategy = "frozen"           # heads on cached embeddings
members = 4
prior = "agl"                 # the cheap one
# prior = ""                  # off

[acquisition]
first_batch = "prior" # no room
"prior" = 'agl'
first_pass = 0.05             # prior of a round; first_pass of it
  # first_batch = "prior"     # off
"""
NEW = """\
# mine
[campaign]
name = "c"
goal = "min"

[model]
networks = "none"             # heads on cached embeddings
members = 4
lower_fidelity = "agl"        # the cheap one
# lower_fidelity = ""         # off

[acquisition]
first_batch = "estimate" # no room
"first_batch_estimate" = "agl"
prefilter = 0.05              # prior of a round; first_pass of it
  # first_batch = "estimate"  # off
"""
LEAST = {"campaign": {"name": "c", "goal": "min"}}


def test_old_keys_are_read_and_named_in_a_warning() -> None:
    with pytest.warns(RenamedSettingWarning) as caught:
        read = parse_configuration(OLD, "here.toml")
    text = str(caught[0].message)
    assert text.startswith('here.toml: [model] strategy = "frozen" is now networks = "none"; ')
    assert all(renaming.new in text for renaming in RENAMINGS)
    assert "0.3.0" in text
    assert read == parse_configuration(NEW, "there.toml")
    assert (read.model.networks, read.model.lower_fidelity, read.lower_fidelities) == ("none", "agl", ("agl",))
    assert (read.acquisition.first_batch, read.acquisition.first_batch_estimate) == ("estimate", "agl")
    assert read.acquisition.prefilter == 0.05


def test_other_strategies_are_networks_of_the_same_name() -> None:
    with pytest.warns(RenamedSettingWarning, match=r"\[model\] strategy is now networks"):
        read = parse_configuration('[campaign]\nname = "c"\ngoal = "min"\n[model]\nstrategy = "blocks:1"', "here.toml")
    assert (read.model.networks, read.model.strategy) == ("blocks:1", "blocks:1")


def test_manifests_of_older_rounds_are_read_silently() -> None:
    settings = tomllib.loads(OLD)
    assert check_configuration(settings, "manifest of round 1") == check_configuration(tomllib.loads(NEW), "now")


def test_an_upgrade_keeps_comments_order_and_layout() -> None:
    new, changes = upgraded(OLD, "here.toml")
    assert new == NEW
    assert len(changes) == len(RENAMINGS)
    assert upgraded(NEW, "here.toml") == (NEW, [])


@pytest.mark.parametrize(
    "text",
    [
        'model = { "strategy" = "frozen", prior = "agl" }\n',
        'acquisition.first_batch = "prior"\nacquisition.prior = "agl"\nmodel.members = 3\n',
        '[model]\r\nstrategy="full"\r\n[acquisition]\r\nprior = """agl"""\r\n',
        '[acquisition]\nportfolio = ["ucb"]\n[model]\nprior = "agl" # x\n[acquisition.x]\nprior = "no key of ours"\n',
    ],
)
def test_however_the_file_is_written(text: str) -> None:
    new, changes = upgraded(text, "here.toml")
    assert changes
    assert tomllib.loads(new) == current_names(tomllib.loads(text), "here.toml")[0]


def test_a_setting_under_both_names_is_refused() -> None:
    data: dict[str, Any] = LEAST | {"acquisition": {"first_pass": 0.1, "prefilter": 0.1}}
    with pytest.raises(ConfigurationError) as caught:
        check_configuration(data, "here.toml")
    assert "here.toml: [acquisition] first_pass and prefilter " in str(caught.value)


def test_the_command_rewrites_a_file_once(tmp_path: Path) -> None:
    done("init", tmp_path / "c", "--cold")
    path = tmp_path / "c" / "campaign.toml"
    path.write_text(OLD)
    told = done("config", "upgrade", tmp_path / "c").err
    assert "[acquisition] first_pass is now prefilter" in told
    assert (path.read_text(), path.with_name("campaign.toml.old").read_text()) == (NEW, OLD)
    path.with_name("campaign.toml.old").unlink()
    assert done("config", "upgrade", tmp_path / "c").err == f"{path} is up to date\n"
    assert path.read_text() == NEW
    assert not path.with_name("campaign.toml.old").exists()


def test_a_command_tells_of_old_keys_in_one_line(tmp_path: Path) -> None:
    done("init", tmp_path / "c", "--cold")
    (tmp_path / "c" / "campaign.toml").write_text(OLD)
    told = done("status", tmp_path / "c", "--format", "json")
    assert told.json["materials"] == 0
    assert told.err.startswith("warning: ")
    assert told.err.count("\n") == 1
    assert "`kappascout config upgrade DIR`" in told.err


def test_a_file_that_cannot_be_upgraded(tmp_path: Path) -> None:
    assert "make a campaign with `kappascout init" in refused("config", "upgrade", tmp_path)
    (tmp_path / "campaign.toml").write_text("[model\nprior = 1")
    assert "TOML" in refused("config", "upgrade", tmp_path)
    (tmp_path / "campaign.toml").write_text("[model]\nprior = 'a'\nlower_fidelity = 'b'\n")
    assert "lower_fidelity" in refused("config", "upgrade", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["campaign.toml"]


def test_every_setting_is_listed(tmp_path: Path) -> None:
    done("init", tmp_path / "c", "--cold", "--goal", "max")
    rows = {(r["section"], r["key"]): r for r in done("config", "show", tmp_path / "c", "--format", "json").json}
    assert (rows["campaign", "goal"]["value"], rows["campaign", "goal"]["is_default"]) == ("max", False)
    changed = {("campaign", "name"), ("campaign", "goal"), ("dft", "preset")}
    assert {key for key, row in rows.items() if not row["is_default"]} == changed
    assert rows["dft", "temperatures"]["default"] == [300.0]
    assert all(row["meaning"] for row in rows.values() if row["key"])
    table = done("config", "show", tmp_path / "c").out
    assert '"megnet-multiproperty"' in table
