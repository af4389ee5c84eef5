"""Two processes of a cluster make sure of each other, and neither tells the cluster's secret.

Whoever adds a voter names its URL, and nothing says that a node of this cluster is there. Every
call between peers carries the secret, so the first one goes without: it has a nonce and a proof
that the caller knows the secret, and is answered with a proof for the same nonce (challenge and
response, in both directions). Both proofs cover the URL, and a node answers for its own URL alone;
so whoever listens somewhere else cannot have a node's answer by passing the question on.

A proof is an HMAC-SHA256 (RFC 2104) under a key that scrypt (RFC 7914) makes of the secret: who
sees one and guesses secrets pays for each guess.
"""

import asyncio
import hashlib
import hmac
import secrets
from enum import Enum

import msgspec

from ottla_broker.drivers.peer_client import PeerClient, not_an_answer
from ottla_broker.drivers.peer_messages import Introduction, IntroductionRequest, encode
from ottla_broker.services.heavy_work import on_worker
from ottla_protocol import routes
from ottla_protocol.errors import (
    ClusterAuthorizationFailedError,
    InconsistentClusterIdError,
    InvalidVoterChangeError,
    OttlaError,
    Outcome,
    UnavailableError,
)

NONCE_BYTES = 32
QUESTION_TIMEOUT_MS = 2_000
"""How long a node may take to say who it is."""

SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 1
"""Some 50 ms and 16 MiB, once in a process' life."""


class _Side(Enum):
    """Whose proof it is: neither passes for the other."""

    ASKING = b"asking"
    ANSWERING = b"answering"


class IntroductionService:
    """Asks processes who they are, and says who this one is.

    Args:
        node_id: of this process.
        is_controller: whether it may vote.
        url: its own, as peers know it.
        cluster_id: the cluster's id.
        cluster_secret: the cluster's secret, None where there is none: then nothing is proved.
        peers: the way to others.
    """

    def __init__(
        self,
        *,
        node_id: int,
        is_controller: bool,
        url: str,
        cluster_id: str,
        cluster_secret: str | None,
        peers: PeerClient,
    ) -> None:
        self._node_id = node_id
        self._is_controller = is_controller
        self._url = _comparable(url)
        self._cluster_id = cluster_id
        self._secret = cluster_secret
        self._peers = peers
        self._deriving: asyncio.Task[bytes] | None = None

    async def ask(self, url: str) -> Introduction:
        """Who answers at that URL.

        Raises:
            InvalidVoterChangeError: somebody who does not know the cluster's secret, or has not
                learned yet to say who it is.
            UnavailableError: nobody.
            OttlaError: its refusal: another cluster's node, or one that has another URL.
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        asked_at = _comparable(url)
        request = IntroductionRequest(
            asked_at, nonce, await self._proof(_Side.ASKING, nonce, asked_at)
        )
        try:
            answer = await self._peers.ask_stranger(
                url, routes.INTERNAL_INTRODUCTION, encode(request), timeout_ms=QUESTION_TIMEOUT_MS
            )
            found = msgspec.msgpack.decode(answer, type=Introduction)
        except (
            UnavailableError,
            InconsistentClusterIdError,
            ClusterAuthorizationFailedError,
            InvalidVoterChangeError,
        ):
            raise
        except OttlaError:
            # Of what a stranger says nothing is passed on.
            raise InvalidVoterChangeError(
                f"url: what answers at {url} is no node of Ottla, or of an older version",
                outcome=Outcome.NOT_APPLIED,
            ) from None
        except msgspec.MsgspecError as error:
            raise not_an_answer(url, routes.INTERNAL_INTRODUCTION, error) from error
        expected = await self._proof(
            _Side.ANSWERING, nonce, asked_at, found.node_id, found.is_controller
        )
        if expected is not None and not hmac.compare_digest(expected, found.proof or b""):
            raise InvalidVoterChangeError(
                f"url: what answers at {url} does not know this cluster's secret",
                outcome=Outcome.NOT_APPLIED,
            )
        return found

    async def answer(self, request: IntroductionRequest) -> Introduction:
        """Who this is.

        Raises:
            ClusterAuthorizationFailedError: the caller does not know the secret.
            InvalidVoterChangeError: it asks for another URL than this node's.
        """
        nonce, url = request.nonce, request.url
        expected = await self._proof(_Side.ASKING, nonce, url)
        if expected is not None and not hmac.compare_digest(expected, request.proof or b""):
            raise ClusterAuthorizationFailedError("the caller does not know the cluster's secret")
        if self._secret is not None and url != self._url:
            raise InvalidVoterChangeError(
                f"url: node {self._node_id} is known at {self._url}, not at {url}: name that, or "
                "start it with another OTTLA_ADVERTISED_URL",
                outcome=Outcome.NOT_APPLIED,
            )
        proof = await self._proof(_Side.ANSWERING, nonce, url, self._node_id, self._is_controller)
        return Introduction(self._node_id, self._is_controller, proof)

    async def _proof(self, side: _Side, nonce: bytes, *said: str | int) -> bytes | None:
        """The proof of one side; None where there is no secret."""
        if self._secret is None:
            return None
        if self._deriving is None:
            # One for all who ask meanwhile, whether they wait or not: they may be strangers.
            self._deriving = asyncio.create_task(
                on_worker(_key_of, self._secret, self._cluster_id), name="introduction-key"
            )
        key = await asyncio.shield(self._deriving)
        message = msgspec.msgpack.encode((side.value, self._cluster_id, nonce, *said))
        return hmac.digest(key, message, "sha256")


def _key_of(secret: str, cluster_id: str) -> bytes:
    return hashlib.scrypt(
        secret.encode(),
        salt=b"ottla introduction " + cluster_id.encode(),
        n=SCRYPT_N,
        r=SCRYPT_R,
        p=SCRYPT_P,
        maxmem=64 << 20,
        dklen=32,
    )


def _comparable(url: str) -> str:
    return url.rstrip("/").lower()
