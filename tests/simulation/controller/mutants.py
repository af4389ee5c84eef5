"""Planted bugs of the controller: each takes one rule from a handler, or from the runtime.

A bug is a function of pytest's `monkeypatch`; whoever runs a controller meanwhile has the bug.
"""

import msgspec

from ottla_cluster.controller import (
    broker_handlers,
    directory_handlers,
    elections,
    partition_handlers,
    producer_id_handlers,
    reassignment_handlers,
    unclean_election_handlers,
)
from ottla_cluster.controller.elections import change, without
from ottla_cluster.controller.reassignment_schedule import ReassignmentSchedule
from ottla_cluster.controller.records import PartitionChanged
from ottla_cluster.state_machine import runtime


def fencing_empties_the_isr(monkeypatch):
    def broker_fenced(image, partition, node_id):
        if node_id not in partition.isr:
            return ()
        isr = without(partition.isr, node_id)
        leader = elections.elect_leader(image, partition, isr, excluding=node_id)
        return change(partition, isr=isr, leader=leader)

    monkeypatch.setattr(broker_handlers, "broker_fenced", broker_fenced)


def fencing_elects_an_unclean_leader(monkeypatch):
    def broker_fenced(image, partition, node_id):
        if node_id not in partition.isr:
            return ()
        replicas = partition.replicas
        leader = elections.elect_leader(image, partition, replicas, excluding=node_id)
        return change(partition, isr=partition.isr if leader is None else (leader,), leader=leader)

    monkeypatch.setattr(broker_handlers, "broker_fenced", broker_fenced)


def fencing_leaves_followers_in_sync(monkeypatch):
    real = elections.broker_fenced

    def broker_fenced(image, partition, node_id):
        return real(image, partition, node_id) if partition.leader == node_id else ()

    monkeypatch.setattr(broker_handlers, "broker_fenced", broker_fenced)


def altering_ignores_the_partition_epoch(monkeypatch):
    real = partition_handlers._check_epochs

    def check_epochs(partition, command):
        real(partition, _with(command, partition_epoch=partition.partition_epoch))

    monkeypatch.setattr(partition_handlers, "_check_epochs", check_epochs)


def altering_ignores_the_leader_epoch(monkeypatch):
    real = partition_handlers._check_epochs

    def check_epochs(partition, command):
        current = {
            "leader_epoch": partition.leader_epoch,
            "partition_epoch": partition.partition_epoch,
        }
        real(partition, _with(command, **current))

    monkeypatch.setattr(partition_handlers, "_check_epochs", check_epochs)


def altering_ignores_eligibility(monkeypatch):
    monkeypatch.setattr(partition_handlers, "_check_eligible", lambda *_: None)


def a_restart_keeps_its_leadership(monkeypatch):
    """The new incarnation even returns active, so that only its epochs can give it away."""
    real = broker_handlers._leave_everything

    def register_broker(image, command):
        monkeypatch.setattr(broker_handlers, "_leave_everything", lambda *_: ())
        try:
            result = real_register(image, command)
        finally:
            monkeypatch.setattr(broker_handlers, "_leave_everything", real)
        unfenced = tuple(
            broker_handlers.BrokerUnfenced(record.node_id, record.broker_epoch)
            for record in result.records
        )
        return broker_handlers.Result((*result.records, *unfenced), result.response)

    real_register = broker_handlers.register_broker
    monkeypatch.setattr("ottla_cluster.controller.handlers.register_broker", register_broker)


def a_stale_view_is_unfenced(monkeypatch):
    real = broker_handlers.heartbeat

    def heartbeat(image, command):
        return real(image, _with(command, applied_version=image.version))

    monkeypatch.setattr("ottla_cluster.controller.handlers.heartbeat", heartbeat)


def an_unfenced_broker_leads_what_it_is_not_in_sync_with(monkeypatch):
    def broker_unfenced(partition, node_id):
        if partition.leader is not None or node_id not in partition.replicas:
            return ()
        return change(partition, isr=(node_id,), leader=node_id)

    monkeypatch.setattr(broker_handlers, "broker_unfenced", broker_unfenced)


def handlers_see_only_what_is_committed(monkeypatch):
    monkeypatch.setattr(
        runtime.SpeculativeRuntime,
        "speculative_state",
        property(lambda self: self._committed_state),
    )


def refusals_do_not_wait(monkeypatch):
    real = runtime.SpeculativeRuntime._wait

    def wait(self, outcome, records):
        if isinstance(outcome, Exception):
            raise outcome
        real(self, outcome, records)

    monkeypatch.setattr(runtime.SpeculativeRuntime, "_wait", wait)


def commits_release_everybody(monkeypatch):
    real = runtime.SpeculativeRuntime.committed

    def committed(self, index):
        last = max((item.index or 0 for item in self._waiting), default=0)
        return real(self, max(index, last))

    monkeypatch.setattr(runtime.SpeculativeRuntime, "committed", committed)


def a_reassignment_ends_with_one_target_replica_in_sync(monkeypatch):
    def end(image, partition):
        isr = partition.isr
        target = tuple(n for n in partition.target_replicas if n in isr)
        if not target or (partition.leader not in target and not image.is_active(target[0])):
            return ()
        return (
            reassignment_handlers._reassigned(
                image, partition, partition.target_replicas, adding=(), target=()
            ),
        )

    monkeypatch.setattr(reassignment_handlers, "_end", end)


def added_replicas_count_as_in_sync(monkeypatch):
    real = reassignment_handlers._reassigned

    def reassigned(image, partition, replicas, *, adding, target):
        record = real(image, partition, replicas, adding=adding, target=target)
        return msgspec.structs.replace(
            record, isr=tuple(n for n in replicas if n in {*record.isr, *adding})
        )

    monkeypatch.setattr(reassignment_handlers, "_reassigned", reassigned)


def a_new_target_keeps_what_the_former_one_added(monkeypatch):
    real = reassignment_handlers._alter

    def alter(image, wanted):
        partition = image.partition(wanted.topic, wanted.partition)
        if wanted.replicas is None or not partition.is_reassigning:
            return real(image, wanted)
        adding = tuple(n for n in wanted.replicas if n not in partition.replicas)
        replicas = (*partition.replicas, *adding)
        return (
            reassignment_handlers._reassigned(
                image, partition, replicas, adding=adding, target=wanted.replicas
            ),
        )

    monkeypatch.setattr(reassignment_handlers, "_alter", alter)


def only_its_own_command_ends_a_reassignment(monkeypatch):
    real = reassignment_handlers.finish_reassignments

    def finish(image, result):
        if any(isinstance(record, PartitionChanged) for record in result.records):
            return result
        return real(image, result)

    monkeypatch.setattr("ottla_cluster.controller.handlers.finish_reassignments", finish)


def a_reassignment_ends_under_a_leader_that_is_removed(monkeypatch):
    """It does not hand over first, but switches with another leader in one step."""

    def end(image, partition):
        target = partition.target_replicas
        if not target or partition.leader is None or not set(target) <= set(partition.isr):
            return ()
        if partition.leader not in target and not any(image.is_active(n) for n in target):
            return ()
        return (reassignment_handlers._switched(image, partition),)

    monkeypatch.setattr(reassignment_handlers, "_end", end)


def a_reassignment_asks_nobody_whether_he_has_heard(monkeypatch):
    monkeypatch.setattr(ReassignmentSchedule, "_is_known", lambda *_: True)


def a_block_of_producer_ids_begins_within_the_last_one(monkeypatch):
    real = producer_id_handlers.allocate_producer_ids

    def allocate(image, command):
        result = real(image, command)
        (record,) = result.records
        half = producer_id_handlers.PRODUCER_ID_BLOCK_SIZE // 2
        first = max(0, result.response.first_producer_id - half)
        return producer_id_handlers.Result(
            (msgspec.structs.replace(record, next_producer_id=record.next_producer_id - half),),
            msgspec.structs.replace(result.response, first_producer_id=first),
        )

    monkeypatch.setattr("ottla_cluster.controller.handlers.allocate_producer_ids", allocate)


def an_unclean_election_asks_no_topic(monkeypatch):
    monkeypatch.setattr(unclean_election_handlers, "_allows", lambda _: True)


def an_unclean_election_takes_whoever_is_registered(monkeypatch):
    monkeypatch.setattr(
        unclean_election_handlers, "_candidates", lambda _, partition: iter(partition.replicas)
    )


def an_unclean_election_is_not_told_as_one(monkeypatch):
    real = unclean_election_handlers.elect_unclean

    def elect_unclean(image, command):
        result = real(image, command)
        records = tuple(
            PartitionChanged(
                record.topic_id,
                record.partition,
                (record.leader,),
                record.leader,
                record.leader_epoch,
                record.partition_epoch,
            )
            for record in result.records
        )
        return unclean_election_handlers.Result(records, result.response)

    monkeypatch.setattr("ottla_cluster.controller.handlers.elect_unclean", elect_unclean)


def another_directory_is_as_good(monkeypatch):
    """Nobody looks whether a directory is the one that a broker had."""

    def directory_told(image, former, told, left):
        yield told

    monkeypatch.setattr(broker_handlers, "directory_told", directory_told)


def the_newest_directory_is_the_awaited_one(monkeypatch):
    """A second start with the new directory forgets that the log is in another one."""
    monkeypatch.setattr(
        directory_handlers,
        "_awaited",
        lambda _, former, present: None if former == present else former,
    )


def a_directory_that_is_back_is_awaited_on(monkeypatch):
    monkeypatch.setattr(
        directory_handlers,
        "_awaited",
        lambda partition, former, _: partition.awaited_directory_id or former,
    )


def _with(command, **fields):
    known = {name: getattr(command, name) for name in command.__struct_fields__}
    return type(command)(**(known | fields))


MUTANTS = (
    fencing_empties_the_isr,
    fencing_elects_an_unclean_leader,
    fencing_leaves_followers_in_sync,
    altering_ignores_the_partition_epoch,
    altering_ignores_the_leader_epoch,
    altering_ignores_eligibility,
    a_restart_keeps_its_leadership,
    a_stale_view_is_unfenced,
    an_unfenced_broker_leads_what_it_is_not_in_sync_with,
    handlers_see_only_what_is_committed,
    refusals_do_not_wait,
    commits_release_everybody,
    a_reassignment_ends_with_one_target_replica_in_sync,
    added_replicas_count_as_in_sync,
    a_new_target_keeps_what_the_former_one_added,
    only_its_own_command_ends_a_reassignment,
    a_reassignment_ends_under_a_leader_that_is_removed,
    a_reassignment_asks_nobody_whether_he_has_heard,
    a_block_of_producer_ids_begins_within_the_last_one,
    an_unclean_election_asks_no_topic,
    an_unclean_election_takes_whoever_is_registered,
    an_unclean_election_is_not_told_as_one,
    another_directory_is_as_good,
    the_newest_directory_is_the_awaited_one,
    a_directory_that_is_back_is_awaited_on,
)
