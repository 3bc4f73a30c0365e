"""What tests ask of the machine is what they need."""

from __future__ import annotations

import socket

from tests.machine import first_own_port, free_port


def test_a_free_port_can_be_listened_on_again_while_others_connect() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) > 40
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends = [socket.create_connection(server.getsockname()) for _ in range(50)]
        own = [end.getsockname()[1] for end in ends]
        for end in ends:
            end.close()
    assert max(ports) < first_own_port() <= min(own)
