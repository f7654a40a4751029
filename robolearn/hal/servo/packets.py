"""Framing of the servo protocol (Dynamixel Protocol 2.0) as the servos' side needs it; the host's side is the SDK's.

A packet: FF FF FD 00, id, length (2 bytes, little endian), instruction, parameters, CRC-16. Source: the maker's
e-Manual, page "Protocol 2.0".
"""

from __future__ import annotations

from dataclasses import dataclass

HEADER = b"\xff\xff\xfd\x00"
BROADCAST = 0xFE
PING, READ, WRITE, REBOOT, STATUS, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x08, 0x55, 0x82, 0x83
LONGEST = 1024
"""A packet that claims to be longer is noise."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x8005) & 0xFFFF if value & 0x8000 else value << 1 & 0xFFFF
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc16(data: bytes) -> int:
    """CRC-16 with polynomial 0x8005, start value 0, no reflection."""
    value = 0
    for byte in data:
        value = (value << 8 ^ _TABLE[value >> 8 ^ byte]) & 0xFFFF
    return value


@dataclass(frozen=True)
class Packet:
    """An instruction to servo ``ident`` with its parameters."""

    ident: int
    instruction: int
    parameters: bytes


def status(ident: int, error: int, parameters: bytes = b"") -> bytes:
    """The bytes of a status packet."""
    body = bytes([STATUS, error]) + parameters
    body = body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")  # so that no header appears within a packet
    packet = HEADER + bytes([ident]) + (len(body) + 2).to_bytes(2, "little") + body
    return packet + crc16(packet).to_bytes(2, "little")


def take(buffer: bytearray) -> Packet | None:
    """Remove and return the first whole packet of a buffer; None when there is none. Noise and bad CRCs are dropped."""
    while True:
        at = buffer.find(HEADER)
        if at < 0:
            del buffer[: max(0, len(buffer) - len(HEADER) + 1)]
            return None
        del buffer[:at]
        if len(buffer) < 7:
            return None
        length = int.from_bytes(buffer[5:7], "little")
        if not 3 <= length <= LONGEST:
            del buffer[:4]
            continue
        if len(buffer) < 7 + length:
            return None
        raw = bytes(buffer[: 7 + length])
        if crc16(raw[:-2]) != int.from_bytes(raw[-2:], "little"):
            del buffer[:4]
            continue
        del buffer[: 7 + length]
        return Packet(raw[4], raw[7], raw[8:-2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd"))
