"""The pages that are made from the code, by their path on the site."""

from typing import Final

from ottla_ops.documentation.command_reference import command_reference
from ottla_ops.documentation.error_reference import error_reference
from ottla_ops.documentation.http_reference import http_reference
from ottla_ops.documentation.sdk_reference import sdk_reference
from ottla_ops.documentation.settings_reference import settings_reference
from ottla_ops.generate.metrics_reference import metrics_reference

REFERENCES: Final = {
    "reference/settings.md": settings_reference,
    "reference/command-line.md": command_reference,
    "reference/http.md": http_reference,
    "reference/errors.md": error_reference,
    "reference/metrics.md": metrics_reference,
    "reference/sdk.md": sdk_reference,
}
