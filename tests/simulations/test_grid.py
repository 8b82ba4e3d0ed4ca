"""The in-process Grid does what a SuperLink would, on this version of Flower."""

from __future__ import annotations

from importlib.metadata import version

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from simulations.grid import InProcessGrid


def echo_app() -> ClientApp:
    app = ClientApp()

    @app.query("name")
    def name(message: Message, context: Context) -> Message:
        site = str(context.node_config["site"])
        context.state["seen"] = ConfigRecord({"site": site})
        return Message(
            RecordDict({"c": ConfigRecord({"site": site})}), reply_to=message
        )

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        raise ValueError("/archive/DOE^JANE")

    return app


def test_the_adapter_is_for_this_minor_version_of_flower() -> None:
    assert version("flwr").startswith("1.41."), "check simulations/grid.py again"


def test_every_node_answers_for_its_own_site_in_order() -> None:
    answered: list[str] = []
    grid = InProcessGrid(echo_app(), ["alpha", "beta"], answered.append)
    messages = [
        Message(RecordDict(), node, "query.name") for node in grid.get_node_ids()
    ]
    replies = list(grid.send_and_receive(messages))
    assert [r.content["c"]["site"] for r in replies] == ["alpha", "beta"]
    assert answered == ["alpha", "beta"]
    assert [n.name for n in grid.get_nodes()] == ["alpha", "beta"]


def test_a_reply_names_the_message_it_answers_and_keeps_its_group() -> None:
    grid = InProcessGrid(echo_app(), ["alpha"])
    message = Message(RecordDict(), 1, "query.name", group_id="7", ttl=50.0)
    reply = next(iter(grid.send_and_receive([message])))
    assert message.metadata.message_id
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert reply.metadata.message_id not in ("", message.metadata.message_id)
    assert reply.metadata.group_id == "7"
    assert reply.metadata.src_node_id == 1


def test_an_exception_becomes_an_error_without_its_text() -> None:
    grid = InProcessGrid(echo_app(), ["alpha"])
    message = Message(RecordDict(), 1, "query.fail")
    reply = next(iter(grid.send_and_receive([message])))
    assert reply.error.code == 2
    assert "DOE" not in str(reply.error.reason)
