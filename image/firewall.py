"""The packet filter: nothing comes in, goes out or passes through but what the topology names.

Pure. Inbound by port of a listener, outbound by user of a process that has the network at all. nftables, one table, loaded before the
network is up.
"""

from __future__ import annotations

from collections.abc import Mapping

DHCP_CLIENT, DHCP_SERVER = 68, 67


def ruleset(listening: Mapping[str, int], outward: Mapping[str, int]) -> str:
    """`listening`: ports by listener; `outward`: numeric users by process."""
    doors = [f'    tcp dport {port} accept comment "{name}"' for name, port in listening.items()]
    ways = [f'    meta l4proto tcp meta skuid {number} accept comment "{name}"' for name, number in outward.items()]
    return (
        "\n".join(
            [
                "flush ruleset",
                "table inet box {",
                "  chain input {",
                "    type filter hook input priority filter; policy drop;",
                "    ct state established,related accept",
                "    ct state invalid drop",
                *doors,
                f'    udp sport {DHCP_SERVER} udp dport {DHCP_CLIENT} accept comment "dhcp"',
                "  }",
                "  chain forward {",
                "    type filter hook forward priority filter; policy drop;",
                "  }",
                "  chain output {",
                "    type filter hook output priority filter; policy drop;",
                "    ct state established,related accept",
                *ways,
                f'    udp sport {DHCP_CLIENT} udp dport {DHCP_SERVER} accept comment "dhcp"',
                "  }",
                "}",
            ]
        )
        + "\n"
    )
