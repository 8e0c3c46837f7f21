"""On which addresses processes listen."""

from ipaddress import ip_address

import psutil


def listening(process: psutil.Process) -> dict[str, set[str]]:
    """Addresses on which a process and all that it has started listen, by process name."""
    found: dict[str, set[str]] = {}
    for one in [process, *process.children(recursive=True)]:
        try:
            sockets = [c for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            if sockets:
                found.setdefault(one.name(), set()).update(c.laddr.ip for c in sockets)
        except psutil.NoSuchProcess:  # a worker that was no longer needed
            continue
    return found


def is_loopback(address: str) -> bool:
    ip = ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def public(process: psutil.Process) -> dict[str, set[str]]:
    """Those that are not loopback."""
    found = listening(process)
    return {name: outside for name, on in found.items() if (outside := {a for a in on if not is_loopback(a)})}
