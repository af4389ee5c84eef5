"""Gives a replica the role that the metadata says: it leads, follows, or has none.

One that lacks records that it has acknowledged does not lead, whatever the metadata says: the
others would cut what they have. While its log is being cut it has no role at all.
"""

import asyncio

import structlog

from ottla_broker.drivers.leader_fetchers import LeaderFetchers
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.witness_keeper import WitnessKeeper
from ottla_broker.storage.segment_rebuild import remove_damaged_files
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.controller.image import BrokerState, MetadataImage, Topic
from ottla_cluster.controller.image import Partition as PartitionState

log = structlog.get_logger()


class ReplicaRoles:
    """What a change of role asks of replica, fetchers and witness.

    Whoever calls this sees to it that roles change one at a time.

    Args:
        node_id: this broker.
        fetchers: fetch what is followed.
        witness: writes down where the logs end.
    """

    def __init__(self, *, node_id: int, fetchers: LeaderFetchers, witness: WitnessKeeper) -> None:
        self.cutting: dict[tuple[str, int], asyncio.Event] = {}
        """Replicas without a role because their logs are being cut; set when that is over."""
        self._node_id = node_id
        self._fetchers = fetchers
        self._witness = witness

    async def assume(
        self,
        hosted: Partition,
        topic: Topic,
        state: PartitionState,
        image: MetadataImage,
        *,
        is_urgent: bool = True,
    ) -> None:
        """Have a replica lead, follow or stand aside, as an image says.

        Args:
            hosted: the replica.
            topic: its topic.
            state: its partition.
            image: what both are from.
            is_urgent: whether its leader is to hear of it at once.
        """
        same_epoch = state.leader_epoch == hosted.state.leader_epoch
        if hosted.fitness.observe(state.isr, state.partition_epoch):
            await self.refilled(hosted)
        if hosted.key in self.cutting:
            # It takes a role once that is over: others do not wait for its disk.
            await hosted.stand_aside(state)
            return
        if state.leader == self._node_id:
            # Nothing of the former leader may still arrive once this broker leads.
            await self._fetchers.stop_following(hosted)
            is_unclean = state.unclean_leader_epoch == state.leader_epoch
            if not hosted.is_fit_to_lead and is_unclean:
                # Somebody has decided that what is left is what there is.
                hosted.fitness.accepted_as_it_is()
                self._witness.moved(hosted.key)
            if not hosted.is_fit_to_lead:
                log.critical("unfit_to_lead", partition=hosted.name)
                await hosted.stand_aside(state)
                return
            if hosted.leader is None or not same_epoch:
                log.debug(
                    "leading",
                    partition=hosted.name,
                    leader_epoch=state.leader_epoch,
                    unclean=is_unclean,
                )
            await hosted.become_leader(
                state,
                min_insync_replicas=effective_min_isr(topic, state),
                eligible=eligible_brokers(image),
                draining=draining_brokers(image),
            )
        elif same_epoch and hosted.leader is None and self._fetchers.is_following(hosted):
            hosted.take_state(state)
        else:
            await self._fetchers.stop_following(hosted)
            await hosted.become_follower(state)
            if state.leader is not None:
                log.debug(
                    "following",
                    partition=hosted.name,
                    leader=state.leader,
                    leader_epoch=state.leader_epoch,
                )
                self._fetchers.follow(hosted, state.leader, is_urgent=is_urgent)

    async def refilled(self, hosted: Partition) -> None:
        """A leader has let the replica into the ISR again: it holds all that is committed."""
        METRICS.healed_replicas.inc()
        removed = await asyncio.to_thread(remove_damaged_files, hosted.log.directory)
        log.info(
            "replica_refilled",
            partition=hosted.name,
            log_end_offset=hosted.log.log_end_offset,
            damaged_files_removed=removed,
        )
        self._witness.moved(hosted.key)


def eligible_brokers(image: MetadataImage) -> dict[int, int]:
    """The brokers that may be in an ISR, with their present broker epochs."""
    return {
        broker.node_id: broker.broker_epoch
        for broker in image.brokers.values()
        if broker.state is not BrokerState.FENCED
    }


def draining_brokers(image: MetadataImage) -> tuple[int, ...]:
    """The brokers that may stay in an ISR, but not join one: about to stop, or without room."""
    return tuple(
        broker.node_id
        for broker in image.brokers.values()
        if broker.state is BrokerState.DRAINING or broker.is_full
    )
