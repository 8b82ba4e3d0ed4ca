"""The shared part of a finished plan, as a site keeps it that did not train."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.atomic import write_atomic
from common.checkpoint import CheckpointError, write_tensors
from common.parts import PARTS
from common.plan_words import PART_WORDS
from common.records import Code, Refusal

_TENSORS, _INFO, _CARD = "shared.safetensors", "shared.json", "SHARED_PART.md"


@dataclass(frozen=True)
class SharedPart:
    """What is needed to know what was received, and what it lacks.

    Attributes
    ----------
    sharing : preset, or four letters
    missing : parts that a model needs besides, see `common.parts`
    tensors : hash of what was received
    """

    plan: str
    plan_hash: str
    run: str
    round: int
    sharing: str
    missing: tuple[str, ...]
    tensors: str


def write_shared_part(
    state: Path, tensors: Mapping[str, np.ndarray], part: SharedPart
) -> None:
    """Keep tensors, words about them, and last the JSON that says what they are.

    Parameters
    ----------
    state : the site's folder of local state; gets ``models/<plan>/<round>/``

    Raises
    ------
    Refusal
        With ``DISK`` if they cannot be written.
    """
    folder = state / "models" / part.plan / str(part.round)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        write_tensors(
            folder / _TENSORS,
            tensors,
            {"plan": part.plan_hash, "round": part.round},
            0o600,
            content_hash=part.tensors,
        )
    except CheckpointError as error:
        raise Refusal(Code.DISK, str(error)) from None
    write_atomic(folder / _CARD, _card(part).encode(), 0o600)
    write_atomic(folder / _INFO, json.dumps(asdict(part), indent=2).encode(), 0o600)


def last_received(state: Path) -> tuple[SharedPart, float] | None:
    """Tell which shared part was received last, and when.

    Parameters
    ----------
    state : the site's folder of local state; need not exist

    Returns
    -------
    What is kept, and seconds since 1970.
    """
    found = [(p.stat().st_mtime, p) for p in state.glob(f"models/*/*/{_INFO}")]
    if not found:
        return None
    time, path = max(found)
    document = json.loads(path.read_bytes())
    return SharedPart(**document | {"missing": tuple(document["missing"])}), time


def _card(part: SharedPart) -> str:
    words = [PART_WORDS[name] for name in PARTS if name in part.missing]
    missing = "; ".join(words) or "nothing, but it was not evaluated on your images"
    return f"""# Shared part: {part.plan}, round {part.round}

**The shared part only: this is no model yet.** It cannot score an image. Not a medical
device, for research only.

| | |
|---|---|
| plan | `{part.plan_hash}` |
| run | `{part.run}` |
| round | {part.round} (selected) |
| sharing | {part.sharing} |
| missing | {missing} |
| tensors | `{part.tensors}` |

Every hospital that trained has its own of what is missing, and none of it was sent.
What is missing has to be built from this site's own images. No command of this version
does that: `adapt` is planned for it.
"""
