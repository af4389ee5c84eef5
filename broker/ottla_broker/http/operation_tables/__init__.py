"""Every operation of the HTTP API, by resource; `operations` tells what an entry says."""

from ottla_broker.http.operation_tables.administration import OPERATIONS as ADMINISTRATION
from ottla_broker.http.operation_tables.cluster import OPERATIONS as CLUSTER
from ottla_broker.http.operation_tables.groups import OPERATIONS as GROUPS
from ottla_broker.http.operation_tables.links import with_links
from ottla_broker.http.operation_tables.process import OPERATIONS as PROCESS
from ottla_broker.http.operation_tables.produce import OPERATIONS as PRODUCE
from ottla_broker.http.operation_tables.records import OPERATIONS as RECORDS
from ottla_broker.http.operation_tables.rest_v2 import OPERATIONS as REST_V2
from ottla_broker.http.operation_tables.rest_v3 import OPERATIONS as REST_V3
from ottla_broker.http.operation_tables.restores import OPERATIONS as RESTORES
from ottla_broker.http.operation_tables.topic_records import OPERATIONS as TOPIC_RECORDS
from ottla_broker.http.operation_tables.topics import OPERATIONS as TOPICS
from ottla_broker.http.operation_tables.transactions import OPERATIONS as TRANSACTIONS

OPERATIONS = with_links(
    (
        *TOPICS,
        *PRODUCE,
        *RECORDS,
        *TOPIC_RECORDS,
        *GROUPS,
        *TRANSACTIONS,
        *CLUSTER,
        *ADMINISTRATION,
        *RESTORES,
        *REST_V2,
        *REST_V3,
        *PROCESS,
    )
)
"""In the order of the document."""
