"""Between node and worker: what is asked and answered arrives as it was."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from client.link import ask_worker, listen, receive_request, send_answer
from common.records import Reply, Request
from common.transport import Transport, to_wire


@pytest.mark.parametrize("transport", ["float32", "float16", "bfloat16"])
def test_tensors_of_every_number_format_pass_the_socket(
    transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    sent = {"w": to_wire(weights, transport), "none": to_wire(weights[:0], transport)}

    def echo() -> None:
        with listener.accept() as connection:
            request = receive_request(connection)
            send_answer(connection, Reply("train", request.fields, request.shared))

    with listen() as listener:
        worker = threading.Thread(target=echo)
        worker.start()
        reply = ask_worker(Request("train", {"round": 1}, sent), lambda: None)
        worker.join()
    assert reply.fields == {"round": 1}
    for key, array in sent.items():
        assert reply.shared[key].dtype == array.dtype
        assert reply.shared[key].shape == array.shape
        assert reply.shared[key].tobytes() == array.tobytes()
