"""Files for whoever runs a cluster: alarms, dashboards, references, units, manifests.

`ops/` holds what these modules make, so that it can be read and copied without running anything; a
test compares the two, and holds every metric, setting, route and runbook named against the code.
"""
