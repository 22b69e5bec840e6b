"""Which addresses may be called, so that nobody reaches a server's own network through it.

What a name leads to is looked up once, checked, and that very address is connected to: a name
that leads elsewhere a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import httpx
from django.conf import settings

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses as networks without IPv4 write them


class AddressRefused(httpx.ConnectError):
    """It is not of the public internet. The message is a sentence for the admin."""


def is_public(address: str) -> bool:
    """Whether it is of the public internet. Example: "127.0.0.1", "fe80::1%eth0" and
    "::ffff:10.0.0.1" are not."""
    found = _plain(ipaddress.ip_address(address))
    return found.is_global and not found.is_multicast


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that is meant, where one is wrapped."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def refuse(host: str, address: str) -> None:
    """Raises AddressRefused, unless the address is public or the installation allows all."""
    if settings.PRIVATE_WEBHOOKS or is_public(address):
        return
    where = host if host == address else f"{host} is at {address}, which"
    raise AddressRefused(
        f"{where} is no address of the public internet. PREFERENDUM_PRIVATE_WEBHOOKS=1 allows it."
    )


class GuardedTransport(httpx.AsyncHTTPTransport):
    """Connects to addresses that it has checked. Neither proxies nor redirects are its business."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        addresses = await _look_up(host, request.url.port)
        for address in addresses:
            refuse(host, address)
        # The certificate and the Host header are still about the name.
        request.extensions = {**request.extensions, "sni_hostname": host}
        *others, last = addresses
        for address in others:
            try:
                return await self._send_to(address, request)
            except httpx.ConnectError:
                continue  # such as IPv6 where there is no way to it
        return await self._send_to(last, request)

    async def _send_to(self, address: str, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host=address)
        return await super().handle_async_request(request)


async def _look_up(host: str, port: int | None) -> list[str]:
    """At least one. Raises httpx.ConnectError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"the name {host} leads nowhere") from error
    return list(dict.fromkeys(str(socket_address[0]) for *_, socket_address in found))
