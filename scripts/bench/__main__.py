# SPDX-License-Identifier: Apache-2.0
"""Started by `ferry bench`, which sets FERRY to itself."""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from bench import cli  # noqa: E402  (the path comes first)

sys.exit(cli.main())
