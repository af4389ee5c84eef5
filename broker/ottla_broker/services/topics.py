"""Topics and the cluster, as clients see them."""

from collections.abc import Iterable, Sequence

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.services.broker_drains import drain_state
from ottla_broker.services.controller_commands import DECISION_TIMEOUT_MS, ControllerCommands
from ottla_cluster.controller.commands import (
    AddPartitions,
    AddPartitionsResponse,
    AlterTopicConfigs,
    CreateTopic,
    CreateTopicResponse,
    DeleteTopic,
    PartitionState,
)
from ottla_cluster.controller.features import NAMED_DELETIONS, is_enabled
from ottla_cluster.controller.image import BrokerRegistration, Partition, Topic
from ottla_cluster.controller.topic_configs import (
    effective_configs,
    obeyed_configs,
    refuse_brokers_configs,
)
from ottla_cluster.controller.topic_names import refuse_internal
from ottla_protocol.errors import ControllerNotAvailableError, Outcome
from ottla_protocol.models import (
    AddPartitionsRequest,
    AlterTopicConfigsRequest,
    BrokerDescription,
    ClusterDescription,
    CreateTopicRequest,
    MetadataResponse,
    PartitionDescription,
    TopicConfigs,
    TopicConfigValue,
    TopicDescription,
)


class TopicService:
    """Describes, creates, changes and deletes topics."""

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        controller: ControllerClient,
        commands: ControllerCommands,
        raft: RaftDriver,
    ) -> None:
        self._metadata = metadata
        self._controller = controller
        self._commands = commands
        self._raft = raft

    async def find(self, name: str) -> Topic:
        """The topic of that name, after a look for news when it seems not to exist.

        Raises:
            UnknownTopicOrPartitionError: the controller knows none either.
            ControllerNotAvailableError: there is none to ask; that is no proof against the topic.
        """
        await self.look_for([name])
        return self._metadata.image.topic(name)

    async def look_for(self, names: Iterable[str]) -> None:
        """Catch up, unless every one of these topics is known already.

        Raises:
            ControllerNotAvailableError: one is unknown here, and no controller can be asked.
        """
        if all(name in self._metadata.image.topic_ids for name in names):
            return
        if not await self._controller.catch_up():
            raise ControllerNotAvailableError(
                "a topic is unknown here, and no controller can be asked whether it exists"
            )

    async def find_partition(self, name: str, partition: int) -> Partition:
        """A partition, looked for as `find` does.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
        """
        topic = await self.find(name)
        return self._metadata.image.partition(topic.name, partition)

    async def create(self, request: CreateTopicRequest) -> TopicDescription:
        """Create a topic, or only validate it.

        Raises:
            InvalidRequestError: a rule is broken; `detail` names it.
            TopicAlreadyExistsError: the name, or its namesake under `.` and `_`, is taken.
            UnavailableError: no controller decided in time.
        """
        command = CreateTopic(
            name=request.name,
            partitions=request.partitions,
            replication_factor=request.replication_factor,
            configs=dict(request.configs),
            validate_only=request.validate_only,
        )
        response = await self._commands.change(command)
        assert isinstance(response, CreateTopicResponse)
        return describe_created(response)

    async def delete(self, name: str) -> None:
        """Delete a topic with all its records.

        Raises:
            InvalidTopicError: the topic is internal.
            UnknownTopicOrPartitionError: there is none.
            UnknownTopicIdError: it was deleted meanwhile, and another one has its name.
            UnavailableError: no controller decided in time.
        """
        refuse_internal(name, parameter="topic")
        topic_id = ""
        if is_enabled(self._metadata.image, NAMED_DELETIONS):
            # What has the name at this moment is meant, and nothing that has it later. What is
            # known here may be older: it would have the topic that is meant refused as a namesake.
            await self._commands.catch_up(
                outcome=Outcome.NOT_APPLIED, patience_ms=DECISION_TIMEOUT_MS
            )
            topic_id = self._metadata.image.topic_ids.get(name, "")
        await self._commands.change(DeleteTopic(name, topic_id))

    async def configs(self, name: str) -> TopicConfigs:
        """Every config of a topic, with where its value comes from.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
        """
        topic = await self.find(name)
        configs = obeyed_configs(topic.name, topic.configs)
        return TopicConfigs(
            topic.name,
            {
                config: TopicConfigValue(
                    value=value, source="topic" if config in configs else "default"
                )
                for config, value in effective_configs(configs).items()
            },
        )

    async def alter_configs(self, name: str, request: AlterTopicConfigsRequest) -> TopicConfigs:
        """Set or reset some configs, at run time, on every broker.

        Raises:
            InvalidConfigError: a name is unknown or a value out of range; none is changed.
            InvalidTopicError: the topic is internal, and a config is none that operators set.
            UnknownTopicOrPartitionError: there is no such topic.
            UnavailableError: no controller decided in time.
        """
        # Here, too: the controller may be of a version that left this to the brokers.
        refuse_brokers_configs(name, request.configs)
        await self._commands.change(
            AlterTopicConfigs(name=name, configs=dict(request.configs)), repeatable=True
        )
        return await self.configs(name)

    async def add_partitions(self, name: str, request: AddPartitionsRequest) -> TopicDescription:
        """Give a topic more partitions.

        Raises:
            InvalidPartitionsError: not more than there are, or over a limit.
            InvalidTopicError: the topic is internal.
            InvalidReplicationFactorError: too few brokers are active.
            UnknownTopicOrPartitionError: there is no such topic.
            UnavailableError: no controller decided in time.
        """
        refuse_internal(name, parameter="topic")
        response = await self._commands.change(
            AddPartitions(name=name, partitions=request.partitions)
        )
        assert isinstance(response, AddPartitionsResponse)
        return TopicDescription(
            name=response.name,
            topic_id=response.topic_id,
            partitions=[
                _describe_partition(state, self._adding_replicas(response.topic_id, state))
                for state in response.partitions
            ],
            configs=dict(response.configs),
        )

    def _adding_replicas(self, topic_id: str, state: PartitionState) -> tuple[int, ...]:
        """What a reassignment adds to a partition, which the controller's answer does not say."""
        topic = self._metadata.image.topics.get(topic_id)
        if topic is None or state.partition >= len(topic.partitions):
            return ()
        return topic.partitions[state.partition].adding_replicas

    def list_topics(self) -> list[TopicDescription]:
        """Every topic, by name."""
        topics = self._metadata.image.topics.values()
        return [describe(topic) for topic in sorted(topics, key=lambda topic: topic.name)]

    def brokers(self) -> list[BrokerDescription]:
        """Every registered broker, by id."""
        image = self._metadata.image
        return [
            _describe_broker(image.brokers[node_id], drain_state(image, node_id))
            for node_id in sorted(image.brokers)
        ]

    def cluster(self) -> ClusterDescription:
        """The cluster as this broker knows it."""
        image = self._metadata.image
        return ClusterDescription(
            cluster_id=image.cluster_id or "",
            controller=self._raft.leader_id,
            controller_term=self._raft.term,
            metadata_version=image.version,
            feature_level=image.feature_level,
            brokers=self.brokers(),
            topics=len(image.topics),
            partitions=sum(len(topic.partitions) for topic in image.topics.values()),
        )

    async def metadata(self, names: list[str] | None) -> MetadataResponse:
        """What an SDK needs to go direct; every topic when `names` is None.

        Raises:
            UnknownTopicOrPartitionError: a named topic does not exist.
        """
        if names is None:
            topics = self.list_topics()
        else:
            topics = [describe(await self.find(name)) for name in names]
        image = self._metadata.image
        return MetadataResponse(
            cluster_id=image.cluster_id or "",
            controller=self._raft.leader_id,
            metadata_version=image.version,
            brokers=self.brokers(),
            topics=topics,
        )


def describe_created(response: CreateTopicResponse) -> TopicDescription:
    """A new topic as clients see it."""
    return TopicDescription(
        name=response.name,
        topic_id=response.topic_id or "",
        partitions=[_describe_partition(state) for state in response.partitions],
        configs=dict(response.configs),
        warnings=list(response.warnings),
    )


def describe(topic: Topic) -> TopicDescription:
    """A topic as clients see it."""
    return TopicDescription(
        name=topic.name,
        topic_id=topic.topic_id,
        partitions=[
            _describe_partition(partition, partition.adding_replicas)
            for partition in topic.partitions
        ],
        configs=effective_configs(obeyed_configs(topic.name, topic.configs)),
        restore_id=topic.restore_id,
    )


def _describe_partition(
    state: PartitionState | Partition, adding_replicas: Sequence[int] = ()
) -> PartitionDescription:
    return PartitionDescription(
        partition=state.partition,
        leader=state.leader,
        leader_epoch=state.leader_epoch,
        replicas=list(state.replicas),
        isr=list(state.isr),
        adding_replicas=list(adding_replicas),
    )


def _describe_broker(broker: BrokerRegistration, drain: str | None) -> BrokerDescription:
    return BrokerDescription(
        id=broker.node_id,
        url=broker.url,
        rack=broker.rack,
        state=broker.state.value,
        broker_epoch=broker.broker_epoch,
        drain=drain,
    )
