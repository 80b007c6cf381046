"""N22: the service manager hears everything and can hurt nothing."""

import os
import socket
from pathlib import Path

import pytest

from nurseries.notify import Notifier
from nurseries.testing import NotifySink


async def test_n22_messages_arrive_in_order_and_from_us(tmp_path: Path) -> None:
    with NotifySink(tmp_path) as sink:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(sink.path)})
        assert notifier.is_connected
        notifier.status("starting\nPostgreSQL")
        notifier.extend_timeout(10)
        notifier.ready("ready: 42 dags")
        notifier.watchdog()
        notifier.reloading()
        notifier.stopping("draining")
        notifier.errno(2, exit_status=78)
        await sink.wait_for("EXIT_STATUS=78")
        assert [line for line in sink.messages if not line.startswith("MONOTONIC_USEC=")] == [
            "STATUS=starting PostgreSQL",
            "EXTEND_TIMEOUT_USEC=10000000",
            "READY=1",
            "STATUS=ready: 42 dags",
            "WATCHDOG=1",
            "RELOADING=1",
            "STOPPING=1",
            "STATUS=draining",
            "ERRNO=2",
            "EXIT_STATUS=78",
        ]
        assert any(line.startswith("MONOTONIC_USEC=") for line in sink.messages)
        assert set(sink.senders) == {os.getpid()}


def test_n22_abstract_addresses_work() -> None:
    name = f"\0nurseries-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        Notifier("@" + name[1:]).ready()
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/nowhere/at/all",
        "relative",
        "@nobody",
        "/" + "x" * 300,
        "vsock:x:y",
        "vsock:1",
        "vsock:4294967295:1",
        "/\0",
    ],
)
def test_n22_no_address_can_hurt(address: str) -> None:
    notifier = Notifier(address)
    notifier.ready()
    notifier.status("")
    notifier.extend_timeout(float("inf"))
    notifier.extend_timeout(float("nan"))
    notifier.extend_timeout(-1)
    notifier.watchdog()


def test_n22_a_socket_that_vanishes_or_is_full_cannot_hurt(tmp_path: Path) -> None:
    with NotifySink(tmp_path) as sink:
        notifier = Notifier(str(sink.path))
        for _ in range(5000):
            notifier.watchdog()
        assert 0 < len(sink.collect()) < 5000
    notifier.watchdog()


def test_n22_vsock_addresses_are_understood() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as manager:
        try:
            manager.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        except OSError:
            pytest.skip("no vsock here")
        manager.listen()
        manager.settimeout(1)
        Notifier(f"vsock:1:{manager.getsockname()[1]}").ready()  # 1: this machine
        try:
            connection, _ = manager.accept()
        except TimeoutError:
            pytest.skip("no loopback for vsock here")
        with connection:
            assert connection.recv(100) == b"READY=1"


def test_n9_the_watchdog_interval_is_a_third_and_only_for_the_process_that_is_meant() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    assert Notifier.from_environment(environ).watchdog_interval == 10
    assert environ == {"HOME": "/"}, "not for our children"
    assert Notifier.from_environment({"WATCHDOG_USEC": "3000000"}).watchdog_interval == 1
    assert Notifier.from_environment({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_interval is None
    assert Notifier.from_environment({"WATCHDOG_USEC": "soon"}).watchdog_interval is None
    assert Notifier.from_environment({}).watchdog_interval is None
    assert not Notifier.from_environment({}).is_connected
    assert repr(Notifier()) == "<Notifier without a service manager>"
