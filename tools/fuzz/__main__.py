"""``python -m tools.fuzz``: see ``tools.fuzz.search``. Torch is loaded once the fence is there."""

import sys

from tools.fuzz.fence import fenced

if __name__ == "__main__":
    fence = fenced()
    from tools.fuzz.search import main

    sys.exit(main(fence))
