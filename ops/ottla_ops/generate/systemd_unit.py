"""A template unit of systemd: `ottla@1` runs the broker with node id 1."""

from typing import Final

from ottla_ops.generate.broker_process import (
    BROKER_MODULE,
    BROKER_STOPS_WITHIN_S,
    DESCRIPTORS,
    KILLED_AFTER_S,
)

UNIT: Final = """\
# One Ottla broker, `ottla@ID`, where ID is its node id. Made by `ottla generate systemd`.
#
#   python3 -m venv {prefix} && {prefix}/bin/pip install 'ottla[server]'
#   useradd --system --no-create-home ottla
#   cp ottla@.service /etc/systemd/system/ && systemctl daemon-reload
#   systemctl enable --now ottla@1
#
# /etc/ottla/ottla.env has the settings of all brokers on this host, /etc/ottla/ID.env those of one:
#
#   OTTLA_LISTEN=127.0.0.1:7101
#   OTTLA_VOTERS=1@127.0.0.1:7101,2@127.0.0.1:7102,3@127.0.0.1:7103
[Unit]
Description=Ottla broker %i
Wants=network-online.target
After=network-online.target
# It is started again for as long as it takes.
StartLimitIntervalSec=0

[Service]
Type=exec
User=ottla
Group=ottla
EnvironmentFile=-/etc/ottla/ottla.env
EnvironmentFile=-/etc/ottla/%i.env
Environment=OTTLA_LOG_FORMAT=json
ExecStart={prefix}/bin/python -m {module} --node-id %i --data-dir /var/lib/ottla/%i
StateDirectory=ottla/%i
StateDirectoryMode=0700

# SIGTERM to the broker alone: it hands its leaderships over and exits within {stops} seconds.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={killed}

# 0: was asked to stop. 2: a wrong setting, which another start would not mend.
Restart=on-failure
RestartPreventExitStatus=2
RestartSec=2

LimitNOFILE={descriptors}
# The kernel ends others before a broker when memory runs out.
OOMScoreAdjust=-500

NoNewPrivileges=true
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=true
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectControlGroups=true
PrivateTmp=true
PrivateDevices=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=true
RestrictSUIDSGID=true
LockPersonality=true
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def systemd_unit(prefix: str = "/opt/ottla") -> str:
    """The unit.

    Args:
        prefix: the virtual environment that has `ottla[server]`.
    """
    return UNIT.format(
        prefix=prefix.rstrip("/"),
        module=BROKER_MODULE,
        stops=BROKER_STOPS_WITHIN_S,
        killed=KILLED_AFTER_S,
        descriptors=DESCRIPTORS,
    )
