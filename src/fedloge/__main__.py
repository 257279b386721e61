"""``python -m fedloge``."""

import sys

from fedloge.cli import main

sys.exit(main())
