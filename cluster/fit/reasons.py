"""Why a figure cannot be given."""

from __future__ import annotations

from cluster.errors import EXIT_USAGE, ClusterctlError


class FitError(ClusterctlError):
    """A config.json, a setting or a GPU that is not understood: where, what, and what to do."""

    exit_code = EXIT_USAGE
