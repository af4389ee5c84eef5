"""Manifests for Kubernetes: a StatefulSet whose pods are brokers and voters.

- Pod N is node N+1. Its name stays with its volume, so both keep their records.
- Peers call one another under the names of a headless service, which has them before they are
  ready: without one another they never would be. All pods start at once for the same reason.
- Kubernetes gives pods variables for each service of their namespace, `OTTLA_PORT` among them here;
  a broker refuses settings that it does not know, so `enableServiceLinks` is off.
- A start is waited for as long as reading files after a crash may take, and looks at nothing but
  the process (`/startupz`); what is not ready gets no clients and is not restarted.
- One pod at a time may be taken down on purpose: a majority of the voters and two replicas in sync
  stay.
"""

from typing import Final

from ottla_ops.generate.broker_process import (
    BROKER_MODULE,
    BROKER_STOPS_WITHIN_S,
    KILLED_AFTER_S,
    PORT,
)
from ottla_ops.generate.container_files import DATA_DIRECTORY, USER_ID
from ottla_ops.generate.yaml_text import quoted_scalar
from ottla_protocol import routes

REPLICAS_ALLOWED: Final = (1, 3, 5)
"""All are voters, and an even number of them stands no loss more than one less."""

STARTUP_PERIOD_S: Final = 2
STARTUP_FAILURES: Final = 300
"""Ten minutes."""

SETTLES_WITHIN_S: Final = 30
"""How long a broker that is ready again is given to catch up with its leaders."""

SECRET: Final = "ottla-cluster"  # noqa: S105 - the name of a Secret, not one
SECRET_KEY: Final = "secret"  # noqa: S105 - and of its key

MANIFESTS: Final = """\
# An Ottla cluster of {replicas}. Made by `ottla generate kubernetes`, whose options say what
# differs from cluster to cluster.
#
#   kubectl create secret generic {secret} --from-literal={secret_key}=$(openssl rand -hex 32)
#   kubectl apply --filename ottla.yaml
#
# OTTLA_VOTERS forms the cluster once: to have more brokers later, add them by `ottla cluster quorum
# add-voter`, or as another StatefulSet with OTTLA_ROLES=broker, and not by scaling this one.
#
# Brokers have neither TLS nor client authentication: the NetworkPolicy lets in the pods of this
# namespace and nobody else.
apiVersion: v1
kind: Service
metadata:
  name: ottla-peers
  labels: {{app.kubernetes.io/name: ottla}}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{app.kubernetes.io/name: ottla}}
  ports:
    - {{name: http, port: {port}, targetPort: http}}
---
apiVersion: v1
kind: Service
metadata:
  name: ottla
  labels: {{app.kubernetes.io/name: ottla}}
spec:
  selector: {{app.kubernetes.io/name: ottla}}
  ports:
    - {{name: http, port: {port}, targetPort: http}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: ottla
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{app.kubernetes.io/name: ottla}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: ottla
spec:
  podSelector:
    matchLabels: {{app.kubernetes.io/name: ottla}}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector: {{}}
      ports:
        - {{protocol: TCP, port: {port}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: ottla
spec:
  serviceName: ottla-peers
  replicas: {replicas}
  podManagementPolicy: Parallel
  # Before the next broker is restarted, the last one's replicas come back into sync.
  minReadySeconds: {settles}
  updateStrategy:
    type: RollingUpdate
  selector:
    matchLabels: {{app.kubernetes.io/name: ottla}}
  template:
    metadata:
      labels: {{app.kubernetes.io/name: ottla}}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "{port}"
        prometheus.io/path: {metrics}
    spec:
      enableServiceLinks: false
      automountServiceAccountToken: false
      # A broker exits within {stops} seconds of SIGTERM; a loaded node may take longer.
      terminationGracePeriodSeconds: {killed}
      securityContext:
        runAsNonRoot: true
        runAsUser: {user}
        runAsGroup: {user}
        fsGroup: {user}
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile: {{type: RuntimeDefault}}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: {unsatisfiable}
          labelSelector:
            matchLabels: {{app.kubernetes.io/name: ottla}}
      containers:
        - name: broker
          image: {image}
          # The node id is the pod's number plus one ($$ is Kubernetes' way to write $); exec, so
          # that the broker hears SIGTERM.
          command:
            - /bin/sh
            - -c
            - exec python -m {module} --node-id $$((${{POD_NAME##*-}} + 1))
          env:
            - name: POD_NAME
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
            - name: POD_NAMESPACE
              valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}
            - name: OTTLA_LISTEN
              value: "0.0.0.0:{port}"
            - name: OTTLA_ADVERTISED_URL
              value: http://$(POD_NAME).ottla-peers.$(POD_NAMESPACE).svc:{port}
            - name: OTTLA_VOTERS
              value: {voters}
            - name: OTTLA_DATA_DIR
              value: {data}/broker
            - name: OTTLA_CLUSTER_SECRET
              valueFrom: {{secretKeyRef: {{name: {secret}, key: {secret_key}}}}}
            - name: OTTLA_INSECURE_LISTEN
              value: "true"
            - name: OTTLA_LOG_FORMAT
              value: json
          ports:
            - {{name: http, containerPort: {port}}}
          startupProbe:
            httpGet: {{path: {startup}, port: http}}
            periodSeconds: {startup_period}
            timeoutSeconds: 5
            failureThreshold: {startup_failures}
          livenessProbe:
            httpGet: {{path: {live}, port: http}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {{path: {ready}, port: http}}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 2
          resources:
            requests: {{cpu: "1", memory: 1Gi}}
            limits: {{memory: 4Gi}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          volumeMounts:
            - {{name: data, mountPath: {data}}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - name: tmp
          emptyDir: {{}}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        resources:
          requests:
            storage: {storage}
"""


def kubernetes_manifests(
    *, replicas: int = 3, image: str = "ottla:latest", storage: str = "100Gi"
) -> str:
    """The manifests, as YAML documents in one file.

    Args:
        replicas: how many brokers, all of them voters; one of `REPLICAS_ALLOWED`.
        image: the image of the broker.
        storage: the size of each broker's volume, as Kubernetes writes quantities.
    """
    assert replicas in REPLICAS_ALLOWED, "the caller checks"
    voters = ",".join(
        f"{index + 1}@ottla-{index}.ottla-peers.$(POD_NAMESPACE).svc:{PORT}"
        for index in range(replicas)
    )
    return MANIFESTS.format(
        replicas=replicas,
        image=quoted_scalar(image),
        storage=quoted_scalar(storage),
        voters=quoted_scalar(voters),
        port=PORT,
        module=BROKER_MODULE,
        data=DATA_DIRECTORY,
        user=USER_ID,
        secret=SECRET,
        secret_key=SECRET_KEY,
        unsatisfiable="DoNotSchedule" if replicas > 1 else "ScheduleAnyway",
        killed=KILLED_AFTER_S,
        settles=SETTLES_WITHIN_S,
        stops=BROKER_STOPS_WITHIN_S,
        metrics=routes.METRICS,
        startup=routes.STARTUP,
        live=routes.LIVENESS,
        ready=routes.READINESS,
        startup_period=STARTUP_PERIOD_S,
        startup_failures=STARTUP_FAILURES,
    )
