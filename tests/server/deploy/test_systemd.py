"""The unit files: what they start, and what they forbid it."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from server.deploy import proxy, superlink
from server.deploy.certificates import TlsFiles

UNITS = {
    path.name: path
    for path in (Path(proxy.__file__).parent / "systemd").iterdir()
    if path.suffix == ".service"
}
SUPERLINK, PROXY = "mammofed-superlink.service", "mammofed-proxy.service"
SITE = "mammofed-site@.service"
PROGRAMS = "/opt/mammofed/.venv/bin"


def service(name: str) -> configparser.SectionProxy:
    """Read a unit; a name given twice is an error."""
    unit = configparser.ConfigParser(interpolation=None, delimiters="=", strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNITS[name].read_text())
    return unit["Service"]


def words(value: str) -> list[str]:
    return shlex.split(value.replace("\\\n", " "))


def environment(name: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words(service(name)["Environment"]))


def test_there_are_three() -> None:
    assert set(UNITS) == {SUPERLINK, PROXY, SITE}


def test_the_superlink_is_started_as_everywhere_else() -> None:
    tls = Path("/etc/mammofed/tls")
    key = Path("${CREDENTIALS_DIRECTORY}/server.key")
    files = TlsFiles(tls / "ca.crt", tls / "server.crt", key)
    home = Path("/var/lib/mammofed-coordinator")
    expected = superlink.superlink_command(files, home / "superlink.db")
    assert words(service(SUPERLINK)["ExecStart"]) == [
        f"{PROGRAMS}/python",
        *expected[1:],
    ]


def test_the_superlink_is_alone_on_loopback() -> None:
    assert service(SUPERLINK)["IPAddressDeny"] == "any"
    assert service(SUPERLINK)["IPAddressAllow"] == "localhost"


def test_flower_gets_the_environment_it_gets_everywhere_else() -> None:
    found, folder = environment(SUPERLINK), service(SUPERLINK)["WorkingDirectory"]
    expected = superlink.flower_environment(Path(folder) / "flower")
    assert found.pop("PATH").split(":")[0] == PROGRAMS
    assert expected.pop("PATH")
    assert found == expected
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert folder == f"/var/lib/{service(SUPERLINK)['StateDirectory']}"


def test_a_hospital_calls_nobody_but_the_coordinator() -> None:
    found = environment(SITE)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_the_door_is_started_with_what_its_command_takes() -> None:
    command = words(service(PROXY)["ExecStart"])
    assert command[:3] == [f"{PROGRAMS}/python", "-m", proxy.__spec__.name]
    options = dict(zip(command[3::2], command[4::2], strict=True))
    upstream = f"https://{superlink.HOST}:{superlink.PORT}"
    assert options.pop("--upstream") == upstream
    assert options == {
        "--listen": "0.0.0.0:443",
        "--cert": "/etc/mammofed/tls/server.crt",
        "--key": "${CREDENTIALS_DIRECTORY}/server.key",
        "--upstream-ca": "/etc/mammofed/tls/ca.crt",
    }
    assert service(PROXY)["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"


def test_a_hospitals_unit_starts_its_node_again_and_again() -> None:
    unit = service(SITE)
    program, *options = words(unit["ExecStart"])
    assert program == f"{PROGRAMS}/mammo-client"
    assert options[:2] == ["--site", "%i"]
    assert unit["Restart"] == "always"
    # Of a site that has left, see `client.commands.start.LEFT_STATUS`.
    assert unit["RestartPreventExitStatus"] == unit["SuccessExitStatus"] == "3"
    # Each of them hides the GPU.
    assert not {"PrivateDevices", "ProtectClock", "DeviceAllow"} & set(unit)


@pytest.mark.parametrize("name", [SUPERLINK, PROXY])
def test_the_key_stays_roots(name: str) -> None:
    loaded = service(name)["LoadCredential"]
    assert loaded == "server.key:/etc/mammofed/tls/server.key"
    assert "/etc/mammofed/tls/server.key" not in service(name)["ExecStart"]


@pytest.mark.parametrize("name", sorted(UNITS))
def test_every_service_has_its_own_account_and_little_else(name: str) -> None:
    unit = service(name)
    account = unit.get("User") or unit.get("DynamicUser")
    expected = {SUPERLINK: "mammofed-coordinator", SITE: "mammofed", PROXY: "yes"}
    assert account == expected[name]
    assert unit["ProtectSystem"] == "strict"
    for setting in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID"):
        assert unit[setting] == "yes", setting
    assert unit["Restart"] == "always"
    assert unit["LimitCORE"] == "0"
    assert unit["UMask"] == "0077"


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """Units as they would be installed, with programs that exist."""
    for program in ("python", "mammo-client"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    units = []
    for name, path in UNITS.items():
        unit = tmp_path / name.replace("@", "@hctp")
        unit.write_text(path.read_text().replace(PROGRAMS, str(tmp_path)))
        units.append(str(unit))
    return units


def analyse(*words: str) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; the settings are tested above")
    command = ["systemd-analyze", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr or "Unknown command" in done.stderr:
        pytest.skip("this systemd-analyze is too old to look at files")
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong(installed: list[str]) -> None:
    assert analyse("verify", "--man=no", *installed) == ""


def test_systemd_finds_little_exposed(installed: list[str]) -> None:
    """Of 10: a service without settings has 9.6, and above 5 it is called exposed."""
    said = analyse("security", "--offline=yes", *installed)
    levels = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert len(levels) == len(UNITS)
    assert max(map(float, levels)) <= 2.5
