"""The command `python -m chassis.client.contract`."""

import sys

from .check import main

sys.exit(main())
