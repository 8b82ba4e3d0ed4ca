"""What a user can cause or mend in a simulation: shown as text, not as a traceback."""

from client.data.cache import CacheError
from client.data.importers import ImporterError
from client.data.manifest import ManifestError
from client.data.pseudonyms import SecretError
from client.data.workers import WorkerError
from common.checkpoint import CheckpointError
from common.lock import FolderBusyError
from common.records import Refusal
from server.participation import RunFailed

MISTAKES = (
    RunFailed,
    Refusal,
    CacheError,
    CheckpointError,
    ImporterError,
    ManifestError,
    WorkerError,
    SecretError,
    FolderBusyError,
    OSError,
)
