"""How far a group is behind, for tests that wait until it has caught up."""


def group_lag(client, group, partitions):
    """The lag of all partitions together; None while that of some cannot be told."""
    answer = client.http.get(f"{client.any_url()}/v1/groups/{group}")
    if answer.status != 200:
        return None
    lags = [offset["lag"] for offset in answer.document["offsets"]]
    return None if len(lags) < partitions or None in lags else sum(lags)
