"""``init approve pause resume leave``: what a hospital agrees to and takes part in."""

from __future__ import annotations

import argparse
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from client.approval import last_approved
from client.commands.start import LEFT_STATUS
from client.health import PAUSED_FILE
from client.site import read_site
from common.models import build_model
from common.plan import Plan, plan_to_json
from common.sharing import contract
from tests.support.hospitals import small_plan
from tests.support.mammo_client import (
    SETTINGS,
    client,
    command,
    make_hospital,
    write_settings,
)

PLAN = small_plan(sites=("north", "south"))


def content(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_init_makes_settings_and_keys_and_prints_the_public_one(
    tmp_path: Path,
) -> None:
    code, said = client(tmp_path, "init")
    public = (tmp_path / "keys" / "north.pub").read_text().strip()
    assert code == 0 and public in said
    assert set(content(tmp_path)) == {"site/north.yaml", "keys/north", "keys/north.pub"}
    assert read_site(tmp_path, "north").coordinator is None
    assert "PRIVATE" not in said


def test_a_second_init_changes_nothing(tmp_path: Path) -> None:
    first = client(tmp_path, "init")[1]
    before = content(tmp_path)
    code, said = client(tmp_path, "init")
    assert code == 0 and content(tmp_path) == before
    assert "were there; not changed" in said and "was there; not changed" in said
    assert said.split()[-1] == first.split()[-1]  # the public key again


def test_init_writes_a_lost_public_key_again(tmp_path: Path) -> None:
    client(tmp_path, "init")
    before = content(tmp_path)
    (tmp_path / "keys" / "north.pub").unlink()
    assert client(tmp_path, "init")[0] == 0
    assert content(tmp_path) == before


def test_flower_takes_the_key_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    client(tmp_path, "init")
    file = tmp_path / "keys" / "north"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o077 == 0
    given = argparse.Namespace(
        auth_supernode_private_key=str(file), auth_supernode_public_key=None
    )
    pair = _try_setup_client_authentication(given)
    assert pair is not None and isinstance(pair[0], ec.EllipticCurvePrivateKey)
    public = load_ssh_public_key(file.with_suffix(".pub").read_bytes())
    assert pair[1] == public


@pytest.mark.parametrize("name", ["North", "a/b", "../a", "a b", "1a", "_a", "é", ""])
def test_init_refuses_a_name_that_no_plan_can_have(tmp_path: Path, name: str) -> None:
    code, said = command("--config-dir", tmp_path, "--site", name, "init")
    assert code == 2 and "small letters" in said
    assert not content(tmp_path)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    return make_hospital(tmp_path, images=1)


def written(folder: Path, plan: Plan) -> Path:
    file = folder / f"{plan.hash[:8]}.json"
    file.write_bytes(plan_to_json(plan))
    return file


def approved(hospital: Path) -> Plan | None:
    return last_approved(read_site(hospital, "north").state_folder)


def test_a_plan_is_approved_by_a_person_who_says_yes(hospital: Path) -> None:
    file = written(hospital, PLAN)
    code, said = client(hospital, "approve", file, typed="n\n")
    assert code == 1 and "Approve this plan?" in said and approved(hospital) is None
    code, said = client(hospital, "approve", file, typed="y\n")
    assert code == 0 and f"Approved: {PLAN.hash}" in said
    assert approved(hospital) == PLAN


def test_who_decides_is_told_what_it_takes(hospital: Path) -> None:
    said = client(hospital, "approve", written(hospital, PLAN), typed="n\n")[1]
    assert "s per image; 3 rounds take this site not known before images" in said
    (stage,) = PLAN.stages
    rule = contract(build_model(stage.model, PLAN.seed), stage)
    sent = sum(4 * prod(spec.shape) for spec in rule.layout_of(rule.sent))
    messages = 2 * PLAN.rounds + 2  # back and forth in each round, two at the end
    assert f"and move {messages * sent / 1e6:.1f} MB" in said


def test_yes_spares_the_question_but_not_the_words(hospital: Path) -> None:
    code, said = client(hospital, "approve", "--yes", written(hospital, PLAN))
    assert code == 0 and "Approve this plan?" not in said
    for words in (
        "cancer_pathology >= 1 is positive",
        "travels: convolution weights",
        "stays at the site: BatchNorm scale and shift",
        "3 rounds",
        "Privacy: no differential privacy",
    ):
        assert words in said


def test_who_approves_without_prepared_images_is_told_what_to_type(
    hospital: Path,
) -> None:
    said = client(hospital, "approve", "--yes", written(hospital, PLAN))[1]
    assert "Not ready to train yet. No prepared images in" in said
    assert "mammo-client --site north prepare --plan" in said


def test_what_has_changed_since_the_last_plan_is_shown(hospital: Path) -> None:
    client(hospital, "approve", "--yes", written(hospital, PLAN))
    (stage,) = PLAN.stages
    longer = replace(PLAN, stages=(replace(stage, rounds=9, sharing="fedbn"),))
    code, said = client(hospital, "approve", written(hospital, longer), typed="y\n")
    assert code == 0 and f"approved last, {PLAN.hash[:12]}" in said
    assert "-Stage 1, adapt: 3 rounds" in said and "+Stage 1, adapt: 9 rounds" in said
    assert "+ travels: convolution weights, the classification head" in said
    assert "-Average" not in said and " Average: weighted by patients" in said
    assert approved(hospital) == longer


def test_the_same_plan_is_not_asked_about_again(hospital: Path) -> None:
    file = written(hospital, PLAN)
    client(hospital, "approve", "--yes", file)
    code, said = client(hospital, "approve", file)
    assert code == 0 and "approved already" in said


def test_a_site_that_is_not_in_the_roster_is_told_what_it_agrees_to(
    hospital: Path,
) -> None:
    other = small_plan(sites=("south", "east"))
    file = written(hospital, other)
    code, said = client(hospital, "approve", file, typed="n\n")
    assert code == 1 and approved(hospital) is None
    assert (
        "north is not in the roster (south, east): it takes no part in training, it "
        "may receive the shared part. Approve this plan?" in said
    )
    assert client(hospital, "approve", file, typed="y\n")[0] == 0
    assert approved(hospital) == other


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("targets: [birads]", "predicts cancer_pathology"),
        ("sharing: [fedbn]", "shares by fedbn_head"),
        ("maximum_rounds: 2", "has 3 rounds"),
        ("minimum_sites: 3", "goes on with 2 sites"),
        ("maximum_round: 9", "policy.yaml is not valid: maximum_round"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused(
    hospital: Path, policy: str, said: str
) -> None:
    (hospital / "policy.yaml").write_text(policy)
    code, told = client(hospital, "approve", "--yes", written(hospital, PLAN))
    assert code == 2 and said in told
    assert approved(hospital) is None


def test_a_file_that_is_no_plan_is_refused(hospital: Path) -> None:
    (hospital / "plan.json").write_text('{"id": "x"}')
    code, said = client(hospital, "approve", "--yes", hospital / "plan.json")
    assert code == 2 and "The plan is not valid" in said


def test_pause_lasts_until_resume(hospital: Path) -> None:
    flag = read_site(hospital, "north").state_folder / PAUSED_FILE
    assert client(hospital, "pause")[0] == 0 and flag.exists()
    assert client(hospital, "pause")[0] == 0
    assert client(hospital, "resume")[0] == 0 and not flag.exists()
    assert client(hospital, "resume")[0] == 0


def test_a_site_leaves_when_a_person_says_yes(hospital: Path) -> None:
    client(hospital, "approve", "--yes", written(hospital, PLAN))
    state = read_site(hospital, "north").state_folder
    before = content(state)
    code, said = client(hospital, "leave", typed="n\n")
    assert code == 1 and approved(hospital) == PLAN and content(state) == before
    assert f"nothing is deleted: {state}" in said and "Cannot be taken back" in said
    code, said = client(hospital, "leave", "--yes")
    assert code == 0 and approved(hospital) is None
    kept = {name for name in before if name != "approved.json"}
    assert content(state).keys() - {"left"} == kept
    code, said = client(hospital, "leave")
    assert code == 0 and "has left already" in said


def test_what_a_site_has_trained_is_named_when_it_leaves(hospital: Path) -> None:
    state = read_site(hospital, "north").state_folder
    folder = state / "run-1a2b" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "round-00004.safetensors").touch()
    said = client(hospital, "leave", "--yes")[1]
    assert "This site trained in: run-1a2b (rounds 1 to 4)." in said


def test_a_site_that_has_left_does_not_start_until_it_approves_a_plan(
    coordinated: Path,
) -> None:
    client(coordinated, "leave", "--yes")
    code, said = client(coordinated)
    assert code == LEFT_STATUS == 3
    assert "north has left the federation" in said and "approve PLAN" in said
    assert "has left the federation" in client(coordinated, "resume")[1]
    client(coordinated, "approve", "--yes", written(coordinated, PLAN))
    code, said = client(coordinated)
    assert code == 2 and "certificate" in said  # it goes on to what it needs next


@pytest.fixture
def coordinated(hospital: Path) -> Path:
    """A hospital whose settings name a coordinator, but no certificate is there."""
    coordinator = "{address: 'fl.example.org:443', certificates: ca.crt, key: key}"
    write_settings(hospital, f"{SETTINGS}coordinator: {coordinator}\n")
    return hospital
