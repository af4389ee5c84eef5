"""Makes a process's replicas what the metadata says they are, as `replica_manager` does."""

from ottla_cluster.controller.image import BrokerState
from tests.simulation.plane.fetcher import Fetcher
from tests.simulation.plane.replica_log import ReplicaDisk


class Hosting:
    """The part of a process that hosts replicas; see `process`."""

    def publish(self, image):
        self.image = image
        if self.is_active:
            self._apply_image()
        else:
            self._activate()

    def _apply_image(self):
        """One image at a time, the newest always."""
        while self._assuming is None and self.applied_image is not self.image:
            image, previous = self.image, self.applied_image
            wanted = {
                (state.topic_id, state.partition): (topic, state)
                for topic, state in image.all_partitions()
                if self.node_id in state.replicas
            }
            for key in [key for key in self.replicas if key not in wanted]:
                self._remove(key)
            changed = [
                (key, topic, state)
                for key, (topic, state) in wanted.items()
                if previous.topics.get(key[0]) is not topic
            ]
            # One more, so that the image is not applied before all have begun.
            self._assuming = [image, len(changed) + 1]
            for key, topic, state in changed:
                if key not in self.replicas:
                    disk = self.disks.setdefault(key, ReplicaDisk())
                    self.replicas[key] = self.replica_class(self, key, state, disk)
                self.replicas[key].assume_role(topic, state, image)
            self.role_assumed()

    def role_assumed(self):
        self._assuming[1] -= 1
        if self._assuming[1] == 0:
            self.applied_image = self._assuming[0]
            self._assuming = None
            self._confirm_lease()
            self.after(0, self._apply_image)

    def _remove(self, key):
        self.stop_following(key)
        replica = self.replicas.pop(key)
        replica._step_down(replica.state)
        replica.fail_acks()
        del self.disks[key]

    def follows(self, key):
        return any(key in fetcher.followed for fetcher in self.fetchers.values())

    def stop_following(self, key):
        for fetcher in self.fetchers.values():
            fetcher.remove(key)

    def fetcher(self, leader_id):
        if leader_id not in self.fetchers:
            self.fetchers[leader_id] = Fetcher(self, leader_id)
        return self.fetchers[leader_id]

    def eligible_and_draining(self, image):
        """As `replica_roles` reads them from an image."""
        if self._eligible[0] is not image.brokers:
            brokers = image.brokers.values()
            self._eligible = (
                image.brokers,
                {b.node_id: b.broker_epoch for b in brokers if b.state is not BrokerState.FENCED},
                tuple(b.node_id for b in brokers if b.state is BrokerState.DRAINING or b.is_full),
            )
        return self._eligible[1:]
