"""Which servers an address means."""

from __future__ import annotations

from .address import Address
from .cluster import Cluster
from .outages import Outages
from .servers import Servers
from .single import Sentinel, Single


def servers_at(address: Address, outages: Outages) -> Servers:
    """The servers of a store; nothing is connected yet."""
    if address.cluster:
        return Cluster(address, outages)
    if address.service is not None:
        return Sentinel(address, outages, address.service)
    return Single(address, outages)
