"""A machine's commands and its responses, as they cross the wire between brokers.

They are maps that name their type, so either MessagePack or JSON carries them. A command with an
unknown field is refused: the machine would ignore what the sender meant. A response may gain
fields.
"""

from typing import Any, Generic, TypeVar

import msgspec

from ottla_protocol.errors import MalformedBodyError

MessageT = TypeVar("MessageT")


class CommandMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """The encoding that all commands share."""


class ResponseMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """The encoding that all responses share."""


def encode_message(message: CommandMessage | ResponseMessage) -> bytes:
    """A command or response as MessagePack."""
    return msgspec.msgpack.encode(message)


class MessageDecoder(Generic[MessageT]):
    """Takes apart what `encode_message` made of one message of a union.

    Args:
        messages: the union. What it lacks is refused: so a machine's own commands never come from
            another broker.
        name: what each of them is, for who reads the refusal.
    """

    def __init__(self, messages: Any, name: str) -> None:
        self._decoder: msgspec.msgpack.Decoder[MessageT] = msgspec.msgpack.Decoder(messages)
        self._name = name

    def decode(self, body: bytes | bytearray) -> MessageT:
        """The message.

        Raises:
            MalformedBodyError: it does not parse, is of an unknown type, or is a command with an
                unknown field.
        """
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            raise MalformedBodyError(f"A {self._name} does not parse: {error}") from error
