"""The plane's intervals: shorter than in production; only their ratios matter."""

ELECTION_TIMEOUT_MIN_MS = 150
RAFT_HEARTBEAT_INTERVAL_MS = 60
OBSERVER_TIMEOUT_MS = 400
SESSION_TIMEOUT_MS = 300
HEARTBEAT_INTERVAL_MS = 90
RETRY_INTERVAL_MS = 20
"""Between heartbeats while fenced, and between attempts while there is no controller."""
BROKER_TICK_MS = 30
CONTROLLER_TICK_MS = 30
CALL_TIMEOUT_MS = 200
"""How long a broker waits for the controller."""
REPLICA_LAG_TIME_MAX_MS = 150
HANDOVER_TIMEOUT_MS = 60
"""How long a broker that stops waits for its followers, and for the acks of what it led."""
HANDOVER_POLL_MS = 5
REFUSE_APPENDS_MS = 200
HANDOVER_ACK_TIMEOUT_MS = 400
DRAIN_TIMEOUT_MS = 250
DISK_HANG_TIMEOUT_MS = 200
SURRENDER_TIMEOUT_MS = 200
SURVEY_TIMEOUT_MS = 40
FETCH_WAIT_MS = 60
"""How long a leader parks a fetch that finds nothing."""
FETCH_TIMEOUT_MS = 150
FETCH_BACKOFF_MS = 20
REPORT_RETRY_MS = 100
PRODUCE_TIMEOUT_MS = 250
PRODUCE_RETRY_MS = 20
DELIVERY_TIMEOUT_MS = 900
"""How long a producer repeats a record before it gives up and goes on under a new producer id."""
