"""The exit codes of `cloister`."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
"""Exit code: it could not be done; a wrong file too. Wrong usage of the command line gives 2."""

NOT_GENUINE: Final = 2
"""Exit code: evidence that no genuine TEE made, or that cannot be read."""

UNREACHED: Final = 3
"""Exit code: a worker could not be reached, or stopped answering, or evidence could not be judged for want of current
collateral. Trying again later may help."""

UNACCEPTABLE: Final = 4
"""Exit code: genuine evidence of something that is not accepted."""

INTERRUPTED: Final = 130
"""Exit code: Ctrl-C."""
