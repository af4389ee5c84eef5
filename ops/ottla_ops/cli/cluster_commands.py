"""`ottla cluster`: what the cluster is made of."""

import typer

from ottla_ops.cli.session import session_of

app = typer.Typer(help="The cluster: its brokers and controller.", no_args_is_help=True)


@app.command("info")
def cluster_info(context: typer.Context) -> None:
    """Show the cluster's id, controller and brokers."""
    from ottla_protocol import routes
    from ottla_protocol.models import ClusterDescription

    session = session_of(context)
    answer = session.connect().request("GET", routes.CLUSTER)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    cluster = answer.decoded(ClusterDescription)
    controller = "none elected" if cluster.controller is None else str(cluster.controller)
    session.output.text(f"cluster     {cluster.cluster_id}")
    session.output.text(f"controller  {controller} (term {cluster.controller_term})")
    session.output.text(f"topics      {cluster.topics} with {cluster.partitions} partitions")
    session.output.text("")
    rows = [
        (broker.id, broker.url, broker.state, broker.rack or "-", broker.broker_epoch)
        for broker in sorted(cluster.brokers, key=lambda broker: broker.id)
    ]
    session.output.table(("BROKER", "URL", "STATE", "RACK", "EPOCH"), rows)
