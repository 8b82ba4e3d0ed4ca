"""What is done to an audit log is found, by itself or beside the other end's log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from common import audit
from common.audit import LOG_FILE, AuditError, AuditLog, open_log
from common.audit_check import read_log, verify
from common.audit_compare import report, verify_against
from common.canonical import canonical_json, sha256_hex
from common.keys import public_text, read_public
from common.lock import FolderBusyError

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP384R1())
ROOT = Path(__file__).parents[2]


def write(folder: Path, *events: dict[str, Any]) -> Path:
    """Append to a site's log."""
    with open_log(folder, KEY, "site", "north") as log:
        for event in events:
            log.append(event)
    return folder / LOG_FILE


def five_lines(folder: Path) -> Path:
    return write(folder, *({"did": "asked", "round": number} for number in range(4)))


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_line_is_canonical_signed_and_holds_the_hash_of_the_last(
    tmp_path: Path,
) -> None:
    path = five_lines(tmp_path)
    before = b""
    for number, line in enumerate(lines_of(path), start=1):
        entry = json.loads(line)
        assert canonical_json(entry) + b"\n" == line
        assert entry["number"] == number
        assert entry["previous"] == (sha256_hex(before[:-1]) if before else "")
        assert entry["time"].endswith("+00:00")
        assert audit.is_signed(entry, KEY.public_key())
        assert not audit.is_signed(entry, OTHER.public_key())
        before = line
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify(path, public_text(KEY)) == verify(path) == []


def test_the_head_is_the_hash_of_the_last_line_also_after_a_restart(
    tmp_path: Path,
) -> None:
    with open_log(tmp_path, KEY, "site", "north") as log:
        head = log.append({"did": "asked"})
        assert head == log.head
    assert head == sha256_hex(lines_of(tmp_path / LOG_FILE)[-1][:-1])
    with open_log(tmp_path, KEY, "site", "north") as log:
        assert log.head == head
        log.append({"did": "answered"})
    assert len(lines_of(tmp_path / LOG_FILE)) == 3
    assert not verify(tmp_path / LOG_FILE, public_text(KEY))


def edit(lines: list[bytes]) -> list[bytes]:
    lines[2] = lines[2].replace(b'"round":1', b'"round":7')
    return lines


def edit_the_time(lines: list[bytes]) -> list[bytes]:
    entry = json.loads(lines[2])
    lines[2] = canonical_json(entry | {"time": "2020" + entry["time"][4:]}) + b"\n"
    return lines


def spoil(lines: list[bytes]) -> list[bytes]:
    lines[2] = b" " + lines[2]
    return lines


def remove(lines: list[bytes]) -> list[bytes]:
    return lines[:2] + lines[3:]


def remove_the_first(lines: list[bytes]) -> list[bytes]:
    return lines[1:]


def swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1], lines[3], lines[2], lines[4]]


def repeat(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], *lines[2:]]


def sign_anew(lines: list[bytes]) -> list[bytes]:
    """Put in the place of a line what somebody else signed."""
    entry = json.loads(lines[4])
    lines[4] = audit.signed_line(OTHER, 5, entry["previous"], entry["event"])
    return lines


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (edit, "Line 3 was changed"),
        (edit_the_time, "Line 3 was changed"),
        (spoil, "Line 3 is no entry"),
        (remove, "Line 3 does not follow"),
        (remove_the_first, "The first line is missing"),
        (swap, "Line 3 does not follow"),
        (repeat, "Line 4 does not follow"),
        (sign_anew, "Line 5 was changed, or signed with another key"),
    ],
)
def test_a_change_shows_in_the_log_itself(
    change: Callable[[list[bytes]], list[bytes]], found: str, tmp_path: Path
) -> None:
    path = five_lines(tmp_path)
    path.write_bytes(b"".join(change(lines_of(path))))
    assert any(finding.startswith(found) for finding in verify(path, public_text(KEY)))
    assert verify(path)


def test_a_change_survives_no_restart_unseen(tmp_path: Path) -> None:
    path = five_lines(tmp_path)
    path.write_bytes(b"".join(edit(lines_of(path))))
    write(tmp_path, {"did": "asked"})
    assert any("Line 3 was changed" in finding for finding in verify(path))


def test_a_log_of_another_key_is_not_the_owners(tmp_path: Path) -> None:
    path = five_lines(tmp_path)
    findings = verify(path, public_text(OTHER))
    assert "another key than its owner's" in findings[0]
    assert "No line is signed" in findings[1]


def test_a_log_is_not_continued_with_another_key(tmp_path: Path) -> None:
    path = five_lines(tmp_path)
    before = path.read_bytes()
    with (
        pytest.raises(AuditError, match="another key"),
        open_log(tmp_path, OTHER, "site", "north"),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [1, 100, -1])
def test_a_torn_line_is_set_apart_and_the_next_line_says_so(
    left: int, tmp_path: Path
) -> None:
    path = five_lines(tmp_path)
    *whole, last = lines_of(path)
    torn = last[:left]
    path.write_bytes(b"".join(whole) + torn)
    assert any("not finished" in finding for finding in verify(path))
    write(tmp_path, {"did": "asked"})
    assert lines_of(path)[:4] == whole
    healed = read_log(path).lines[4].event
    assert healed == {"did": "healed", "torn": sha256_hex(torn), "bytes": len(torn)}
    assert (tmp_path / f"torn-{sha256_hex(torn)[:16]}").read_bytes() == torn
    assert not verify(path, public_text(KEY))


def test_a_first_line_that_is_torn_begins_the_log_again(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(b'{"event":{"did":"beg')
    path = write(tmp_path)
    told = [line.event["did"] for line in read_log(path).lines]
    assert told == ["began", "healed"]
    assert not verify(path, public_text(KEY))


def test_what_cannot_be_written_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.write

    def full(file: int, content: bytes) -> int:
        return original(file, content[:20])

    with open_log(tmp_path, KEY, "site", "north") as log:
        head = log.append({"did": "asked"})
        monkeypatch.setattr(audit.os, "write", full)
        with pytest.raises(OSError, match="No space"):
            log.append({"did": "answered"})
        assert log.head == head
        monkeypatch.undo()
        log.append({"did": "answered"})
    assert not verify(tmp_path / LOG_FILE)
    assert [line.event["did"] for line in read_log(tmp_path / LOG_FILE).lines] == [
        "began",
        "asked",
        "answered",
    ]


def test_a_head_is_returned_only_once_the_line_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / LOG_FILE
    flushed: list[bytes] = []
    original = os.fsync

    def fsync(file: int) -> None:
        original(file)
        flushed.append(path.read_bytes())

    with open_log(tmp_path, KEY, "site", "north") as log:
        monkeypatch.setattr(audit.os, "fsync", fsync)
        head = log.append({"did": "asked"})
    assert sha256_hex(flushed[-1][:-1].split(b"\n")[-1]) == head


def test_a_second_writer_is_refused_and_a_killed_one_is_none(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "from common.audit import open_log\n"
        "with open_log(Path(sys.argv[2]), ec.generate_private_key(ec.SECP256R1()),"
        " 'site', 'north') as log:\n"
        "    print('open', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"open\n"
    with pytest.raises(FolderBusyError):
        write(tmp_path, {"did": "asked"})
    other.kill()
    other.wait()
    other.stdout.close()
    with pytest.raises(AuditError, match="another key"):
        write(tmp_path, {"did": "asked"})


class Pair:
    """A site and the coordinator, who exchange messages as the real ones do."""

    def __init__(self, site: AuditLog, coordinator: AuditLog, name: str) -> None:
        self.site, self.coordinator, self.name = site, coordinator, name

    def ask(self, round_: int, *, lost: bool = False, **changed: Any) -> None:
        """Exchange question and answer; ``changed`` is what reached the site."""
        asked = {"run": "r", "round": round_, "weights": f"w{round_}"}
        head = self.coordinator.append({"did": "asked", "site": self.name, **asked})
        if lost:
            return
        heard = asked | changed
        self.site.append({"did": "asked", "head": head, "site": self.name, **heard})
        sent = {"did": "answered", "site": self.name, "run": "r", "round": round_}
        head = self.site.append(sent)
        self.coordinator.append(sent | {"head": head})


@contextmanager
def pair(folder: Path, name: str = "north") -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(
            stack.enter_context(open_log(folder / name, KEY, "site", name)),
            stack.enter_context(
                open_log(folder / "hub", OTHER, "coordinator", "coordinator")
            ),
            name,
        )


def both(folder: Path, rounds: int = 4) -> tuple[Path, Path]:
    with pair(folder) as logs:
        for round_ in range(rounds):
            logs.ask(round_)
    return folder / "north" / LOG_FILE, folder / "hub" / LOG_FILE


def test_two_whole_logs_agree_whichever_is_ones_own(tmp_path: Path) -> None:
    site, hub = both(tmp_path)
    for one, other in ((site, hub), (hub, site)):
        compared = verify_against(one, other)
        assert compared.findings == []
        assert compared.compared == 8
    assert report(site, public_text(KEY), hub)[1]
    assert report(hub, public_text(OTHER), site)[1]


@pytest.mark.parametrize("of", ["north", "hub"])
def test_an_end_that_was_cut_off_shows_beside_the_other_log(
    of: str, tmp_path: Path
) -> None:
    site, hub = both(tmp_path)
    cut = tmp_path / of / LOG_FILE
    cut.write_bytes(b"".join(lines_of(cut)[:-2]))
    assert not verify(cut), "alone it cannot show"
    findings = verify_against(site, hub).findings
    assert len(findings) == 1 and "The last heads (1)" in findings[0]
    assert "was cut off" in findings[0]


def rewrite(path: Path, key: ec.EllipticCurvePrivateKey, start: int) -> None:
    """Sign all lines from one on anew, as only the owner can, with nothing changed."""
    kept, changed = lines_of(path)[:start], lines_of(path)[start:]
    for line in changed:
        previous = sha256_hex(kept[-1][:-1]) if kept else ""
        event = json.loads(line)["event"]
        kept.append(audit.signed_line(key, len(kept) + 1, previous, event))
    path.write_bytes(b"".join(kept))


@pytest.mark.parametrize(
    ("of", "key"), [("north", KEY), ("hub", OTHER)], ids=["site", "coordinator"]
)
@pytest.mark.parametrize(("start", "how"), [(0, "all of it"), (4, "written anew from")])
def test_a_log_that_its_owner_wrote_anew_shows_beside_the_other_log(
    of: str,
    key: ec.EllipticCurvePrivateKey,
    start: int,
    how: str,
    tmp_path: Path,
) -> None:
    site, hub = both(tmp_path)
    rewrite(tmp_path / of / LOG_FILE, key, start)
    assert not verify(tmp_path / of / LOG_FILE, public_text(key)), "alone it is whole"
    findings = verify_against(site, hub).findings
    assert len(findings) == 1 and how in findings[0]


def test_messages_after_a_rewriting_do_not_hide_it(tmp_path: Path) -> None:
    site, hub = both(tmp_path)
    rewrite(site, KEY, 3)
    with pair(tmp_path) as logs:
        logs.ask(9)
    assert not verify(site, public_text(KEY))
    findings = verify_against(hub, site).findings
    assert len(findings) == 1 and "changed or removed there" in findings[0]


def test_two_stories_of_one_message_show(tmp_path: Path) -> None:
    with pair(tmp_path) as logs:
        logs.ask(1)
        logs.ask(2, weights="other")
    site, hub = tmp_path / "north" / LOG_FILE, tmp_path / "hub" / LOG_FILE
    assert not verify(site) and not verify(hub)
    findings = verify_against(site, hub).findings
    assert len(findings) == 1 and findings[0].endswith("differ in weights.")


def test_a_message_without_a_head_is_told(tmp_path: Path) -> None:
    with pair(tmp_path) as logs:
        logs.ask(1)
        logs.ask(2, head="")
    compared = verify_against(
        tmp_path / "north" / LOG_FILE, tmp_path / "hub" / LOG_FILE
    )
    assert len(compared.findings) == 1 and "without a head" in compared.findings[0]


def test_questions_that_were_lost_or_came_in_another_order_are_no_finding(
    tmp_path: Path,
) -> None:
    with pair(tmp_path) as logs:
        logs.ask(1, lost=True)
        logs.ask(1)
        told = {"run": "r", "round": 2, "site": "north", "weights": "w2"}
        heads = [logs.coordinator.append({"did": "asked", **told}) for _ in range(2)]
        for head in reversed(heads):
            logs.site.append({"did": "asked", "head": head, **told})
    site, hub = tmp_path / "north" / LOG_FILE, tmp_path / "hub" / LOG_FILE
    assert verify_against(site, hub).findings == []


def test_runs_that_only_the_site_knows_are_named(tmp_path: Path) -> None:
    """The coordinator may have them in another log, or have cut them off here."""
    site, hub = both(tmp_path)
    with open_log(tmp_path / "north", KEY, "site", "north") as log:
        log.append({"did": "asked", "run": "hidden", "head": "0" * 64})
    compared = verify_against(site, hub)
    assert (compared.findings, compared.left) == ([], ("hidden",))
    said, _ = report(site, public_text(KEY), hub)
    assert "Not in that log, so not compared: hidden" in said


def test_the_log_of_another_run_is_not_mistaken_for_agreement(tmp_path: Path) -> None:
    site, _ = both(tmp_path)
    with open_log(tmp_path / "new", OTHER, "coordinator", "coordinator") as hub:
        hub.append({"did": "asked", "site": "north", "run": "another"})
    compared = verify_against(site, tmp_path / "new" / LOG_FILE)
    assert "no message in common" in compared.findings[0]


def test_sites_see_whether_they_received_the_same_weights(tmp_path: Path) -> None:
    for name, weights in (("north", "w2"), ("south", "w2"), ("east", "other")):
        with pair(tmp_path / name, name) as logs:
            logs.ask(1)
            logs.ask(2, kind="train", weights=weights)
    north, south, east = (
        tmp_path / name / name / LOG_FILE for name in ("north", "south", "east")
    )
    same = verify_against(north, south)
    assert same.findings == [] and (same.compared, same.unit) == (2, "rounds")
    assert verify_against(north, east).findings == [
        "Run r, train, round 2: north received the weights w2, east other."
    ]


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"[" * 9000 + b"\n", b"\0"])
def test_a_hostile_file_is_a_finding_and_no_crash(
    content: bytes, tmp_path: Path
) -> None:
    site, _ = both(tmp_path)
    peer = tmp_path / "peer"
    peer.write_bytes(content)
    said, well = report(site, public_text(KEY), peer)
    assert not well
    assert "does not begin" in said[0]


def test_words_of_a_peer_cannot_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    with open_log(tmp_path / "evil", OTHER, "coordinator", "x") as log:
        log.append({"did": "asked", "run": ["r", {}], "site": "\x1b[2J", "head": 3})
    site, _ = both(tmp_path)
    path = tmp_path / "evil" / LOG_FILE
    first = audit.signed_line(
        OTHER, 1, "", {"did": "began", "role": "site", "name": "\x1b[2J", "key": "\x1b"}
    )
    for content in (path.read_bytes(), first):
        path.write_bytes(content)
        said, well = report(site, public_text(KEY), path)
        assert not well and "\x1b" not in "".join(said)


def test_a_missing_log_is_a_finding(tmp_path: Path) -> None:
    said, well = report(tmp_path / "log.jsonl", public_text(KEY), None)
    assert not well and "There is no audit log" in said[0]


def test_a_public_key_is_read_as_it_was_written() -> None:
    assert public_text(KEY).startswith("ecdsa-sha2-nistp256 ")
    numbers = read_public(public_text(KEY)).public_numbers()
    assert numbers == KEY.public_key().public_numbers()
